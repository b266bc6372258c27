"""How high a path climbs: the loss sampled along it until the top is bracketed, and how much lower that top could be."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from landscape import InputError, Objective, losses
from landscape.engines import Engine
from landscape.held import Held
from landscape.measuring import Choice
from landscape.parameters import float64_array
from landscape.paths import Combination, Path

Array = np.ndarray

# Intervals that a path is sampled in at first, at least.
INTERVALS = 64
# Halvings after which a top counts as bracketed anyhow: a smooth one needs 8, a kink 20.
_ROUNDS = 20
# What rounding may leave in a loss, in units of eps.
_ROUNDING = 100
# Points of R^P held at a time.
_CHUNK = 16
# The longest step down from an end, in the same units.
_STEP = 0.1
# The step over which a curvature is measured, in units of the distance of the ends: small against the width of a
# valley, and large enough that the difference of two float32 gradients is not all rounding.
_PROBE = 1e-3


@dataclass(frozen=True, eq=False)
class Sampled:
    """A path with the loss and ‖γ‖ at t (N,). The largest loss is that of the path to within ``resolution``."""

    path: Path
    t: Array
    loss: Array
    norm: Array
    resolution: float

    @property
    def height(self) -> float:
        """The largest loss; infinite if any is not finite."""
        return float(self.loss.max()) if np.isfinite(self.loss).all() else math.inf

    @property
    def barrier(self) -> float:
        return self.height - float(max(self.loss[0], self.loss[-1]))

    @property
    def top(self) -> float:
        """t of the largest loss."""
        return float(self.t[self.loss.argmax()])

    def arc(self) -> Array:
        """The lengths (N−1,) of the path between the samples."""
        speed = float64_array(self.path.speed(torch.from_numpy(self.t)))
        return np.diff(self.t) * (speed[1:] + speed[:-1]) / 2


class Survey:
    """An objective seen along paths, with the evaluations spent.

    ``tolerance``: how closely tops are bracketed, as a share of the range of the loss along the path. ``intervals``:
    how finely the whole path is sampled. A spike that lies between two of those samples is missed. ``engine``: how losses
    are evaluated (landscape/engines.py), the one taken in ``choice``; ``samplings``: how often, about, which decides what
    measuring is worth for "auto". ``held``: paths are seen held to the norms of their ends (landscape/held.py). ``batches``: how
    many of the objective's terms, drawn by ``generator``, a search's gradients are of; all if None.
    """

    def __init__(
        self,
        objective: Objective,
        *,
        tolerance: float,
        intervals: int = INTERVALS,
        engine: str = "loop",
        samplings: int = 1,
        held: bool = False,
        batches: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        if not tolerance > 0:
            raise InputError(f"tolerance must be a positive share of the range of the loss, got {tolerance}.")
        if batches is not None and not 1 <= batches <= len(objective.terms):
            raise InputError(
                f"batches must be between 1 and the objective's {len(objective.terms)}, or None for all of them, got {batches}."
            )
        self.objective, self.tolerance, self.intervals = objective, tolerance, intervals
        self.engine, self.count, self.choice = engine, samplings * (intervals + 1), Choice(Engine())
        self.held, self.batches, self.generator = held, batches, generator
        self.gradients, self.losses = 0.0, 0  # gradients of all terms

    def sample(self, path: Combination) -> Sampled:
        """The path, evenly sampled and then at midpoints beside each local maximum that may be the highest, until the top
        exceeds its neighbours by no more than the resolution: the tolerance, or rounding where that is more."""
        seen = self._seen(path)
        t = np.linspace(0, 1, self.intervals + 1)
        loss, norm = self._evaluate(seen, t)
        for _ in range(_ROUNDS):
            new = _midpoints(t, loss, self._resolution(loss))
            if not len(new):
                break
            more_loss, more_norm = self._evaluate(seen, new)
            order = np.argsort(np.concatenate([t, new]))
            pairs = ((t, new), (loss, more_loss), (norm, more_norm))
            t, loss, norm = (np.concatenate(pair)[order] for pair in pairs)
        return Sampled(seen, t, loss, norm, self._resolution(loss))

    def value_and_grad(self, path: Combination, t: Any) -> tuple[Tensor, Tensor]:
        """L () and its derivative in γ(t) (P,), as a search needs them, at one t; (N,) and (N, P) at N of them."""
        seen = self._seen(path)
        value, gradient = self._some(seen(t))
        if isinstance(seen, Held):  # which moves by no more than the part across the radius, in its scale
            gradient = seen.scale(t)[..., None] * across(gradient, seen(t))
        return value, gradient

    def force(self, path: Combination, t: float) -> Tensor:
        """∇L (P,) in γ(t) without its part along the path. Cost: one gradient."""
        return across(self.value_and_grad(path, t)[1], self.tangent(path, t))

    def tangent(self, path: Combination, t: Any) -> Tensor:
        """γ′(t), without its part along the radius where paths are held, shaped like γ(t)."""
        seen = self._seen(path)
        return across(seen.derivative(t), seen(t)) if isinstance(seen, Held) else seen.derivative(t)

    def fall(self, found: Sampled) -> float:
        """How much lower than the top the loss gets along the force F there, to second order: ‖F‖⁴/(2 FᵀHF).

        Infinite where it curves down. H F is the difference of two gradients. Cost: two gradients.
        """
        size, curvature = self._slope(found.path, found.top, found.path.derivative(found.top))
        if size == 0:
            return 0.0
        return size**2 / (2 * curvature) if curvature > 0 else math.inf

    def drop(self, path: Path, t: float) -> float:
        """How much lower than L(γ(t)) the loss gets by one step against the gradient, to second order, of ‖b − a‖/10 at most.

        Cost: two gradients.
        """
        size, curvature = self._slope(path, t, torch.zeros_like(path(t)))
        longest = _STEP * float((path(1.0) - path(0.0)).norm())
        step = min(size / curvature, longest) if curvature > 0 else longest
        return size * step - curvature * step**2 / 2

    def _slope(self, path: Path, t: float, along: Tensor) -> tuple[float, float]:
        """‖F‖ of the force F = ∇L at γ(t) without its part along a direction, and the curvature FᵀHF/‖F‖² there."""
        point = path(t)

        def force(theta: Tensor) -> Tensor:
            """Where the path is held, at θ moved to the norm of the point, and across the radius."""
            self.gradients += 1
            if not self.held:
                return self.objective.grad(theta)
            theta = theta * (point.norm() / theta.norm())
            return across(self.objective.grad(theta), theta)

        here = across(force(point), across(along, point) if self.held else along)
        size, step = here.norm(), _PROBE * (path(1.0) - path(0.0)).norm()
        if size == 0:
            return 0.0, 0.0
        direction = here / size
        return float(size), float((size - force(point - step * direction) @ direction) / step)

    def _seen(self, path: Combination) -> Combination | Held:
        return Held(path) if self.held else path

    def _some(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """L and ∇L at θ (P,) or (N, P), of the batches drawn for it: unbiased, whatever their sizes."""
        points, count = theta.shape[0] if theta.ndim == 2 else 1, len(self.objective.terms)
        self.gradients += points * (self.batches or count) / count
        if self.batches is None:
            return self.objective.value_and_grad(theta)
        value, gradient = self._drawn().value_and_grad(theta)
        return value * (count / self.batches), gradient * (count / self.batches)

    def _drawn(self) -> Objective:
        """Some of the terms, at random without replacement."""
        whole = self.objective
        device = self.generator.device if self.generator is not None else "cpu"
        order = torch.randperm(len(whole.terms), generator=self.generator, device=device)
        terms = [whole.terms[i] for i in order[: self.batches].tolist()]
        return Objective(
            terms, whole.dim, dtype=whole.dtype, device=whole.device, parameters=whole.parameters
        )

    def _evaluate(self, path: Path, t: Array) -> tuple[Array, Array]:
        self.losses += len(t)
        family = path.family(torch.from_numpy(t))
        loss, self.choice = losses(self.objective, family, engine=self.engine, count=self.count)
        norm = [family.points(some).norm(dim=1) for some in family.coordinates.split(_CHUNK)]
        return float64_array(loss), float64_array(torch.cat(norm))

    def _resolution(self, loss: Array) -> float:
        if not np.isfinite(loss).all():
            return math.inf
        rounding = _ROUNDING * torch.finfo(self.objective.dtype).eps * float(np.abs(loss).max())
        return max(self.tolerance * float(np.ptp(loss)), rounding)


def across(rows: Tensor, directions: Tensor) -> Tensor:
    """(P,) or (N, P) without their parts along directions of that shape, which may be 0: a path may turn on the spot."""
    square = directions.square().sum(-1, keepdim=True).clamp(min=torch.finfo(rows.dtype).tiny)
    return rows - directions * ((rows * directions).sum(-1, keepdim=True) / square)


def _midpoints(t: Array, loss: Array, resolution: float) -> Array:
    """Beside each local maximum that may be the highest and exceeds its lower neighbour by more than the resolution.

    It may be the highest if it would be after rising by as much again.
    """
    left, right = np.append(loss[0], loss[:-1]), np.append(loss[1:], loss[-1])
    excess = loss - np.minimum(left, right)
    tops = (loss >= left) & (loss >= right) & (excess > resolution) & (loss + excess >= loss.max())
    before = np.flatnonzero(tops[1:] | tops[:-1])  # intervals with such a maximum at one of their ends
    return (t[before] + t[before + 1]) / 2

"""How high a path climbs: the loss sampled along it until the top is bracketed, and how much lower that top could be."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from landscape import InputError, Objective, losses
from landscape.engines import Engine
from landscape.measuring import Choice
from landscape.parameters import float64_array
from landscape.paths import Path

Array = np.ndarray

# Intervals that a path is sampled in at first, at least.
INTERVALS = 64
# Halvings after which a top counts as bracketed anyhow: a smooth one needs 8, a kink 20.
_ROUNDS = 20
# What rounding may leave in a loss, in units of eps.
_ROUNDING = 100
# Points of R^P held at a time.
_CHUNK = 16
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
    measuring is worth for "auto".
    """

    def __init__(
        self,
        objective: Objective,
        *,
        tolerance: float,
        intervals: int = INTERVALS,
        engine: str = "loop",
        samplings: int = 1,
    ) -> None:
        if not tolerance > 0:
            raise InputError(f"tolerance must be a positive share of the range of the loss, got {tolerance}.")
        self.objective, self.tolerance, self.intervals = objective, tolerance, intervals
        self.engine, self.count, self.choice = engine, samplings * (intervals + 1), Choice(Engine())
        self.gradients = self.losses = 0

    def sample(self, path: Path) -> Sampled:
        """The path, evenly sampled and then at midpoints beside each local maximum that may be the highest, until the top
        exceeds its neighbours by no more than the resolution: the tolerance, or rounding where that is more."""
        t = np.linspace(0, 1, self.intervals + 1)
        loss, norm = self._evaluate(path, t)
        for _ in range(_ROUNDS):
            new = _midpoints(t, loss, self._resolution(loss))
            if not len(new):
                break
            more_loss, more_norm = self._evaluate(path, new)
            order = np.argsort(np.concatenate([t, new]))
            pairs = ((t, new), (loss, more_loss), (norm, more_norm))
            t, loss, norm = (np.concatenate(pair)[order] for pair in pairs)
        return Sampled(path, t, loss, norm, self._resolution(loss))

    def value_and_grad(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        self.gradients += len(theta) if theta.ndim == 2 else 1
        return self.objective.value_and_grad(theta)

    def force(self, path: Path, t: float) -> Tensor:
        """∇L (P,) at γ(t) without its part along the path. Cost: one gradient."""
        gradient, tangent = self.value_and_grad(path(t))[1], path.derivative(t)
        square = (tangent @ tangent).clamp(min=torch.finfo(tangent.dtype).tiny)  # a path may turn on the spot
        return gradient - tangent * (gradient @ tangent / square)

    def fall(self, found: Sampled) -> float:
        """How much lower than the top the loss gets along the force F there, to second order: ‖F‖⁴/(2 FᵀHF).

        Infinite where it curves down. H F is the difference of two gradients. Cost: two gradients.
        """
        ends = found.path(0.0), found.path(1.0)
        force = self.force(found.path, found.top)
        size, step = force.norm(), _PROBE * (ends[1] - ends[0]).norm()
        if size == 0:
            return 0.0
        direction = force / size
        gradient = self.value_and_grad(found.path(found.top) - step * direction)[1]
        curvature = (size - gradient @ direction) / step
        return float(size**2 / (2 * curvature)) if curvature > 0 else math.inf

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


def _midpoints(t: Array, loss: Array, resolution: float) -> Array:
    """Beside each local maximum that may be the highest and exceeds its lower neighbour by more than the resolution.

    It may be the highest if it would be after rising by as much again.
    """
    left, right = np.append(loss[0], loss[:-1]), np.append(loss[1:], loss[-1])
    excess = loss - np.minimum(left, right)
    tops = (loss >= left) & (loss >= right) & (excess > resolution) & (loss + excess >= loss.max())
    before = np.flatnonzero(tops[1:] | tops[:-1])  # intervals with such a maximum at one of their ends
    return (t[before] + t[before + 1]) / 2

"""Eigenvector following: steps uphill along one mode of the Hessian and downhill along all others, as far as they are trusted."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from landscape import Objective

from ..curvature.matrices import products_of
from ..points import NOT_FINITE, draw_normal
from .modes import Modes, all_modes, some_modes

# The first radius, as a share of the size.
_RADIUS = 0.1
# What the misfit of a step may be: for a longer one next time, for one as long, at all.
_GOOD, _FAIR, _BAD = 0.25, 0.5, 1.0
# How accurate steps in a Krylov space are far from the pass; nearer they are more so, that convergence gets ever faster.
_ACCURACY = 0.1


@dataclass(frozen=True, eq=False)
class Place:
    """A point (P,) with the loss and its gradient."""

    theta: Tensor
    loss: Tensor
    gradient: Tensor

    @property
    def norm(self) -> float:
        return float(self.gradient.norm())

    @property
    def finite(self) -> bool:
        return bool(self.loss.isfinite() & self.gradient.isfinite().all())


class Climb:
    """The steps from a start to a stationary point, with what they cost.

    ``size`` is a length for which the landscape changes, ``dense`` the most parameters for which all modes are taken, ``basis``
    how many are otherwise. norms: ‖∇L‖ at the start and after each step.
    """

    def __init__(
        self,
        objective: Objective,
        size: float,
        *,
        dense: int,
        basis: int,
        generator: torch.Generator | None,
    ) -> None:
        self.objective, self.size, self.basis, self.generator = objective, size, basis, generator
        self.dense = objective.dim <= dense
        self.radius = _RADIUS * size
        self.norms: list[float] = []
        self.gradients = self.matvecs = 0
        self.index = 1  # of the point sought

    def run(
        self, theta: Tensor, direction: Tensor | None, tolerance: float, max_steps: int
    ) -> tuple[Place, Modes | None, str]:
        """Where it ends, the modes there (None if not finite), and why that is not stationary, if it is not."""
        place = self._place(theta)
        self.norms.append(place.norm)
        if not place.finite:
            return place, None, "the loss or its gradient is not finite at theta, so no step was taken."
        while True:
            modes = self._modes(place, direction)
            if modes is None:
                return place, None, NOT_FINITE
            if len(self.norms) == 1 and modes.near_minimum(self.radius):
                self.index = 0
            if place.norm <= tolerance * modes.largest * self.size:
                return place, modes, ""
            left = f"the gradient norm is {place.norm:.3g}, and was {self.norms[0]:.3g} at the start"
            if len(self.norms) > max_steps:
                why = f"not stationary after {max_steps} steps: {left}; raise max_steps or tolerance."
                return place, modes, why
            following = self._step(place, modes)
            if following is None:
                why = f"steps shrank to nothing and did not go as the Hessian has it: {left}; is the loss smooth?"
                return place, modes, why
            place, direction = following, modes.direction
            self.norms.append(place.norm)

    def _place(self, theta: Tensor) -> Place:
        self.gradients += 1
        return Place(theta, *self.objective.value_and_grad(theta))

    def _modes(self, place: Place, direction: Tensor | None) -> Modes | None:
        count = self.objective.dim if self.dense else self.basis
        products = products_of(self.objective, place.theta, count=count)
        size = max(self.size, self.radius / _RADIUS)

        def counted(v: Tensor) -> Tensor:
            self.matvecs += len(v)
            return products(v)

        if self.dense:
            return all_modes(counted, place.gradient, direction, size)
        start = draw_normal(self.objective, 1, self.generator)[0] if direction is None else direction
        nearer = (place.norm / self.norms[0]) ** 0.5 if place.norm else 1.0
        return some_modes(
            counted,
            place.gradient,
            direction,
            size,
            start=start,
            radius=self.radius,
            index=self.index,
            accuracy=_ACCURACY * min(1.0, nearer),
            most=self.basis,
        )

    def _step(self, place: Place, modes: Modes) -> Place | None:
        """The next place, with a radius to fit; None where steps come down to rounding before one does as predicted."""
        while self.radius > torch.finfo(self.objective.dtype).eps * self.size:
            step, change, mu = modes.step(self.radius, self.index)
            following = self._place(place.theta + step)
            misfit = modes.misfit(following.gradient - place.gradient - change, mu)
            trusted = following.finite and misfit < _BAD
            length = float(step.norm())
            if not trusted:
                self.radius = length / 4
            elif misfit > _FAIR:
                self.radius = length / 2
            elif misfit < _GOOD and length > self.radius / 2:
                self.radius *= 2
            if trusted:
                return following
        return None

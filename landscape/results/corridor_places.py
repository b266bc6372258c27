"""Where corridors could be: measures that need no step, at points, along paths and on planes; and the noise of gradients.

Shapes: K points, T rows, n1 × n2 points of a plane. Missing numbers are NaN.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..records import Array, Record
from .corridors import ratio


class PointMeasures:
    """What follows from L, ‖g‖, ‖Hg‖ and gᵀHg at a point, for arrays of any shape."""

    loss: Array
    gradient_norm: Array
    image_norm: Array
    curvature: Array

    @property
    def bend(self) -> Array:
        """‖Hg‖/‖g‖ = κ/h: how fast the gradient turns and changes its length along steepest descent; 0 in a corridor."""
        return ratio(self.image_norm, self.gradient_norm)

    @property
    def corridor_rate(self) -> Array:
        """‖g‖/‖Hg‖, the learning rate at which κ is 1: infinite in a corridor. Half of it is DAL's without its power and cap."""
        with np.errstate(divide="ignore", invalid="ignore"):
            return self.gradient_norm / self.image_norm

    @property
    def kappa_polyak(self) -> Array:
        """κ at the corridor learning rate L/‖g‖²: L‖Hg‖/‖g‖³, which no scaling of L or θ changes. NaN where L < 0."""
        return np.where(self.loss < 0, np.nan, ratio(self.loss * self.image_norm, self.gradient_norm**3))

    def kappa(self, rate: float) -> Array:
        """h‖Hg‖/‖g‖ at learning rate h."""
        return rate * self.bend

    def kappa_weak(self, rate: float) -> Array:
        """h gᵀHg/‖g‖² at learning rate h."""
        return rate * ratio(self.curvature, self.gradient_norm**2)


@dataclass(frozen=True, kw_only=True, eq=False)
class CorridorPoints(PointMeasures, Record):
    """loss L, gradient_norm ‖g‖, image_norm ‖Hg‖ and curvature gᵀHg at points, all (K,)."""

    loss: Array
    gradient_norm: Array
    image_norm: Array
    curvature: Array
    label: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class CorridorPath(PointMeasures, Record):
    """The same at t (K,) of a path, with speed ‖γ′‖ and descent −γ′·g, all (K,)."""

    t: Array
    loss: Array
    gradient_norm: Array
    image_norm: Array
    curvature: Array
    speed: Array
    descent: Array
    label: str = ""

    @property
    def cosine(self) -> Array:
        """cos(γ′, −g): 1 where the path is a line of steepest descent, −1 of steepest ascent, 0 along the valley floor."""
        return ratio(self.descent, self.speed * self.gradient_norm)


@dataclass(frozen=True, kw_only=True, eq=False)
class CorridorMap(PointMeasures, Record):
    """The same on a plane, all (n1, n2), at center + steps1[i]·d1 + steps2[j]·d2.

    slopes (n1, n2, 2) are g·d1 and g·d2; gram (2, 2) the inner products of d1 and d2. g and Hg are those of all of R^P, and
    Hg may well leave the plane.
    """

    steps1: Array
    steps2: Array
    loss: Array
    gradient_norm: Array
    image_norm: Array
    curvature: Array
    slopes: Array
    gram: Array
    label: str = ""

    @property
    def share_in_plane(self) -> Array:
        """The share of ‖g‖² that lies in the plane: near 0, the picture shows little of where descent goes."""
        inside = np.einsum("ijk,kl,ijl->ij", self.slopes, np.linalg.pinv(self.gram), self.slopes)
        return ratio(inside, self.gradient_norm**2)


@dataclass(frozen=True, kw_only=True, eq=False)
class CorridorNoise(Record):
    """Cosines of mini-batch gradients, that noise and curvature be told apart: see analysis.corridor_noise.

    Means over batches with their standard errors, all (T,): same_point, two batches at θ_t (noise alone); same_batch, one
    batch at θ_t and θ_{t+1} (curvature alone); both, two batches, one at θ_t, the other at θ_{t+1} (what the optimizer
    sees). spread is tr Σ_B and signal ‖g‖² at θ_t, each unbiased; noise_stderr is of noise_to_signal. steps (T+1,);
    ``draws`` batches a row out of ``count``; ``basis`` says which.
    """

    steps: Array
    same_point: Array
    same_point_stderr: Array
    same_batch: Array
    same_batch_stderr: Array
    both: Array
    both_stderr: Array
    spread: Array
    spread_stderr: Array
    signal: Array
    signal_stderr: Array
    noise_stderr: Array
    draws: int
    count: int
    basis: str
    label: str = ""

    @property
    def noise_to_signal(self) -> Array:
        """tr Σ_B/‖g‖²: the mean of as many batches has noise as long as the gradient.

        NaN where the estimate of ‖g‖² is not positive.
        """
        return ratio(self.spread, np.where(self.signal > 0, self.signal, np.nan))

"""Where corridors could be: measures that need no step, at points, along paths and on planes; and the noise of gradients.

Shapes: K points, T rows, n1 × n2 points of a plane. Missing numbers are NaN.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..errors import InputError
from ..records import NAN, Array, Record
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
        """‖g‖/‖Hg‖, the learning rate at which κ is 1: infinite in a corridor. DAL's is twice it, at p = 1 and uncapped."""
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

    slopes (n1, n2, 2) are g·d1 and g·d2, norm_within (n1, n2) is the norm of g's part in the plane. g and Hg are those of all
    of R^P, and Hg may well leave the plane.
    """

    steps1: Array
    steps2: Array
    loss: Array
    gradient_norm: Array
    image_norm: Array
    curvature: Array
    slopes: Array
    norm_within: Array = field(default_factory=lambda: np.full((1, 1), np.nan))
    label: str = ""

    @property
    def share_in_plane(self) -> Array:
        """The share of ‖g‖² that lies in the plane: near 0, the picture shows little of where descent goes."""
        return ratio(self.norm_within, self.gradient_norm) ** 2


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

        NaN where the estimate of ‖g‖² is not positive: these are rows in which noise dominates, and where there are some most
        of the others are too low and a few huge. There pool rows.
        """
        return ratio(self.spread, np.where(self.signal > 0, self.signal, np.nan))

    def pooled_noise_to_signal(self, rows: slice = slice(None)) -> tuple[float, float]:
        """Mean tr Σ_B over mean ‖g‖² of these rows, all by default, and its standard error. No row is left out for its sign.

        Rows of large gradients weigh most. The error is that of the draws: with d = spread − ratio · signal and independent
        draws in each row, mean (d_{t+1} − d_t)²/2 over successive rows (von Neumann, 1941, Ann. Math. Stat. 12, 367), to
        which what changes slowly along training adds nothing; 0 where all batches are drawn. It is too large where the
        rows themselves jump, and rough below some ten rows. Where the mean signal is not above 0 both are NaN, and where it is
        so by less than three errors of its own the ratio is hardly known.

        Raises:
            InputError: there are fewer than two such rows.
        """
        spread, signal = self.spread[rows], self.signal[rows]
        if len(spread) < 2:
            raise InputError(f"rows must be at least two of the {len(self.spread)}, got {len(spread)}.")
        if not signal.mean() > 0:
            return NAN, NAN
        pooled = float(spread.mean() / signal.mean())
        if self.draws == self.count:
            return pooled, 0.0
        variance = np.square(np.diff(spread - pooled * signal)).mean() / 2 / len(spread)
        return pooled, float(np.sqrt(variance) / signal.mean())

"""How the eigenvalues of a curvature matrix are spread.

Shapes: P parameters, K points, T steps, N samples along a path. Missing numbers are NaN.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..errors import InputError
from ..quadrature import distribution_bounds, share_interval
from ..records import NAN, Array, Record


@dataclass(frozen=True, kw_only=True, eq=False)
class SpectralDensity(Record):
    """How the P = ``dim`` eigenvalues λ of ∇²L, or the part ``of`` it, are spread: a quadrature rule from every probe.

    nodes (probes, steps), ascending; weights (probes, steps), of sum 1 for each probe: Σ_j w_j f(x_j) estimates the mean of
    f(λ_i) over all eigenvalues but the ``outliers`` (k,), which are known one by one. residuals (probes, steps): some eigenvalue
    lies within that of each node; 0 for all where a probe has found all of its measure.
    What is derived comes as (mean, standard error) over the probes. The error of too few steps is not in that, but
    in the intervals of share_bounds and negative.
    """

    nodes: Array
    weights: Array
    dim: int
    of: str = "hessian"
    matvecs: int = 0
    message: str = ""
    residuals: Array = field(default_factory=lambda: np.zeros((0, 0)))
    outliers: Array = field(default_factory=lambda: np.zeros(0))

    @property
    def lowest(self) -> float:
        """The smallest node or outlier, never below the smallest eigenvalue."""
        return float(np.min([self.nodes.min(), *self.outliers]))

    @property
    def highest(self) -> float:
        """The largest node or outlier, never above the largest eigenvalue."""
        return float(np.max([self.nodes.max(), *self.outliers]))

    @property
    def resolution(self) -> float:
        """The magnitude of eigenvalues below which they are not told apart from 0.

        It is the median over probes of the distance between the two nodes on either side of 0, or, where all are on one side,
        of the two nearest to it; 0 for a probe that has found all of its measure, infinite for a rule of one node. What a
        density shows at smaller |λ|, and the sign it gives it, is where nodes happened to fall. It falls with the steps,
        about as one over their number.
        """
        nodes = self.nodes
        if nodes.shape[1] < 2:
            return np.inf
        right = np.clip((nodes < 0).sum(axis=1), 1, nodes.shape[1] - 1)[:, None]
        gaps = np.take_along_axis(nodes, right, axis=1) - np.take_along_axis(nodes, right - 1, axis=1)
        found = (self.residuals == 0).all(axis=1) if self.residuals.size else np.zeros(len(nodes), dtype=bool)
        return float(np.median(np.where(found & ~np.isnan(gaps[:, 0]), 0, gaps[:, 0])))

    def moment(self, power: int = 1) -> tuple[float, float]:
        """tr Aᵖ/P, without bias for p ≤ 2·steps − 1: times ``dim`` the trace (p = 1) and ‖A‖_F² (p = 2).

        The standard error is too small where few eigenvalues carry the moment that are not among the outliers, since it is
        skewed over probes then: with one that carries all, errors of the trace have mean −0.6 and standard deviation 1.6 in
        units of it with 8 probes. spectral_density(…, deflate=k) makes k of them outliers.
        """
        mean, stderr = self._over_probes(lambda values: values**power)
        return float(mean), float(stderr)

    def share(self, *, low: Any = -np.inf, high: Any = np.inf) -> tuple[Array, Array]:
        """The share of eigenvalues with low ≤ λ < high, for bounds (...), as the nodes have it; times ``dim`` their number.

        share(high=grid) is the distribution function. A bound amid a crowd of eigenvalues is blurred by the distance of the nodes
        there, about (width of the crowd)·π/(2 steps), which the standard error does not hold: share_bounds does.
        """
        low, high = (np.asarray(bound, dtype=np.float64)[..., None, None] for bound in (low, high))
        return self._over_probes(lambda v: np.where(np.isnan(v), np.nan, (low <= v) & (v < high)))

    def share_bounds(
        self, *, low: Any = -np.inf, high: Any = np.inf, confidence: float = 0.95
    ) -> tuple[Array, Array]:
        """An interval for the share of eigenvalues with low ≤ λ < high, for bounds (...), that holds both errors.

        That of too few steps by what Chebyshev, Markov and Stieltjes prove of each probe, whatever the spectrum, and that of
        few probes by the distribution of a probe's share (see landscape/quadrature.py). Both ends together miss the share at
        most 1 − confidence of the time, and less where steps leave much open: next to nothing in a gap of the spectrum, amid a
        crowd the share that sits within about the distance of the nodes.
        Cost: an eigendecomposition (steps + 1, steps + 1) for every probe and bound.
        """
        if not 0 < confidence < 1:
            raise InputError(f"confidence must lie between 0 and 1, got {confidence}.")
        if self.residuals.shape != self.nodes.shape:
            raise InputError(
                "this density has no residuals, which bounds hang on; measure it with spectral_density."
            )
        low, high = np.broadcast_arrays(np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64))
        if not np.isfinite(self.nodes).all():
            return np.full(low.shape, NAN), np.full(low.shape, NAN)
        rules = self.nodes, self.weights, self.residuals
        (from_least, from_most), (to_least, to_most) = (distribution_bounds(*rules, x) for x in (low, high))
        rest = self.dim - len(self.outliers)
        least, most = np.maximum(to_least - from_most, 0), np.maximum(to_most - from_least, 0)
        interval = share_interval(least, most, count=rest, probes=len(self.nodes), confidence=confidence)
        known = ((low[..., None] <= self.outliers) & (self.outliers < high[..., None])).sum(axis=-1)
        lower, upper = ((known + rest * end) / self.dim for end in interval)
        return lower, upper

    def negative(self, beyond: float = 0.0, *, confidence: float = 0.95) -> tuple[float, float, float]:
        """The share of eigenvalues λ < −beyond, and the lower and upper end of its interval, as share and share_bounds have them.

        Where a crowd sits at 0 the interval for beyond = 0 is wide, since few products do not tell its signs apart: ask for
        those beyond ``resolution``, or for more steps. Rounding is not in it: in single precision, where eigenvalues that are 0
        come out with either sign, ask beyond 1e-6 of the largest.
        """
        if not beyond >= 0:
            raise InputError(f"beyond must be a magnitude, at least 0, got {beyond}.")
        lower, upper = self.share_bounds(high=-beyond, confidence=confidence)
        return float(self.share(high=-beyond)[0]), float(lower), float(upper)

    def density(self, grid: Any, *, width: float) -> tuple[Array, Array]:
        """The density at ``grid`` (G,), a share of eigenvalues per unit of λ, smoothed by a Gaussian of this standard deviation.

        Smoothing adds width² to the variance and, where the density φ is smooth, width²·φ″/2 to it. Nodes further apart than
        ``width`` show as single bumps.
        """
        points = np.asarray(grid, dtype=np.float64)[:, None, None]
        return self._over_probes(lambda values: _bell((points - values) / width) / width)

    def log_density(self, magnitudes: Any, *, sign: int = 1, width: float = 0.1) -> tuple[Array, Array]:
        """The density of log10|λ| at ``magnitudes`` (G,) of |λ|, a share of eigenvalues per decade, of those with this sign (±1).

        Smoothed by a Gaussian of standard deviation ``width`` decades. Over all decades and both signs it integrates to 1,
        less the weight of nodes at 0, which have no place here. A logarithm shows decades that no node resolves: draw it
        from ``resolution`` on, and give what is below as one share, with share_bounds.
        """
        points = np.log10(np.asarray(magnitudes, dtype=np.float64))[:, None, None]

        def bells(values: Array) -> Array:
            with np.errstate(divide="ignore"):
                places = np.log10(np.where(np.sign(values) == -sign, 0, np.abs(values)))
            return _bell((points - places) / width) / width

        return self._over_probes(bells)

    def _over_probes(self, f: Callable[[Array], Array]) -> tuple[Array, Array]:
        """Mean and standard error (...) of the estimates of Σ f(λ_i)/P, for f of values (n, m) to (..., n, m)."""
        rest = self.dim - len(self.outliers)
        sums = rest * (f(self.nodes) * self.weights).sum(axis=-1) + f(self.outliers[None]).sum(axis=-1)
        sums = sums / self.dim
        return sums.mean(axis=-1), sums.std(axis=-1, ddof=1) / sums.shape[-1] ** 0.5


def _bell(x: Array) -> Array:
    return np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)

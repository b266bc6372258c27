"""How flat a solution is, by many measures.

Shapes: P parameters, K points, T steps, N samples along a path. Missing numbers are NaN.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar

import numpy as np

from ..records import NAN, Array, Record


@dataclass(frozen=True, kw_only=True, eq=False)
class Flatness(Record):
    """Depth and flatness of one solution. ``eigenvalues`` (k,) largest first, with their residuals.

    Sharpness is the largest rise of the loss found inside a ball of radius ``*_rho``: in ℓ2 (SAM), and in units of |θ|
    (adaptive) in ℓ2 and ℓ∞; the average one is the mean rise at the rim. The SAM numbers are one ascent step and the iterated
    ascent. lpf is the mean loss under noise of standard deviation ``lpf_sigma``, pac_bayes_sigma the noise that raises it by
    ``pac_bayes_tolerance``. relative_flatness is of the weight ``relative_layer``. epsilon and epsilon_prime say how far the
    solution is from a flat minimum (see Certificate). ``invariant`` says of each which a rescaling of layers leaves as it is.
    """

    invariant: ClassVar[Mapping[str, bool]] = MappingProxyType(
        {
            "trace": False,
            "mean_trace": False,
            "eigenvalues": False,
            "frobenius": False,
            "sam_step": False,
            "sam_sharpness": False,
            "adaptive_sharpness": True,
            "adaptive_linf_sharpness": True,
            "adaptive_average": True,
            "lpf": False,
            "pac_bayes_sigma": False,
            "relative_flatness": True,
            "fisher_rao": True,
            "epsilon": False,
            "epsilon_prime": False,
        }
    )

    optimizer: str
    seed: int
    loss: float
    gradient_norm: float
    theta_norm: float
    dim: int
    trace: float
    trace_stderr: float
    trace_method: str
    frobenius: float
    frobenius_stderr: float
    eigenvalues: Array
    residuals: Array
    sam_step: float
    sam_sharpness: float
    sam_rho: float
    adaptive_sharpness: float
    adaptive_rho: float
    gradients: int
    matvecs: int
    losses: int = 0
    adaptive_linf_sharpness: float = NAN
    linf_rho: float = NAN
    adaptive_average: float = NAN
    adaptive_average_stderr: float = NAN
    lpf: float = NAN
    lpf_stderr: float = NAN
    lpf_sigma: float = NAN
    pac_bayes_sigma: float = NAN
    pac_bayes_stderr: float = NAN
    pac_bayes_tolerance: float = NAN
    relative_flatness: float = NAN
    relative_flatness_stderr: float = NAN
    relative_layer: str = ""
    fisher_rao: float = NAN
    epsilon: float = NAN
    epsilon_prime: float = NAN
    epsilon_prime_stderr: float = NAN
    message: str = ""

    @property
    def label(self) -> str:
        return f"{self.optimizer}/{self.seed}"

    @property
    def mean_trace(self) -> float:
        """Trace per parameter, tr/P."""
        return self.trace / self.dim


@dataclass(frozen=True, kw_only=True, eq=False)
class Sharpness(Record):
    """Rises of the loss (steps, K) at the iterates of K ascents in a ball of radius ρ; column 0 starts up the gradient.

    norm: "l2" or "linf"; ball: "plain", or "adaptive" in units of |θ|.
    """

    rho: float
    norm: str
    ball: str
    rises: Array
    gradients: int
    matvecs: int

    @property
    def step(self) -> float:
        """The rise after one ascent step from the gradient, negative where the loss falls."""
        return float(self.rises[0, 0])

    @property
    def value(self) -> float:
        """The largest rise found, a lower bound of the maximum; never negative, since the center is in the ball too."""
        return float(np.maximum(self.rises.max(), 0.0))


@dataclass(frozen=True, kw_only=True, eq=False)
class NoiseFlatness(Record):
    """The mean of a loss, or of its rise, under noise: independent samples (n,), each of one pair of opposite draws.

    measure: what it is a mean of; scale: the σ or ρ of the noise. ``losses`` counts evaluations.
    """

    measure: str
    samples: Array
    scale: float
    losses: int

    @property
    def value(self) -> float:
        return float(self.samples.mean())

    @property
    def stderr(self) -> float:
        return float(self.samples.std(ddof=1) / len(self.samples) ** 0.5)


@dataclass(frozen=True, kw_only=True, eq=False)
class PacBayes(Record):
    """The standard deviation σ of noise that raises the mean loss by ``tolerance``, with its standard error.

    sigmas, rises (n,): all noise looked at and the mean rise there. If the crossing is outside of them ``converged`` is
    False, sigma is NaN, and ``message`` says on which side; if the loss is not finite beyond it, stderr is. ``losses``
    counts evaluations.
    """

    sigma: float
    stderr: float
    tolerance: float
    sigmas: Array
    rises: Array
    losses: int
    converged: bool
    message: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class RelativeFlatness(Record):
    """Relative flatness of the weight named ``layer``, with its standard error (0 where exact) from ``matvecs`` products."""

    value: float
    stderr: float
    samples: Array
    layer: str
    of: str
    matvecs: int


@dataclass(frozen=True, kw_only=True, eq=False)
class Certificate(Record):
    """How far θ is from an (ε, ε′)-flat minimum: x*, ``minimum`` (P,), and the slope of the mean curvature along the
    valley there.

    epsilon: ‖θ − x*‖. If x* is not stationary ``converged`` is False, ``message`` says why, and epsilon is how far descent came.
    thresholds (T,): eigenvalues above are of directions across the valley; normal (T,): how many of ``eigenvalues`` (k,)
    those are; complete (T,): whether all of them were found. square, square_stderr (T,): unbiased estimates of ε′², which
    may be negative.
    """

    epsilon: float
    minimum: Array
    loss: float
    gradient_norm: float
    eigenvalues: Array
    residuals: Array
    thresholds: Array
    normal: Array
    complete: Array
    square: Array
    square_stderr: Array
    probes: int
    gradients: int
    matvecs: int
    thirds: int
    converged: bool
    message: str = ""

    @property
    def epsilon_prime(self) -> Array:
        """ε′ (T,), 0 where the estimate of its square is not positive."""
        return np.sqrt(np.maximum(self.square, 0.0))

    @property
    def epsilon_prime_stderr(self) -> Array:
        """Of ε′ (T,): that of the square over 2ε′, and where ε′ is not told from 0, the square root of that of the square."""
        told = self.square > self.square_stderr
        return np.where(
            told,
            self.square_stderr / (2 * np.where(told, self.epsilon_prime, 1.0)),
            np.sqrt(self.square_stderr),
        )

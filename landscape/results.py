"""Every result the toolkit makes, as records: solutions, and what was measured of them.

Shapes: P parameters, K points, T steps, N samples along a path. Missing numbers are NaN.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from .errors import InputError
from .parameters import Parameters
from .quadrature import distribution_bounds, share_interval
from .records import Record

Array = np.ndarray
NAN = float("nan")


@dataclass(frozen=True, kw_only=True, eq=False)
class Solution(Record):
    """Parameters found by one run of one optimizer, with its curve and the last steps before the end.

    theta (P,); buffers by name: running statistics, and parameters that were frozen. curve_* (E,) at some epochs.
    tail (T+1, P) the last points, tail_lr (T,) their learning rates. ``status`` says in words how the run ended.
    """

    problem: str
    optimizer: str
    seed: int
    theta: Array
    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    buffers: dict[str, Array] = field(default_factory=dict)
    train_loss: float = NAN
    validation_loss: float = NAN
    test_loss: float = NAN
    train_accuracy: float = NAN
    validation_accuracy: float = NAN
    test_accuracy: float = NAN
    curve_epoch: Array = field(default_factory=lambda: np.zeros(0))
    curve_train: Array = field(default_factory=lambda: np.zeros(0))
    curve_validation: Array = field(default_factory=lambda: np.zeros(0))
    tail: Array = field(default_factory=lambda: np.zeros((0, 0)))
    tail_lr: Array = field(default_factory=lambda: np.zeros(0))
    gradients: float = NAN  # full-batch gradient evaluations spent
    losses: float = NAN  # full-batch loss evaluations spent beside those
    status: str = ""

    def __post_init__(self) -> None:
        if self.theta.shape != (self.parameters.dim,):
            raise InputError(
                f"the solution {self.label} has theta of shape {self.theta.shape}, "
                f"but its named parameters make ({self.parameters.dim},)."
            )
        if not np.isfinite(self.theta).all():
            bad = int((~np.isfinite(self.theta)).sum())
            raise InputError(
                f"the solution {self.label} holds {bad} values in theta that are NaN or infinite; train it anew."
            )

    @property
    def label(self) -> str:
        """Optimizer and seed: what the run is called in tables and pictures."""
        return f"{self.optimizer}/{self.seed}"

    @property
    def parameters(self) -> Parameters:
        return Parameters(self.names, self.shapes)

    @property
    def norm(self) -> float:
        return float(np.linalg.norm(self.theta))

    def load_into(self, model: nn.Module) -> nn.Module:
        """The model itself, with these parameters and buffers copied into it."""
        tensors: dict[str, Any] = dict(self.parameters.unpack(torch.from_numpy(self.theta)))
        tensors |= {name: torch.from_numpy(np.asarray(b)) for name, b in self.buffers.items()}
        model.load_state_dict(tensors, strict=False)
        return model

    def buffer_tensors(self) -> dict[str, Tensor]:
        return {name: torch.from_numpy(np.asarray(b)) for name, b in self.buffers.items()}


@dataclass(frozen=True, kw_only=True, eq=False)
class Trace(Record):
    """An estimate of the trace of a curvature matrix with its standard error, from ``matvecs`` products with vectors.

    ``of`` names the matrix: the Hessian, its Gauss–Newton or residual part, or the Fisher matrix. Where an error was asked
    for and not reached, ``converged`` is False; ``message`` says why, or why the value is NaN.
    """

    value: float
    stderr: float
    samples: Array
    method: str
    matvecs: int
    dim: int
    of: str = "hessian"
    converged: bool = True
    message: str = ""

    @property
    def mean(self) -> float:
        """Trace per parameter, tr/P."""
        return self.value / self.dim


@dataclass(frozen=True, kw_only=True, eq=False)
class SplitTrace(Trace):
    """tr H = tr G + tr R, Gauss–Newton and residual part, of the whole (first) and of the diagonal blocks called ``names``.

    values, stderrs and sizes (B,) of the blocks; gauss_newton, residual and their standard errors (1 + B,). ``known`` is the
    share of parameters whose entry of G is exact, ``affine`` of those whose entry of R is 0; ``passes`` counts the backward
    passes that went into G, ``matvecs`` the probes of R. samples are those of R, to which the estimate of tr G is added.
    """

    names: tuple[str, ...]
    sizes: Array
    values: Array
    stderrs: Array
    gauss_newton: Array
    gauss_newton_stderr: Array
    residual: Array
    residual_stderr: Array
    known: float
    passes: int
    affine: float = NAN


@dataclass(frozen=True, kw_only=True, eq=False)
class Frobenius(Record):
    """‖A‖_F of a curvature matrix from an estimate of its square, tr A², and that one's standard error."""

    square: float
    square_stderr: float
    method: str
    matvecs: int
    dim: int
    of: str = "hessian"

    @property
    def value(self) -> float:
        return self.square**0.5

    @property
    def stderr(self) -> float:
        """To first order: that of the square over 2‖A‖_F."""
        return 0.5 * self.square_stderr / self.value if self.square_stderr else 0.0

    @property
    def typical(self) -> float:
        """‖A‖_F/√P, the root of the mean squared eigenvalue."""
        return self.value / self.dim**0.5


@dataclass(frozen=True, kw_only=True, eq=False)
class BlockTraces(Record):
    """Traces of the diagonal blocks of a curvature matrix: values, stderr and sizes (B,), of the blocks called ``names``.

    samples (n, B), a row for every probe; NaN where a block was taken exactly, entry by entry, and its standard error is 0.
    ``probes`` says what the probes were: "exact", each zero outside of one block, or "joint", all blocks from the same
    ones: the variance of one joint probe is greater by Σ‖A_bc‖_F² over c ≠ b.
    """

    names: tuple[str, ...]
    values: Array
    stderr: Array
    sizes: Array
    samples: Array
    by: str
    probes: str
    matvecs: int
    dim: int
    of: str = "hessian"
    message: str = ""

    @property
    def means(self) -> Array:
        """Trace per parameter of each block (B,)."""
        return self.values / self.sizes


@dataclass(frozen=True, kw_only=True, eq=False)
class Diagonal(Record):
    """The diagonal of a curvature matrix: values (P,) with their standard errors (P,).

    samples (n,) are estimates of the trace, the sums over the entries of what each of the n probes says.
    """

    values: Array
    stderr: Array
    samples: Array
    method: str
    matvecs: int
    dim: int
    of: str = "hessian"
    message: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class Eigenpairs(Record):
    """Eigenvalues (k,), largest first, unit eigenvectors (k, P) and residuals ‖Hv − λv‖ (k,) of ∇²L, or the part ``of`` it."""

    values: Array
    vectors: Array
    residuals: Array
    which: str
    matvecs: int
    converged: bool
    message: str = ""
    of: str = "hessian"


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


@dataclass(frozen=True, kw_only=True, eq=False)
class CurvatureScales(Record):
    """Curvature along K unit directions as seen at S steps h, beside vᵀHv. hessian (K,); steps (S,), and relative to ‖θ‖.

    of_losses, of_gradients (K, S): second differences of the loss, and differences of the gradient; *_rounding (K, S):
    about how much of each is rounding.
    """

    steps: Array
    theta_norm: float
    hessian: Array
    of_losses: Array
    of_losses_rounding: Array
    of_gradients: Array
    of_gradients_rounding: Array
    losses: int
    gradients: int
    matvecs: int

    @property
    def relative_steps(self) -> Array:
        """Steps (S,) as shares of ‖θ‖."""
        return self.steps / self.theta_norm

    @property
    def excess(self) -> Array:
        """How much the curvature seen by gradients exceeds vᵀHv, (K, S), as a share of it."""
        return self.of_gradients / self.hessian[:, None] - 1


@dataclass(frozen=True, kw_only=True, eq=False)
class PathRecord(Record):
    """The loss along a path between two points, sampled densely enough that its maximum is bracketed.

    t (N,) increasing in [0, 1] with both ends and the top; loss, norm (N,) at those; points (M, P) and
    coefficients say how to rebuild the path (see landscape.paths). ``gradients`` and ``losses`` count evaluations.
    """

    method: str
    start: str
    end: str
    t: Array
    loss: Array
    norm: Array
    path_kind: str
    points: Array
    coefficients: Array
    length: float
    gradients: int
    losses: int
    converged: bool
    message: str

    @property
    def height(self) -> float:
        """The largest loss on the path: absolute, from the dense samples."""
        return float(np.max(self.loss))

    @property
    def barrier(self) -> float:
        """The height minus the larger endpoint loss; never negative, since the ends are samples."""
        return self.height - float(max(self.loss[0], self.loss[-1]))

    @property
    def top(self) -> float:
        """t of the largest loss."""
        return float(self.t[np.argmax(self.loss)])

    @property
    def path(self) -> Any:
        """The path itself: a landscape.paths.Path with γ(t), γ′(t) and length."""
        from .paths import restore

        return restore(self.path_kind, self.points, self.coefficients)


@dataclass(frozen=True, kw_only=True, eq=False)
class Embedding(Record):
    """Kernel PCA of solutions: coordinates (n, components), eigenvalues (components,) and controls beside them.

    norms (n,); labels and groups (n,) name solution and optimizer. A separation along a component says little
    where a simple control does as well: ``norm_accuracy`` and ``centroid_accuracy`` are leave-one-out accuracies
    of telling the groups apart by ‖θ‖ alone and by the nearest centroid, ``kernel_accuracy`` by the coordinates;
    ``chance`` is the share of the largest group. norm_correlation (components,) is Spearman's ρ of each component with ‖θ‖.
    """

    coordinates: Array
    eigenvalues: Array
    explained: Array
    labels: tuple[str, ...]
    groups: tuple[str, ...]
    norms: Array
    distances: Array  # (n, n) Euclidean
    kernel: str
    gamma: float
    norm_correlation: Array
    norm_accuracy: float
    centroid_accuracy: float
    kernel_accuracy: float
    chance: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Corridor(Record):
    """Corridor measures along consecutive points: loss (T+1,), and one number a step (T,) of each measure.

    kappa = h‖Hg‖/‖g‖ and kappa_weak = h gᵀHg/‖g‖² are 0 in a corridor; linearity (the loss decrease over its
    first-order prediction), cosine and norm_ratio (of successive gradients) are 1. h is the learning rate where it was
    given, otherwise the
    length of the step over ‖g‖. chord is net displacement over length travelled.
    """

    loss: Array
    gradient_norm: Array
    step: Array
    kappa: Array
    kappa_weak: Array
    linearity: Array
    cosine: Array
    norm_ratio: Array
    chord: float
    label: str = ""
    gradients: int = 0
    matvecs: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Profile(Record):
    """The loss along a line: loss (n,) at center + steps·direction, steps (n,). ``direction`` says how it was drawn."""

    steps: Array
    loss: Array
    direction: str = ""
    label: str = ""

    @property
    def center_loss(self) -> float:
        """The loss where the step is 0 (NaN if no step is)."""
        return float(self.loss[self.steps == 0][0]) if (self.steps == 0).any() else NAN


@dataclass(frozen=True, kw_only=True, eq=False)
class Surface(Record):
    """The loss on a plane: loss (n1, n2) at center + steps1[i]·d1 + steps2[j]·d2. ``direction`` says how they were drawn."""

    steps1: Array
    steps2: Array
    loss: Array
    direction: str = ""
    label: str = ""

    @property
    def center_loss(self) -> float:
        """The loss where both steps are 0 (NaN if none are)."""
        middle = self.loss[np.ix_(self.steps1 == 0, self.steps2 == 0)]
        return float(middle[0, 0]) if middle.size else NAN


@dataclass(frozen=True, kw_only=True, eq=False)
class Summary(Record):
    """One row a metric, one column a group: center, low and high (metrics, groups) of the stated interval.

    ``scales`` says per metric how groups are averaged: "mean", or "geometric mean" for what spans orders of
    magnitude. Intervals are bootstraps over solutions at ``confidence``; counts (metrics, groups) is how many
    solutions (or pairs) went in.
    """

    metrics: tuple[str, ...]
    groups: tuple[str, ...]
    scales: tuple[str, ...]
    center: Array
    low: Array
    high: Array
    counts: Array
    confidence: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Track(Record):
    """Numbers followed along one training run: ``values[name]`` (T,) at ``steps`` (T,), of an optimizer and a seed."""

    label: str
    seed: int
    steps: Array
    values: dict[str, Array]

    def __post_init__(self) -> None:
        for name, values in self.values.items():
            if np.shape(values) != np.shape(self.steps):
                raise InputError(
                    f"the track {self.label}/{self.seed} has {np.size(values)} values of {name!r} at "
                    f"{np.size(self.steps)} steps; give one a step."
                )


def _bell(x: Array) -> Array:
    return np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)

"""Traces, diagonals and eigenvalues of curvature matrices.

Shapes: P parameters, K points, T steps, N samples along a path. Missing numbers are NaN.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..records import NAN, Array, Record


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

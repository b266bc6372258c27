"""The ends of the Hessian's spectrum: eigenvalues with eigenvectors, by Lanczos, with residuals to check them by."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import ArpackError, ArpackNoConvergence, LinearOperator, eigsh
from torch import Tensor

from landscape import HessianProducts, InputError, Objective
from landscape.results import Eigenpairs

from .trace import draw_normal, one_point

End = Literal["LA", "SA", "LM", "BE"]
Array = NDArray[np.float64]
NOT_FINITE = (
    "Hessian-vector products at theta are not finite: the loss overflows or has no second derivative there."
)


def top_eigenpairs(
    objective: Objective,
    theta: Any,
    k: int,
    *,
    which: End = "LA",
    tolerance: float = 1e-7,
    max_matvecs: int = 2000,
    generator: torch.Generator | None = None,
    about: Mapping[str, Any] | None = None,
) -> Eigenpairs:
    """k eigenvalues of ∇²L(θ), largest first, with unit eigenvectors (k, P) and residuals ‖Hv − λv‖ (k,).

    Implicitly restarted Lanczos as in ARPACK (scipy.sparse.linalg.eigsh), which orthogonalizes fully: without that,
    copies of the same eigenvalue appear. Values are Rayleigh quotients vᵀHv and residuals true ones, both from
    the vectors returned. The sign of an eigenvector is arbitrary: its entry of largest magnitude is made positive.
    Of an eigenvalue that is repeated exactly (the zeros of dead units) one copy is certain; the others are found
    only through rounding, as by every method that starts from one vector.

    Cost: 20 Hessian-vector products for the upper end, 60 where the lower one is asked for too (or 2k + 1 if
    that is more), in parts again until converged, and k + 1 to check; P products and a dense eigendecomposition
    where P is no larger than those numbers. Memory: that many vectors (P,). Networks have a few
    large positive eigenvalues, found at once; the lower end is crowded and takes some hundred products.

    Args:
        which: "LA" the largest, "SA" the smallest (most negative), "LM" the largest in magnitude, "BE" half from
            each end (one more from the upper one if k is odd).
        tolerance: an eigenvalue has converged where its residual, as Lanczos sees it, is below about
            tolerance·(|λ| + s), where s is the typical |λ|, ‖H‖_F/√P; without s for "LM".
        max_matvecs: about how many products may be spent. Where they do not suffice, ``converged`` is False,
            ``message`` says so, and pairs that were not found are NaN.
        generator: of the start vector; torch's default one if None.
        about: provenance for the record's header.

    Raises:
        InputError: k outside 1 … P, an unknown ``which``, or a theta that is not one point.
    """
    theta = one_point(objective, theta)
    if which not in get_args(End):
        raise InputError(f"which must be one of {', '.join(get_args(End))}, got {which!r}.")
    if not 1 <= k <= objective.dim:
        raise InputError(f"k must be between 1 and the number of parameters, {objective.dim}, got {k}.")
    hessian = _Hessian(objective, theta)
    basis = max(2 * k + 1, 20 if which in ("LA", "LM") else 60)
    if objective.dim <= basis:
        vectors, message = _dense(hessian, k, which)
    else:
        start = _numpy(draw_normal(objective, 1, generator))
        restarts = max(1, max_matvecs // (basis - k))
        vectors, message = _lanczos(
            hessian, k, which, basis=basis, restarts=restarts, tolerance=tolerance, start=start
        )
    values, residuals = np.full(k, np.nan), np.full(k, np.nan)
    found = np.isfinite(vectors).all(axis=1)
    if found.any():
        products = hessian.rows(vectors[found])
        values[found] = (vectors[found] * products).sum(axis=1)
        residuals[found] = np.linalg.norm(products - values[found, None] * vectors[found], axis=1)
    order = np.argsort(-values)  # NaN last
    return Eigenpairs(
        values=values[order],
        vectors=_with_fixed_signs(vectors[order]),
        residuals=residuals[order],
        which=which,
        matvecs=hessian.products,
        converged=not message,
        message=message,
        about=dict(about or {}),
    )


def hessian_operator(objective: Objective, theta: Any) -> LinearOperator:
    """∇²L(θ) as a symmetric SciPy LinearOperator (P, P) in float64, for whatever SciPy offers on those.

    Cost: one Hessian-vector product a column it is applied to.
    """
    return _operator(objective.dim, _Hessian(objective, one_point(objective, theta)).rows)


class _Hessian:
    """Hessian-vector products between NumPy and the objective's device, counted."""

    def __init__(self, objective: Objective, theta: Tensor) -> None:
        self.objective, self.theta = objective, theta
        self.times = HessianProducts(objective, theta, engine="double-backward")  # its graph is made once
        self.products = 0

    def rows(self, vectors: Array) -> Array:
        """Hv for every row v of (K, P)."""
        self.products += len(vectors)
        v = torch.from_numpy(np.ascontiguousarray(vectors)).to(self.objective.dtype)
        return _numpy(self.times(v))


def _lanczos(
    hessian: _Hessian, k: int, which: End, *, basis: int, restarts: int, tolerance: float, start: Array
) -> tuple[Array, str]:
    """Eigenvectors (k, P), NaN where not found, and what went wrong, if anything did."""
    dim, image = start.shape[1], hessian.rows(start)
    scale = float(np.linalg.norm(image) / np.linalg.norm(start))  # about ‖H‖_F/√P
    if scale == 0:  # H = 0: every vector is an eigenvector
        return np.eye(k, dim), ""
    vectors = np.full((k, dim), np.nan)
    if not np.isfinite(scale):
        return vectors, NOT_FINITE
    # ARPACK's tolerances are absolute near 0, and it starts from Hv, which lacks the null space of H (dead units have one).
    # So it sees H/scale + 2, whose eigenvectors and ends are the same (and which is not 0 for H = −1, as with + 1).
    shift = 0.0 if which == "LM" else 2.0
    operator = _operator(dim, lambda v: hessian.rows(v) / scale + shift * v)
    end = "LA" if which == "BE" and k == 1 else which  # ARPACK wants two for both ends
    try:
        _, columns = eigsh(
            operator,
            k,
            which=end,
            v0=start[0],
            ncv=basis,
            maxiter=restarts,
            tol=tolerance,  # pyright: ignore[reportArgumentType]  # SciPy has no annotation, only 0 as the default
        )
        return columns.T, ""
    except ArpackNoConvergence as stopped:
        found = stopped.eigenvectors.T
        vectors[: len(found)] = found
        return vectors, (
            f"{len(found)} of {k} eigenvalues converged in {hessian.products} Hessian-vector products; "
            "raise max_matvecs or tolerance."
        )
    except ArpackError as failed:
        return vectors, f"Lanczos failed after {hessian.products} Hessian-vector products: {failed}"


def _dense(hessian: _Hessian, k: int, which: End) -> tuple[Array, str]:
    dim = hessian.objective.dim
    matrix = hessian.rows(np.eye(dim))
    if not np.isfinite(matrix).all():
        return np.full((k, dim), np.nan), NOT_FINITE
    values, columns = np.linalg.eigh((matrix + matrix.T) / 2)  # ascending
    low = {"LA": 0, "SA": k, "LM": 0, "BE": k // 2}[which]
    chosen = np.argsort(-np.abs(values))[:k] if which == "LM" else np.r_[0:low, dim - k + low : dim]
    return columns.T[chosen], ""


def _operator(dim: int, rows: Callable[[Array], Array]) -> LinearOperator:
    """The symmetric operator (dim, dim) that maps the rows of (K, dim) by ``rows``."""

    def matvec(v: Array) -> Array:
        return rows(v.reshape(1, -1))[0]

    def matmat(columns: Array) -> Array:
        return rows(columns.T).T

    # As keywords in a dictionary, since SciPy's __new__ hides their names from type checkers.
    functions: dict[str, Any] = {"matvec": matvec, "rmatvec": matvec, "matmat": matmat, "dtype": np.float64}
    return LinearOperator((dim, dim), **functions)


def _with_fixed_signs(vectors: Array) -> Array:
    largest = np.take_along_axis(vectors, np.argmax(np.abs(vectors), axis=1)[:, None], axis=1)
    return vectors * np.where(largest < 0, -1.0, 1.0)


def _numpy(tensor: Tensor) -> Array:
    return tensor.cpu().numpy().astype(np.float64)

"""The ends of the Hessian's spectrum: eigenvalues with eigenvectors, by Lanczos, with residuals to check them by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from landscape import InputError, Objective
from landscape.parameters import float64_array
from landscape.results import Eigenpairs

from ..points import NOT_FINITE, draw_normal, one_point
from .lanczos import End, Ritz, chosen, lanczos
from .matrices import Of, Products, products_of
from .partition import Groups, partition_of

Array = NDArray[np.float64]
_BASIS, _CROWDED_BASIS = 40, 100  # vectors kept for the upper end, and where the lower one is asked for too


def top_eigenpairs(
    objective: Objective,
    theta: Any,
    k: int,
    *,
    which: End = "LA",
    of: Of = "hessian",
    tolerance: float = 1e-7,
    max_matvecs: int = 2000,
    block: int = 1,
    generator: torch.Generator | None = None,
    about: Mapping[str, Any] | None = None,
) -> Eigenpairs:
    """k eigenvalues of ∇²L(θ), largest first, with unit eigenvectors (k, P) and residuals ‖Hv − λv‖ (k,).

    Block Lanczos with thick restarts, orthogonalized in full, since copies of the same eigenvalue appear without that (see
    analysis/lanczos.py). Values are Rayleigh quotients vᵀHv and residuals true ones to rounding, as the images Hv are
    kept: so some eigenvalue lies within the residual of each value. The sign of an eigenvector is
    arbitrary: its entry of largest magnitude is made positive.

    Cost: products until converged; P where P ≤ basis + block, with a dense eigendecomposition. Networks have
    a few large positive eigenvalues, found at once; the lower end is crowded. Measured on digits-mlp (P = 2,410,
    trained to a loss of 0.03, tolerance 1e-7), in products, the median of three starts:

        block                       1      2      4     eigsh of SciPy (ARPACK), same basis
        5 largest                  16     20     28     41
        5 smallest                626    810  1,216   2,302
        3 largest, 3 smallest     298    416    664

    Memory: about 200 vectors (P,), the basis and its images, and 50 more for a moment; 80 and 20 for "LA" and "LM", whose
    basis is smaller (40, not 100; 2k + 2·block if that is more).
    On ReLU networks this is the curvature of the linear pieces.

    Args:
        which: "LA" the largest, "SA" the smallest (most negative), "LM" the largest in magnitude, "BE" half from
            each end (one more from the upper one if k is odd).
        of: the matrix, as in products_of: "hessian", or a part of it.
        tolerance: an eigenvalue has converged where its residual, as Lanczos sees it, is below
            tolerance·(|λ| + s), where s is the typical |λ|, ‖H‖_F/√P. In single precision the true residuals
            stop at about 1e-6 of the largest |λ|.
        max_matvecs: how many products may be spent. Where they do not suffice, ``converged`` is False,
            ``message`` says so, and pairs that were not found are NaN.
        block: vectors taken at a time, and how many copies of an eigenvalue that is repeated exactly are certain to be found.
        generator: of the start vectors; torch's default one if None.
        about: provenance for the record's header.

    Raises:
        InputError: k outside 1 … P, a block below 1, an unknown ``which`` or ``of``, or a theta that is not one point.
    """
    theta = one_point(objective, theta)
    if not 1 <= k <= objective.dim:
        raise InputError(f"k must be between 1 and the number of parameters, {objective.dim}, got {k}.")
    search = _Search(which, tolerance, max_matvecs, block)
    products = products_of(objective, theta, of, count=search.expected(k))
    pairs = search.run(_Block(objective, products, generator), k)
    return replace(pairs, of=of, about=dict(about or {}))


def layer_eigenvalues(
    objective: Objective,
    theta: Any,
    k: int = 1,
    *,
    of: Of = "hessian",
    by: Groups = "layer",
    which: End = "LA",
    tolerance: float = 1e-7,
    max_matvecs: int = 2000,
    block: int = 1,
    generator: torch.Generator | None = None,
    about: Mapping[str, Any] | None = None,
) -> dict[str, Eigenpairs]:
    """k eigenvalues of every diagonal block of ∇²L(θ) by name, as top_eigenpairs gives them of the whole.

    A block is the part of the matrix in the parameters of one layer: the curvature where only they move. By interlacing,
    no eigenvalue of a block lies outside those of the whole matrix. Vectors (k, P) are zero outside their block; of
    a block with fewer than k parameters all eigenvalues are given.

    Cost: what top_eigenpairs takes, for every block, with products of the whole matrix. Memory: the vectors of the result,
    k·P numbers a block, and about 250 vectors of the block's size.

    Args:
        by: "layer", "parameter", "filter", or parameter names by the name of their group, as in partition_of.
        which, of, tolerance, max_matvecs, block: as in top_eigenpairs, max_matvecs for each block.
        generator, about: likewise.

    Raises:
        InputError: as top_eigenpairs, and as partition_of.
    """
    theta = one_point(objective, theta)
    if k < 1:
        raise InputError(f"k must be at least 1, got {k}.")
    search = _Search(which, tolerance, max_matvecs, block)
    blocks = partition_of(objective.parameters, by)
    index = blocks.index.to(objective.device)
    products = products_of(objective, theta, of, count=len(blocks.names) * search.expected(k))
    found = {}
    for b, name in enumerate(blocks.names):
        place = (index == b).nonzero()[:, 0]
        pairs = search.run(_Block(objective, products, generator, place), min(k, len(place)))
        found[name] = replace(pairs, of=of, about=dict(about or {}))
    return found


@dataclass(frozen=True)
class _Block:
    """A matrix by its products, or its diagonal block at the indices ``place`` (n,) of θ."""

    objective: Objective
    whole: Products
    generator: torch.Generator | None
    place: Tensor | None = None

    @property
    def dim(self) -> int:
        return self.objective.dim if self.place is None else len(self.place)

    def products(self, v: Tensor) -> Tensor:
        return self.cut(self.whole(self.embedded(v)))

    def draw(self, count: int) -> Tensor:
        return self.cut(draw_normal(self.objective, count, self.generator))

    def embedded(self, v: Tensor) -> Tensor:
        """Vectors (K, n) as (K, P), zero outside the block."""
        return (
            v if self.place is None else v.new_zeros(len(v), self.objective.dim).index_copy_(1, self.place, v)
        )

    def cut(self, v: Tensor) -> Tensor:
        """The part in the block of vectors (K, P)."""
        return v if self.place is None else v[:, self.place]

    def dense(self) -> Tensor:
        return self.products(torch.eye(self.dim, dtype=self.objective.dtype, device=self.objective.device))


@dataclass(frozen=True)
class _Search:
    """Which eigenvalues, how well, and at what cost."""

    which: End
    tolerance: float
    max_matvecs: int
    block: int

    def __post_init__(self) -> None:
        if self.which not in get_args(End):
            raise InputError(f"which must be one of {', '.join(get_args(End))}, got {self.which!r}.")
        if self.block < 1:
            raise InputError(f"block must be at least 1, got {self.block}.")

    def basis(self, k: int) -> int:
        """The most vectors that Lanczos keeps."""
        usual = _BASIS if self.which in ("LA", "LM") else _CROWDED_BASIS
        return max(usual, 2 * k + 2 * self.block)

    def expected(self, k: int) -> int:
        """How many products are to come at least, as far as networks tell: some three a pair at their upper end."""
        return 3 * k if self.which in ("LA", "LM") else self.basis(k)

    def run(self, matrix: _Block, k: int) -> Eigenpairs:
        """k eigenpairs of a block, with vectors (k, P) that are zero outside it; NaN where they were not found."""
        ritz = self.ritz(matrix, k)
        good = ritz.converged.numpy()
        rows, images = float64_array(ritz.vectors), float64_array(ritz.images)
        values = np.where(good, (rows * images).sum(axis=1), np.nan)
        residuals = np.linalg.norm(images - values[:, None] * rows, axis=1)
        vectors = float64_array(matrix.embedded(ritz.vectors))
        vectors[~good] = np.nan
        order = np.argsort(-values)  # NaN last
        message = "" if ritz.finite else NOT_FINITE
        if ritz.finite and not good.all():
            message = f"{good.sum()} of {k} eigenvalues converged in {ritz.matvecs} products; raise max_matvecs or tolerance."
        return Eigenpairs(
            values=values[order],
            vectors=_with_fixed_signs(vectors[order]),
            residuals=residuals[order],
            which=self.which,
            matvecs=ritz.matvecs,
            converged=not message,
            message=message,
        )

    def ritz(self, matrix: _Block, k: int) -> Ritz:
        """From all of a small matrix, from Lanczos of a large one."""
        if matrix.dim <= self.basis(k) + self.block:
            return _dense(matrix, k, self.which)
        return lanczos(
            matrix.products,
            matrix.draw,
            k,
            which=self.which,
            block=self.block,
            basis=self.basis(k),
            tolerance=self.tolerance,
            max_matvecs=self.max_matvecs,
        )


def _dense(matrix: _Block, k: int, which: End) -> Ritz:
    """All of a small matrix, and its eigenvectors."""
    dense = matrix.dense()
    every = torch.ones(k, dtype=torch.bool)
    if not dense.isfinite().all():
        return Ritz(dense[:k], dense[:k], ~every, matrix.dim, finite=False)
    values, columns = torch.linalg.eigh((dense + dense.T) / 2)
    vectors = columns[:, chosen(values.cpu(), k, which)].T
    return Ritz(vectors, vectors @ dense, every, matrix.dim)


def _with_fixed_signs(vectors: Array) -> Array:
    largest = np.take_along_axis(vectors, np.argmax(np.abs(vectors), axis=1)[:, None], axis=1)
    return vectors * np.where(largest < 0, -1.0, 1.0)

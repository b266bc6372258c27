"""Eigenpairs at the ends of a symmetric matrix's spectrum from products with it: block Lanczos with thick restarts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

End = Literal["LA", "SA", "LM", "BE"]
Products = Callable[[Tensor], Tensor]  # vectors (K, P) -> (K, P)
Draw = Callable[[int], Tensor]  # count -> random vectors (count, P)


@dataclass(frozen=True)
class Ritz:
    """What Lanczos found: vectors (k, P) and what A makes of them, of which ``converged`` (k,) are good to the tolerance.

    ``finite`` is False where a product was not: then the vectors mean nothing. ``matvecs``: products spent.
    """

    vectors: Tensor
    images: Tensor
    converged: Tensor
    matvecs: int
    finite: bool = True


def lanczos(
    products: Products,
    draw: Draw,
    k: int,
    *,
    which: End,
    block: int,
    basis: int,
    tolerance: float,
    max_matvecs: int,
) -> Ritz:
    """k eigenvectors of the symmetric A behind ``products``, which are orthonormal, from random starts.

    Block Lanczos (Golub and Underwood 1977) with thick restarts (Wu and Simon 2000): a basis V grows by the block of
    what A maps its last vectors to, made orthogonal to all of V, twice. VᵀAV is what Rayleigh–Ritz needs; a basis that is full is
    replaced by its best Ritz vectors, and grows on. Since every new column of VᵀAV is taken against all of V, a restart needs
    no bookkeeping. AV is kept beside V, and changes with it, so that the images of the vectors found are there without further
    products, exact to rounding. Where A maps a block into V (low rank, A = 0, A = 1), random vectors or rounding take its
    place, so that eigenvalues repeated exactly are found too: up to ``block`` copies for certain.

    Cost: ``block`` products a step. Memory: 2·basis + block vectors (P,), and half a basis more for a moment at a restart.

    Args:
        draw: random vectors, of the starts and of what takes the place of a block that vanished.
        basis: the most vectors kept, more than k + block, and at most P − block.
        tolerance: a pair has converged where ‖Av − λv‖ ≤ tolerance·(|λ| + s), s = ‖A‖_F/√P, estimated from the start.
    """
    start = draw(block)
    v = start.new_empty(basis + block, start.shape[1])
    av = v.new_empty(basis, start.shape[1])
    v[:block] = torch.linalg.qr(start.T)[0].T
    inner = torch.zeros(basis, basis, dtype=torch.float64)  # VᵀAV, of which the upper half is kept
    size = spent = 0
    scale = 0.0
    while True:
        new = slice(size, size + block)
        image = av[new] = products(v[new])
        spent, size = spent + block, size + block
        coefficients = v[:size] @ image.T
        inner[:size, new] = coefficients.double().cpu()
        if not inner[:size, new].isfinite().all():
            nothing = image.new_full((k, len(v[0])), torch.nan)
            return Ritz(nothing, nothing, torch.zeros(k) > 0, spent, finite=False)
        scale = scale or float(image.norm()) / block**0.5
        following, triangle = _orthonormal(image - coefficients.T @ v[:size], v[:size], draw)
        values, columns = torch.linalg.eigh(inner[:size, :size], UPLO="U")
        residuals = (triangle @ columns[new]).norm(dim=0)
        wanted = chosen(values, min(k, size), which)
        converged = residuals[wanted] <= tolerance * (values[wanted].abs() + scale)
        done = size >= k and bool(converged.all())
        if done or (size >= k and spent + block > max_matvecs):
            rows = columns[:, wanted].T.to(v)
            return Ritz(rows @ v[:size], rows @ av[:size], converged, spent)
        if size + block > basis:
            kept = chosen(values, (basis - block + k) // 2, which)
            rows = columns[:, kept].T.to(v)
            v[: len(kept)] = rows @ v[:size]
            av[: len(kept)] = rows @ av[:size]
            inner.zero_()
            inner.diagonal()[: len(kept)] = values[kept]
            size = len(kept)
        v[size : size + block] = following


def chosen(values: Tensor, count: int, which: End) -> Tensor:
    """Indices of ``count`` ascending values: the largest, the smallest, the largest in magnitude, or half from each end."""
    if which == "LM":
        return values.abs().argsort(descending=True)[:count]
    low = {"LA": 0, "SA": count, "BE": count // 2}[which]
    every = torch.arange(len(values))
    return torch.cat([every[:low], every[len(values) - count + low :]])


def _orthonormal(rest: Tensor, v: Tensor, draw: Draw) -> tuple[Tensor, Tensor]:
    """An orthonormal block (b, P), orthogonal to the rows of v, that holds the rows of ``rest``, and these in it, R (b, b).

    Directions that ``rest`` has nothing of are random ones. What it has of rounding only serves as well as they do.
    """
    rest = rest - (rest @ v.T) @ v
    r = torch.linalg.qr(rest.T, mode="r")[1]
    _, s, turn = torch.linalg.svd(r)
    block = (turn @ rest) / s[:, None]
    empty = s == 0
    if empty.any():
        random = draw(int(empty.sum()))
        block[empty] = random / random.norm(dim=1, keepdim=True)
    # What small rows of rest held of v grew with them, and random ones are orthogonal to nothing yet.
    block = block - (block @ v.T) @ v
    factor = torch.linalg.qr(block.T, mode="r")[1]
    return torch.linalg.solve_triangular(factor.T, block, upper=False), r.double().cpu()

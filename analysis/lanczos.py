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
    """What Lanczos found: vectors (k, P), of which ``converged`` (k,) are good to the tolerance; products spent.

    ``finite`` is False where a product was not: then the vectors mean nothing.
    """

    vectors: Tensor
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
    no bookkeeping. Where A maps a block into V (low rank, A = 0, A = 1), random vectors take its place, so that
    eigenvalues repeated exactly are found too: up to ``block`` copies for certain.

    Cost: ``block`` products a step. Memory: basis + block vectors (P,), and as many again for a moment at a restart.

    Args:
        draw: random vectors, of the starts and of what takes the place of a block that vanished.
        basis: the most vectors kept, more than k + block, and at most P − block.
        tolerance: a pair has converged where ‖Av − λv‖ ≤ tolerance·(|λ| + s), s = ‖A‖_F/√P, estimated from the start.
    """
    start = draw(block)
    v = start.new_empty(basis + block, start.shape[1])
    v[:block] = torch.linalg.qr(start.T)[0].T
    inner = torch.zeros(basis, basis, dtype=torch.float64)  # VᵀAV, of which the upper half is kept
    size = spent = 0
    scale = 0.0
    while True:
        image = products(v[size : size + block])
        if not image.isfinite().all():
            return Ritz(image.new_full((k, len(v[0])), torch.nan), torch.zeros(k) > 0, spent + block, False)
        scale = scale or float(image.norm()) / block**0.5
        spent, size = spent + block, size + block
        new = slice(size - block, size)
        coefficients = v[:size] @ image.T
        inner[:size, new] = coefficients.double().cpu()
        following, triangle = _orthonormal(image - coefficients.T @ v[:size], v[:size], draw, scale)
        values, columns = torch.linalg.eigh(inner[:size, :size], UPLO="U")
        residuals = (triangle @ columns[new]).norm(dim=0)
        wanted = chosen(values, min(k, size), which)
        converged = residuals[wanted] <= tolerance * (values[wanted].abs() + scale)
        done = size >= k and bool(converged.all())
        if done or (size >= k and spent + block > max_matvecs):
            return Ritz(columns[:, wanted].T.to(v) @ v[:size], converged, spent)
        if size + block > basis:
            kept = chosen(values, (basis - block + k) // 2, which)
            v[: len(kept)] = columns[:, kept].T.to(v) @ v[:size]
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


def _orthonormal(rest: Tensor, v: Tensor, draw: Draw, scale: float) -> tuple[Tensor, Tensor]:
    """An orthonormal block (b, P), orthogonal to the rows of v, that holds the rows of ``rest``, and these in it, R (b, b).

    Directions of ``rest`` that are only rounding, of products of size ``scale``, are replaced by random ones.
    """
    rest = rest - (rest @ v.T) @ v
    q, r = torch.linalg.qr(rest.T)
    u, s, _ = torch.linalg.svd(r)
    following = (q @ u).T
    lost = s <= 10 * torch.finfo(s.dtype).eps * scale
    if lost.any():
        random = draw(int(lost.sum()))
        following[lost] = random / random.norm(dim=1, keepdim=True)
    # The first time removes what small rows of rest held of v, enlarged; the second what rounding left of random ones.
    for _ in range(2):
        following = following - (following @ v.T) @ v
        following = torch.linalg.qr(following.T)[0].T
    return following, r.double().cpu()

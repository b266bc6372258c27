"""The two-loop recursion of L-BFGS (Nocedal and Wright, Numerical Optimization, Algorithm 7.4)."""

from __future__ import annotations

import torch
from torch import Tensor


def two_loop(gradient: Tensor, steps: list[Tensor], changes: list[Tensor], *, offset: float = 0.0) -> Tensor:
    """Hg (P,): the L-BFGS approximation of the inverse Hessian times a gradient, by the two-loop recursion.

    From pairs s = Δθ, y = Δg (oldest first): H₀ = (s·y)/(y·y) of the last pair, then for every pair
    H ← (I − ρ s yᵀ) H (I − ρ y sᵀ) + ρ s sᵀ with ρ = 1/(y·s + offset). Without pairs H is the identity.
    """
    q = gradient.clone()
    pairs = [(s, y, 1 / (torch.dot(y, s) + offset)) for s, y in zip(steps, changes, strict=True)]
    weights = []
    for s, y, rho in reversed(pairs):
        weights.append(rho * torch.dot(s, q))
        q -= weights[-1] * y
    if pairs:
        s, y, _ = pairs[-1]
        q *= torch.dot(s, y) / torch.dot(y, y)
    for (s, y, rho), weight in zip(pairs, reversed(weights), strict=True):
        q += (weight - rho * torch.dot(y, q)) * s
    return q


def trusted(s: Tensor, y: Tensor, min_cosine: float) -> bool:
    """Whether a pair says something about the curvature: cos(s, y) > min_cosine. False also where it is not a number."""
    # torch.dot, for autocast would let s @ y have the precision of bfloat16.
    return bool(torch.dot(s, y) > min_cosine * torch.linalg.vector_norm(s) * torch.linalg.vector_norm(y))

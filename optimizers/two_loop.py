"""The two-loop recursion of L-BFGS (Nocedal and Wright, Numerical Optimization, Algorithm 7.4)."""

from __future__ import annotations

from torch import Tensor


def two_loop(gradient: Tensor, steps: list[Tensor], changes: list[Tensor], *, offset: float = 0.0) -> Tensor:
    """Hg (P,): the L-BFGS approximation of the inverse Hessian times a gradient, by the two-loop recursion.

    From pairs s = Δθ, y = Δg (oldest first): H₀ = (s·y)/(y·y) of the last pair, then for every pair
    H ← (I − ρ s yᵀ) H (I − ρ y sᵀ) + ρ s sᵀ with ρ = 1/(y·s + offset). Without pairs H is the identity.
    """
    q = gradient.clone()
    pairs = [(s, y, 1 / (y @ s + offset)) for s, y in zip(steps, changes, strict=True)]
    weights = []
    for s, y, rho in reversed(pairs):
        weights.append(rho * (s @ q))
        q -= weights[-1] * y
    if pairs:
        s, y, _ = pairs[-1]
        q *= (s @ y) / (y @ y)
    for (s, y, rho), weight in zip(pairs, reversed(weights), strict=True):
        q += (weight - rho * (y @ q)) * s
    return q

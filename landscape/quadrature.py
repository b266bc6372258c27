"""What Gauss rules from Lanczos prove of the measures behind them: bounds on their distribution functions, and on shares."""

from __future__ import annotations

import numpy as np
from scipy.special import betainc

Array = np.ndarray
_SAME = 1e-8  # of the largest node: how near to a node a bound is taken for it
_HALVINGS = 60  # of [0, 1], to a share that is right to rounding


def distribution_bounds(nodes: Array, weights: Array, residuals: Array, at: Array) -> tuple[Array, Array]:
    """The least and the greatest that μ((−∞, τ)) can be for the measures μ behind K Gauss rules, for τ in ``at`` (...): (..., K).

    Chebyshev, Markov and Stieltjes (Szegő 1939, section 3.41): of all measures with the moments that n steps of Lanczos know,
    the least and the greatest mass left of τ are those of the Gauss–Radau rule of n + 1 nodes with τ among them, without and
    with the weight of τ. Its Jacobi matrix is Lanczos' T and a row more (Golub 1973); in T's eigenvectors it is an arrow:

        [ diag(x)   r ]         r_j = ± residual of node x_j,    a = τ + Σ r_j²/(x_j − τ),  which makes τ an eigenvalue,
        [   rᵀ      a ]         weights = squared products of its eigenvectors with (√w, 0).

    Where the Krylov space has ended r = 0, and both bounds are the mass. At a node the rule is Gauss's own. Nothing is assumed
    of μ; the rounding of the products is left out.

    Cost: an eigendecomposition (n + 1, n + 1) for every rule and τ, all in memory at once.

    Args:
        nodes, weights, residuals: (K, n), nodes ascending; of weight and residual 0 where they only fill up a row.
        at: finite or infinite.
    """
    at = np.asarray(at, dtype=np.float64)[..., None]
    tau = np.where(np.isinf(at), 0.0, at)
    distance = nodes - tau[..., None]
    near = np.abs(distance) <= _SAME * np.abs(nodes).max(axis=-1, keepdims=True)
    at_node = near.any(axis=-1)
    masses = _radau(nodes, weights, residuals, tau, np.where(at_node[..., None], np.inf, distance))
    # By interlacing, as many nodes of Radau's rule lie left of τ as of Gauss's.
    left = (distance < 0).sum(axis=-1, keepdims=True)
    order = np.arange(masses.shape[-1])
    before = np.where(
        at_node, (weights * ((distance < 0) & ~near)).sum(-1), (masses * (order < left)).sum(-1)
    )
    upto = np.where(at_node, before + (weights * near).sum(-1), (masses * (order <= left)).sum(-1))
    return np.where(np.isinf(at), at > 0, before), np.where(np.isinf(at), at > 0, upto)


def share_interval(
    lower: Array, upper: Array, *, count: int, probes: int, confidence: float
) -> tuple[Array, Array]:
    """An interval for the share p of ``count`` eigenvalues, from bounds (..., K) on what K probes hold of them.

    Of a probe uniform on the sphere, the share in p·count of the eigenvectors is Beta(p·count/2, (1 − p)·count/2). The mean over
    K probes is taken as Beta with K times both, whose variance is right to 1/count; either end of the interval is the p
    that would leave the mean of the bounds beyond itself with probability (1 − confidence)/2 (as Clopper and Pearson 1934).
    """
    tail, freedom = (1 - confidence) / 2, probes * count / 2
    return 1 - _greatest(1 - lower.mean(axis=-1), freedom, tail), _greatest(
        upper.mean(axis=-1), freedom, tail
    )


def _radau(nodes: Array, weights: Array, residuals: Array, tau: Array, distance: Array) -> Array:
    """Weights (..., K, n + 1) of the rules that have τ (..., 1) among their nodes, in ascending order of these."""
    n = nodes.shape[-1]
    # The last entry of T's eigenvectors changes its sign from one to the next where the first is positive.
    border = residuals * np.where(np.arange(n) % 2, -1.0, 1.0)
    arrow = np.zeros((*distance.shape[:-1], n + 1, n + 1))
    arrow[..., range(n), range(n)] = nodes
    arrow[..., n, :n] = arrow[..., :n, n] = border
    arrow[..., n, n] = tau + (border**2 / distance).sum(axis=-1)
    vectors = np.linalg.eigh(arrow)[1]
    return np.einsum("kj,...kji->...ki", np.sqrt(weights), vectors[..., :n, :]) ** 2


def _greatest(share: Array, freedom: float, tail: float) -> Array:
    """The largest p for which a mean share as small as this one has at least the probability ``tail``, by bisection."""
    low, high = np.zeros(share.shape), np.ones(share.shape)
    for _ in range(_HALVINGS):
        p = (low + high) / 2
        likely = betainc(freedom * p, freedom * (1 - p), np.clip(share, 0, 1)) >= tail
        low, high = np.where(likely, p, low), np.where(likely, high, p)
    return np.where(np.isnan(share), np.nan, high)

"""How far the loss rises around a point: the largest rise in a ball, and the mean one under noise, in units of 1 or of |θ|."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from landscape import InputError, Objective
from landscape.objective import Term
from landscape.parameters import float64_array
from landscape.results import NoiseFlatness, Sharpness

from ..curvature.spectrum import top_eigenpairs
from ..points import one_point
from .noise import pair_losses

Norm = Literal["l2", "linf"]
Ball = Literal["plain", "adaptive"]


def worst_case_sharpness(
    objective: Objective,
    theta: Any,
    rho: float,
    *,
    norm: Norm = "l2",
    ball: Ball = "adaptive",
    steps: int = 20,
    along: int | Any = 5,
    generator: torch.Generator | None = None,
    about: Mapping[str, Any] | None = None,
) -> Sharpness:
    """The largest rise max L(θ + T s) − L(θ) over ‖s‖ ≤ ρ that an ascent finds, a lower bound of the true maximum.

    T = 1 in the plain ball (Foret et al. 2021, arXiv 2010.01412, eq. 1), T = diag|θ| in the adaptive one (Kwon et al. 2021, arXiv
    2102.11600, Definition 2, without their η, which would break the invariance to rescaling of layers; parameters that are 0
    stay 0). The norm is ℓ2 or ℓ∞ (Andriushchenko et al. 2023, arXiv 2302.07011).

    The ascent is projected gradient ascent with an infinite step, which needs no step size: with F(s) = L(θ + T s) each step
    goes to the maximum of the linearized loss on the ball, s ← ρ ∇F/‖∇F‖ in ℓ2 and s ← ρ sign ∇F in ℓ∞. Where F is convex no
    step goes down. Starts are the gradient (Kwon's step) and both ways along the top eigenvectors of ∇²F(0): in a deep minimum
    the gradient is rounding noise, and in larger balls the rise has one maximum for each class to get wrong. In ℓ∞
    starts are the signs of those, random ones where they are 0. The best iterate counts. It was attained, so it is no more than
    the maximum; how much less is unknown, above all where the loss is not convex on the ball.

    Cost: steps·(2k + 1) + 1 gradients for k eigenvectors, and their Hessian-vector products (see top_eigenpairs).
    Memory: a few times 2k + 1 vectors (P,).

    Args:
        along: how many eigenvectors to find, or the directions (k, P) themselves, in s; 0 for the gradient alone.
        generator: of Lanczos' start, and of signs in ℓ∞.

    Raises:
        InputError: theta is not one finite point, ρ is not positive, an unknown norm or ball, or too few steps.
    """
    theta = finite_point(objective, theta)
    _check(rho, norm, ball, steps)
    scale = scale_of(theta, ball)
    around = moved(objective, theta, scale)
    loss, gradient = objective.value_and_grad(theta)
    matvecs = 0
    if isinstance(along, int) and along > 0:
        zero = torch.zeros_like(theta)
        top = top_eigenpairs(around, zero, min(along, objective.dim), generator=generator)
        along, matvecs = top.vectors, top.matvecs
    vectors = theta.new_zeros(0, len(theta)) if isinstance(along, int) else _directions(objective, along)
    starts = _starts(scale * gradient, vectors)
    if norm == "linf":
        starts = _signs(starts, otherwise=_random_signs(theta, generator))
    rises = _ascend(around, starts, rho, steps, norm) - loss
    return Sharpness(
        rho=rho,
        norm=norm,
        ball=ball,
        rises=float64_array(rises),
        gradients=1 + rises.numel(),
        matvecs=matvecs,
        about=dict(about or {}),
    )


def average_sharpness(
    objective: Objective,
    theta: Any,
    rho: float,
    *,
    ball: Ball = "adaptive",
    pairs: int = 32,
    engine: str = "loop",
    generator: torch.Generator | None = None,
    about: Mapping[str, Any] | None = None,
) -> NoiseFlatness:
    """The mean rise E L(θ + T s) − L(θ) under Gaussian s of mean square norm ρ², with its standard error.

    s ~ N(0, ρ²/P I), so that ‖s‖ is about ρ as on the rim of the ball of worst_case_sharpness, T as there. Andriushchenko et
    al. 2023 (arXiv 2302.07011, eq. 1) write N(0, ρ²I): their ρ is ours over √P. Each sample is the mean over one pair ±s:
    −s has the distribution of s, so the mean stays unbiased, and what is odd in s (the gradient) drops out of the variance.

    Cost: 2·pairs + 1 losses. Memory: a few vectors (P,), see landscape.losses. The error bar is that of a mean of
    independent samples, too small where a few rare draws make most of the mean (large ρ).

    Raises:
        InputError: theta is not one finite point, ρ is not positive, an unknown ball, or fewer than 2 pairs.
    """
    theta = finite_point(objective, theta)
    _check(rho, "l2", ball, 1)
    rises, losses = pair_losses(
        objective,
        theta,
        rho / len(theta) ** 0.5,
        pairs=pairs,
        scale=scale_of(theta, ball),
        engine=engine,
        generator=generator,
    )
    samples = float64_array(rises) - float(objective(theta))
    return NoiseFlatness(
        measure=f"{ball} average sharpness",
        samples=samples,
        scale=rho,
        losses=losses + 1,
        about=dict(about or {}),
    )


def finite_point(objective: Objective, theta: Any) -> Tensor:
    """θ (P,) on the objective's device and in its dtype; InputError if it is several points or not finite."""
    theta = one_point(objective, theta)
    if not theta.isfinite().all():
        raise InputError(
            f"theta holds {int((~theta.isfinite()).sum())} values that are NaN or infinite; train it anew."
        )
    return theta


def scale_of(theta: Tensor, ball: Ball) -> Tensor:
    """The diagonal (P,) of T."""
    return theta.abs() if ball == "adaptive" else torch.ones_like(theta)


def moved(objective: Objective, theta: Tensor, scale: Tensor) -> Objective:
    """F(s) = L(θ + T s) for the diagonal T = scale (P,)."""

    def around(term: Term) -> Term:
        return lambda s: term(theta + scale * s)

    return Objective(
        map(around, objective.terms), objective.dim, dtype=objective.dtype, device=objective.device
    )


def _ascend(objective: Objective, starts: Tensor, rho: float, steps: int, norm: Norm) -> Tensor:
    """F (steps, K) at the iterates from ρ·starts (K, P), the starts included."""
    direction, values = starts, []
    up = _unit if norm == "l2" else _signs
    for _ in range(steps):
        value, gradient = objective.value_and_grad(rho * direction)
        direction = up(gradient, otherwise=direction)
        values.append(value)
    return torch.stack(values)


def _starts(gradient: Tensor, vectors: Tensor) -> Tensor:
    """Unit directions (2k + 1, P): up the gradient, both ways along vectors (k, P); 0 for what there is not."""
    return _unit(torch.cat([gradient[None], vectors, -vectors]), otherwise=gradient.new_zeros(()))


def _directions(objective: Objective, along: Any) -> Tensor:
    vectors = torch.as_tensor(np.nan_to_num(along) if isinstance(along, np.ndarray) else along)
    return objective.point(vectors, name="along").reshape(-1, objective.dim)


def _unit(vectors: Tensor, *, otherwise: Tensor) -> Tensor:
    """Rows (K, P) divided by their norms, or the rows of ``otherwise`` where a norm is 0 or not finite."""
    norm = vectors.norm(dim=1, keepdim=True)
    return torch.where((norm > 0) & norm.isfinite(), vectors / norm, otherwise)


def _signs(vectors: Tensor, *, otherwise: Tensor) -> Tensor:
    """The signs of rows (K, P), or the entries of ``otherwise`` where an entry is 0 or not a number."""
    return torch.where((vectors != 0) & ~vectors.isnan(), vectors.sign(), otherwise)


def _random_signs(theta: Tensor, generator: torch.Generator | None) -> Tensor:
    device = generator.device if generator is not None else theta.device
    bits = torch.randint(0, 2, theta.shape, generator=generator, device=device)
    return (2 * bits - 1).to(theta)


def _check(rho: float, norm: str, ball: str, steps: int) -> None:
    if not 0 < rho < float("inf"):
        raise InputError(f"rho must be a positive radius, got {rho}.")
    if norm not in get_args(Norm):
        raise InputError(f"norm must be l2 or linf, got {norm!r}.")
    if ball not in get_args(Ball):
        raise InputError(f"ball must be plain or adaptive, got {ball!r}.")
    if steps < 1:
        raise InputError(f"steps must be at least 1, got {steps}.")

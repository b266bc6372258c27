"""How deep and how flat a solution is: every number of a Flatness record in one call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from landscape import InputError, Objective
from landscape.objective import Term
from landscape.results import Eigenpairs, Flatness

from .spectrum import top_eigenpairs
from .trace import one_point, trace_and_square


def flatness(
    objective: Objective,
    theta: Any,
    *,
    matvecs: int = 60,
    eigenvalues: int = 5,
    sam_rho: float = 0.05,
    adaptive_rho: float = 0.5,
    ascent_steps: int = 20,
    generator: torch.Generator | None = None,
    optimizer: str = "",
    seed: int = 0,
    about: Mapping[str, Any] | None = None,
) -> Flatness:
    """Depth and flatness of one solution θ (P,): trace, eigenvalues, Frobenius norm, SAM and adaptive sharpness.

    trace, frobenius: by XTrace with standard errors (see hessian_trace), ‖H‖_F = √tr H² from the same products;
        its error is that of tr H² over 2‖H‖_F.
    eigenvalues: the largest ones (all P if there are fewer), with true residuals (see top_eigenpairs).
    sam_step: L(θ + ρ g/‖g‖) − L(θ), the single ascent step of SAM (Foret et al. 2021, eq. 2); 0 where g = 0.
    sam_sharpness: max L(θ + ε) − L(θ) over ‖ε‖ ≤ ρ (Foret et al. 2021, eq. 1).
    adaptive_sharpness: the same over ‖ε/|θ|‖ ≤ ρ, elementwise and in ℓ2 (Kwon et al. 2021, Definition 2 with
        T = |θ|, without their η, which would break the invariance). Parameters that are 0 stay 0.

    Both maxima are searched by ε ← ρ ∇L(θ + ε)/‖∇L(θ + ε)‖ (for the adaptive one in s = ε/|θ|, where the first
    iterate is Kwon's step): each step maximizes the linearized loss on the ball and needs no step size. Starts
    are the gradient, and both ways along each of the top eigenvectors of the Hessian (of the Hessian in s for
    the adaptive one): in a deep minimum the gradient is rounding noise, and in larger balls the rise has one maximum
    for each class to get wrong. The best iterate counts. It was attained, so it bounds the maximum from below.

    Trace, eigenvalues, Frobenius norm and SAM sharpness change when two ReLU layers are rescaled by α and 1/α;
    the loss and the adaptive sharpness do not. The defaults of ρ are those of the two papers
    for CIFAR-10.

    Cost: 2·ascent_steps·(2·eigenvalues + 1) + 1 gradients, and about matvecs + 54 Hessian-vector products.

    Raises:
        InputError: theta is not one point or not finite, ρ is not positive, or fewer than one eigenvalue or step is asked for.
    """
    theta = one_point(objective, theta)
    _check(theta, eigenvalues, ascent_steps, {"sam_rho": sam_rho, "adaptive_rho": adaptive_rho})
    loss, gradient = objective.value_and_grad(theta)
    trace, square = trace_and_square(objective, theta, matvecs=matvecs, generator=generator)
    k = min(eigenvalues, objective.dim)
    top = top_eigenpairs(objective, theta, k, generator=generator)
    # The same ball for both: F(s) = L(θ + T s) on ‖s‖ ≤ ρ, with T = 1 (SAM) and T = |θ| (adaptive).
    ball = _around(objective, theta, torch.ones_like(theta))
    scaled_ball = _around(objective, theta, theta.abs())
    top_scaled = top_eigenpairs(scaled_ball, torch.zeros_like(theta), k, generator=generator)
    scaled_gradient = theta.abs() * gradient
    sam = _ascend(ball, _starts(gradient, top), sam_rho, ascent_steps) - loss
    adaptive = _ascend(scaled_ball, _starts(scaled_gradient, top_scaled), adaptive_rho, ascent_steps) - loss
    return Flatness(
        optimizer=optimizer,
        seed=seed,
        loss=float(loss),
        gradient_norm=float(gradient.norm()),
        theta_norm=float(theta.norm()),
        dim=objective.dim,
        trace=trace.value,
        trace_stderr=trace.stderr,
        trace_method=trace.method,
        frobenius=square.value**0.5,
        frobenius_stderr=0.5 * square.stderr / square.value**0.5 if square.stderr else 0.0,
        eigenvalues=top.values,
        residuals=top.residuals,
        sam_step=float(sam[0, 0]),
        sam_sharpness=float(sam.max().clamp_min(0)),  # ε = 0 is in the ball too
        sam_rho=sam_rho,
        adaptive_sharpness=float(adaptive.max().clamp_min(0)),
        adaptive_rho=adaptive_rho,
        gradients=1 + sam.numel() + adaptive.numel(),
        matvecs=trace.matvecs + top.matvecs + top_scaled.matvecs,
        about=dict(about or {}),
    )


def _around(objective: Objective, theta: Tensor, scale: Tensor) -> Objective:
    """F(s) = L(θ + T s) for the diagonal T = scale (P,)."""

    def moved(term: Term) -> Term:
        return lambda s: term(theta + scale * s)

    return Objective(
        map(moved, objective.terms), objective.dim, dtype=objective.dtype, device=objective.device
    )


def _starts(gradient: Tensor, top: Eigenpairs) -> Tensor:
    """Unit directions (2k + 1, P): up the gradient, both ways along k eigenvectors; 0 for what there is not."""
    vectors = torch.from_numpy(np.nan_to_num(top.vectors)).to(gradient)
    return _unit(torch.cat([gradient[None], vectors, -vectors]), otherwise=gradient.new_zeros(()))


def _ascend(objective: Objective, starts: Tensor, rho: float, steps: int) -> Tensor:
    """F (steps, K) at the iterates s ← ρ ∇F(s)/‖∇F(s)‖ from ρ·starts (K, P), the starts included."""
    direction, values = starts, []
    for _ in range(steps):
        value, gradient = objective.value_and_grad(rho * direction)
        direction = _unit(gradient, otherwise=direction)
        values.append(value)
    return torch.stack(values)


def _unit(vectors: Tensor, *, otherwise: Tensor) -> Tensor:
    """Rows (K, P) divided by their norms, or the rows of ``otherwise`` where a norm is 0 or not finite."""
    norm = vectors.norm(dim=1, keepdim=True)
    return torch.where((norm > 0) & norm.isfinite(), vectors / norm, otherwise)


def _check(theta: Tensor, eigenvalues: int, ascent_steps: int, radii: Mapping[str, float]) -> None:
    if not theta.isfinite().all():
        raise InputError(
            f"theta holds {int((~theta.isfinite()).sum())} values that are NaN or infinite; train it anew."
        )
    for name, count in {"eigenvalues": eigenvalues, "ascent_steps": ascent_steps}.items():
        if count < 1:
            raise InputError(f"{name} must be at least 1, got {count}.")
    for name, rho in radii.items():
        if not 0 < rho < float("inf"):
            raise InputError(f"{name} must be a positive radius, got {rho}.")

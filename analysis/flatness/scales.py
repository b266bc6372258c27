"""Curvature at the scale where one looks: finite differences along directions over many steps, beside vᵀHv."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from landscape import Family, HessianProducts, InputError, Objective, losses
from landscape.parameters import float64_array
from landscape.results import CurvatureScales

from ..points import one_point

# Shares of ‖θ‖: from where only smooth networks and rounding are seen, to the scale of plots.
STEPS = tuple(float(step) for step in np.logspace(-6, -1, 11))


def curvature_at_scales(
    objective: Objective,
    theta: Any,
    directions: Any,
    *,
    steps: Sequence[float] | Any = STEPS,
    engine: str = "loop",
    about: Mapping[str, Any] | None = None,
) -> CurvatureScales:
    """The curvature along unit directions v as seen at steps h, from losses and from gradients, beside vᵀ∇²L(θ)v.

        of losses      [L(θ + hv) − 2L(θ) + L(θ − hv)]/h² = ∫ L″(t) (h − |t|)/h² dt over −h … h
        of gradients   vᵀ[∇L(θ + hv) − ∇L(θ − hv)]/2h     = ∫ L″(t)/2h dt over −h … h

    L″(t) is the curvature of t -> L(θ + tv). Both are means of it near θ, and the kinks of a ReLU network are part of
    them: L″ has a spike at each, which vᵀHv, taken at one point, never sees. Smooth losses agree with vᵀHv to O(h²).

    Rounding: one value of the loss is taken to be off by ε(|L| + ‖θ∘∇L‖), ε of the dtype, and the gradient along v by
    ε(|vᵀ∇L| + ‖θ∘Hv‖), what rounding every parameter does; divided by h² (four such) and h. They are estimates, right to about
    an order of magnitude; a number below its rounding says nothing.

    Cost: 2·K·S losses, 2·K·S + 1 gradients and K Hessian-vector products for K directions and S steps.
    Memory: a few vectors (P,) beside the directions.

    Args:
        directions: (P,) or (K, P); of any length, they are normalized.
        steps: h as shares of ‖θ‖ (of 1 where θ = 0).

    Raises:
        InputError: theta is not one point, a direction is 0 or not finite, or a step is not positive.
    """
    theta = one_point(objective, theta)
    v = _unit(objective.point(directions, name="directions").reshape(-1, objective.dim))
    norm = float(theta.norm()) or 1.0
    h = norm * torch.as_tensor(steps, dtype=objective.dtype, device=objective.device).reshape(-1)
    if not len(h) or not ((h > 0) & h.isfinite()).all():
        raise InputError(f"steps must be positive shares of the norm of theta, got {list(steps)}.")
    loss, gradient = objective.value_and_grad(theta)
    hv = HessianProducts(objective, theta, engine="double-backward")(v)
    curved = [_along(objective, theta, row, h, engine) for row in v]
    values = torch.stack([two for two, _ in curved])  # (K, 2, S): ahead, behind
    slopes = torch.stack([two for _, two in curved])
    of_losses = (values[:, 0] - 2 * loss + values[:, 1]) / h**2
    of_gradients = (slopes[:, 0] - slopes[:, 1]) / (2 * h)
    eps = torch.finfo(objective.dtype).eps
    loss_error = eps * (values.abs().amax(1) + (theta * gradient).norm())
    slope_error = eps * (slopes.abs().amax(1) + (theta * hv).norm(dim=1, keepdim=True))
    count = v.shape[0] * h.shape[0]
    return CurvatureScales(
        steps=float64_array(h),
        theta_norm=norm,
        hessian=float64_array((v * hv).sum(1)),
        of_losses=float64_array(of_losses),
        of_losses_rounding=float64_array(4 * loss_error / h**2),
        of_gradients=float64_array(of_gradients),
        of_gradients_rounding=float64_array(slope_error / h),
        losses=2 * count,
        gradients=2 * count + 1,
        matvecs=v.shape[0],
        about=dict(about or {}),
    )


def _along(objective: Objective, theta: Tensor, v: Tensor, h: Tensor, engine: str) -> tuple[Tensor, Tensor]:
    """Losses and slopes vᵀ∇L, each (2, S), at θ + hv and θ − hv."""
    both = torch.cat([h, -h])
    values, _ = losses(objective, Family(theta, v[None], both[:, None]), engine=engine)
    slopes = torch.stack([objective.grad(theta + step * v) @ v for step in both])
    return values.reshape(2, -1), slopes.reshape(2, -1)


def _unit(directions: Tensor) -> Tensor:
    norms = directions.norm(dim=1, keepdim=True)
    if not ((norms > 0) & norms.isfinite()).all():
        raise InputError("directions must be finite and not 0, got one that is not; leave it out.")
    return directions / norms

"""How far a step of gradient descent ends from the gradient flow θ′ = −∇L of the same time."""

from __future__ import annotations

import torch
from torch import Tensor

from landscape import Objective


def flow_gap(
    objective: Objective, theta: Tensor, gradient: Tensor, *, rate: Tensor, substeps: int
) -> tuple[Tensor, Tensor]:
    """‖θ_GD − θ_flow‖/‖θ_GD − θ‖ with θ_GD = θ − h∇L(θ) and the flow of time h, and its estimated error.

    The flow is followed by ``substeps``, an even number, of the Runge–Kutta method of order 4, as a displacement u from θ,
    which keeps digits of steps that are small beside θ. The error is a sum of two. That of the method, of order 4 by doubling:
    ‖u − the same by half as many‖/15, over the same length; it holds where the loss is smooth and h/substeps is below about
    1/λ₁, and beyond, and at kinks, is a hint, large where the flow was not resolved. That of rounding: gradients are those at
    rounded points θ + u, so ‖∇L(θ′) − ∇L(θ)‖/‖∇L(θ)‖, with θ′ each parameter of θ moved by one rounding: right where the gap is
    all rounding, some ten times too large where it is not.

    Cost: 6 gradients a substep, less 1. NaN where h or the gradient is 0.
    """
    fine = _flow(objective, theta, gradient, rate=rate, substeps=substeps)
    coarse = _flow(objective, theta, gradient, rate=rate, substeps=substeps // 2)
    length = rate * gradient.norm()
    length = torch.where(length == 0, torch.nan, length)
    method, rounding = (fine - coarse).norm() / 15, rate * _rounding(objective, theta, gradient)
    return (rate * gradient + fine).norm() / length, (method + rounding) / length


def _flow(objective: Objective, theta: Tensor, gradient: Tensor, *, rate: Tensor, substeps: int) -> Tensor:
    """u (P,), the way from θ after time h, ∇L at θ being known."""
    dt, u = rate / substeps, torch.zeros_like(theta)
    for i in range(substeps):
        first = gradient if i == 0 else objective.grad(theta + u)
        second = objective.grad(theta + (u - dt / 2 * first))
        third = objective.grad(theta + (u - dt / 2 * second))
        fourth = objective.grad(theta + (u - dt * third))
        u = u - dt / 6 * (first + 2 * second + 2 * third + fourth)
    return u


def _rounding(objective: Objective, theta: Tensor, gradient: Tensor) -> Tensor:
    """How far ∇L moves when each parameter is moved by one rounding, up and down in turn."""
    signs = 1 - 2 * (torch.arange(len(theta), device=theta.device) % 2)
    nudged = theta * (1 + torch.finfo(theta.dtype).eps * signs)
    return (objective.grad(nudged) - gradient).norm()

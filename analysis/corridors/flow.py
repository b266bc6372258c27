"""How far a step of gradient descent ends from the gradient flow θ′ = −∇L of the same time."""

from __future__ import annotations

import torch
from torch import Tensor

from landscape import Objective


def flow_gap(
    objective: Objective, theta: Tensor, gradient: Tensor, *, rate: Tensor, substeps: int
) -> tuple[Tensor, Tensor]:
    """‖θ_GD − θ_flow‖/‖θ_GD − θ‖ with θ_GD = θ − h∇L(θ) and the flow of time h, and its estimated error.

    The flow is followed by ``substeps``, an even number, of the Runge–Kutta method of order 4. The error is that of
    order 4 by doubling: ‖θ_flow − the same by half as many‖/15, over the same length. It holds where the loss is smooth
    and h/substeps is below about 1/λ₁; beyond, and at kinks, it is a hint, large where the flow was not resolved.

    Cost: 6 gradients a substep, less 2. NaN where h or the gradient is 0.
    """
    fine = _flow(objective, theta, gradient, rate=rate, substeps=substeps)
    coarse = _flow(objective, theta, gradient, rate=rate, substeps=substeps // 2)
    length = rate * gradient.norm()
    length = torch.where(length == 0, torch.nan, length)
    return (theta - rate * gradient - fine).norm() / length, (fine - coarse).norm() / 15 / length


def _flow(objective: Objective, theta: Tensor, gradient: Tensor, *, rate: Tensor, substeps: int) -> Tensor:
    """The point after time h, ∇L at θ being known."""
    dt = rate / substeps
    for i in range(substeps):
        first = gradient if i == 0 else objective.grad(theta)
        second = objective.grad(theta - dt / 2 * first)
        third = objective.grad(theta - dt / 2 * second)
        fourth = objective.grad(theta - dt * third)
        theta = theta - dt / 6 * (first + 2 * second + 2 * third + fourth)
    return theta

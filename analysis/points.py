"""The point at which curvature is measured, random numbers there, and what is said where products are not finite."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from landscape import InputError, Objective

NOT_FINITE = (
    "products with vectors at theta are not finite: the loss overflows or has no second derivative there."
)


def one_point(objective: Objective, theta: Any) -> Tensor:
    """θ (P,) on the objective's device and in its dtype; InputError if it is several points."""
    theta = objective.point(theta)
    if theta.ndim != 1:
        raise InputError(f"theta must be one point ({objective.dim},), got shape {tuple(theta.shape)}.")
    return theta


def draw_normal(objective: Objective, count: int, generator: torch.Generator | None) -> Tensor:
    """Standard normal vectors (count, P) on the objective's device."""
    device = generator.device if generator is not None else objective.device
    vectors = torch.randn(count, objective.dim, generator=generator, device=device, dtype=objective.dtype)
    return vectors.to(objective.device)


def seed_of(generator: torch.Generator | None) -> int:
    """A number drawn from a generator, which others can be made of; 0 without one."""
    if generator is None:
        return 0
    return int(torch.randint(2**62, (), generator=generator, device=generator.device))

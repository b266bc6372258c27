"""How straight the valley is along a trajectory: the corridor measures, step by step."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from landscape import InputError, Objective
from landscape.parameters import float64_array
from landscape.results import Corridor


def corridor(
    objective: Objective,
    thetas: Any,
    *,
    lr: Any = None,
    label: str = "",
    about: Mapping[str, Any] | None = None,
) -> Corridor:
    """Corridor measures along the points θ_0 … θ_T: the loss (T+1,) and one number a step (T,) of each measure.

    A corridor (Dherin, Rosca, arXiv 2402.08818) is a region where the curves of steepest descent are straight:
    H g = 0, gradient descent follows the gradient flow, and the loss falls linearly. With g_t = ∇L(θ_t), H_t = ∇²L(θ_t):

        kappa         h‖H_t g_t‖/‖g_t‖                                  0 in a corridor
        kappa_weak    h g_tᵀH_t g_t/‖g_t‖²                              0; weaker, since H g may be orthogonal to g
        linearity     (L_t − L_{t+1}) / g_t·(θ_t − θ_{t+1})              1
        cosine        g_t·g_{t+1}/(‖g_t‖‖g_{t+1}‖)                       1
        norm_ratio    ‖g_{t+1}‖/‖g_t‖                                    1
        chord         ‖θ_T − θ_0‖ / Σ‖θ_{t+1} − θ_t‖                     1, one number for the whole

    For a step of gradient descent linearity is (L_t − L_{t+1})/(h‖g_t‖²) = 1 − kappa_weak/2 + …; dividing by the
    decrease that the gradient predicts for the step that was made extends it to every optimizer.

    Where a gradient is 0, and where a step is, what would be divided by it is NaN. On piecewise linear networks
    H is that of the piece θ_t lies on.

    Cost: T + 1 gradients, T Hessian-vector products. Memory: two gradients beside the points.

    Args:
        thetas: (T+1, P), consecutive points.
        lr: h, a number or (T,). By default, and where it is NaN, ‖θ_{t+1} − θ_t‖/‖g_t‖, which for gradient
            descent is the learning rate. The record's ``step`` holds what was used.
        label: what the trajectory is called in tables and pictures.
        about: provenance for the record's header.

    Raises:
        InputError: thetas is no (T+1, P) of at least two points, or lr is negative or of another length.
    """
    thetas = objective.point(thetas, name="thetas")
    if thetas.ndim != 2 or len(thetas) < 2:
        raise InputError(
            f"thetas must be at least two points (T+1, {objective.dim}), got shape {tuple(thetas.shape)}."
        )
    rates = _rates(lr, thetas)
    loss, gradient = objective.value_and_grad(thetas[0])
    losses, rows = [loss], []
    for theta, after in pairwise(thetas):
        image = objective.hvp(theta, gradient)
        loss_after, gradient_after = objective.value_and_grad(after)
        norm, norm_after = gradient.norm(), gradient_after.norm()
        step = rates[len(rows)]
        step = torch.where(step.isnan(), _ratio((after - theta).norm(), norm), step)
        row = {
            "gradient_norm": norm,
            "step": step,
            "kappa": step * _ratio(image.norm(), norm),
            "kappa_weak": step * _ratio(gradient @ image, norm**2),
            "linearity": _ratio(losses[-1] - loss_after, gradient @ (theta - after)),
            "cosine": _ratio(gradient @ gradient_after, norm * norm_after),
            "norm_ratio": _ratio(norm_after, norm),
        }
        rows.append(row)
        losses.append(loss_after)
        gradient = gradient_after
    travelled = (thetas[1:] - thetas[:-1]).norm(dim=1).sum()
    return Corridor(
        loss=float64_array(torch.stack(losses)),
        **{name: float64_array(torch.stack([row[name] for row in rows])) for name in rows[0]},
        chord=float(_ratio((thetas[-1] - thetas[0]).norm(), travelled)),
        label=label,
        gradients=len(thetas),
        matvecs=len(rows),
        about=dict(about or {}),
    )


def _rates(lr: Any, thetas: Tensor) -> Tensor:
    """h (T,), NaN where it is not given."""
    steps = len(thetas) - 1
    rates = torch.as_tensor(torch.nan if lr is None else lr, dtype=thetas.dtype, device=thetas.device)
    if rates.shape not in ((), (steps,)):
        raise InputError(
            f"lr must be one number or one for each of the {steps} steps, got shape {tuple(rates.shape)}."
        )
    if (rates < 0).any():
        raise InputError(f"lr must not be negative, got {float(rates.min())}.")
    return rates.expand(steps)


def _ratio(numerator: Tensor, denominator: Tensor) -> Tensor:
    """NaN where the denominator is 0."""
    return torch.where(denominator == 0, torch.nan, numerator / denominator)

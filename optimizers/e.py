"""E: explores along valleys with any first-order optimizer (Zhao et al., NeurIPS 2025, arXiv 2510.27153).

The paper adds to every gradient g_k an average a_k of gradient differences, weighted by α:

    a_k = β a_{k−1} + (1−β)(g_k − g_{k−1}),    u_k = g_k + α a_k,    a_0 = g_0 = 0,

and gives u_k to the optimizer in place of g_k. With the average e_k of the gradients themselves this is,
exactly,

    u_k = (1−c) g_k + c e_{k−1},    e_k = β e_{k−1} + (1−β) g_k,    e_0 = 0,    c = −α(1−β),

which needs one buffer and no previous gradient: for α < 0 it is quasi-hyperbolic momentum.
"""

# pyright: reportPrivateImportUsage=false
# torch._foreach_*, torch._fused_*: see contract.py

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.optim import Optimizer

from landscape import InputError

from .adaptor import Adaptor
from .contract import (
    blocks,
    check_one_of,
    dense_gradients,
    evaluated,
    fusable,
    parameters_of,
    usable,
    with_gradient,
)

Init = Literal["zero", "first"]


class E(Adaptor):
    """A base optimizer that sees g + αa instead of g (Algorithms 3 and 4: ESGD, EAdam, and any other).

    α < 0 explores (flatter minima), α > 0 exploits (faster), α = 0 is the base. The paper's defaults are
    α = −5, β = 0.99 for batches of 1K and more, α = 0.5, β = 0.01 for smaller ones. Weight decay inside the base
    comes after E. Cost: the base's one gradient; memory: one more buffer the size of the parameters.

    u takes the place of g in p.grad, and stays there after the step, as a clipped or unscaled gradient does.

    Args:
        base_optimizer: any torch optimizer that steps on p.grad (SGD, Adam, AdamW, RMSprop, Adafactor, …).
        alpha, beta: with 0 ≤ β < 1 and |α| < 1/(1−β).
        init: "zero" starts from e_0 = 0 as the paper does, which adds a one-off impulse of α g_1 in all;
            "first" starts from the first gradient and adds none.
        skip_nonfinite: a step with a loss or gradient that is not finite is skipped, with a RuntimeWarning: neither
            averages nor base are spoilt. It costs one reading of the gradients and, on an accelerator, a wait; False
            hands everything on.

    Raises:
        InputError: a setting outside its range, a base that evaluates its closure itself, a sparse gradient.
    """

    alpha: float
    beta: float
    init: Init
    skip_nonfinite: bool
    _settings = ("alpha", "beta", "init", "skip_nonfinite")

    def __init__(
        self,
        base_optimizer: Optimizer,
        alpha: float = -5.0,
        beta: float = 0.99,
        *,
        init: Init = "zero",
        skip_nonfinite: bool = True,
    ) -> None:
        check_adaptor(alpha, beta, init)
        super().__init__(base_optimizer, alpha=alpha, beta=beta, init=init, skip_nonfinite=skip_nonfinite)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """The closure's loss (None without one), after one step of the base on adapted gradients.

        The closure is called once, with gradients enabled, and not handed on: the base would run it again and
        step on raw gradients.
        """
        loss = None if closure is None else evaluated(closure)
        held = with_gradient(parameters_of(self))
        gradients = dense_gradients(held)
        if self.skip_nonfinite and not usable(loss, gradients):
            return loss
        averages = [average_of(self.state[p], g, self.init) for p, g in zip(held, gradients, strict=True)]
        adapt(gradients, averages, alpha=self.alpha, beta=self.beta)
        self.base.step()
        return loss


def adapt(gradients: list[Tensor], averages: list[Tensor], *, alpha: float, beta: float) -> None:
    """Every gradient g becomes u = (1−c) g + c e, c = −α(1−β), and every e becomes βe + (1−β)g. Both in place."""
    c = -alpha * (1 - beta)
    if 0 < abs(c) <= beta / 2 and fusable(gradients, averages):  # a larger c/β would lose digits below
        # With e' the new average, u = g + (c/β)(e' − g). Nesterov's SGD reads and writes g and e but once; where the
        # parameter p is the gradient g itself, it takes g' = (1+λ)g, e' = βe + (1−d)g', and p = g − η(g' + βe').
        torch._fused_sgd_(
            gradients,
            gradients,
            averages,
            weight_decay=-(1 + beta),
            momentum=beta,
            dampening=1 / beta,
            lr=-c / beta**2,
            nesterov=True,
            maximize=False,
            is_first_step=False,
        )
        return
    for some in blocks(gradients):
        g, e = gradients[some], averages[some]
        u = torch._foreach_lerp(g, e, c)
        torch._foreach_lerp_(e, g, 1 - beta)
        torch._foreach_copy_(g, u)


def average_of(state: dict[str, Any], gradient: Tensor, init: Init) -> Tensor:
    """The average e kept in one parameter's state, made at its first gradient."""
    if "average" not in state:
        state["average"] = torch.zeros_like(gradient) if init == "zero" else gradient.clone()
    return state["average"]


def check_adaptor(alpha: float, beta: float, init: str) -> None:
    """InputError unless 0 ≤ β < 1, |α| < 1/(1−β) (the paper's condition) and init is known."""
    if not 0 <= beta < 1:
        raise InputError(f"beta, E's averaging factor, must be in [0, 1), got {beta}.")
    if not abs(alpha) < 1 / (1 - beta):
        raise InputError(
            f"alpha must satisfy |alpha| < 1/(1 - beta) = {1 / (1 - beta):.6g} for beta={beta}, got {alpha}; "
            "bring it nearer to 0, or beta nearer to 1."
        )
    check_one_of("init", init, get_args(Init))

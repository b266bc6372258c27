"""QHM: quasi-hyperbolic momentum (Ma and Yarats, ICLR 2019, arXiv 1810.06801), the control for E.

    d = β d + (1−β) g,    θ ← θ − η [(1−ν) g + ν d],    d = 0 at the start

For α < 0, plain SGD on E's gradients is this rule exactly, with E's β and ν = −α(1−β)/β (see e.py).

An average of gradients is old: a constant stream of gradients with a steady slope is seen as it was some steps ago.
E sees it −α steps late, a first moment with factor β₂ sees it β₂/(1−β₂) steps late, both together L = −α + β₂/(1−β₂).
A first moment alone is as late with the factor L/(1+L). What E does that this control does not is what E adds.
"""

# pyright: reportPrivateImportUsage=false
# torch._foreach_*: see contract.py

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from landscape import InputError

from .contract import (
    blocks,
    check_range,
    dense_gradients,
    evaluated,
    parameters_of,
    usable,
    with_gradient,
)
from .e import average_of, check_adaptor


class QHM(Optimizer):
    """A step along the weighted mean of the gradient and its running average (equations 3 and 4 of the paper).

    ν = 0 is plain SGD, ν = 1 SGD with momentum (``dampening=momentum`` in torch's). Cost: one gradient a step; memory:
    one buffer the size of the parameters. A step with a loss or gradient that is not finite is skipped, with a
    RuntimeWarning.

    Args:
        params: tensors or groups; every setting may differ between groups.
        lr: η.
        momentum: β in [0, 1).
        nu: ν. The paper takes 0 ≤ ν ≤ 1; outside it is E with α > 0, or with −α near 1/(1−β).
        weight_decay: λ, added to g as λθ.
        maximize: climb instead.

    Raises:
        InputError: a setting outside its range, a sparse gradient.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        momentum: float = 0.9,
        nu: float = 0.7,
        *,
        weight_decay: float = 0.0,
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "nu": nu,
            "weight_decay": weight_decay,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        settings = {**self.defaults, **param_group}
        check_range("lr", settings["lr"])
        check_range("momentum", settings["momentum"], below=1)
        check_range("weight_decay", settings["weight_decay"])
        if not math.isfinite(settings["nu"]):
            raise InputError(f"nu must be a finite number, usually in [0, 1], got {settings['nu']}.")
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The closure's loss (None without one), after one step. It is called once, with gradients enabled."""
        loss = None if closure is None else evaluated(closure)
        if not usable(loss, dense_gradients(parameters_of(self))):
            return loss
        for group in self.param_groups:
            thetas = with_gradient(group["params"])
            for some in blocks(thetas):
                self._step_block(group, thetas[some])
        return loss

    def _step_block(self, group: dict[str, Any], thetas: list[Tensor]) -> None:
        g = dense_gradients(thetas)
        if group["maximize"]:
            g = list(torch._foreach_neg(g))
        if group["weight_decay"]:
            g = list(torch._foreach_add(g, thetas, alpha=group["weight_decay"]))
        d = [average_of(self.state[p], gradient, "zero") for p, gradient in zip(thetas, g, strict=True)]
        lr, nu = float(group["lr"]), group["nu"]
        torch._foreach_lerp_(d, g, 1 - group["momentum"])
        torch._foreach_add_(thetas, g, alpha=-lr * (1 - nu))
        torch._foreach_add_(thetas, d, alpha=-lr * nu)


def nu_of(alpha: float, beta: float) -> float:
    """The ν with which QHM, of momentum β, takes the steps of E(SGD(params, lr), alpha, beta): −α(1−β)/β.

    Weight decay aside: the base adds it after E. Raises InputError for settings that E refuses, and for β = 0, where
    E looks back at the gradient before, which QHM has forgotten.
    """
    check_adaptor(alpha, beta, "zero")
    if beta == 0:
        raise InputError("beta must be positive, since QHM without momentum has no average; got 0.")
    return -alpha * (1 - beta) / beta


def equal_momentum(alpha: float, momentum: float) -> float:
    """The momentum that makes a base without E as late as it is with E: L/(1+L), where L = −α + β₂/(1−β₂) steps.

    ``momentum`` is the base's own, β₂. With a first moment of unit gain (Adam's, QHM's, SGD's with
    ``dampening=momentum``) nothing else changes; SGD's momentum without dampening also multiplies the step by
    1/(1−β₂), so that its control needs the learning rate times (1−L/(1+L))/(1−β₂).

    Raises InputError if momentum is outside [0, 1), or L < 0: with α > β₂/(1−β₂) E looks ahead, and no average does.
    """
    check_range("momentum", momentum, below=1)
    lag = -alpha + momentum / (1 - momentum)
    if not 0 <= lag < math.inf:
        raise InputError(
            f"alpha must be at most momentum/(1 - momentum) = {momentum / (1 - momentum):.6g} for momentum={momentum}, "
            f"got {alpha}: E then looks ahead, and no momentum does."
        )
    return lag / (1 + lag)

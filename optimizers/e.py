"""E: explores along valleys with any first-order optimizer (Zhao et al., NeurIPS 2025, arXiv 2510.27153).

The paper adds to every gradient g_k an average a_k of gradient differences, weighted by α:

    a_k = β a_{k−1} + (1−β)(g_k − g_{k−1}),    u_k = g_k + α a_k,    a_0 = g_0 = 0,

and gives u_k to the optimizer in place of g_k. With the average e_k of the gradients themselves this is,
exactly,

    u_k = (1−c) g_k + c e_{k−1},    e_k = β e_{k−1} + (1−β) g_k,    e_0 = 0,    c = −α(1−β),

which needs one buffer and no previous gradient: for α < 0 it is quasi-hyperbolic momentum.
"""

# pyright: reportPrivateImportUsage=false
# torch.optim itself is built on torch._foreach_*: one kernel launch for all tensors instead of one for each.

from __future__ import annotations

import inspect
import math
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.optim import Optimizer

from landscape import InputError

Init = Literal["zero", "first"]


class E(Optimizer):
    """A base optimizer that sees g + αa instead of g (Algorithms 3 and 4: ESGD, EAdam, and any other).

    α < 0 explores (flatter minima), α > 0 exploits (faster), α = 0 is the base. The paper's defaults are
    α = −5, β = 0.99 for batches of 1K and more, α = 0.5, β = 0.01 for smaller ones. Weight decay inside the base
    comes after E. Cost: the base's one gradient; memory: one more buffer the size of the parameters.

    The parameter groups are the base's own, so schedulers, ``add_param_group`` and ``zero_grad`` act on both.
    Step this optimizer, never the base. After a step ``p.grad`` holds the raw gradient again.

    Args:
        base_optimizer: any torch optimizer that steps on p.grad (SGD, Adam, AdamW, RMSprop, …).
        alpha, beta: with 0 ≤ β < 1 and |α| < 1/(1−β).
        init: "zero" starts from e_0 = 0 as the paper does, which adds a one-off impulse of α g_1 in all;
            "first" starts from the first gradient and adds none.

    Raises:
        InputError: a setting outside its range, a base that evaluates its closure itself, a sparse gradient.
    """

    base: Optimizer
    alpha: float
    beta: float
    init: Init

    def __init__(
        self, base_optimizer: Optimizer, alpha: float = -5.0, beta: float = 0.99, *, init: Init = "zero"
    ) -> None:
        _check_base(base_optimizer)
        check_adaptor(alpha, beta, init)
        # Optimizer.__init__ would make groups of its own; what else it sets up, __setstate__ sets up too.
        self.__setstate__(
            {
                "base": base_optimizer,
                "alpha": alpha,
                "beta": beta,
                "init": init,
                "state": defaultdict(dict),
                "defaults": base_optimizer.defaults,
            }
        )

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The base's groups: the same list, also after either of the two has loaded a state."""
        return self.base.param_groups

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        self.base.add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The closure's loss (None without one), after one step of the base on adapted gradients.

        The closure is called once, with gradients enabled, and not handed on: the base would run it again and
        step on raw gradients.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        with self._adapted_gradients():
            self.base.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        """The averages, the settings, and the base's state dict under "base"."""
        settings = {"alpha": self.alpha, "beta": self.beta, "init": self.init}
        return {**super().state_dict(), "base": self.base.state_dict(), "settings": settings}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume exactly where the state dict was taken: averages, settings and base."""
        if "base" not in state_dict or "settings" not in state_dict:
            raise InputError(
                f"state_dict must be one of E, with 'base' and 'settings', but it holds {list(state_dict)}; "
                "load the state of a bare optimizer into it before wrapping it in E."
            )
        self.base.load_state_dict(state_dict["base"])
        super().load_state_dict({key: state_dict[key] for key in ("state", "param_groups")})
        self.__dict__.update(state_dict["settings"])

    def __getstate__(self) -> dict[str, Any]:
        return {key: self.__dict__[key] for key in ("base", "alpha", "beta", "init", "state", "defaults")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({key: value for key, value in state.items() if key != "param_groups"})

    def __repr__(self) -> str:
        return f"E(alpha={self.alpha}, beta={self.beta}, init={self.init!r}, base={self.base!r})"

    @contextmanager
    def _adapted_gradients(self) -> Iterator[None]:
        """p.grad is u inside the block and the raw gradient again after it."""
        held = [p for group in self.param_groups for p in group["params"] if p.grad is not None]
        raw = dense_gradients(held)
        averages = [average_of(self.state[p], g, self.init) for p, g in zip(held, raw, strict=True)]
        adapted = adapt(raw, averages, alpha=self.alpha, beta=self.beta) if held else []
        for p, u in zip(held, adapted, strict=True):
            p.grad = u
        try:
            yield
        finally:
            for p, g in zip(held, raw, strict=True):
                p.grad = g


def adapt(gradients: list[Tensor], averages: list[Tensor], *, alpha: float, beta: float) -> list[Tensor]:
    """u = (1−c) g + c e for every tensor, c = −α(1−β); then e becomes βe + (1−β)g, in place."""
    adapted = torch._foreach_lerp(gradients, averages, -alpha * (1 - beta))
    torch._foreach_lerp_(averages, gradients, 1 - beta)
    return list(adapted)


def average_of(state: dict[str, Any], gradient: Tensor, init: Init) -> Tensor:
    """The average e kept in one parameter's state, made at its first gradient."""
    if "average" not in state:
        state["average"] = torch.zeros_like(gradient) if init == "zero" else gradient.clone()
    return state["average"]


def dense_gradients(parameters: list[Tensor]) -> list[Tensor]:
    """The gradients of parameters that have one; InputError if any is sparse."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    for p, g in zip(parameters, gradients, strict=True):
        if g.layout != torch.strided:
            raise InputError(
                f"gradients must be dense, got a sparse one for a parameter of shape {tuple(p.shape)}; "
                "make it dense, for example with sparse=False in nn.Embedding."
            )
    return gradients


def check_adaptor(alpha: float, beta: float, init: str) -> None:
    """InputError unless 0 ≤ β < 1, |α| < 1/(1−β) (the paper's condition) and init is known."""
    if not 0 <= beta < 1:
        raise InputError(f"beta, E's averaging factor, must be in [0, 1), got {beta}.")
    if not abs(alpha) < 1 / (1 - beta):
        raise InputError(
            f"alpha must satisfy |alpha| < 1/(1 - beta) = {1 / (1 - beta):.6g} for beta={beta}, got {alpha}; "
            "bring it nearer to 0, or beta nearer to 1."
        )
    if init not in get_args(Init):
        raise InputError(f"init must be 'zero' or 'first', got {init!r}.")


def check_range(name: str, value: float, *, below: float = math.inf) -> None:
    """InputError unless 0 ≤ value < below."""
    if not 0 <= value < below:
        raise InputError(f"{name} must be in [0, {below:g}), got {value}.")


def _check_base(base: object) -> None:
    if not isinstance(base, Optimizer):
        raise InputError(f"base_optimizer must be a torch.optim.Optimizer, got {base!r}; build it first.")
    closure = inspect.signature(base.step).parameters.get("closure")
    if closure is not None and closure.default is inspect.Parameter.empty:
        raise InputError(
            f"base_optimizer must step on the gradients it finds, but {type(base).__name__} calls a closure several "
            "times a step, where E cannot adapt what it sees; take a first-order one such as SGD or Adam."
        )

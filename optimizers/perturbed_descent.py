"""Descent that looks aside where the gradient is small: what the two algorithms of "How to Escape Sharp Minima" share.

Ahn, Jadbabaie, Sra, ICML 2024, arXiv 2305.15659. From x, with the full gradient g = ∇f(x):

    if ‖g‖ ≤ ε₀:  h = a gradient at a random point at distance ρ,  v = h − g⟨g, h⟩/‖g‖²,  x ← x − η (g + v)
    else:         x ← x − η′ g

and in the end one of all iterates, drawn uniformly. Descent along g keeps x at the bottom of the valley; v, which is
orthogonal to it, leads along the bottom to where the trace of the Hessian is smaller. The algorithms differ in h.
"""

# pyright: reportPrivateImportUsage=false
# torch._foreach_*: see contract.py

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from landscape import InputError

from .contract import Closure, check_one_of, check_range, norm, parameters_of, usable
from .perturbation import gradient, inner, own_generator, resume

Iterate = Literal["last", "random"]
Aside = Callable[
    [list[Tensor], list[Tensor]], list[Tensor] | None
]  # (parameters, g) -> h, None if not finite


class PerturbedDescent(Optimizer, ABC):
    """Everything but the gradient aside. Abstract: SmoothedPerturbation and SharpnessAwarePerturbation are final."""

    evaluates_closure = True
    _common: ClassVar[tuple[str, ...]] = ("rho", "gate", "project", "iterate")  # settings over all parameters

    def __init__(
        self, params: ParamsT, defaults: dict[str, Any], *, generator: torch.Generator | None
    ) -> None:
        super().__init__(params, defaults)
        self.generator = own_generator(generator)
        self.steps = 0

    @abstractmethod
    def step(self, closure: Closure | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The closure's loss, after one step."""

    @torch.no_grad()
    def finish(self) -> None:
        """Put the iterate that was drawn into the parameters: call it once, in the end. With iterate="last", and before
        the first step, nothing changes."""
        for p in parameters_of(self):
            if "drawn" in self.state.get(p, {}):
                p.copy_(self.state[p]["drawn"])

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        self._check({**self.defaults, **param_group})
        super().add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        """torch's, with the number of steps and the state of the generator."""
        return {**super().state_dict(), "steps": self.steps, "generator": self.generator.get_state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume exactly where the state dict was taken, with the same random numbers to come."""
        missing = [key for key in ("state", "param_groups", "steps", "generator") if key not in state_dict]
        if missing:
            raise InputError(
                f"state_dict must be one of {type(self).__name__}, but it lacks {', '.join(missing)}; "
                "load what its state_dict() gave."
            )
        resume(self.generator, state_dict["generator"])
        super().load_state_dict({key: state_dict[key] for key in ("state", "param_groups")})
        self.steps = state_dict["steps"]

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "generator": self.generator, "steps": self.steps}

    @torch.no_grad()
    def _descend(self, closure: Closure, aside: Aside) -> Any:
        """The closure's loss, after one step with h = aside(parameters, g), or none if something is not finite. p.grad
        is g in the end."""
        group = self.param_groups[0]
        parameters = [p for p in parameters_of(self) if p.requires_grad]
        loss, g = gradient(closure, parameters)
        if usable(loss, g):
            if group["gate"] == math.inf or norm(g) <= group["gate"]:
                h = aside(parameters, g)
                if h is not None:
                    v = without(h, g) if group["project"] else h
                    torch._foreach_add_(v, g)
                    self._move(v, aside=True)
            else:
                self._move(g, aside=False)
        for p, full in zip(parameters, g, strict=True):
            p.grad = full
        return loss

    def _move(self, direction: Sequence[Tensor], *, aside: bool) -> None:
        """x ← x − rate · direction, with the rate of every group; then a draw among the iterates so far."""
        parts = iter(direction)
        for group in self.param_groups:
            thetas = [p for p in group["params"] if p.requires_grad]
            rate = group["lr"] if aside or group["descent_lr"] is None else group["descent_lr"]
            sign = 1.0 if group["maximize"] else -1.0
            if thetas:
                torch._foreach_add_(thetas, list(islice(parts, len(thetas))), alpha=sign * float(rate))
        self.steps += 1
        if self.param_groups[0]["iterate"] == "random":
            self._draw()

    def _draw(self) -> None:
        # Reservoir sampling: the k-th iterate takes the place of the one kept with probability 1/k.
        place = torch.randint(self.steps, (), generator=self.generator, device=self.generator.device)
        if place == 0:
            for p in parameters_of(self):
                self.state[p]["drawn"] = p.detach().clone()

    def _check(self, settings: dict[str, Any]) -> None:
        check_range("lr", settings["lr"])
        check_range("rho", settings["rho"])
        if settings["descent_lr"] is not None:
            check_range("descent_lr", settings["descent_lr"])
        if not settings["gate"] >= 0:
            raise InputError(
                f"gate must be at least 0 (math.inf opens it for every gradient), got {settings['gate']}."
            )
        check_one_of("iterate", settings["iterate"], get_args(Iterate))
        for name in self._common:
            if self.param_groups and settings[name] != self.param_groups[0][name]:
                raise InputError(
                    f"{name} is for all parameters together and must be the same in every group, got {settings[name]} "
                    f"after {self.param_groups[0][name]}; pass it once, to the optimizer."
                )


def without(vector: Sequence[Tensor], along: Sequence[Tensor]) -> list[Tensor]:
    """The part of a vector that is orthogonal to another, both lists of tensors: all of it where the other is zero."""
    length = float(norm(along))
    share = float(inner(vector, along)) / length / length if length else 0.0
    return list(torch._foreach_add(list(vector), list(along), alpha=-share))

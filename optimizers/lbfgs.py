"""L-BFGS with a line search that needs only values of the loss, for full batches.

L-BFGS-GSS of Yu and Morozov (arXiv 2602.21276, and their code): the two-loop recursion over the last 10 pairs
(Nocedal and Wright, Numerical Optimization, Algorithm 7.4), golden-section search along the direction, and an
empty memory whenever the pairs cannot be trusted.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from landscape import InputError

from .contract import check_count, check_one_of, check_range, dense_gradients, evaluated, number
from .golden_section import SearchResult, golden_section_search
from .two_loop import two_loop

LINE_SEARCHES: dict[str, Callable[..., SearchResult]] = {"golden-section": golden_section_search}
MIN_COSINE = 1e-4  # of s and y, from the paper's code: below it a pair says nothing about the curvature
# What the first trial along the gradient shrinks by, in turn, while the loss will not fall.
GRADIENT_STEPS = (1.0, 1e-3, 1e-6, 1e-9, 1e-12, 1e-15)

_NEW, _DOWN, _GRADIENT, _UPHILL, _STUCK, _FLAT = range(6)
_STATUS = (
    "no step taken yet",
    "the loss fell",
    "the loss fell along the gradient; the memory was emptied",
    "the loss rose: the last trial was taken, since safeguard is off",
    "no step along the gradient lowers the loss: the parameters stay",
    "the gradient is within its tolerance: the parameters stay",
)


class LBFGS(Optimizer):
    """Limited-memory BFGS on the loss over all data; one step is one iteration.

    The direction is −Hg with H from the last pairs s = Δθ, y = Δg; along it a line search looks at loss values
    only. Where Hg is zero or not finite, or cos(s, y) < 1e-4, the memory is emptied and the direction is −g.
    Cost of a step: one gradient and at most max_evaluations losses, and up to six times as many more where no
    trial lowers the loss. Memory: 2 history_size + 6 vectors like θ.

    Args:
        params: floating-point tensors of one dtype and device, in one group: L-BFGS sees one vector.
        history_size: pairs kept.
        line_search: "golden-section".
        max_evaluations: losses a search may take.
        lr: the unit of the search's trial steps.
        safeguard: no step raises the loss. If no trial lowers it, the memory is emptied and ever shorter steps
            along −g are tried; if none helps, θ stays and ``converged`` is true. False takes the search's last
            trial even if it lies higher, as the paper does.
        curvature_offset: δ in ρ = 1/(y·s + δ). The paper has 1e-6, which switches the curvature off once y·s,
            quadratic in the step, falls below it; the check on cos(s, y) makes it unnecessary. Powell's singular
            function is left at 1e-7 with it, at 1e-19 without.

    Raises:
        InputError: a setting outside its range; a loss or gradient that is not finite at the start of a step
            (the memory is emptied, so that the run may go on from other parameters); a sparse gradient.
    """

    def __init__(
        self,
        params: ParamsT,
        history_size: int = 10,
        line_search: str = "golden-section",
        max_evaluations: int = 6,
        *,
        lr: float = 1.0,
        safeguard: bool = True,
        curvature_offset: float = 0.0,
        gradient_tolerance: float = 0.0,
    ) -> None:
        defaults = {
            "lr": lr,
            "history_size": history_size,
            "line_search": line_search,
            "max_evaluations": max_evaluations,
            "safeguard": safeguard,
            "curvature_offset": curvature_offset,
            "gradient_tolerance": gradient_tolerance,
        }
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        if self.param_groups:
            raise InputError(
                "params must be one group, since L-BFGS sees one vector; pass a flat list of tensors."
            )
        _check_settings({**self.defaults, **param_group})
        super().add_param_group(param_group)
        _check_parameters(self.param_groups[0]["params"])

    @property
    def gradient_evaluations(self) -> int:
        """How often the closure was called, over all steps."""
        return self._memory.get("gradient_evaluations", 0)

    @property
    def loss_evaluations(self) -> int:
        """How often the loss-only closure was called, over all steps."""
        return self._memory.get("loss_evaluations", 0)

    @property
    def status(self) -> str:
        """How the last step ended, in words."""
        return _STATUS[self._memory.get("outcome", _NEW)]

    @property
    def converged(self) -> bool:
        """Whether the last step stayed: the gradient is within its tolerance, or no step along it lowers the loss."""
        return self._memory.get("outcome", _NEW) in (_STUCK, _FLAT)

    @torch.no_grad()
    def step(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, closure: Callable[[], Any], loss: Callable[[], Any] | None = None
    ) -> Any:
        """The closure's loss at the parameters before this step, after one iteration.

        Args:
            closure: zeroes the gradients, evaluates the loss, calls backward and returns the loss.
            loss: returns the same loss and does nothing else; called without gradients, for the line search's
                trials. Without it they call the closure, at the price of a gradient each.
        """
        theta = self._theta()
        found = self._with_gradient(closure)
        value, gradient = number(found), self._gradient()
        if not (math.isfinite(value) and gradient.isfinite().all()):
            self._forget()
            what = "the gradient is not finite" if math.isfinite(value) else f"the loss is {value}"
            raise InputError(
                f"{what} at the parameters given to step; start where loss and gradient are finite."
            )
        if gradient.abs().max() <= self.param_groups[0]["gradient_tolerance"]:
            self._memory["outcome"] = _FLAT
            return found
        if self.converged and self._unchanged(theta, gradient):
            return found
        self._remember(theta, gradient)
        accepted = theta
        try:
            accepted = self._searched(theta, value, gradient, self._evaluation(closure, loss))
        finally:
            self._place(accepted)  # θ again if a trial was interrupted
        return found

    def _searched(self, theta: Tensor, value: float, gradient: Tensor, loss: Callable[[], float]) -> Tensor:
        """The next θ; records how the search ended."""
        group, memory = self.param_groups[0], self._memory

        def along(direction: Tensor, step: float) -> SearchResult:
            def phi(alpha: float) -> float:
                self._place(torch.add(theta, direction, alpha=alpha))
                return loss()

            search = LINE_SEARCHES[group["line_search"]]
            return search(phi, value, step=step, max_evaluations=group["max_evaluations"])

        if gradient.any():
            direction = self._direction(gradient)
            result = along(direction, group["lr"])
            if result.value < value or (not group["safeguard"] and math.isfinite(result.value)):
                memory["outcome"] = _DOWN if result.value < value else _UPHILL
                return torch.add(theta, direction, alpha=result.alpha)
            tried = 0 if memory["steps"] else 1  # with an empty memory that was the gradient already
            self._forget()
            for shrink in GRADIENT_STEPS[tried:]:
                result = along(-gradient, shrink * group["lr"])
                if result.value < value:
                    memory["outcome"] = _GRADIENT
                    return torch.add(theta, -gradient, alpha=result.alpha)
        memory["outcome"] = _STUCK
        return theta

    def _direction(self, gradient: Tensor) -> Tensor:
        memory, offset = self._memory, self.param_groups[0]["curvature_offset"]
        r = two_loop(gradient, memory["steps"], memory["changes"], offset=offset)
        if r.isfinite().all() and r.any():
            return -r
        self._forget()
        return -gradient

    @property
    def _memory(self) -> dict[str, Any]:
        """Everything kept between steps: under the first parameter, so that state_dict carries it."""
        return self.state[self.param_groups[0]["params"][0]]

    def _remember(self, theta: Tensor, gradient: Tensor) -> None:
        """Add the pair since the last gradient evaluation to the memory, or empty it."""
        memory = self._memory
        if "theta" not in memory:
            self._forget()
        else:
            s, y = theta - memory["theta"], gradient - memory["gradient"]
            if s @ y > MIN_COSINE * s.norm() * y.norm():  # false also for NaN and for a zero norm
                memory["steps"].append(s)
                memory["changes"].append(y)
                for pairs in (memory["steps"], memory["changes"]):
                    del pairs[: -self.param_groups[0]["history_size"]]
            else:
                self._forget()
        memory["theta"], memory["gradient"] = theta, gradient

    def _forget(self) -> None:
        self._memory.update(steps=[], changes=[])

    def _unchanged(self, theta: Tensor, gradient: Tensor) -> bool:
        memory = self._memory
        return theta.equal(memory["theta"]) and gradient.equal(memory["gradient"])

    def _with_gradient(self, closure: Callable[[], Any]) -> Any:
        found = evaluated(closure)
        self._memory["gradient_evaluations"] = self.gradient_evaluations + 1
        return found

    def _evaluation(self, closure: Callable[[], Any], loss: Callable[[], Any] | None) -> Callable[[], float]:
        """The loss at the parameters as they are, at the lowest cost there is."""
        if loss is None:
            return lambda: number(self._with_gradient(closure))

        def counted() -> float:
            self._memory["loss_evaluations"] = self.loss_evaluations + 1
            return number(loss())

        return counted

    def _theta(self) -> Tensor:
        return torch.cat([p.reshape(-1) for p in self.param_groups[0]["params"]])

    def _gradient(self) -> Tensor:
        parameters = self.param_groups[0]["params"]
        dense_gradients([p for p in parameters if p.grad is not None])
        return torch.cat(
            [(torch.zeros_like(p) if p.grad is None else p.grad).reshape(-1) for p in parameters]
        )

    def _place(self, theta: Tensor) -> None:
        parameters = self.param_groups[0]["params"]
        for p, part in zip(parameters, theta.split([p.numel() for p in parameters]), strict=True):
            p.copy_(part.view_as(p))


def _check_settings(settings: dict[str, Any]) -> None:
    for name in ("history_size", "max_evaluations"):
        check_count(name, settings[name])
    check_one_of("line_search", settings["line_search"], list(LINE_SEARCHES))
    if not 0 < settings["lr"] < math.inf:
        raise InputError(f"lr, the unit of the trial steps, must be positive, got {settings['lr']}.")
    for name in ("curvature_offset", "gradient_tolerance"):
        check_range(name, settings[name])


def _check_parameters(parameters: list[Tensor]) -> None:
    kinds = {(p.dtype, p.device) for p in parameters}
    if len(kinds) > 1 or not parameters[0].is_floating_point():
        named = ", ".join(sorted(f"{dtype} on {device}" for dtype, device in kinds))
        raise InputError(f"params must be floating-point tensors of one dtype on one device, got {named}.")

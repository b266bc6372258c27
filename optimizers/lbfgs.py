"""L-BFGS for full batches, with a line search over values of the loss alone or over values and slopes.

With golden-section search it is L-BFGS-GSS of Yu and Morozov (arXiv 2602.21276, and their code): the two-loop
recursion over the last 10 pairs (Nocedal and Wright, Numerical Optimization, Algorithm 7.4), and an empty memory
whenever the pairs cannot be trusted.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from landscape import InputError

from .contract import Closure, check_count, check_one_of, check_range, required
from .flat_loss import FlatLoss, Point, Ray
from .golden_section import golden_section_search
from .line_search import SearchResult
from .strong_wolfe import strong_wolfe_search
from .two_loop import trusted, two_loop


@dataclass(frozen=True)
class LineSearch:
    """A line search and how L-BFGS uses it: with slopes or without, at how many evaluations by default, and what the
    first trial along the gradient shrinks by, in turn, while the loss will not fall."""

    search: Callable[..., SearchResult]
    slopes: bool
    max_evaluations: int
    restarts: tuple[float, ...]


LINE_SEARCHES = {
    "golden-section": LineSearch(
        golden_section_search, slopes=False, max_evaluations=6, restarts=(1.0, 1e-3, 1e-6, 1e-9, 1e-12, 1e-15)
    ),
    "strong-wolfe": LineSearch(strong_wolfe_search, slopes=True, max_evaluations=20, restarts=(1.0,)),
}

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
    """Limited-memory BFGS on the loss over all data.

    The direction is −Hg with H from the last pairs s = Δθ, y = Δg; a line search says how far. Where −Hg is zero,
    not finite or uphill, or cos(s, y) ≤ min_cosine, the memory is emptied and the direction is −g.

    Cost of an iteration: with golden section one gradient and at most max_evaluations losses (3 to 6), and up to six
    times as many more where no trial lowers the loss; with strong Wolfe at most max_evaluations gradients (mostly
    one), twice that where none lowers it, and one gradient more a step. Memory: 2 history_size + 8 vectors like θ.

    Args:
        params: floating-point tensors of one dtype and device, in one group: L-BFGS sees one vector.
        history_size: pairs kept.
        line_search: "golden-section" looks at losses only, as in the paper. "strong-wolfe" looks at gradients too.
        max_evaluations: what a search may take; None is 6 for golden section, the paper's, and 20 for strong Wolfe.
        lr: the unit of the search's trials (0.2, 0.8, … of it in golden section, 1 in strong Wolfe; there the first
            trial along a gradient is lr · min(1, 1/‖g‖₁)).
        iterations: how many a step takes. Within a step strong Wolfe evaluates no gradient twice: each search hands its
            last one on. A new step starts with a gradient of its own, since the loss may be another.
        safeguard: no iteration raises the loss. If no trial lowers it, the memory is emptied and −g is tried, in golden
            section with ever shorter steps; if that does not help, θ stays and ``converged`` is true. False takes the
            last trial of a golden section even if it lies higher, as the paper does.
        curvature_offset: δ in ρ = 1/(y·s + δ). The paper has 1e-6, which switches the curvature off once y·s,
            quadratic in the step, falls below it; the check on cos(s, y) makes it unnecessary. Powell's singular
            function is at 8e-8 after 300 iterations with it, at 1e-18 without.
        min_cosine: of s and y in a pair that is trusted; 1e-4 is the paper's. Where the Hessian is singular at the minimum
            it empties the memory again and again, and 1e-8 comes far deeper: to 1e-33 on Powell's function.
        gradient_tolerance: θ stays, and ``converged`` is true, once max |gᵢ| is not above it.
        maximize: climb instead.

    Raises:
        InputError: a setting outside its range; a loss or gradient that is not finite where an iteration starts
            (the memory is emptied, so that the run may go on from other parameters); a sparse gradient.
    """

    evaluates_closure = True

    def __init__(
        self,
        params: ParamsT,
        history_size: int = 10,
        line_search: str = "golden-section",
        max_evaluations: int | None = None,
        *,
        lr: float = 1.0,
        iterations: int = 1,
        safeguard: bool = True,
        curvature_offset: float = 0.0,
        min_cosine: float = 1e-4,
        gradient_tolerance: float = 0.0,
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "history_size": history_size,
            "line_search": line_search,
            "max_evaluations": max_evaluations,
            "iterations": iterations,
            "safeguard": safeguard,
            "curvature_offset": curvature_offset,
            "min_cosine": min_cosine,
            "gradient_tolerance": gradient_tolerance,
            "maximize": maximize,
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
        """How the last iteration ended, in words."""
        return _STATUS[self._memory.get("outcome", _NEW)]

    @property
    def converged(self) -> bool:
        """Whether the last iteration stayed: the gradient is within its tolerance, or no step along it lowers the loss."""
        return self._memory.get("outcome", _NEW) in (_STUCK, _FLAT)

    @torch.no_grad()
    def step(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, closure: Closure, loss: Callable[[], Any] | None = None
    ) -> Any:
        """The closure's loss at the parameters before this step, after ``iterations`` iterations (fewer if it converges).

        Args:
            closure: zeroes the gradients, evaluates the loss, calls backward and returns the loss.
            loss: returns the same loss and does nothing else; called without gradients, for the trials of a golden
                section. By default ``closure.loss``, which the closures of this package have; where there is
                none, trials call the closure, at the price of a gradient each.

        If a closure raises, the parameters stay at the last iterate.
        """
        group, memory = self.param_groups[0], self._memory
        loss = loss or getattr(closure, "loss", None)
        function = FlatLoss(
            group["params"], required(closure, self), loss, counts=memory, maximize=group["maximize"]
        )
        found, here = function.here()
        try:
            for _ in range(group["iterations"]):
                here = self._iterated(function, here)
                if self.converged:
                    break
        finally:
            function.place(here.theta)
        return found

    def _iterated(self, function: FlatLoss, here: Point) -> Point:
        """The next iterate, or the same if there is none; the memory says which."""
        if here.gradient is None:
            here = function.at(here.theta, gradient=True)
        gradient, memory = cast(Tensor, here.gradient), self._memory
        if here.fault:
            self._forget()
            raise InputError(
                f"{here.fault} where an iteration starts; go on from parameters where loss and gradient are finite."
            )
        if gradient.abs().max() <= self.param_groups[0]["gradient_tolerance"]:
            memory["outcome"] = _FLAT
        elif not (memory.get("outcome") == _STUCK and self._unchanged(here.theta, gradient)):
            self._remember(here.theta, gradient)
            here, memory["outcome"] = self._searched(function, here, gradient)
        return here

    def _searched(self, function: FlatLoss, here: Point, gradient: Tensor) -> tuple[Point, int]:
        """Where the searches led, and how they ended."""
        group, memory = self.param_groups[0], self._memory
        kind = LINE_SEARCHES[group["line_search"]]

        def along(direction: Tensor, shrink: float) -> Point:
            step = shrink * group["lr"]
            if kind.slopes and not memory["steps"]:
                step *= min(1.0, 1 / float(gradient.abs().sum()))
            ray = Ray(function, here, direction, slopes=kind.slopes)
            budget = group["max_evaluations"] or kind.max_evaluations
            result = kind.search(ray, ray.start, step=step, max_evaluations=budget)
            return ray.point(result.alpha, result.value)

        if not gradient.any():
            return here, _STUCK
        found = along(self._direction(gradient), 1.0)
        if found.loss < here.loss:
            return found, _DOWN
        if found is not here and math.isfinite(found.loss) and not group["safeguard"]:
            return found, _UPHILL
        tried = 0 if memory["steps"] else 1  # with an empty memory that was the gradient already
        self._forget()
        for shrink in kind.restarts[tried:]:
            found = along(-gradient, shrink)
            if found.loss < here.loss:
                return found, _GRADIENT
        return here, _STUCK

    def _direction(self, gradient: Tensor) -> Tensor:
        memory, offset = self._memory, self.param_groups[0]["curvature_offset"]
        r = two_loop(gradient, memory["steps"], memory["changes"], offset=offset)
        if r.isfinite().all() and torch.dot(r, gradient) > 0:
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
            if trusted(s, y, self.param_groups[0]["min_cosine"]):
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


def _check_settings(settings: dict[str, Any]) -> None:
    for name in ("history_size", "iterations"):
        check_count(name, settings[name])
    if settings["max_evaluations"] is not None:
        check_count("max_evaluations", settings["max_evaluations"])
    check_one_of("line_search", settings["line_search"], list(LINE_SEARCHES))
    if not 0 < settings["lr"] < math.inf:
        raise InputError(f"lr, the unit of the trial steps, must be positive, got {settings['lr']}.")
    for name in ("curvature_offset", "gradient_tolerance"):
        check_range(name, settings[name])
    check_range("min_cosine", settings["min_cosine"], below=1.0)


def _check_parameters(parameters: list[Tensor]) -> None:
    kinds = {(p.dtype, p.device) for p in parameters}
    if len(kinds) > 1 or not parameters[0].is_floating_point():
        named = ", ".join(sorted(f"{dtype} on {device}" for dtype, device in kinds))
        raise InputError(f"params must be floating-point tensors of one dtype on one device, got {named}.")

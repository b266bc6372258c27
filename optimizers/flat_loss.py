"""The loss as a function of one vector, and along a ray: what L-BFGS and its line searches see of closures and parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from .contract import Closure, dense_gradients, evaluated, number


@dataclass(frozen=True)
class Point:
    """θ (P,) with the loss there, and its gradient (P,) if that was evaluated."""

    theta: Tensor
    loss: float
    gradient: Tensor | None = None

    @property
    def fault(self) -> str:
        """What is not finite here, in words; empty if all is."""
        if not math.isfinite(self.loss):
            return f"the loss is {self.loss}"
        finite = self.gradient is None or self.gradient.isfinite().all()
        return "" if finite else "the gradient is not finite"


class FlatLoss:
    """L(θ) and ∇L(θ) of all parameters as one vector θ (P,), through the closures that a step was given.

    Args:
        parameters: what θ is made of, in this order. Evaluations leave them at the θ evaluated last.
        closure: zeroes the gradients, evaluates the loss, calls backward and returns the loss.
        loss: returns the loss alone; None if that needs the closure too.
        counts: "gradient_evaluations" and "loss_evaluations" are counted up here.
        maximize: L is the negative of what the closures return.
    """

    def __init__(
        self,
        parameters: Sequence[Tensor],
        closure: Closure,
        loss: Callable[[], Any] | None,
        *,
        counts: dict[str, Any],
        maximize: bool,
    ) -> None:
        self.parameters, self.closure, self.loss, self.counts = parameters, closure, loss, counts
        self.sign = -1 if maximize else 1

    def here(self) -> tuple[Any, Point]:
        """What the closure returns where the parameters are, and the same as a point. Cost: one gradient."""
        theta = torch.cat([p.reshape(-1) for p in self.parameters])
        found = evaluated(self.closure)
        self._count("gradient_evaluations")
        dense_gradients(self.parameters)
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        gradient = torch.cat([g.reshape(-1) for g in gradients])
        return found, Point(theta, self.sign * number(found), gradient.mul_(self.sign))

    def at(self, theta: Tensor, *, gradient: bool) -> Point:
        """The point θ, with its gradient if asked for (or if nothing less can be had). Cost: one gradient or loss."""
        self.place(theta)
        if gradient or self.loss is None:
            return self.here()[1]
        self._count("loss_evaluations")
        return Point(theta, self.sign * number(self.loss()))

    def place(self, theta: Tensor) -> None:
        """Write θ into the parameters."""
        sizes = [p.numel() for p in self.parameters]
        for p, part in zip(self.parameters, theta.split(sizes), strict=True):
            p.copy_(part.view_as(p))

    def _count(self, what: str) -> None:
        self.counts[what] = self.counts.get(what, 0) + 1


class Ray:
    """φ(α) = L(θ + αd) for a line search: a value, or with ``slopes`` the pair (φ, φ′). Keeps its lowest point."""

    def __init__(self, function: FlatLoss, here: Point, direction: Tensor, *, slopes: bool) -> None:
        self.function, self.here, self.direction, self.slopes = function, here, direction, slopes
        self.lowest, self.lowest_alpha = Point(here.theta, math.inf), math.nan

    @property
    def start(self) -> Any:
        """φ(0), or the pair."""
        return self._seen(self.here)

    def __call__(self, alpha: float) -> Any:
        point = self.function.at(self._theta(alpha), gradient=self.slopes)
        if point.loss < self.lowest.loss:
            self.lowest, self.lowest_alpha = point, alpha
        return self._seen(point)

    def point(self, alpha: float, value: float) -> Point:
        """The point that a search came to; the lowest one still has its gradient. Cost: none."""
        if alpha == 0:
            return self.here
        return self.lowest if alpha == self.lowest_alpha else Point(self._theta(alpha), value)

    def _seen(self, point: Point) -> Any:
        if not self.slopes:
            return point.loss
        # torch.dot, for autocast would let @ have the precision of bfloat16.
        return point.loss, float(torch.dot(cast(Tensor, point.gradient), self.direction))

    def _theta(self, alpha: float) -> Tensor:
        return torch.add(self.here.theta, self.direction, alpha=alpha)

"""Curves with few bends and a small mean loss: Bézier curves and polygonal chains (Garipov et al. 2018, arXiv 1802.10026)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from landscape import InputError
from landscape.combinations import Combination
from landscape.paths import BezierPath, Polyline

from .heights import INTERVALS, Sampled, Survey

# Gradients between two samplings of the whole path in short searches, and samplings in long ones, about.
SHORTEST, _CHECKS = 50, 20
# How far straight lines are bent at first, in units of ‖b − a‖.
_KICK = 1e-3


@dataclass(frozen=True)
class Bezier:
    """A Bézier curve φ whose mean loss E L(φ(t)), t uniform in [0, 1], is small.

    Garipov et al. (2018), equations 2 and 4. Each step takes the gradient at one random t and moves the bends by its chain rule;
    the part along the curve is left in, as theirs. The bends start evenly on the straight line, as theirs, then moved by
    ‖b − a‖/1000 to a random side, so that they leave a line that is a symmetric ridge. What is small is the mean, not the top,
    and a curve with one bend cannot wind: in the plane it ends far above the passes, on networks near the lowest heights known.

    They take SGD with momentum, at a rate that suits the network; here Adam with cosine decay moves each bend by about
    rate·‖b − a‖ a step at most, whatever the units of the loss. With one bend, 3000 gradients and three pairs of L-BFGS
    solutions of ``digits-mlp``, rates from .01 to .3 give median heights of 7e-5 to 2.5e-4; momentum .9 and their decay give
    .05, .0035 and .0004 at rates .01, .1 and 1.

    Args:
        bends: control points between the ends; theirs is one.
        rate: Adam's, in units of ‖b − a‖/√P.
    """

    bends: int = 1
    rate: float = 0.05

    name: ClassVar[str] = "bezier"
    usual_steps: ClassVar[int] = 1000

    def __post_init__(self) -> None:
        _check(self.bends, self.rate)

    @property
    def intervals(self) -> int:
        """In which such a path has to be sampled, at least."""
        return INTERVALS

    def search(
        self, survey: Survey, a: Tensor, b: Tensor, *, steps: int, generator: torch.Generator | None
    ) -> Iterator[Sampled]:
        """Curves in the course of the search, and the last; ``steps`` counts gradients. Ends where the loss is not finite."""
        return _descend(
            BezierPath, survey, a, b, self.bends, steps=steps, rate=self.rate, generator=generator
        )


@dataclass(frozen=True)
class Polychain:
    """A polygonal chain φ whose mean loss E L(φ(t)), t uniform in [0, 1], is small: as Bezier, with straight pieces.

    Garipov et al. (2018), equations 2 and 3. Every piece takes t the same time, however long.

    Args:
        bends: corners between the ends; theirs is one.
        rate: Adam's, in units of ‖b − a‖/√P.
    """

    bends: int = 1
    rate: float = 0.05

    name: ClassVar[str] = "polychain"
    usual_steps: ClassVar[int] = 1000

    def __post_init__(self) -> None:
        _check(self.bends, self.rate)

    @property
    def intervals(self) -> int:
        return intervals_of(self.bends + 1)

    def search(
        self, survey: Survey, a: Tensor, b: Tensor, *, steps: int, generator: torch.Generator | None
    ) -> Iterator[Sampled]:
        """Chains in the course of the search, and the last; ``steps`` counts gradients. Ends where the loss is not finite."""
        return _descend(Polyline, survey, a, b, self.bends, steps=steps, rate=self.rate, generator=generator)


def straight(a: Tensor, b: Tensor, between: int) -> Tensor:
    """Points (between + 2, P) evenly on the straight line, its ends among them."""
    t = torch.linspace(0, 1, between + 2, dtype=a.dtype, device=a.device)[1:-1, None]
    return torch.cat([a[None], (1 - t) * a + t * b, b[None]])


def sideways(a: Tensor, b: Tensor, generator: torch.Generator | None) -> Tensor:
    """A random vector (P,) about as long as ‖b − a‖/1000: enough to fall off a ridge."""
    device = generator.device if generator is not None else torch.device("cpu")
    side = torch.randn(len(a), generator=generator, dtype=a.dtype, device=device).to(a.device)
    return _KICK * (b - a).norm() / math.sqrt(len(a)) * side


def intervals_of(pieces: int, each: int = 4) -> int:
    """How many intervals to sample a polygon in: INTERVALS and ``each`` a piece at least, with every corner on a sample."""
    return pieces * max(each, math.ceil(INTERVALS / pieces))


def between_samplings(steps: int) -> int:
    """Gradients from one sampling of the whole path to the next, in a search of so many."""
    return max(SHORTEST, steps // _CHECKS)


def _descend(
    curve: Callable[[Tensor], Combination],
    survey: Survey,
    a: Tensor,
    b: Tensor,
    count: int,
    *,
    steps: int,
    rate: float,
    generator: torch.Generator | None,
) -> Iterator[Sampled]:
    """Curves from a to b with so many bends, moved by one gradient a step."""
    bends = straight(a, b, count)[1:-1] + sideways(a, b, generator)
    scale = float((b - a).norm()) / math.sqrt(len(a))  # a vector of such entries is as long as b − a
    adam = torch.optim.Adam([bends], lr=rate * scale)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    every = between_samplings(steps)
    device = generator.device if generator is not None else torch.device("cpu")
    for first in range(0, steps, every):
        draws = torch.rand(min(every, steps - first), generator=generator, dtype=a.dtype, device=device)
        for t in draws.tolist():
            path = curve(torch.cat([a[None], bends, b[None]]))
            bends.grad = path.weights(t)[1:-1, None] * survey.value_and_grad(path, t)[1]
            adam.step()
            decay.step()
        found = survey.sample(curve(torch.cat([a[None], bends, b[None]])))
        if not math.isfinite(found.height):
            return
        yield found


def _check(bends: int, rate: float) -> None:
    if bends < 1 or not 0 < rate < math.inf:
        raise InputError(f"bends must be at least 1 and rate positive, got bends={bends}, rate={rate}.")

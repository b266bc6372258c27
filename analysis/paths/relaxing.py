"""How chains of images move: all at once by their forces, with inertia."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from typing import Protocol

import torch
from torch import Tensor

from landscape.combinations import Combination
from landscape.held import Held
from landscape.paths import Polyline

from .curves import between_samplings, sideways, straight
from .heights import Sampled, Survey

# Sweeps before the first sampling: a chain that has hardly left a ridge seems settled.
UNDERWAY = 20
# The longest move and the first time step, in units of ‖b − a‖ and of ‖b − a‖/√(range of the loss along the line).
_LONGEST, _TIME = 0.05, 0.03
# Adam's rate, in units of ‖b − a‖/√P.
_RATE = 0.02
# Bitzek et al. (2006): N_min, f_inc, f_dec, α_start and f_α.
_PATIENCE, _FASTER, _SLOWER, _TURN, _STRAIGHTEN = 5, 1.1, 0.5, 0.1, 0.99


class Force(Protocol):
    """The force (M − 2, P) on the inner of images (M, P) with losses (M,) and gradients (M − 2, P); done: share of the search."""

    def __call__(self, images: Tensor, loss: Tensor, gradient: Tensor, done: float) -> Tensor: ...


def bent(a: Tensor, b: Tensor, images: int, generator: torch.Generator | None) -> Tensor:
    """Points (images + 2, P), evenly on the line from a to b and then moved a little to one random side, except the ends."""
    points = straight(a, b, images)
    t = torch.linspace(0, 1, len(points), dtype=a.dtype, device=a.device)[1:-1, None]
    points[1:-1] += torch.sin(math.pi * t) * sideways(a, b, generator)
    return points


def relax(
    survey: Survey,
    images: Tensor,
    line: Sampled,
    force: Force,
    *,
    steps: int,
    pause: int | None = None,
    seen: Sampled | None = None,
    underway: int = UNDERWAY,
    through: Callable[[Tensor], Combination] = Polyline,
    place: Callable[[Tensor, Sampled], Tensor] = lambda images, seen: images,
    until: Callable[[Sampled, float], bool] | None = None,
) -> Generator[Sampled, None, tuple[Tensor, Sampled, int]]:
    """Chains on their way, and the last, as paths through them; returns the last images, how they were sampled, and the steps.

    ``steps`` counts gradients, one an image and sweep; ``pause``: those from one look to the next.
    ``line``: the path before the search, for units and the losses at the ends. ``seen``: how the path was sampled last, that
    line if it was not. ``underway``: sweeps before the first look. ``through``: the path that has images (M, P) at even t.
    ``place``: where images that have moved are set. ``until``: ends it, by what is seen and the barrier seen before that.
    """
    inner = len(images) - 2
    sweeps, every = steps // inner, math.ceil((pause or between_samplings(steps)) / inner)
    knots = torch.linspace(0, 1, len(images), dtype=images.dtype, device=images.device)
    first, last = torch.from_numpy(line.loss[[0, -1]]).to(images).split(1)
    mover = (_Fire if survey.batches is None else _Adam)(line, torch.zeros_like(images[1:-1]))
    seen, before = seen or line, math.inf
    for sweep in range(sweeps):
        if sweep >= underway and sweep % every == 0:
            seen = survey.sample(through(images))
            if not math.isfinite(seen.height):
                return images, seen, sweep * inner
            yield seen
            if until is not None and until(seen, before):
                return images, seen, sweep * inner
            before = seen.barrier
        value, gradient = survey.value_and_grad(through(images), knots[1:-1])
        loss = torch.cat([first, value, last])
        done = sweep / sweeps
        step = mover.step(force(images, loss, gradient, done), done)
        images = place(torch.cat([images[:1], images[1:-1] + step, images[-1:]]), seen)
        if survey.held:  # moved to their norms, so that lengths of pieces are those that are seen
            images = Held(through(images))(knots)
    seen = survey.sample(through(images))
    if math.isfinite(seen.height):
        yield seen
    return images, seen, sweeps * inner


class _Fire:
    """Fast inertial relaxation (Bitzek et al., PRL 97 (2006) 170201) of a whole chain, with a longest move, not a longest time.

    Steps lengthen while the velocity goes with the force, and start anew where it goes against it.
    """

    def __init__(self, line: Sampled, velocity: Tensor) -> None:
        size, climb = line.path.length, float(line.loss.max() - line.loss.min())
        self.longest, self.time = _LONGEST * size, _TIME * size / math.sqrt(climb)
        self.velocity, self.turn, self.downhill = velocity, _TURN, 0

    def step(self, force: Tensor, done: float) -> Tensor:
        """How far each image moves."""
        power = float((force * self.velocity).sum())
        if power > 0:
            along = force * (self.velocity.norm() / force.norm())
            self.velocity = torch.lerp(self.velocity, along, self.turn)
            self.downhill += 1
            if self.downhill > _PATIENCE:
                self.time, self.turn = _FASTER * self.time, _STRAIGHTEN * self.turn
        elif power < 0:
            self.velocity = torch.zeros_like(force)
            self.time, self.turn, self.downhill = _SLOWER * self.time, _TURN, 0
        self.velocity = self.velocity + self.time * force
        move = self.time * self.velocity
        return move * (self.longest / move.norm(dim=1).max().clamp(min=self.longest))


class _Adam:
    """Adam with cosine decay, for forces that are noisy: FIRE takes noise for a wall and comes to rest."""

    def __init__(self, line: Sampled, still: Tensor) -> None:
        self.rate, self.moved = _RATE * line.path.length / math.sqrt(still.shape[1]), still
        self.adam = torch.optim.Adam([self.moved])

    def step(self, force: Tensor, done: float) -> Tensor:
        """How far each image moves."""
        self.moved.zero_()
        self.moved.grad = -force
        self.adam.param_groups[0]["lr"] = self.rate * (1 + math.cos(math.pi * done)) / 2
        self.adam.step()
        return self.moved.clone()

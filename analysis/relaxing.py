"""How chains of images move: all at once by their forces, with inertia."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from typing import Protocol

import torch
from torch import Tensor

from landscape.held import Held
from landscape.paths import Polyline

from .curves import between_samplings, sideways, straight
from .heights import Sampled, Survey

# Sweeps before the first sampling: a chain that has hardly left a ridge seems settled.
_UNDERWAY = 20
# The longest move and the first time step, in units of ‖b − a‖ and of ‖b − a‖/√(range of the loss along the line).
_LONGEST, _TIME = 0.05, 0.03
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
    total: int | None = None,
    place: Callable[[Tensor], Tensor] = lambda images: images,
) -> Generator[Sampled, None, tuple[Tensor, Sampled]]:
    """Chains on their way, and the last, each as a polygon; returns the last images and how they were sampled.

    ``steps`` counts gradients, one an image and sweep; ``total``: those of the whole search, which decide how often it looks.
    ``line``: the path before the search, for units and the losses at the ends. ``place``: what is done to images that have moved.
    """
    inner = len(images) - 2
    sweeps, pause = steps // inner, math.ceil(between_samplings(total or steps) / inner)
    knots = torch.linspace(0, 1, len(images), dtype=images.dtype, device=images.device)
    first, last = torch.from_numpy(line.loss[[0, -1]]).to(images).split(1)
    fire = _Fire(line, torch.zeros_like(images[1:-1]))
    for sweep in range(sweeps):
        if sweep >= _UNDERWAY and sweep % pause == 0:
            found = survey.sample(Polyline(images))
            if not math.isfinite(found.height):
                return images, found
            yield found
        value, gradient = survey.value_and_grad(Polyline(images), knots[1:-1])
        loss = torch.cat([first, value, last])
        step = fire.step(force(images, loss, gradient, sweep / sweeps))
        images = place(torch.cat([images[:1], images[1:-1] + step, images[-1:]]))
        if survey.held:  # moved to their norms, so that lengths of pieces are those that are seen
            images = Held(Polyline(images))(knots)
    found = survey.sample(Polyline(images))
    if math.isfinite(found.height):
        yield found
    return images, found


class _Fire:
    """Fast inertial relaxation (Bitzek et al., PRL 97 (2006) 170201) of a whole chain, with a longest move, not a longest time.

    Steps lengthen while the velocity goes with the force, and start anew where it goes against it.
    """

    def __init__(self, line: Sampled, velocity: Tensor) -> None:
        size, climb = line.path.length, float(line.loss.max() - line.loss.min())
        self.longest, self.time = _LONGEST * size, _TIME * size / math.sqrt(climb)
        self.velocity, self.turn, self.downhill = velocity, _TURN, 0

    def step(self, force: Tensor) -> Tensor:
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

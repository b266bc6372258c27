"""Strings whose images are joined by sines, ever more of them: how low paths are found where gradients are exact."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from torch import Tensor

from landscape.parameters import float64_array
from landscape.paths import FourierPath, Path, Segment

from .curves import between_samplings
from .heights import Array, Sampled, Survey, across
from .relaxing import UNDERWAY, bent, relax

# A path gets more sines once its barrier has fallen by less than this share from one look to the next, or when less than that
# share of it shows at the images.
_STALLED, _SHOWN = 0.2, 0.4
# Gradients from one look to the next, at least: with fewer, sines come before those that are there have done their work.
_PAUSE = 150
# Points in each interval between images, by which lengths are measured.
_FINE = 16


def strings_of_sines(
    survey: Survey, a: Tensor, b: Tensor, modes: int, *, steps: int, generator: torch.Generator | None
) -> Iterator[Sampled]:
    """Paths in the course of the search, and the last; ``steps`` counts gradients. Ends where the loss is not finite.

    As many images as sines are pushed down across the path at once, by FIRE, and set along it again. n become 2n + 1 when the
    height stalls, or much of it lies between images.
    """
    line = found = survey.sample(Segment(a, b))
    images, left = bent(a, b, 1, generator), steps

    def force(images: Tensor, loss: Tensor, gradient: Tensor, done: float) -> Tensor:
        knots = torch.linspace(0, 1, len(images), dtype=images.dtype, device=images.device)
        return -across(gradient, survey.tangent(FourierPath.through(images), knots[1:-1]))

    while left >= (n := len(images) - 2) and math.isfinite(found.height):
        images, found, spent = yield from relax(
            survey,
            images,
            line,
            force,
            steps=left,
            pause=max(_PAUSE, between_samplings(steps)),
            seen=found,
            underway=UNDERWAY if found is line else 1,
            through=FourierPath.through,
            place=spread,
            until=partial(outgrown, n) if n < modes else None,
        )
        left -= spent
        images = points_at(found.path, np.linspace(0, 1, min(2 * n + 1, modes) + 2))


def outgrown(n: int, found: Sampled, before: float) -> bool:
    """Whether a path through n images at even t has hardly fallen since its barrier was last looked at, or climbs unseen."""
    at_images = np.interp(np.arange(1, n + 1) / (n + 1), found.t, found.loss)
    shown = at_images.max() - max(found.loss[0], found.loss[-1])
    return found.barrier > (1 - _STALLED) * before or shown < _SHOWN * found.barrier


def spread(images: Tensor, seen: Sampled) -> Tensor:
    """Images (M, P) set evenly along the path through them, but the one nearest its top, as last seen, there.

    One image alone stays in the middle: far from it, the only wave would be wrong almost everywhere.
    """
    at = np.linspace(0, 1, len(images))
    arc = np.append(0.0, seen.arc().cumsum())
    top = arc[seen.loss.argmax()] / arc[-1]
    if len(images) > 3 and 0 < top < 1:
        at[1:-1][np.abs(at[1:-1] - top).argmin()] = top
    return points_at(FourierPath.through(images), at)


def points_at(path: Path, shares: Array) -> Tensor:
    """The points (M, P) of a path at shares (M,) of its length; 0 and 1 are its ends."""
    t = np.linspace(0, 1, _FINE * (len(shares) - 1) + 1)
    speed = float64_array(path.speed(torch.from_numpy(t)))
    arc = np.append(0.0, np.cumsum(speed[1:] + speed[:-1]))
    return path(torch.from_numpy(np.interp(shares, arc / arc[-1], t)))

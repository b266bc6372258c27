"""Sums of sines moved by one gradient a step, at t drawn near the path's top: slow but steady, on cliffs and by noise too."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch

from landscape.paths import FourierPath

from .curves import SHORTEST
from .heights import Array, Sampled, Survey

# The last β: draws get rarer by e for each 1/20 of the range below the top. Half of it and twice it do as well.
_SHARPNESS = 20.0
# The share of draws that ignores the loss, so that what is low now may not rise unseen.
_EXPLORE = 0.1
# Its multiples modulo 1 cover [0, 1] more evenly than random numbers do, however many are taken.
_GOLDEN = (math.sqrt(5) - 1) / 2


def drawn_sines(
    survey: Survey,
    start: FourierPath,
    *,
    steps: int,
    step: float,
    generator: torch.Generator | None,
) -> Iterator[Sampled]:
    """Ever lower paths, sampled every 50 steps of one gradient each; ends where the loss is no longer finite.

    Points are drawn by arc length and exp(β (L − max L)/range L), with L as last sampled along the path and β growing from 0 to
    20. The gradient's part along the path is left out, since it only moves points along. Adam with cosine decay moves b_n by
    about ``step`` ‖b − a‖/n at most: long waves first, so that short ones need no penalty. Half of 0.01 takes twice as long in
    the plane; twice of it leaves the choice of side to chance and not to the gradients.
    """
    a, b, n = start.a, start.b, start.modes[:, None]
    waves = n * start.coefficients  # all bend a path as steeply
    device = generator.device if generator is not None else torch.device("cpu")
    draw = float(torch.rand((), generator=generator, device=device))
    adam = torch.optim.Adam([waves], lr=step * float((b - a).norm()) / math.sqrt(len(a)))
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    for check in range(0, steps, SHORTEST):
        found = survey.sample(FourierPath(a, b, waves / n))
        if not math.isfinite(found.height):
            return
        if check > 0:  # the first may be the line, hardly bent: where that is a ridge, its top seems settled
            yield found
        share = _shares(found, _SHARPNESS * check / steps)
        for _ in range(check, min(check + SHORTEST, steps)):
            path = FourierPath(a, b, waves / n)
            draw = (draw + _GOLDEN) % 1
            t = float(np.interp(draw, share, found.t))
            waves.grad = path.basis(t)[:, None] / n * survey.force(path, t)
            adam.step()
            decay.step()
    yield survey.sample(FourierPath(a, b, waves / n))


def _shares(found: Sampled, sharpness: float) -> Array:
    """The share (N,) of draws that falls before each sample, by arc length and e^(−sharpness · depth)."""
    arc, loss = found.arc(), (found.loss[1:] + found.loss[:-1]) / 2
    weight = arc * np.exp(sharpness * (loss - found.loss.max()) / np.ptp(found.loss))
    share = (1 - _EXPLORE) * weight / weight.sum() + _EXPLORE * arc / arc.sum()
    return np.append(0.0, share.cumsum())

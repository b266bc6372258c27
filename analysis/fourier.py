"""Paths as sums of sines, γ(t) = (1 − t) a + t b + Σ_n b_n sin(nπt): one search that finds the pass, and the published one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from landscape import InputError
from landscape.paths import FourierPath

from .heights import Array, Sampled, Survey

# Six samples for half a wave of the highest mode.
_SAMPLES_A_MODE = 6
# Adam's step for n b_n, and its start: lengths in R^P in units of ‖b − a‖. Half the step takes twice as long in the
# plane; twice the step, or ten times the start, leaves the choice of side to chance and not to the gradients.
_STEP = 1e-2
_KICK = 1e-3
# The last β: draws get rarer by e for each 1/20 of the range below the top. Half of it and twice it do as well.
_SHARPNESS = 20.0
# The share of draws that ignores the loss, so that what is low now may not rise unseen.
_EXPLORE = 0.1
# Steps between two samplings of the whole path.
CHECK = 50
# Its multiples modulo 1 cover [0, 1] more evenly than random numbers do, however many are taken.
_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True)
class _Sines:
    """So many b_n."""

    modes: int = 10

    def __post_init__(self) -> None:
        if self.modes < 1:
            raise InputError(f"modes must be at least 1, got {self.modes}.")

    @property
    def intervals(self) -> int:
        """In which such a path has to be sampled, at least."""
        return _SAMPLES_A_MODE * self.modes


@dataclass(frozen=True)
class Fourier(_Sines):
    """The highest point of the path is made as low as can be, one gradient a step.

    Points are drawn by arc length and exp(β (L − max L)/range L), with L as last sampled along the path and β growing from 0 to
    20. The gradient's part along the path is left out, since it only moves points along. Adam with cosine decay moves b_n by
    about ‖b − a‖/100n a step at most: long waves first, so that short ones need no penalty.

    Args:
        modes: how many b_n.
    """

    name: ClassVar[str] = "fourier"
    usual_steps: ClassVar[int] = 1000

    def search(
        self, survey: Survey, a: Tensor, b: Tensor, *, steps: int, generator: torch.Generator | None
    ) -> Iterator[Sampled]:
        """Ever lower paths, sampled every 50 steps; ends where the loss is no longer finite."""
        line = FourierPath(a, b, a.new_zeros(self.modes, len(a)))
        n = line.modes[:, None]
        scale = float((b - a).norm()) / math.sqrt(len(a))  # a vector of such entries is as long as b − a
        kick, draw = _random(line.coefficients, generator)
        waves = _KICK * scale * kick  # n b_n, which for every n bends the path as steeply
        adam = torch.optim.Adam([waves], lr=_STEP * scale)
        decay = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
        for check in range(0, steps, CHECK):
            found = survey.sample(FourierPath(a, b, waves / n))
            if not math.isfinite(found.height):
                return
            if check > 0:  # the first is the line, hardly bent: where that is a ridge, its top seems settled
                yield found
            share = _shares(found, _SHARPNESS * check / steps)
            for _ in range(check, min(check + CHECK, steps)):
                path = FourierPath(a, b, waves / n)
                draw = (draw + _GOLDEN) % 1
                t = float(np.interp(draw, share, found.t))
                waves.grad = path.basis(t)[:, None] / n * survey.force(path, t)
                adam.step()
                decay.step()
        yield survey.sample(FourierPath(a, b, waves / n))


@dataclass(frozen=True)
class PublishedFourier(_Sines):
    """FourierPathFinder as published (Yu and Morozov, arXiv 2602.21276), and with what its figures need besides.

    Minimise Σ_m L(γ(t_m))^p + λ Σ_m ‖γ(t_{m+1}) − γ(t_m)‖² over fixed, even t_m with Adam from b = 0, and keep the step where
    the sum of L^p is lowest. Each coefficient moves by about rate · steps at most, however far the ends are apart. It ends when
    the steps are spent, settled or not.

    Args:
        modes, points: how many b_n, and t_m with the ends; for the paper's networks 10 and 50, in its code 51; in the plane 100.
        penalty: λ; 1e-4 for networks, 10 to 1000 in the plane.
        rate: Adam's.
        power: p, a positive number; the figures in the plane came from 2.
        noise: standard deviation of normal noise on the gradient in the b_n; the figures in the plane came from 1.
    """

    points: int = 51
    penalty: float = 1e-4
    rate: float = 1e-3
    power: float = 1.0
    noise: float = 0.0

    name: ClassVar[str] = "fourier-published"
    usual_steps: ClassVar[int] = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.points < 3 or not min(self.rate, self.power) > 0 or not min(self.penalty, self.noise) >= 0:
            raise InputError(
                "points must be at least 3, rate and power positive, penalty and noise at least 0, "
                f"got {self.points}, {self.rate}, {self.power}, {self.penalty}, {self.noise}."
            )

    def search(
        self, survey: Survey, a: Tensor, b: Tensor, *, steps: int, generator: torch.Generator | None
    ) -> Iterator[Sampled]:
        """The one path that is kept."""
        kept = FourierPath(a, b, a.new_zeros(self.modes, len(a)))
        coefficients = kept.coefficients.clone()
        adam = torch.optim.Adam([coefficients], lr=self.rate)
        t = torch.linspace(0, 1, self.points, dtype=a.dtype, device=a.device)
        basis, lowest = kept.basis(t), math.inf
        for _ in range(steps):
            path = FourierPath(a, b, coefficients.clone())
            loss, gradient = survey.value_and_grad(path, t)
            total = float((loss**self.power).sum())
            if total < lowest:
                lowest, kept = total, path
            slope = self.power * loss ** (self.power - 1)
            stretch = basis.diff(dim=0).T @ path(t).diff(dim=0)
            coefficients.grad = basis.T @ (slope[:, None] * gradient) + 2 * self.penalty * stretch
            if self.noise:
                coefficients.grad += self.noise * _random(coefficients, generator)[0]
            adam.step()
        yield survey.sample(kept)


def _shares(found: Sampled, sharpness: float) -> Array:
    """The share (N,) of draws that falls before each sample, by arc length and e^(−sharpness · depth)."""
    arc, loss = found.arc(), (found.loss[1:] + found.loss[:-1]) / 2
    weight = arc * np.exp(sharpness * (loss - found.loss.max()) / np.ptp(found.loss))
    share = (1 - _EXPLORE) * weight / weight.sum() + _EXPLORE * arc / arc.sum()
    return np.append(0.0, share.cumsum())


def _random(like: Tensor, generator: torch.Generator | None) -> tuple[Tensor, float]:
    """Normal numbers shaped like a tensor, and one from [0, 1)."""
    device = generator.device if generator is not None else torch.device("cpu")
    normal = torch.randn(like.shape, generator=generator, dtype=like.dtype, device=device)
    return normal.to(like.device), float(torch.rand((), generator=generator, device=device))

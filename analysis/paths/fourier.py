"""Paths as sums of sines, γ(t) = (1 − t) a + t b + Σ_n b_n sin(nπt): one search that finds the pass, and the published one."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from landscape import InputError
from landscape.held import Held
from landscape.paths import FourierPath, Path

from .curves import sideways
from .heights import Sampled, Survey
from .sine_draws import drawn_sines
from .sine_strings import strings_of_sines

# Six samples for half a wave of the highest mode.
_SAMPLES_A_MODE = 6
# How far n b_n move a step at most, in units of ‖b − a‖: from the straight line, and from a path that is low already.
_FAR, _NEAR = 1e-2, 3e-3


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
    """The highest point of the path is made as low as can be, in two ways, one after the other.

    The first half of the gradients is for a string whose images are joined by as many sines (sine_strings.py). All move down
    across the path at once, by FIRE (relaxing.py), and are set evenly along it again, as in the string method (chains.py), but
    the one nearest the path's top is set there: at rest it is the pass. One image and one sine begin, and more come. So a sweep
    is cheap while the path is far from low, and smooth waves need few images to follow a bent valley.

    The second half moves the lowest of these paths by one gradient at a time, at t drawn near its top (sine_draws.py), which gets
    on where the loss is all cliffs. Gradients of mini-batches are too noisy for the string, so with ``batches`` all are spent so.

    Cost: a sweep of the string is one gradient an image; ``steps`` counts gradients.

    Args:
        modes: how many b_n at most.
    """

    modes: int = 15

    name: ClassVar[str] = "fourier"
    usual_steps: ClassVar[int] = 1000

    def search(
        self, survey: Survey, a: Tensor, b: Tensor, *, steps: int, generator: torch.Generator | None
    ) -> Iterator[Sampled]:
        """Paths in the course of the search, and the last. Ends where the loss is not finite."""
        if survey.batches is not None:
            aside = torch.stack([sideways(a, b, generator) / n for n in range(1, self.modes + 1)])
            yield from drawn_sines(
                survey, FourierPath(a, b, aside), steps=steps, step=_FAR, generator=generator
            )
            return
        half, best = (steps + 1) // 2, None
        for found in strings_of_sines(survey, a, b, self.modes, steps=half, generator=generator):
            best = found if best is None or found.height < best.height else best
            yield found
        if best is not None and half < steps:
            start = self._of_all_modes(best.path)
            yield from drawn_sines(survey, start, steps=steps - half, step=_NEAR, generator=generator)

    def _of_all_modes(self, path: Path) -> FourierPath:
        """A path that was found, with sines that it does not need yet."""
        free = path.path if isinstance(path, Held) else path
        assert isinstance(free, FourierPath)
        more = free.coefficients.new_zeros(self.modes - len(free.coefficients), len(free.a))
        return FourierPath(free.a, free.b, torch.cat([free.coefficients, more]))


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
                coefficients.grad += self.noise * _normal(coefficients, generator)
            adam.step()
        yield survey.sample(kept)


def _normal(like: Tensor, generator: torch.Generator | None) -> Tensor:
    """Normal numbers shaped like a tensor."""
    device = generator.device if generator is not None else torch.device("cpu")
    return torch.randn(like.shape, generator=generator, dtype=like.dtype, device=device).to(like.device)

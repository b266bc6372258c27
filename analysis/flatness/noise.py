"""The loss under Gaussian noise of the parameters: its mean at one σ (LPF), and the σ that a given rise allows (PAC-Bayes)."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from landscape import Family, InputError, Objective, losses
from landscape.parameters import float64_array
from landscape.results import NoiseFlatness, PacBayes

from ..points import draw_normal, one_point

# Draws held at a time.
_CHUNK = 8
# Halvings of log σ after a factor of two: the crossing then lies within 1.1 %, and is interpolated there.
_HALVINGS = 6


def lpf(
    objective: Objective,
    theta: Any,
    *,
    sigma: float = 0.01,
    pairs: int = 32,
    engine: str = "loop",
    generator: torch.Generator | None = None,
    about: Mapping[str, Any] | None = None,
) -> NoiseFlatness:
    """The loss after a low-pass filter, E L(θ + τ) with τ ~ N(0, σ²I), with its standard error.

    Bisla, Wang, Choromanska 2022 (arXiv 2201.08025), with their σ. A sample is the mean over one pair ±τ, which
    leaves the mean unbiased. To second order it is L(θ) + σ² tr ∇²L/2.

    Cost: 2·pairs losses. Memory: a few vectors (P,), see landscape.losses. The error bar is that of a mean of
    independent samples, too small where a few rare draws make most of the mean (large σ).

    Raises:
        InputError: theta is not one point, σ is not positive, or fewer than 2 pairs.
    """
    theta = one_point(objective, theta)
    samples, spent = pair_losses(
        objective, theta, sigma, pairs=pairs, engine=engine, generator=generator, name="sigma"
    )
    return NoiseFlatness(
        measure="lpf", samples=float64_array(samples), scale=sigma, losses=spent, about=dict(about or {})
    )


def pac_bayes_sigma(
    objective: Objective,
    theta: Any,
    *,
    tolerance: float = 0.1,
    bracket: tuple[float, float] = (1e-4, 10.0),
    pairs: int = 16,
    engine: str = "loop",
    generator: torch.Generator | None = None,
    about: Mapping[str, Any] | None = None,
) -> PacBayes:
    """The largest σ up to which E L(θ + N(0, σ²I)) ≤ L(θ) + tolerance, with its standard error.

    The flatness in PAC-Bayes bounds (Neyshabur et al. 2017, arXiv 1706.08947; Jiang et al. 2020, arXiv 1912.02178); σ is
    the standard deviation, not the variance. At a minimum, to second order, σ² = 2·tolerance/tr ∇²L.

    The same normal draws z serve all σ, so the mean rise is one function of σ: it is followed upwards from the lower end of
    the bracket in factors of two until it exceeds the tolerance, and that interval is bisected in log σ. So this is the
    first crossing, if the rise does not cross and come back within one factor of two. The standard error is that of the
    mean rise there over its slope (delta method); it is too small where a few rare draws make most of the rise.

    Cost: 2·pairs losses a σ, about log₂(σ/bracket[0]) + 7 of them, and one. Memory: a few vectors (P,): draws are made anew
    for every σ.

    Args:
        bracket: the smallest and the largest σ looked at. If the crossing is not between them, ``sigma`` is NaN,
            ``converged`` False, and ``message`` says on which side it lies. Where the loss ceases to be finite there, the
            error is NaN.

    Raises:
        InputError: theta is not one point, tolerance is not positive, the bracket is not ascending, or fewer than 2 pairs.
    """
    theta = one_point(objective, theta)
    _check(tolerance, bracket, pairs)
    generator = generator or torch.Generator(objective.device).manual_seed(int(torch.randint(2**62, ())))
    rise = _Rise(objective, theta, pairs, engine, generator, generator.get_state())
    low, high, message = _first_crossing(rise, tolerance, bracket)
    sigma = stderr = math.nan
    if not message:
        sigma, stderr = _bisected(rise, tolerance, low, high)
        if not math.isfinite(stderr):
            message = f"the loss is not finite just above σ = {sigma:.3g}, so that σ has no error bar."
    order = np.argsort(rise.sigmas)
    return PacBayes(
        sigma=sigma,
        stderr=stderr,
        tolerance=tolerance,
        sigmas=np.array(rise.sigmas)[order],
        rises=np.array([samples.mean() for samples in rise.samples])[order],
        losses=rise.losses,
        converged=not message,
        message=message,
        about=dict(about or {}),
    )


def pair_losses(
    objective: Objective,
    theta: Tensor,
    sigma: float,
    *,
    pairs: int,
    scale: Tensor | float = 1.0,
    engine: str = "loop",
    generator: torch.Generator | None = None,
    name: str = "rho",
) -> tuple[Tensor, int]:
    """½[L(θ + σTz) + L(θ − σTz)] for ``pairs`` normal draws z, (pairs,), T the diagonal ``scale``; and the losses spent.

    A few draws are held at a time.
    """
    if pairs < 2:
        raise InputError(f"pairs must be at least 2, of which an error bar can be made, got {pairs}.")
    if not 0 < sigma < math.inf:
        raise InputError(f"{name} must be positive and finite, got {sigma}.")
    means = []
    for done in range(0, pairs, _CHUNK):
        count = min(_CHUNK, pairs - done)
        directions = scale * draw_normal(objective, count, generator)
        steps = sigma * torch.eye(count, dtype=objective.dtype, device=objective.device)
        family = Family(theta, directions, torch.cat([steps, -steps]))
        values, _ = losses(objective, family, engine=engine, count=2 * pairs)
        means.append(values.reshape(2, count).double().mean(0))
    return torch.cat(means), 2 * pairs


@dataclass(eq=False)
class _Rise:
    """σ -> the rises ½[L(θ+σz) + L(θ−σz)] − L(θ) (pairs,) of always the same draws z, each σ evaluated once."""

    objective: Objective
    theta: Tensor
    pairs: int
    engine: str
    generator: torch.Generator
    state: Tensor

    def __post_init__(self) -> None:
        self.loss = float(self.objective(self.theta))
        self.losses, self.sigmas, self.samples = 1, [], []

    def __call__(self, sigma: float) -> float:
        self.generator.set_state(self.state)
        values, spent = pair_losses(
            self.objective,
            self.theta,
            sigma,
            pairs=self.pairs,
            engine=self.engine,
            generator=self.generator,
        )
        samples = float64_array(values) - self.loss
        self.losses += spent
        self.sigmas.append(sigma)
        self.samples.append(samples)
        mean = float(samples.mean())
        return mean if math.isfinite(mean) else math.inf

    def at(self, sigma: float) -> np.ndarray:
        return self.samples[self.sigmas.index(sigma)]


def _first_crossing(rise: _Rise, tolerance: float, bracket: tuple[float, float]) -> tuple[float, float, str]:
    """Neighbouring σ of which the first rises by no more than the tolerance and the second by more; or why there are none."""
    low, last = bracket
    nowhere = math.nan, math.nan
    if not math.isfinite(rise.loss):
        return *nowhere, "the loss is not finite at theta itself."
    if rise(low) > tolerance:
        too_high = f"the loss rises by more than {tolerance:g} already at σ = {low:g}"
        return *nowhere, f"{too_high}; lower the bracket."
    while low < last:
        high = min(2 * low, last)
        if rise(high) > tolerance:
            return low, high, ""
        low = high
    return *nowhere, f"the loss rises by no more than {tolerance:g} up to σ = {last:g}; raise the bracket."


def _bisected(rise: _Rise, tolerance: float, low: float, high: float) -> tuple[float, float]:
    """(σ, its standard error): the crossing between low and high."""
    for _ in range(_HALVINGS):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if rise(middle) > tolerance else (middle, high)
    below, above = rise.at(low), rise.at(high)
    if not np.isfinite(above).all():
        return low, math.nan
    slope = (above.mean() - below.mean()) / math.log(high / low)  # of the rise in log σ
    share = (tolerance - below.mean()) / (above.mean() - below.mean())
    sigma = low * (high / low) ** share
    samples = below + share * (above - below)
    stderr = sigma * samples.std(ddof=1) / math.sqrt(len(samples)) / slope
    return float(sigma), float(stderr)


def _check(tolerance: float, bracket: tuple[float, float], pairs: int) -> None:
    if not 0 < tolerance < math.inf:
        raise InputError(f"tolerance must be a positive rise of the loss, got {tolerance}.")
    if not 0 < bracket[0] < bracket[1] < math.inf:
        raise InputError(f"bracket must be two ascending positive numbers (low, high), got {bracket}.")
    if pairs < 2:
        raise InputError(f"pairs must be at least 2, of which an error bar can be made, got {pairs}.")

"""The settings with which the theorems of "How to Escape Sharp Minima" hold (Ahn, Jadbabaie, Sra; arXiv 2305.15659)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from landscape import InputError

from .contract import check_count


@dataclass(frozen=True)
class FlatSettings:
    """η, ρ, ε₀ and η′ of an algorithm, and the number of steps T after which it is done."""

    lr: float
    rho: float
    gate: float
    descent_lr: float
    steps: int

    @property
    def arguments(self) -> dict[str, Any]:
        """What the optimizer takes: ``SmoothedPerturbation(params, **settings.arguments)``."""
        return {"lr": self.lr, "rho": self.rho, "gate": self.gate, "descent_lr": self.descent_lr}


def smoothed_settings(*, epsilon: float, delta: float, smoothness: float) -> FlatSettings:
    """The settings of SmoothedPerturbation that end at an (ε, √ε)-flat minimum with probability 1 − O(δ) (Theorem 1):

        η = δε,  ρ = δ√ε,  ε₀ = δ^1.5 ε,  η′ = 1/β,  T = ε⁻³ δ⁻⁴

    The theorem gives orders only; every constant is 1 here. A start for a search, not a tuned choice.

    Args:
        epsilon: ε, the accuracy; (ε, √ε)-flat is within ε of a minimum at which the trace per parameter has a slope of
            at most √ε along the valley.
        delta: δ, in the probability.
        smoothness: β, the largest curvature (the gradient's Lipschitz constant).
    """
    _check_shares(epsilon=epsilon, delta=delta, smoothness=smoothness)
    return FlatSettings(
        lr=delta * epsilon,
        rho=delta * math.sqrt(epsilon),
        gate=delta**1.5 * epsilon,
        descent_lr=1 / smoothness,
        steps=_ceil(epsilon**-3 * delta**-4),
    )


def sharpness_aware_settings(*, epsilon: float, delta: float, smoothness: float, dim: int) -> FlatSettings:
    """The settings of SharpnessAwarePerturbation with one example, for the same end (Theorem 2): with ν = min(d, ε^(−1/3)),

        η = νδε,  ρ = νδ√ε,  ε₀ = ν^1.5 δ^1.5 ε,  η′ = 1/β,  T = d⁻¹ ε⁻² max(1, 1/(d³ε)) δ⁻⁴

    and then plain gradient descent down to the valley's floor. Every constant is 1, as in smoothed_settings.

    Args:
        epsilon, delta, smoothness: as in smoothed_settings.
        dim: d, the number of parameters.
    """
    _check_shares(epsilon=epsilon, delta=delta, smoothness=smoothness)
    check_count("dim", dim)
    nu = min(dim, epsilon ** (-1 / 3))
    return FlatSettings(
        lr=nu * delta * epsilon,
        rho=nu * delta * math.sqrt(epsilon),
        gate=(nu * delta) ** 1.5 * epsilon,
        descent_lr=1 / smoothness,
        steps=_ceil(epsilon**-2 / dim * max(1.0, 1 / (dim**3 * epsilon)) * delta**-4),
    )


def _check_shares(*, epsilon: float, delta: float, smoothness: float) -> None:
    for name, value in {"epsilon": epsilon, "delta": delta}.items():
        if not 0 < value < 1:
            raise InputError(f"{name} must be in (0, 1), got {value}.")
    if not 0 < smoothness < math.inf:
        raise InputError(f"smoothness, the largest curvature, must be in (0, inf), got {smoothness}.")


def _ceil(steps: float) -> int:
    # 0.1**-3 is 999.9999999999998 and 0.2**-4 is 624.9999999999999
    return math.ceil(round(steps, 6))

"""What every line search here takes and gives: φ(α) along a direction, and where it ended."""

from __future__ import annotations

import math
from dataclasses import dataclass

from landscape import InputError


@dataclass(frozen=True)
class SearchResult:
    """Where a line search ended: φ(alpha) = value (inf if not finite), after how many evaluations, and why there."""

    alpha: float
    value: float
    evaluations: int
    message: str


def check_search(start: float, step: float, max_evaluations: int) -> None:
    """InputError unless φ(0) is finite, the first step positive, and there is an evaluation to spend."""
    if not math.isfinite(start):
        raise InputError(
            f"start, the value φ(0), must be finite, got {start}; begin where the loss is defined."
        )
    check_positive("step", step)
    if max_evaluations < 1:
        raise InputError(f"max_evaluations must be at least 1, got {max_evaluations}.")


def check_positive(name: str, value: float) -> None:
    """InputError unless 0 < value < ∞."""
    if not 0 < value < math.inf:
        raise InputError(f"{name} must be a positive number, got {value}.")

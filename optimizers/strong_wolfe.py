"""Strong-Wolfe line search: a step length from values and slopes of φ(α).

Nocedal and Wright, Numerical Optimization (2nd ed.), Algorithms 3.5 and 3.6 with cubic interpolation (3.59), as one
loop. It is our own although scipy.optimize.line_search takes as few evaluations (2 % more on the standard functions of
the tests), since that does not fit inside a training step: it says by a warning that it failed, and silencing that
makes Python forget which warnings of the user's model it has shown, so that they come again at every step; and it
gives up after ten interpolations, however many evaluations it may spend.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import NamedTuple

from landscape import InputError

from .line_search import SearchResult, check_search

STEP_GROWTH = (2.0, 10.0)  # the next trial, while φ is falling steeply, in units of the last
EDGE = 0.1  # a trial keeps this share of the bracket away from its ends


def strong_wolfe_search(
    phi: Callable[[float], tuple[float, float]],
    start: tuple[float, float],
    *,
    step: float = 1.0,
    max_evaluations: int = 20,
    decrease: float = 1e-4,
    curvature: float = 0.9,
) -> SearchResult:
    """A step length α > 0 with φ(α) ≤ φ(0) + c₁ α φ′(0) and |φ′(α)| ≤ c₂ |φ′(0)|, given start = (φ(0), φ′(0)).

    The first trial is ``step``. While φ falls steeply, trials go on to 2 to 10 times the last, where the cubic through
    the last two points has its minimum; once a minimum is enclosed, they go there within the bracket. Where φ or φ′
    is NaN or infinite, φ counts as infinite. If the evaluations run out, or what is left to gain in the bracket is
    below the rounding of φ, the lowest trial with sufficient decrease (the first condition) is returned: α = 0 if
    there is none. Cost: at most max_evaluations of (φ, φ′); the step of a quasi-Newton direction mostly takes one.

    Args:
        phi: α -> (φ, φ′).
        step: the first trial.
        decrease, curvature: c₁ and c₂, 0 < c₁ < c₂ < 1; the defaults are those of quasi-Newton methods.

    Raises:
        InputError: start not finite, step not positive, max_evaluations < 1, or c₁ and c₂ out of order.
    """
    origin = _Point(0.0, *start)
    check_search(origin.value, step, max_evaluations)
    if not 0 < decrease < curvature < 1:
        raise InputError(
            f"decrease and curvature must satisfy 0 < decrease < curvature < 1, got {decrease} and {curvature}."
        )
    if not -math.inf < origin.slope < 0:
        return SearchResult(0.0, origin.value, 0, "φ does not fall at 0")
    # low: the lowest point with sufficient decrease so far. A minimum lies between it and high, once there is one.
    before, low, high, alpha, count = origin, origin, None, step, 0
    message = "the evaluations ran out"
    while count < max_evaluations:
        new, count = _evaluated(phi, alpha), count + 1
        if new.value > origin.value + decrease * new.alpha * origin.slope or new.value >= low.value:
            high = new
        elif abs(new.slope) <= -curvature * origin.slope:
            return SearchResult(new.alpha, new.value, count, "the strong Wolfe conditions hold")
        else:
            towards_high = 1 if high is None or high.alpha > low.alpha else -1
            before, low, high = low, new, low if new.slope * towards_high >= 0 else high
        if high is None:
            alpha = _extrapolated(before, low)
        elif _below_rounding(low, high):
            message = "what is left to gain is below the rounding of φ"
            break
        else:
            alpha = _interpolated(low, high)
    return SearchResult(low.alpha, low.value, count, message)


class _Point(NamedTuple):
    alpha: float
    value: float
    slope: float


def _evaluated(phi: Callable[[float], tuple[float, float]], alpha: float) -> _Point:
    value, slope = phi(alpha)
    finite = math.isfinite(value) and math.isfinite(slope)
    return _Point(alpha, float(value), float(slope)) if finite else _Point(alpha, math.inf, math.inf)


def _extrapolated(before: _Point, last: _Point) -> float:
    shortest, longest = (growth * last.alpha for growth in STEP_GROWTH)
    minimum = _cubic_minimum(before, last)
    return longest if minimum is None else min(max(minimum, shortest), longest)


def _interpolated(low: _Point, high: _Point) -> float:
    """Where to look inside a bracket: the minimum of the cubic, off the ends; the middle if φ(high) is infinite."""
    minimum = _cubic_minimum(low, high)
    if minimum is None:
        return (low.alpha + high.alpha) / 2
    left, right = sorted((low.alpha, high.alpha))
    margin = EDGE * (right - left)
    return min(max(minimum, left + margin), right - margin)


def _cubic_minimum(a: _Point, b: _Point) -> float | None:
    """The minimum of the cubic with the values and slopes of two points (Nocedal and Wright, 3.59); None if there is none."""
    d1 = a.slope + b.slope - 3 * (a.value - b.value) / (a.alpha - b.alpha)
    square = d1 * d1 - a.slope * b.slope
    if not 0 <= square < math.inf:
        return None
    d2 = math.copysign(math.sqrt(square), b.alpha - a.alpha)
    divisor = b.slope - a.slope + 2 * d2
    if divisor == 0:
        return None
    return b.alpha - (b.alpha - a.alpha) * (b.slope + d2 - d1) / divisor


def _below_rounding(low: _Point, high: _Point) -> bool:
    gain = abs(low.slope * (high.alpha - low.alpha))
    return gain <= sys.float_info.epsilon * abs(low.value)

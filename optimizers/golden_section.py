"""Golden-section line search: a low point of φ(α), found from values of φ alone.

The search of L-BFGS-GSS (Yu and Morozov, arXiv 2602.21276, and their code): bracket a minimum with the trial
steps 0.2, 0.8, 1.6, 3.2, or by shrinking the first one, then narrow the bracket by golden sections.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

from .line_search import SearchResult, check_positive, check_search

TRIALS = (0.2, 0.8, 1.6, 3.2)
GOLDEN = (
    0.382  # 1 − 1/golden ratio: the share cut off at a section; a first step that is too long shrinks to it
)


def golden_section_search(
    phi: Callable[[float], float],
    start: float,
    *,
    step: float = 1.0,
    max_evaluations: int = 6,
    tolerance: float = 1e-4,
) -> SearchResult:
    """A step length α > 0 with low φ(α), given start = φ(0).

    1. φ(0.2) < φ(0): go on to 0.8, 1.6, 3.2 until φ rises. Otherwise: shrink α by 0.382 until φ(α) < φ(0).
    2. Inside the bracket found, cut the larger side at the golden section and keep the lower part, until
       |b−a| or |φ(b)−φ(a)| is below the tolerance.

    The trials of 1 are in units of ``step``. The tolerance is absolute, as in the paper: once φ varies by less
    than it, or the bracket's ends are level, a search ends with its bracket. L-BFGS still comes down to 1e-18 so,
    since the trial 0.8 is near its natural step of 1. Where φ is NaN or infinite it counts as worse than anywhere
    else. If the evaluations run out in shrinking, the last trial is returned although it lies above φ(0), as in
    the paper: compare value with start. Cost: at most max_evaluations of φ.

    Raises:
        InputError: start not finite, step or tolerance not positive, max_evaluations < 1.
    """
    check_search(start, step, max_evaluations)
    check_positive("tolerance", tolerance)
    trial = _Trials(phi, max_evaluations)
    bracket, message = _bracket(trial, start, step)
    if bracket.high is not None:
        bracket, message = _narrowed(trial, bracket.low, bracket.mid, bracket.high, tolerance)
    alpha, value = bracket.mid
    return SearchResult(alpha, value, trial.count, message)


class _Point(NamedTuple):
    alpha: float
    value: float


class _Bracket(NamedTuple):
    """low.alpha < mid.alpha < high.alpha with mid the lowest; without high, mid is as far as the search came."""

    low: _Point
    mid: _Point
    high: _Point | None


class _Trials:
    """φ, counted; not-finite values are inf."""

    def __init__(self, phi: Callable[[float], float], budget: int) -> None:
        self.phi, self.budget, self.count = phi, budget, 0

    def __call__(self, alpha: float) -> _Point:
        self.count += 1
        value = float(self.phi(alpha))
        return _Point(alpha, value if math.isfinite(value) else math.inf)

    @property
    def spent(self) -> bool:
        return self.count >= self.budget


def _bracket(trial: _Trials, start: float, step: float) -> tuple[_Bracket, str]:
    origin = _Point(0.0, start)
    first = trial(TRIALS[0] * step)
    if not first.value < start:
        return _shrunk(trial, origin, first)
    low, mid = origin, first
    for multiple in TRIALS[1:]:
        if trial.spent:
            return _Bracket(low, mid, None), "the evaluations ran out while φ was falling"
        further = trial(multiple * step)
        if not further.value < mid.value:
            return _Bracket(low, mid, further), ""
        low, mid = mid, further
    return _Bracket(low, mid, None), "φ was still falling at the longest trial"


def _shrunk(trial: _Trials, origin: _Point, first: _Point) -> tuple[_Bracket, str]:
    high = first
    while not trial.spent:
        shorter = trial(GOLDEN * high.alpha)
        if shorter.value < origin.value:
            return _Bracket(origin, shorter, high), ""
        high = shorter
    return _Bracket(origin, high, None), "no trial lies below φ(0)"


def _narrowed(
    trial: _Trials, low: _Point, mid: _Point, high: _Point, tolerance: float
) -> tuple[_Bracket, str]:
    while high.alpha - low.alpha >= tolerance and abs(high.value - low.value) >= tolerance:
        if trial.spent:
            return _Bracket(low, mid, high), "the evaluations ran out inside the bracket"
        upward = high.alpha - mid.alpha > mid.alpha - low.alpha
        new = trial(mid.alpha + GOLDEN * ((high if upward else low).alpha - mid.alpha))
        if new.value < mid.value:
            low, mid, high = (mid, new, high) if upward else (low, new, mid)
        else:
            low, high = (low, new) if upward else (new, high)
    return _Bracket(low, mid, high), "the bracket is within the tolerance"

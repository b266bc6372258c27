"""The strong-Wolfe search against its conditions, the functions of Moré and Thuente, and SciPy's search."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.optimize import line_search
from standard_functions import STANDARD

from landscape import InputError
from optimizers import lbfgs
from optimizers.line_search import SearchResult
from optimizers.strong_wolfe import strong_wolfe_search

Phi = Callable[[float], tuple[float, float]]


def searched(phi: Phi, **settings: Any) -> tuple[SearchResult, list[float]]:
    """The result and the α that were tried, which it counts right and comes from."""
    tried: list[float] = []

    def recorded(alpha: float) -> tuple[float, float]:
        tried.append(alpha)
        return phi(alpha)

    result = strong_wolfe_search(recorded, phi(0.0), **settings)
    assert result.evaluations == len(tried) <= settings.get("max_evaluations", 20)
    assert result.alpha in [0.0, *tried]
    assert result.value == phi(result.alpha)[0]
    return result, tried


def sufficient(phi: Phi, alpha: float, c1: float = 1e-4) -> bool:
    value, slope = phi(0.0)
    return phi(alpha)[0] <= value + c1 * alpha * slope


def strong_wolfe(phi: Phi, alpha: float, c1: float = 1e-4, c2: float = 0.9) -> bool:
    return sufficient(phi, alpha, c1) and abs(phi(alpha)[1]) <= -c2 * phi(0.0)[1]


def parabola(minimum: float) -> Phi:
    return lambda alpha: ((alpha - minimum) ** 2, 2 * (alpha - minimum))


# Moré and Thuente (ACM TOMS 20, 1994), functions (5.1) to (5.4)


def rational(alpha: float, beta: float = 2.0) -> tuple[float, float]:
    return -alpha / (alpha**2 + beta), (alpha**2 - beta) / (alpha**2 + beta) ** 2


def fifth_power(alpha: float, beta: float = 0.004) -> tuple[float, float]:
    a = alpha + beta
    return a**5 - 2 * a**4, 5 * a**4 - 8 * a**3


def oscillating(alpha: float, beta: float = 0.01, waves: float = 39.0) -> tuple[float, float]:
    if alpha <= 1 - beta:
        kink, slope = 1 - alpha, -1.0
    elif alpha >= 1 + beta:
        kink, slope = alpha - 1, 1.0
    else:
        kink, slope = (alpha - 1) ** 2 / (2 * beta) + beta / 2, (alpha - 1) / beta
    phase = waves * math.pi / 2
    wave = 2 * (1 - beta) / (waves * math.pi) * math.sin(phase * alpha)
    return kink + wave, slope + (1 - beta) * math.cos(phase * alpha)


def yanai(alpha: float, beta1: float, beta2: float) -> tuple[float, float]:
    gammas = [math.sqrt(1 + beta**2) - beta for beta in (beta1, beta2)]
    left, right = math.hypot(1 - alpha, beta2), math.hypot(alpha, beta1)
    return gammas[0] * left + gammas[1] * right, gammas[0] * (alpha - 1) / left + gammas[1] * alpha / right


# With the c₁ and c₂ of the paper's tables; but in (5.2) a c₂ of 0.1 asks for a slope of 5e-8, which the values, rounded,
# cannot tell from others.
CASES: dict[str, tuple[Phi, float, float]] = {
    "5.1": (rational, 1e-3, 0.1),
    "5.2": (fifth_power, 0.1, 0.9),
    "5.3": (oscillating, 0.1, 0.1 + 1e-12),
    "5.4": (lambda alpha: yanai(alpha, 0.001, 0.001), 1e-3, 1e-3 + 1e-12),
    "5.5": (lambda alpha: yanai(alpha, 0.01, 0.001), 1e-3, 1e-3 + 1e-12),
    "5.6": (lambda alpha: yanai(alpha, 0.001, 0.01), 1e-3, 1e-3 + 1e-12),
}


@pytest.mark.parametrize("step", [1e-3, 1e-1, 10.0, 1e3])
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("strict", [True, False])
def test_the_conditions_hold_on_hard_functions(name: str, step: float, strict: bool) -> None:
    phi, c1, c2 = CASES[name] if strict else (CASES[name][0], 1e-4, 0.9)
    assert phi(1e-7)[0] - phi(-1e-7)[0] == pytest.approx(2e-7 * phi(0)[1], rel=1e-3)  # the slope is right
    result, _ = searched(phi, step=step, decrease=c1, curvature=c2, max_evaluations=40)
    assert result.message == "the strong Wolfe conditions hold"
    assert strong_wolfe(phi, result.alpha, c1, c2)
    # SciPy agrees: from this α as its first trial it goes nowhere else.
    found = line_search(
        lambda x: phi(x[0])[0],
        lambda x: np.array([phi(x[0])[1]]),
        np.zeros(1),
        np.full(1, result.alpha),
        c1=c1,
        c2=c2,
    )
    assert found[:2] == (1.0, 2)


@pytest.mark.parametrize("minimum", [0.1, 0.02, 1e-6])
def test_a_parabola_takes_one_interpolation(minimum: float) -> None:
    """The first trial is too long; the cubic is the parabola, whose minimum is taken unless too near the end."""
    _, tried = searched(parabola(minimum))
    assert tried[:2] == pytest.approx([1.0, max(minimum, 0.1)], rel=1e-9)


def test_a_natural_step_takes_one_evaluation() -> None:
    assert searched(parabola(1.0)) == (SearchResult(1.0, 0.0, 1, "the strong Wolfe conditions hold"), [1.0])


@pytest.mark.parametrize(("minimum", "second"), [(1.5, 2.0), (5.0, 5.0), (50.0, 10.0)])
def test_while_it_falls_steeply_steps_grow_to_the_cubics_minimum(minimum: float, second: float) -> None:
    _, tried = searched(parabola(minimum), curvature=0.01)
    assert tried[:2] == pytest.approx([1.0, second])


def test_where_there_is_no_minimum_the_evaluations_run_out_far_away() -> None:
    result, tried = searched(lambda alpha: (-alpha, -1.0), max_evaluations=5)
    assert tried == pytest.approx([1, 10, 100, 1000, 10000])
    assert result == SearchResult(tried[-1], -tried[-1], 5, "the evaluations ran out")


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("what", ["value", "slope"])
@pytest.mark.parametrize("wall", [0.7, 1e-3])
def test_values_that_are_not_finite_are_worse_than_any(bad: float, what: str, wall: float) -> None:
    inside = parabola(0.8 * wall)

    def phi(alpha: float) -> tuple[float, float]:
        value, slope = inside(alpha)
        if alpha < wall:
            return value, slope
        return (bad, slope) if what == "value" else (value, bad)

    result, tried = searched(phi)
    assert max(tried) == 1
    assert 0 < result.alpha < wall
    assert strong_wolfe(phi, result.alpha)


@pytest.mark.parametrize("budget", range(1, 9))
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("step", [1e-3, 10.0])
def test_a_spent_budget_gives_the_lowest_trial_with_sufficient_decrease(
    name: str, step: float, budget: int
) -> None:
    phi = CASES[name][0]
    result, tried = searched(phi, step=step, max_evaluations=budget, curvature=1e-4 + 1e-12)
    good = [alpha for alpha in [0.0, *tried] if sufficient(phi, alpha)]
    if result.message == "the evaluations ran out":
        assert len(tried) == budget
        assert result.value == min(phi(alpha)[0] for alpha in good)


def test_nothing_is_gained_below_the_rounding_of_the_values() -> None:
    """1 + α² − 1e-20 α is 1 in double precision where it falls: the search does not go on to ever shorter steps."""
    result, tried = searched(lambda alpha: (1 + (alpha * (alpha - 1e-20)), 2 * alpha - 1e-20))
    assert result == SearchResult(0.0, 1.0, len(tried), "what is left to gain is below the rounding of φ")
    assert len(tried) == 1


@pytest.mark.parametrize("slope", [0.0, 1.0, math.nan, -math.inf])
def test_a_direction_that_does_not_fall_is_given_back(slope: float) -> None:
    found = strong_wolfe_search(lambda alpha: (math.nan, math.nan), (3.0, slope))
    assert found == SearchResult(0.0, 3.0, 0, "φ does not fall at 0")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"start": (math.nan, -1.0)}, "start, the value φ(0), must be finite, got nan"),
        ({"step": math.inf}, "step must be a positive number, got inf."),
        ({"max_evaluations": 0}, "max_evaluations must be at least 1, got 0."),
        ({"decrease": 0.5, "curvature": 0.1}, "0 < decrease < curvature < 1, got 0.5 and 0.1."),
        ({"decrease": 0.0}, "0 < decrease < curvature < 1, got 0.0 and 0.9."),
        ({"curvature": 1.0}, "0 < decrease < curvature < 1, got 0.0001 and 1.0."),
    ],
)
def test_settings_outside_their_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        strong_wolfe_search(lambda alpha: (alpha, 1.0), **{"start": (0.0, -1.0), **settings})
    assert message in str(error.value)


def scipy_evaluations(phi: Phi, start: tuple[float, float], step: float) -> int:
    """How many (φ, φ′) SciPy's search takes, each evaluated once."""
    seen: dict[float, tuple[float, float]] = {0.0: start}

    def at(x: np.ndarray) -> tuple[float, float]:
        return seen.setdefault(float(x[0]), phi(float(x[0])))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        line_search(lambda x: at(x)[0], lambda x: np.array([at(x)[1]]), np.zeros(1), np.full(1, step))
    return len(seen) - 1


def test_it_takes_no_more_evaluations_than_scipys_search(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the searches of L-BFGS on seven standard functions, to a gradient of 1e-6."""
    counts: list[tuple[int, int]] = []

    def both(phi: Phi, start: tuple[float, float], *, step: float, max_evaluations: int) -> SearchResult:
        result = strong_wolfe_search(phi, start, step=step, max_evaluations=max_evaluations)
        counts.append((result.evaluations, scipy_evaluations(phi, start, step)))
        return result

    kind = lbfgs.LineSearch(both, slopes=True, max_evaluations=20, restarts=(1.0,))
    monkeypatch.setitem(lbfgs.LINE_SEARCHES, "strong-wolfe", kind)
    for standard in STANDARD.values():
        x = standard.parameter()
        optimizer = lbfgs.LBFGS([x], line_search="strong-wolfe", iterations=1000, gradient_tolerance=1e-6)
        optimizer.step(standard.closure(x))
        assert optimizer.converged
    ours, scipys = np.array(counts).sum(axis=0)
    assert len(counts) > 500
    assert ours < scipys < 1.1 * ours

"""Intervals: Student's t where it is exact, and coverage by simulation."""

from itertools import combinations

import numpy as np
import pytest
from scipy import stats

from landscape.intervals import mean_interval, pair_mean_interval


def test_the_interval_of_a_mean_is_students():
    values = np.random.default_rng(1).normal(size=9)
    center, low, high = mean_interval(values)
    exact = stats.t.interval(0.95, 8, loc=values.mean(), scale=values.std(ddof=1) / 3)
    assert center == pytest.approx(values.mean())
    np.testing.assert_allclose((low, high), exact, atol=0.06 * (exact[1] - exact[0]))


def test_one_solution_or_one_pair_has_no_interval():
    assert np.isnan(mean_interval(np.array([2.0]))[1:]).all()
    center, low, high = pair_mean_interval(np.array([2.0]), np.array(["a"]), np.array(["b"]))
    assert center == 2.0
    assert np.isnan([low, high]).all()
    assert np.isnan(mean_interval(np.zeros(0))[0])


def pairs(kind: str, n: int, generator: np.random.Generator, noise: float):
    """Values a_i + b_j + noise of pairs within one set (a = b) or across two, whose true mean is 0."""
    a, b = generator.normal(size=(2, n))
    if kind == "within":
        i, j = np.array(list(combinations(range(n), 2))).T
        return a[i] + a[j] + noise * generator.normal(size=len(i)), i, j
    i, j = (index.ravel() for index in np.indices((n, n)))
    return a[i] + b[j] + noise * generator.normal(size=len(i)), i, j + n


@pytest.mark.parametrize("kind", ["within", "across"])
@pytest.mark.parametrize("n", [4, 6])
def test_coverage_of_pairs_that_share_endpoints(kind, n):
    generator = np.random.default_rng(0)
    repeats = 300
    hits = naive = 0
    for r in range(repeats):
        values, i, j = pairs(kind, n, generator, noise=0.3)
        _, low, high = pair_mean_interval(values, i, j, seed=r)
        hits += low <= 0 <= high
        _, low, high = mean_interval(values, seed=r)  # as if pairs were independent
        naive += low <= 0 <= high
    assert hits / repeats >= 0.90
    assert naive < hits - 0.05 * repeats


def test_the_same_seed_gives_the_same_interval():
    values, i, j = pairs("within", 5, np.random.default_rng(3), 1.0)
    assert pair_mean_interval(values, i, j) == pair_mean_interval(values, i, j)

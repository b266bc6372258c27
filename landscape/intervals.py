"""Confidence intervals over solutions, for means of solutions and for means of pairs of them.

Pairs share endpoints, so n solutions hold less information than their n(n−1)/2 pairs suggest. Both kinds of
mean are therefore bootstrapped by drawing *solutions*: a pair counts as often as both its ends were drawn.
"""

from __future__ import annotations

import numpy as np
from scipy import stats

Array = np.ndarray
RESAMPLES = 2000


def mean_interval(values: Array, *, confidence: float = 0.95, seed: int = 0) -> tuple[float, float, float]:
    """(mean, low, high) of one number a solution, values (n,); NaN bounds for fewer than two solutions.

    The bounds are mean ± t·s with s the bootstrap standard error over solutions, times √(n/(n−1)) for its known bias,
    and t Student's quantile with n − 1 degrees of freedom. (The percentile bootstrap covers too little at five seeds.)
    """
    n = len(values)
    weights = _draws(n, seed)
    return _interval(
        float(np.mean(values)) if n else float("nan"), weights @ values / max(n, 1), n, confidence
    )


def pair_mean_interval(
    values: Array, first: Array, second: Array, *, confidence: float = 0.95, seed: int = 0
) -> tuple[float, float, float]:
    """(mean, low, high) of one number a pair, values (m,), with first, second (m,) naming the two solutions.

    As mean_interval, by drawing solutions. Names may come from one set (pairs within an optimizer) or two (pairs
    across): each set is drawn separately, and degrees of freedom are those of the smaller. Coverage of 95 % intervals at
    3 to 8 solutions, simulated: 0.92–0.95 where pairs differ by their ends alone, up to 1 where by themselves alone.
    """
    if len(values) < 2:
        return _interval(float(np.mean(values)) if len(values) else float("nan"), values, 0, confidence)
    ends = [np.unique(first), np.unique(second)]
    if np.isin(ends[0], ends[1]).any():  # one set
        ends = [np.union1d(ends[0], ends[1])] * 2
        counts = [_draws(len(ends[0]), seed)] * 2
    else:
        counts = [_draws(len(e), seed + i) for i, e in enumerate(ends)]
    columns = [np.searchsorted(e, x) for e, x in zip(ends, (first, second), strict=True)]
    weights = counts[0][:, columns[0]] * counts[1][:, columns[1]]
    total = weights.sum(axis=1)
    drawn = total > 0  # a draw of one single solution has no pair
    means = weights[drawn] @ values / total[drawn]
    return _interval(float(np.mean(values)), means, min(len(e) for e in ends), confidence)


def _draws(n: int, seed: int) -> Array:
    """How often each of n solutions was drawn, (RESAMPLES, n)."""
    generator = np.random.default_rng(seed)
    return (
        generator.multinomial(n, np.full(n, 1 / n), size=RESAMPLES).astype(float)
        if n
        else np.zeros((RESAMPLES, 0))
    )


def _interval(center: float, means: Array, n: int, confidence: float) -> tuple[float, float, float]:
    if n < 2 or len(means) < 2:
        return center, float("nan"), float("nan")
    spread = float(np.std(means)) * np.sqrt(n / (n - 1))
    reach = float(stats.t.ppf(0.5 + confidence / 2, n - 1)) * spread
    return center, center - reach, center + reach

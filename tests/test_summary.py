"""Summaries against the same numbers by hand."""

from dataclasses import replace

import numpy as np
import pytest
from fake_comparison import fake_comparison

from landscape.summary import summarize, summarize_pairs


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    return fake_comparison(tmp_path_factory.mktemp("runs"))


def by_hand(records, value, chosen, geometric):
    values = np.array([value(r) for r in records if chosen(r)])
    return np.exp(np.log(values).mean()) if geometric else values.mean()


SOLUTION = {
    "train_loss": (lambda s: s.train_loss, True),
    "validation_loss": (lambda s: s.validation_loss, False),
    "test_loss": (lambda s: s.test_loss, False),
    "test_accuracy": (lambda s: s.test_accuracy, False),
    "norm": (lambda s: np.sqrt((s.theta**2).sum()), False),
    "gradients": (lambda s: s.gradients, False),
}
FLATNESS = {
    "trace": (lambda f: f.trace, True),
    "eigenvalue": (lambda f: f.eigenvalues[0], True),
    "sam_sharpness": (lambda f: f.sam_sharpness, True),
    "adaptive_sharpness": (lambda f: f.adaptive_sharpness, True),
}
CORRIDOR = {
    "kappa": (lambda c: np.nanmedian(c.kappa), False),
    "linearity": (lambda c: np.nanmedian(c.linearity), False),
}


def test_every_metric_of_an_optimizer(comparison):
    summary = summarize(comparison.solutions, comparison.flatness, comparison.corridors)
    sources = [
        (SOLUTION, comparison.solutions),
        (FLATNESS, comparison.flatness),
        (CORRIDOR, comparison.corridors),
    ]
    seen = set()
    for metrics, records in sources:
        for name, (value, geometric) in metrics.items():
            row = summary.metrics.index(name)
            assert summary.scales[row] == ("geometric mean" if geometric else "mean")
            for column, group in enumerate(summary.groups):
                expected = by_hand(records, value, lambda r, g=group: r.label.startswith(f"{g}/"), geometric)
                assert summary.center[row, column] == pytest.approx(expected), name
                assert summary.low[row, column] <= expected <= summary.high[row, column]
            seen.add(name)
    assert seen == set(summary.metrics)


def test_every_metric_of_a_pair(comparison):
    summary = summarize_pairs(comparison.paths, comparison.solutions)
    metrics = {
        "distance": ("linear", lambda p: p.length, False),
        "linear_barrier": ("linear", lambda p: p.barrier, False),
        "barrier": ("fourier", lambda p: p.barrier, False),
        "height": ("fourier", lambda p: p.height, True),
        "settled": ("fourier", lambda p: float(p.converged), False),
    }
    assert set(metrics) == set(summary.metrics)
    for name, (method, value, geometric) in metrics.items():
        for column, group in enumerate(summary.groups):
            a, b = group.split(" – ")

            def chosen(p, a=a, b=b, method=method):
                return p.method == method and p.start.startswith(f"{a}/") and p.end.startswith(f"{b}/")

            expected = by_hand(comparison.paths, value, chosen, geometric)
            assert summary.center[summary.metrics.index(name), column] == pytest.approx(expected), (
                name,
                group,
            )


def test_a_share_has_bounds_from_0_to_1(comparison):
    paths = [replace(p, converged=i % 3 > 0) for i, p in enumerate(comparison.paths)]
    summary = summarize_pairs(paths, comparison.solutions)
    row = summary.metrics.index("settled")
    assert (summary.low[row] == 0).any()
    assert (summary.high[row] == 1).any()
    assert ((summary.low[row] >= 0) & (summary.high[row] <= 1)).all()


@pytest.mark.parametrize("factor", [1, 40])
def test_an_accuracy_is_a_share_but_a_metric_above_1_is_none(comparison, factor):
    accuracies = factor * np.resize([0.6, 1], len(comparison.solutions))
    found = [replace(s, test_accuracy=a) for s, a in zip(comparison.solutions, accuracies, strict=True)]
    summary = summarize(found, comparison.flatness, comparison.corridors)
    high = summary.high[summary.metrics.index("test_accuracy")]
    assert high.max() == 1 if factor == 1 else (high > 1).all()


def test_one_value_that_is_not_positive_makes_it_an_ordinary_mean(comparison):
    flat = [replace(f, trace=-1.0) if i == 0 else f for i, f in enumerate(comparison.flatness)]
    summary = summarize(comparison.solutions, flat, comparison.corridors)
    row = summary.metrics.index("trace")
    assert summary.scales[row] == "mean"
    group = [f.trace for f in flat if f.optimizer == summary.groups[0]]
    assert summary.center[row, 0] == pytest.approx(np.mean(group))

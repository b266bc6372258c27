"""Summaries of a comparison: one number a metric and group, with its interval over solutions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from .intervals import mean_interval, pair_mean_interval
from .results import Corridor, Flatness, PathRecord, Solution, Summary
from .results.corridors import CORRIDOR_KAPPA, CORRIDOR_LINEARITY

Array = np.ndarray
# Metrics that span orders of magnitude are averaged in the logarithm, where all their values are positive.
_GEOMETRIC = {"train_loss", "trace", "eigenvalue", "sam_sharpness", "adaptive_sharpness", "height"}
_NEVER_NEGATIVE = {
    "test_accuracy",
    "norm",
    "kappa",
    "gradients",
    "distance",
    "linear_barrier",
    "barrier",
    "settled",
    "corridor_steps",
    "corridor_longest",
}
_SHARES = {"test_accuracy", "settled", "corridor_steps"}
CONFIDENCE = 0.95


def summarize(
    solutions: Sequence[Solution], flatness: Sequence[Flatness], corridors: Sequence[Corridor]
) -> Summary:
    """Groups are optimizers; corridor measures are medians over the steps of a solution's tail."""
    columns: dict[str, list[float]] = {
        "train_loss": [s.train_loss for s in solutions],
        "validation_loss": [s.validation_loss for s in solutions],
        "test_loss": [s.test_loss for s in solutions],
        "test_accuracy": [s.test_accuracy for s in solutions],
        "trace": [f.trace for f in flatness],
        "eigenvalue": [float(f.eigenvalues[0]) for f in flatness],
        "sam_sharpness": [f.sam_sharpness for f in flatness],
        "adaptive_sharpness": [f.adaptive_sharpness for f in flatness],
        "norm": [s.norm for s in solutions],
        "kappa": [_median(c.kappa) for c in corridors],
        "linearity": [_median(c.linearity) for c in corridors],
        "gradients": [s.gradients for s in solutions],
    }
    groups = np.array([s.optimizer for s in solutions])
    names = tuple(dict.fromkeys(groups.tolist()))

    def interval(values: Array, group: str) -> tuple[float, float, float]:
        return mean_interval(values[groups == group], confidence=CONFIDENCE)

    counts = {name: int((groups == name).sum()) for name in names}
    return _summary(columns, names, interval, counts)


def corridor_table(
    corridors: Sequence[Corridor], *, kappa: float = CORRIDOR_KAPPA, linearity: float = CORRIDOR_LINEARITY
) -> Summary:
    """What part of training was a corridor at these tolerances, by optimizer: means over seeds with their 95 % intervals.

        corridor_steps      the share of the steps that lie in corridors
        corridor_decrease   the share of the fall of the loss that they carry; of runs whose loss fell
        corridor_longest    the steps of the longest
        kappa               the median over rows

    Groups are what stands before the seed in the labels. A run of which a number is NaN is left out of its mean, and
    ``counts`` says how many went in.
    """
    tolerances = {"kappa": kappa, "linearity": linearity}
    columns = {
        "corridor_steps": [c.share_of_steps(**tolerances) for c in corridors],
        "corridor_decrease": [c.share_of_decrease(**tolerances) for c in corridors],
        "corridor_longest": [c.longest(**tolerances) for c in corridors],
        "kappa": [_median(c.kappa) for c in corridors],
    }
    return replace(_of_runs(columns, corridors), about=tolerances)


def change_table(corridors: Sequence[Corridor]) -> Summary:
    """What the loss of whole runs did, told apart: means over seeds with their 95 % intervals, in the units of the loss.

    fall = foretold − change_along − change_beside − change_beyond, each summed over the rows of a run: what the gradient
    foretold, and what curvature took back of it: along the gradient, beside it, and by higher orders; see Corridor.
    """
    columns = {
        "fall": [c.decrease for c in corridors],
        "foretold": [float(-c.slope.sum()) for c in corridors],
        **{
            name: [
                float(np.nansum(getattr(c, name))) for c in corridors
            ]  # where the gradient is 0 they are not told apart
            for name in ("change_along", "change_beside", "change_beyond")
        },
    }
    return _of_runs(columns, corridors)


def _of_runs(columns: dict[str, list[float]], corridors: Sequence[Corridor]) -> Summary:
    """Means over runs, grouped by what stands before the seed in their labels."""
    groups = np.array([c.label.rpartition("/")[0] or c.label for c in corridors], dtype=str)
    names = tuple(dict.fromkeys(groups.tolist()))

    def known(values: Array, group: str) -> Array:
        return values[(groups == group) & np.isfinite(values)]

    def interval(values: Array, group: str) -> tuple[float, float, float]:
        mine = known(values, group)
        return mean_interval(mine, confidence=CONFIDENCE) if mine.size else (np.nan, np.nan, np.nan)

    table = _summary(columns, names, interval, dict.fromkeys(names, 0))
    counts = [[known(np.array(values), name).size for name in names] for values in columns.values()]
    return replace(table, counts=np.array(counts))


def summarize_pairs(paths: Sequence[PathRecord], solutions: Sequence[Solution]) -> Summary:
    """Groups are pairs of optimizers, "sgd – lbfgs"; one value a pair of solutions and method of path."""
    optimizer = {s.label: s.optimizer for s in solutions}
    linear = {(p.start, p.end): p for p in paths if p.method == "linear"}
    curved = {(p.start, p.end): p for p in paths if p.method != "linear"}
    pairs = [pair for pair in linear if pair in curved]
    first, second = (np.array([pair[k] for pair in pairs], dtype=str) for k in (0, 1))
    columns = {
        "distance": [linear[pair].length for pair in pairs],
        "linear_barrier": [linear[pair].barrier for pair in pairs],
        "barrier": [curved[pair].barrier for pair in pairs],
        "height": [curved[pair].height for pair in pairs],
        "settled": [float(curved[pair].converged) for pair in pairs],
    }
    groups = np.array([f"{optimizer[a]} – {optimizer[b]}" for a, b in pairs], dtype=str)
    names = tuple(dict.fromkeys(groups.tolist()))

    def interval(values: Array, group: str) -> tuple[float, float, float]:
        mine = groups == group
        return pair_mean_interval(values[mine], first[mine], second[mine], confidence=CONFIDENCE)

    counts = {name: int((groups == name).sum()) for name in names}
    return _summary(columns, names, interval, counts)


def _summary(
    columns: dict[str, list[float]],
    groups: tuple[str, ...],
    interval: Callable[[Array, str], tuple[float, float, float]],
    counts: dict[str, int],
) -> Summary:
    table = np.full((3, len(columns), len(groups)), np.nan)
    scales = []
    for row, (metric, values) in enumerate(columns.items()):
        column = np.asarray(values, dtype=float)
        geometric = metric in _GEOMETRIC and bool((column > 0).all())
        scales.append("geometric mean" if geometric else "mean")
        for i, group in enumerate(groups):
            bounds = np.array(interval(np.log(column) if geometric else column, group))
            table[:, row, i] = np.exp(bounds) if geometric else bounds
        if metric in _NEVER_NEGATIVE:
            table[1, row] = np.maximum(table[1, row], 0)
        if metric in _SHARES and not (column > 1).any():  # a metric of one's own may be no share
            table[2, row] = np.minimum(table[2, row], 1)
    return Summary(
        metrics=tuple(columns),
        groups=groups,
        scales=tuple(scales),
        center=table[0],
        low=table[1],
        high=table[2],
        counts=np.tile([counts[group] for group in groups], (len(columns), 1)),
        confidence=CONFIDENCE,
    )


def _median(values: Array) -> float:
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if finite.size else float("nan")

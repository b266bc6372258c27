"""Pictures of depth and flatness: every solution, and the group's mean with its interval."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from ..errors import InputError
from ..results import Flatness, Solution, Summary
from .labels import metric as about
from .style import INK, dress, fit_scale, legend, new_axes, optimizer_colors, optimizer_markers, plain

FLATNESS = ("trace", "eigenvalue", "sam_sharpness", "adaptive_sharpness")  # what a report shows
# All of a Flatness record, in the order of tables.
MEASURES = (
    *("trace", "eigenvalue", "frobenius", "sam_sharpness", "adaptive_sharpness", "adaptive_average"),
    *("relative_flatness", "fisher_rao", "adaptive_linf_sharpness", "sam_step", "mean_trace", "lpf"),
    *("pac_bayes_sigma", "epsilon", "epsilon_prime"),
)


def flatness_value(record: Flatness, metric: str) -> tuple[float, float]:
    """(value, error) of one of MEASURES: its standard error, the residual of the top eigenvalue; NaN where there is none."""
    if metric not in MEASURES:
        raise InputError(f"metric must be one of {', '.join(MEASURES)}, got {metric!r}.")
    if metric == "eigenvalue":
        return float(record.eigenvalues[0]), float(record.residuals[0])
    if metric == "mean_trace":
        return record.mean_trace, record.trace_stderr / record.dim
    error = "pac_bayes_stderr" if metric == "pac_bayes_sigma" else f"{metric}_stderr"
    return getattr(record, metric), getattr(record, error, np.nan)


def plot_flatness(
    flatness: Sequence[Flatness],
    ax: Axes | None = None,
    *,
    metric: str = "trace",
    summary: Summary | None = None,
    optimizers: Sequence[str] = (),
    **style: Any,
) -> Axes:
    """Axes with one dot a solution in a column per optimizer, with its error where there is one; beside the dots,
    from ``summary``, the group's mean and interval in black. ``style`` goes to ``Axes.errorbar``."""
    ax = ax or new_axes(4.0, 4.0)
    names = list(dict.fromkeys(f.optimizer for f in flatness))
    colors, markers = optimizer_colors(optimizers or names), optimizer_markers(optimizers or names)
    drawn = []
    for column, name in enumerate(names):
        mine = [flatness_value(f, metric) for f in flatness if f.optimizer == name]
        values, errors = np.array(mine, dtype=float).reshape(-1, 2).T
        x = column - 0.1 + 0.2 * (np.arange(len(mine)) - (len(mine) - 1) / 2) / max(len(mine) - 1, 1)
        look: dict[str, Any] = {
            "markersize": 6,
            "markeredgecolor": "white",
            "markeredgewidth": 0.7,
            "alpha": 0.9,
        } | style
        ax.errorbar(
            x,
            values,
            yerr=np.nan_to_num(errors),
            fmt=markers[name],
            color=colors[name],
            label=plain(name),
            **look,
        )
        drawn.append(values)
        if summary is not None and name in summary.groups and metric in summary.metrics:
            _interval(ax, column + 0.22, summary, metric, name)
    fit_scale(ax, drawn)
    crowded = sum(map(len, names)) > 18
    turn: dict[str, Any] = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"} if crowded else {}
    ax.set_xticks(range(len(names)), [plain(n, 16) for n in names], **turn)
    ax.set_xlim(-0.5, len(names) - 0.5)
    known = about(metric)
    note = {True: "invariant to rescaling", False: "not invariant", None: ""}[known.invariant]
    return dress(ax, ylabel=known.axis, title=note, grid="y")


def plot_spectrum(
    flatness: Sequence[Flatness], ax: Axes | None = None, *, optimizers: Sequence[str] = (), **style: Any
) -> Axes:
    """Axes with the top eigenvalues of ∇²L of every solution, largest first, labelled once an optimizer."""
    own, ax = ax is None, ax or new_axes()
    names = [f.optimizer for f in flatness]
    colors, markers = optimizer_colors(optimizers or names), optimizer_markers(optimizers or names)
    for i, record in enumerate(flatness):
        name = record.optimizer
        look = {
            "linewidth": 0.9,
            "markersize": 4.5,
            "alpha": 0.8,
            "marker": markers[name],
            "color": colors[name],
        } | style
        rank = np.arange(1, len(record.eigenvalues) + 1)
        ax.plot(rank, record.eigenvalues, label=plain(name) if name not in names[:i] else "_", **look)
    fit_scale(ax, [f.eigenvalues for f in flatness])
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    if own:
        legend(ax)
    return dress(ax, xlabel="rank k", ylabel="eigenvalue λₖ of ∇²L (loss / θ²)")


def plot_depth(
    solutions: Sequence[Solution],
    flatness: Sequence[Flatness],
    ax: Axes | None = None,
    *,
    loss: str = "train_loss",
    metric: str = "trace",
    optimizers: Sequence[str] = (),
    **style: Any,
) -> Axes:
    """Axes with a loss of every solution (a field of Solution) against its flatness, matched by label; where both are finite."""
    own, ax = ax is None, ax or new_axes(5.2, 4.2)
    flat = {f.label: flatness_value(f, metric)[0] for f in flatness}
    shown = [s for s in solutions if np.isfinite([flat.get(s.label, np.nan), getattr(s, loss)]).all()]
    names = list(dict.fromkeys(s.optimizer for s in shown))
    colors, markers = optimizer_colors(optimizers or names), optimizer_markers(optimizers or names)
    for name in names:
        mine = [s for s in shown if s.optimizer == name]
        x, y = [flat[s.label] for s in mine], [getattr(s, loss) for s in mine]
        look = {"s": 46, "linewidths": 0.8, "edgecolors": "white", "alpha": 0.9} | style
        ax.scatter(x, y, color=colors[name], marker=markers[name], label=plain(name), **look)
    fit_scale(ax, [np.array([flat[s.label] for s in shown])], axis="x")
    fit_scale(ax, [np.array([getattr(s, loss) for s in shown])])
    if own:
        legend(ax)
    return dress(ax, xlabel=about(metric).axis, ylabel=about(loss).axis)


def _interval(ax: Axes, x: float, summary: Summary, metric: str, group: str) -> None:
    row, column = summary.metrics.index(metric), summary.groups.index(group)
    center, low, high = (float(a[row, column]) for a in (summary.center, summary.low, summary.high))
    ax.plot([x, x], [low, high], color=INK, linewidth=2.2, solid_capstyle="butt", label="_")
    ax.plot([x], [center], marker="_", markersize=13, markeredgewidth=2.2, color=INK, label="_")

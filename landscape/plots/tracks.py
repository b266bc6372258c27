"""Pictures of tracks: a number along training, the mean over seeds with its interval, one line an optimizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from ..errors import InputError
from ..intervals import mean_interval
from ..results import Track
from .style import dress, legend, new_axes, optimizer_colors, optimizer_markers


def plot_track(track: Track, ax: Axes | None = None, *, value: str, **style: Any) -> Axes:
    """Axes with one number along one run; see plot_tracks."""
    return plot_tracks([track], ax, value=value, **style)


def plot_tracks(
    tracks: Sequence[Track],
    ax: Axes | None = None,
    *,
    value: str,
    log: bool = False,
    xlabel: str = "step",
    ylabel: str = "",
    **style: Any,
) -> Axes:
    """Axes with the mean over seeds of ``values[value]`` at each step and its 95 % interval, a line for every label.

    On a log scale the means are geometric. Runs of one label must have been followed at the same steps.
    """
    own, ax = ax is None, ax or new_axes()
    labels = list(dict.fromkeys(track.label for track in tracks))
    colors, markers = optimizer_colors(labels), optimizer_markers(labels)
    for label in labels:
        runs = [track for track in tracks if track.label == label]
        if any(not np.array_equal(run.steps, runs[0].steps) for run in runs):
            raise InputError(
                f"the runs of {label} were followed at different steps; give runs of the same settings."
            )
        mean, low, high = _band(np.stack([run.values[value] for run in runs]), log=log)
        ax.plot(
            runs[0].steps,
            mean,
            **{
                "color": colors[label],
                "marker": markers[label],
                "markersize": 3.5,
                "linewidth": 1.5,
                "label": label,
                "markevery": max(1, len(mean) // 12),
                **style,
            },
        )
        ax.fill_between(runs[0].steps, low, high, color=colors[label], alpha=0.18, linewidth=0)
    if log:
        ax.set_yscale("log")
    if own:
        legend(ax)
    return dress(ax, xlabel=xlabel, ylabel=ylabel or value)


def _band(values: np.ndarray, *, log: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean and bounds (T,) of values (runs, T)."""
    with np.errstate(divide="ignore"):
        columns = [mean_interval(column) for column in (np.log(values) if log else values).T]
    mean, low, high = np.array(columns).T
    return (np.exp(mean), np.exp(low), np.exp(high)) if log else (mean, low, high)

"""Pictures of paths between solutions, and of the barriers on them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm

from ..results import PathRecord
from .style import GRID, INK, MUTED, UNSETTLED, dress, fit_scale, legend, new_axes, optimizer_of, plain

DECADES = 1e6  # between the highest barrier and the lowest colour
# name, colour and line of each method: greys, since colours belong to optimizers
METHODS: dict[str, tuple[str, str, Any]] = {
    "linear": ("straight line", "#A0A0A0", "--"),
    "fourier": ("Fourier path", INK, "-"),
    "fourier-published": ("Fourier path as published", INK, ":"),
    "bezier": ("Bézier curve", MUTED, "-"),
    "polychain": ("polygonal chain", MUTED, "-."),
    "neb": ("nudged elastic band", "#A0A0A0", "-"),
    "autoneb": ("growing elastic band", "#A0A0A0", "-."),
    "string": ("string", "#A0A0A0", ":"),
}


def plot_path(path: PathRecord, ax: Axes | None = None, **style: Any) -> Axes:
    """Axes with the loss along one path, its top marked by a dot. ``style`` goes to ``Axes.plot``."""
    ax = plot_paths([path], ax, **style)
    ax.plot(path.top, path.height, "o", color=METHODS.get(path.method, ("", INK, "-"))[1], label="_")
    return ax


def plot_paths(paths: Sequence[PathRecord], ax: Axes | None = None, **style: Any) -> Axes:
    """Axes with the loss along paths: straight lines dashed and grey, others solid; labelled once a method.

    An open circle marks the top of a path whose search has not settled: it may be lower. ``style`` goes to ``Axes.plot``.
    """
    own, ax = ax is None, ax or new_axes()
    methods = [p.method for p in paths]
    for i, path in enumerate(paths):
        name, color, line = METHODS.get(path.method, (path.method, INK, "-."))
        look = {"color": color, "linestyle": line, "linewidth": 1.0, "alpha": 0.7} | style
        ax.plot(path.t, path.loss, label=plain(name) if path.method not in methods[:i] else "_", **look)
    if open_ := [
        (path.top, path.height) for path in paths if not path.converged and np.isfinite(path.height)
    ]:
        ax.scatter(*np.transpose(open_), label="search not settled", **UNSETTLED)
    fit_scale(ax, [p.loss for p in paths])
    if own:
        legend(ax)
    return dress(ax, xlabel="position t along the path", ylabel="train loss")


def plot_barriers(
    paths: Sequence[PathRecord],
    ax: Axes | None = None,
    *,
    labels: Sequence[str] = (),
    methods: tuple[str, str] = ("linear", "fourier"),
    **style: Any,
) -> Axes:
    """Axes with a matrix of barriers between solutions: ``methods[0]`` above the diagonal, ``methods[1]`` below it.

    ``labels`` (optimizer/seed) order rows and columns; by default as the paths name them. Colours are logarithmic over
    at most six decades; what lies below, zero included, takes the lowest colour. A pair without a path stays grey.
    ``style`` goes to ``imshow``.
    """
    ax = ax or new_axes(6.6, 5.6)
    labels = tuple(labels) or tuple(dict.fromkeys(end for p in paths for end in (p.start, p.end)))
    matrix = barrier_matrix(paths, labels=labels, methods=methods)
    positive = matrix[np.isfinite(matrix) & (matrix > 0)]
    low, high = (positive.min(), positive.max()) if positive.size else (0.1, 1.0)
    low = max(low, high / DECADES)
    norm = LogNorm(low, high if high > low else 1.01 * low)
    look = {"cmap": "magma_r", "norm": norm, "interpolation": "nearest"} | style
    ax.set_facecolor(GRID)
    image = ax.imshow(np.where(matrix < low, low, matrix), **look)
    _blocks(ax, labels)
    figure = ax.get_figure(root=True)
    if figure is not None:
        bar = figure.colorbar(
            image, ax=ax, shrink=0.85, pad=0.02, extend="min" if (matrix < low).any() else "neither"
        )
        bar.set_label("barrier (loss above the higher end, logarithmic)", fontsize=9.5)
        bar.ax.tick_params(labelsize=9)
    above, below = (METHODS.get(m, (m, "", ""))[0] for m in methods)
    return dress(ax, title=plain(f"above the diagonal: {above}; below: {below}", 80), grid="none")


def barrier_matrix(
    paths: Sequence[PathRecord], *, labels: Sequence[str], methods: tuple[str, str] = ("linear", "fourier")
) -> np.ndarray:
    """Barriers (n, n) in the order of ``labels``: of ``methods[0]`` above the diagonal, ``methods[1]`` below, else NaN."""
    place = {label: i for i, label in enumerate(labels)}
    matrix = np.full((len(labels), len(labels)), np.nan)
    for path in paths:
        if path.method in methods and path.start in place and path.end in place:
            first, last = sorted((place[path.start], place[path.end]))
            above = path.method == methods[0]
            matrix[(first, last) if above else (last, first)] = path.barrier
    return matrix


def _blocks(ax: Axes, labels: Sequence[str]) -> None:
    """Optimizer names at their blocks, seeds at their rows, and a line between blocks."""
    names = [optimizer_of(label) for label in labels]
    seeds = [label.rpartition("/")[2] for label in labels]
    ax.set_xticks(range(len(labels)), seeds, fontsize=8)
    ax.set_yticks(range(len(labels)), seeds, fontsize=8)
    ax.tick_params(length=0)
    for i in range(1, len(names)):
        if names[i] != names[i - 1]:
            ax.axhline(i - 0.5, color="white", linewidth=2.5)
            ax.axvline(i - 0.5, color="white", linewidth=2.5)
    for name in dict.fromkeys(names):
        middle = float(np.mean([i for i, n in enumerate(names) if n == name]))
        look: dict[str, Any] = {
            "fontsize": 10,
            "color": INK,
            "annotation_clip": False,
            "textcoords": "offset points",
        }
        ax.annotate(
            plain(name, 20),
            (middle, len(names) - 0.5),
            xytext=(0, -20),
            ha="center",
            va="top",
            xycoords="data",
            **look,
        )
        ax.annotate(
            plain(name, 20),
            (-0.5, middle),
            xytext=(-20, 0),
            ha="right",
            va="center",
            xycoords="data",
            rotation=90,
            **look,
        )
    ax.text(-0.5, len(names) - 0.3, "seed", fontsize=8, color=MUTED, ha="right", va="top")

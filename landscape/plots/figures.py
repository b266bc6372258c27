"""All pictures of a comparison, drawn from its records, and saved."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ..comparison import Comparison
from ..records import atomic_file
from ..results import PathRecord
from .embeddings import plot_embedding, plot_embedding_control
from .flatness import FLATNESS, plot_depth, plot_flatness, plot_spectrum
from .network import plot_disconnectivity
from .paths import METHODS, plot_barriers, plot_paths
from .runs import plot_corridors, plot_curves
from .scans import log_levels, loss_bar, plot_profiles, plot_surface
from .style import fit_scale, optimizer_colors, optimizer_markers, optimizer_of, plain

WIDTH = 9.6  # inches: 100 % of the report's column, so that text is as large as the page's


def comparison_figures(comparison: Comparison) -> dict[str, Figure]:
    """Figures by name, in the order in which a report shows them; one whose records are missing is left out."""
    figures = {name: draw(comparison) for name, draw in _FIGURES.items()}
    return {name: figure for name, figure in figures.items() if figure is not None}


def figure_bytes(figure: Figure, kind: str = "svg") -> bytes:
    """The figure as a "svg" or "png" (150 dpi) file; the same figure gives the same bytes, on any day."""
    metadata = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "torch-landscape", "svg.fonttype": "path"}):
        figure.savefig(buffer, format=kind, dpi=150, metadata=metadata)
    return buffer.getvalue()


def save_figures(figures: Mapping[str, Figure], directory: str | os.PathLike[str]) -> list[Path]:
    """The paths of NAME.png and NAME.svg for every figure, each written atomically and the same every time."""
    paths = []
    for name, figure in figures.items():
        for kind in ("png", "svg"):
            paths.append(Path(directory) / f"{name}.{kind}")
            content = figure_bytes(figure, kind)
            with atomic_file(paths[-1]) as handle:
                handle.write(content)
    return paths


def save_axes(axes: Axes, path: str | os.PathLike[str]) -> list[Path]:
    """PATH.png and PATH.svg of the figure that axes are in."""
    return save_figures({Path(path).name: cast(Figure, axes.get_figure(root=True))}, Path(path).parent)


def pair_groups(comparison: Comparison) -> dict[str, list[PathRecord]]:
    """Paths by the optimizers they join, "sgd – lbfgs", in the order of the comparison's optimizers."""
    order = comparison.optimizers
    keys = [f"{a} – {b}" for i, a in enumerate(order) for b in order[i:]]
    groups: dict[str, list[PathRecord]] = {key: [] for key in keys}
    for path in comparison.paths:
        ends = [optimizer_of(path.start), optimizer_of(path.end)]
        a, b = sorted(ends, key=lambda name: order.index(name) if name in order else len(order))
        groups.setdefault(f"{a} – {b}", []).append(path)
    return {key: paths for key, paths in groups.items() if paths}


def _curves(comparison: Comparison) -> Figure | None:
    shown = [s for s in comparison.solutions if s.curve_epoch.size]
    if not shown:
        return None
    figure = _figure(3.6)
    left, right = figure.subplots(1, 2)
    plot_curves(shown, left, optimizers=comparison.optimizers)
    plot_curves(shown, right, part="validation", optimizers=comparison.optimizers)
    _legend(figure, comparison, markers=False)
    return figure


def _flatness(comparison: Comparison) -> Figure | None:
    if not comparison.flatness:
        return None
    figure = _figure(3.7)
    for ax, metric in zip(figure.subplots(1, len(FLATNESS)), FLATNESS, strict=True):
        plot_flatness(
            comparison.flatness,
            ax,
            metric=metric,
            summary=comparison.summary,
            optimizers=comparison.optimizers,
        )
    return figure


def _spectrum(comparison: Comparison) -> Figure | None:
    if not any(f.eigenvalues.size > 1 for f in comparison.flatness):
        return None
    figure = _figure(3.5)
    plot_spectrum(comparison.flatness, figure.subplots(), optimizers=comparison.optimizers)
    _legend(figure, comparison)
    return figure


def _depth(comparison: Comparison) -> Figure | None:
    if not comparison.flatness:
        return None
    figure = _figure(3.8)
    losses = [
        n
        for n in ("train_loss", "test_loss")
        if any(np.isfinite(getattr(s, n)) for s in comparison.solutions)
    ]
    if not losses:
        return None
    for ax, loss in zip(figure.subplots(1, len(losses), squeeze=False)[0], losses, strict=True):
        plot_depth(comparison.solutions, comparison.flatness, ax, loss=loss, optimizers=comparison.optimizers)
    _legend(figure, comparison)
    return figure


def _barriers(comparison: Comparison) -> Figure | None:
    if not comparison.paths:
        return None
    figure = Figure(figsize=(7.2, 6.2), layout="constrained")
    plot_barriers(comparison.paths, figure.subplots(), labels=[s.label for s in comparison.solutions])
    return figure


def _paths(comparison: Comparison) -> Figure | None:
    groups = pair_groups(comparison)
    if not groups:
        return None
    columns = min(3, len(groups))
    rows = -(-len(groups) // columns)
    figure = _figure(0.6 + 2.3 * rows)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for ax, (name, paths) in zip(grid.flat, groups.items(), strict=False):
        plot_paths(paths, ax)
        ax.set_title(plain(name, 36), fontsize=10.5, loc="left")
        ax.label_outer()
    fit_scale(grid.flat[0], [p.loss for p in comparison.paths])  # shared, so it must fit all panels
    for ax in list(grid.flat)[len(groups) :]:
        ax.set_axis_off()
    methods = dict.fromkeys(p.method for p in comparison.paths)
    looks = [METHODS.get(m, (m, "#222222", "-.")) for m in methods]
    figure.legend(
        handles=[Line2D([], [], color=c, linestyle=s, label=plain(n)) for n, c, s in looks],
        **_OUTSIDE,
        ncols=len(looks),
    )
    return figure


def _network(comparison: Comparison) -> Figure | None:
    if comparison.network is None:
        return None
    figure = _figure(4.2)
    ax = figure.subplots()
    plot_disconnectivity(comparison.network, ax, optimizers=comparison.optimizers)
    figure.legend(*ax.get_legend_handles_labels(), **_OUTSIDE, ncols=6)
    return figure


def _embedding(comparison: Comparison) -> Figure | None:
    embedding = comparison.embedding
    if embedding is None or embedding.coordinates.ndim != 2 or embedding.coordinates.shape[1] < 2:
        return None
    if not np.isfinite(embedding.coordinates[:, :2]).any():
        return None
    figure = _figure(4.0)
    left, right = figure.subplots(1, 2)
    plot_embedding(embedding, left, optimizers=comparison.optimizers)
    left.set_title("kernel PCA of the solutions", fontsize=10.5, loc="left")
    plot_embedding_control(embedding, right, optimizers=comparison.optimizers)
    _legend(figure, comparison)
    return figure


def _profiles(comparison: Comparison) -> Figure | None:
    if not comparison.profiles:
        return None
    figure = _figure(3.8)
    plot_profiles(comparison.profiles, figure.subplots(), optimizers=comparison.optimizers)
    _legend(figure, comparison, markers=False)
    return figure


def _surfaces(comparison: Comparison) -> Figure | None:
    surfaces = comparison.surfaces
    if not surfaces:
        return None
    columns = min(3, len(surfaces))
    rows = -(-len(surfaces) // columns)
    figure = _figure(0.4 + 3.1 * rows if columns > 1 else 5.2)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    levels = log_levels([s.loss for s in surfaces])
    for ax, surface in zip(grid.flat, surfaces, strict=False):
        plot_surface(surface, ax, levels=levels, colorbar=False)
        ax.label_outer()
    for ax in list(grid.flat)[len(surfaces) :]:
        ax.set_axis_off()
    loss_bar(list(grid.flat), grid.flat[0].collections[0])
    return figure


def _corridors(comparison: Comparison) -> Figure | None:
    if not any(c.kappa.size for c in comparison.corridors):
        return None
    figure = _figure(3.6)
    for ax, measure in zip(figure.subplots(1, 2), ("kappa", "linearity"), strict=True):
        plot_corridors(comparison.corridors, ax, measure=measure, optimizers=comparison.optimizers)
    _legend(figure, comparison, markers=False)
    return figure


_FIGURES: dict[str, Callable[[Comparison], Figure | None]] = {
    "curves": _curves,
    "depth": _depth,
    "flatness": _flatness,
    "spectrum": _spectrum,
    "barriers": _barriers,
    "paths": _paths,
    "network": _network,
    "embedding": _embedding,
    "profiles": _profiles,
    "surfaces": _surfaces,
    "corridors": _corridors,
}
_OUTSIDE: dict[str, Any] = {
    "loc": "outside upper left",
    "frameon": False,
    "fontsize": 9.5,
    "handletextpad": 0.5,
}


def _figure(height: float) -> Figure:
    return Figure(figsize=(WIDTH, height), layout="constrained")


def _legend(figure: Figure, comparison: Comparison, *, markers: bool = True) -> None:
    """One legend of optimizers above all axes."""
    names = comparison.optimizers
    colors, shapes = optimizer_colors(names), optimizer_markers(names)
    look: dict[str, Any] = {"linestyle": "none", "markersize": 7} if markers else {"linewidth": 2}
    handles = [
        Line2D([], [], color=colors[n], marker=shapes[n] if markers else "", label=plain(n), **look)
        for n in names
    ]
    one_row = (
        sum(len(n) + 7 for n in names) <= 130
    )  # characters that fit across the figure, mark and gap counting 7
    columns = len(names) if one_row else max(1, 130 // (max(map(len, names)) + 7))
    figure.legend(handles=handles, **_OUTSIDE, ncols=columns)

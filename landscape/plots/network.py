"""Pictures of a network of minima: what joins them at which height of the loss."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize

from ..results import MinimaNetwork
from .paths import DECADES
from .style import (
    GRID,
    INK,
    UNSETTLED,
    dress,
    fit_scale,
    legend,
    new_axes,
    optimizer_colors,
    optimizer_markers,
    plain,
)

STEM = 0.05  # of the axes: how far what is joined to nothing more goes on
BINS = 40
LEAF = 7  # size of a leaf's label
LETTER = 0.65  # about how wide a letter is for its size
Point = tuple[float, float]


def plot_disconnectivity(
    network: MinimaNetwork,
    ax: Axes | None = None,
    *,
    optimizers: Sequence[str] = (),
    scale: str = "",
    **style: Any,
) -> Axes:
    """Axes with the disconnectivity graph: every minimum a branch that starts at its loss, and branches that merge at the
    height of the pass between them.

    Becker and Karplus (1997, J. Chem. Phys. 106, 1495); Wales, Miller and Walsh (1998, Nature 394, 758). The horizontal places
    mean nothing: they keep branches from crossing. A branch has a colour while all of its minima are of one group. An open
    circle marks a merge whose search has not settled: it may be lower. Where no path of finite loss is known, branches end
    in a dotted line. Minima more than six decades below the highest merge are drawn there, as triangles.

    ``optimizers`` gives each group its colour as in other pictures; ``scale`` is matplotlib's name of the vertical scale, by
    default one that fits; ``style`` goes to the lines.
    """
    own = ax is None
    ax = ax or new_axes(max(5.2, 1.6 + 0.26 * len(network.loss)), 4.6)
    leaves = _places(network)
    finite = [merge.height for merge in network.merges if np.isfinite(merge.height)]
    _vertical(ax, np.array([*(y for _, y in leaves), *finite]), scale)
    colors = optimizer_colors(tuple(optimizers) or network.groups)
    tops = _branches(ax, network, leaves, colors, style)
    _leaves(ax, network, leaves, colors, optimizers)
    open_ = [tops[m.left + m.right] for m in network.merges if not m.settled and np.isfinite(m.height)]
    if open_:
        ax.scatter(*np.transpose(open_), label="search not settled", **UNSETTLED)
    ax.set_xlim(-0.8, len(network.loss) - 0.2)
    ax.set_xticks([])
    if own:
        legend(ax, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    dress(ax, ylabel="loss", grid="y")
    ax.spines["bottom"].set_visible(False)
    return ax


def plot_heights(
    network: MinimaNetwork, ax: Axes | None = None, *, optimizers: Sequence[str] = (), **style: Any
) -> Axes:
    """Axes with a matrix of heights: of the path found for each pair above the diagonal, of the lowest chain of paths below it.

    Minima are in the order of the disconnectivity graph, each with its group's colour on the diagonal. Pairs that were not
    searched stay grey. ``style`` goes to ``imshow``.
    """
    own = ax is None
    ax = ax or new_axes(6.6, 5.6)
    order = list(network.order)
    n = len(order)
    above = np.triu(np.ones((n, n), dtype=bool), 1)
    matrix = np.where(above, network.heights[np.ix_(order, order)], network.minimax[np.ix_(order, order)])
    matrix = np.where(np.eye(n, dtype=bool) | ~np.isfinite(matrix), np.nan, matrix)
    ax.set_facecolor(GRID)
    image = ax.imshow(
        matrix, **({"cmap": "magma_r", "norm": _colours(matrix), "interpolation": "nearest"} | style)
    )
    names = tuple(optimizers) or network.groups
    colors, markers = optimizer_colors(names), optimizer_markers(names)
    for group in dict.fromkeys(network.groups):
        mine = [k for k, i in enumerate(order) if network.groups[i] == group]
        ax.scatter(mine, mine, marker=markers[group], color=colors[group], s=26, label=plain(group) or "_")
    shown = [_short(network.labels[i], network.groups[i]) for i in order]
    ax.set_xticks(
        range(n), shown, fontsize=LEAF, rotation=90 if max(map(len, shown)) > _letters(ax, n) else 0
    )
    ax.set_yticks(range(n), shown, fontsize=LEAF)
    for ticks in (ax.get_xticklabels(), ax.get_yticklabels()):
        for tick, i in zip(ticks, order, strict=True):
            tick.set_color(colors[network.groups[i]])
    figure = ax.get_figure(root=True)
    if figure is not None:
        bar = figure.colorbar(image, ax=ax, shrink=0.85, pad=0.02)
        bar.set_label("largest loss on the way", fontsize=9.5)
        bar.ax.tick_params(labelsize=9)
        handles, known = ax.get_legend_handles_labels()
        if own and handles:
            figure.legend(handles, known, loc="outside lower left", ncols=6, frameon=False, fontsize=9)
    dress(ax, title="above the diagonal: the path found; below: the lowest chain of paths", grid="none")
    ax.tick_params(length=0, labelsize=LEAF)
    return ax


def plot_height_histogram(network: MinimaNetwork, ax: Axes | None = None, **style: Any) -> Axes:
    """Axes with how many pairs within each group, and across each two, are joined by a path of which height.

    Heights are of the paths found, on a logarithmic axis where all are positive. ``style`` goes to ``Axes.hist``.
    """
    own = ax is None
    ax = ax or new_axes()
    first, second = np.triu(np.isfinite(network.heights), 1).nonzero()
    heights, groups = network.heights[first, second], np.array(network.groups)
    logarithmic = bool(len(heights)) and bool((heights > 0).all())
    edges = np.histogram_bin_edges(np.log10(heights) if logarithmic else heights, bins=BINS)
    bins = 10**edges if logarithmic else edges
    names = dict.fromkeys(network.groups)
    colors = optimizer_colors(tuple(names))
    for a, b in [*((name, name) for name in names), *combinations(names, 2)]:
        mine = ((groups[first] == a) & (groups[second] == b)) | ((groups[first] == b) & (groups[second] == a))
        look = {"histtype": "step", "linewidth": 1.4, "color": colors[a] if a == b else INK} | style
        if mine.any():
            ax.hist(heights[mine], bins.tolist(), label=plain(f"{a} – {b}"), **look)
    if logarithmic:
        ax.set_xscale("log")
    if own:
        legend(ax)
    return dress(ax, xlabel="height of the path", ylabel="pairs")


def _places(network: MinimaNetwork) -> list[Point]:
    """Where each minimum is drawn: in the order of the tree, at its loss or, if that is far too low, at the bottom."""
    finite = [merge.height for merge in network.merges if np.isfinite(merge.height)]
    bottom = max(finite, default=0.0) / DECADES if (network.loss > 0).all() else -np.inf
    across = np.argsort(network.order)
    return [(float(x), max(float(y), bottom)) for x, y in zip(across, network.loss, strict=True)]


def _branches(
    ax: Axes, network: MinimaNetwork, leaves: list[Point], colors: dict[str, str], style: dict[str, Any]
) -> dict[tuple[int, ...], Point]:
    """Draws all branches; where each set of joined minima has its top."""
    tops: dict[tuple[int, ...], Point] = {(i,): leaf for i, leaf in enumerate(leaves)}

    def line(part: tuple[int, ...], *points: Point, **more: Any) -> None:
        mine = {network.groups[i] for i in part}
        color = colors[mine.pop()] if len(mine) == 1 else INK
        look = {"color": color, "linewidth": 1.4, "solid_capstyle": "round"} | more | style
        ax.plot(*np.transpose(points), label="_", **look)

    roots = set(tops)
    for merge in network.merges:
        if np.isfinite(merge.height):
            whole = merge.left + merge.right
            (left, low), (right, lower) = tops[merge.left], tops[merge.right]
            line(merge.left, (left, low), (left, merge.height))
            line(merge.right, (right, lower), (right, merge.height))
            line(whole, (left, merge.height), (right, merge.height))
            tops[whole] = (left + right) / 2, merge.height
            roots = roots - {merge.left, merge.right} | {whole}
    for part in roots:
        line(part, tops[part], _above(ax, tops[part]), linestyle="-" if len(roots) == 1 else ":")
    return tops


def _above(ax: Axes, point: Point) -> Point:
    """A point straight above, by the length of a stem."""
    bottom, top = ax.transAxes.transform([(0, 0), (0, 1)])[:, 1]
    x, y = ax.transData.transform(point)
    return point[0], float(ax.transData.inverted().transform((x, y + STEM * (top - bottom)))[1])


def _leaves(
    ax: Axes, network: MinimaNetwork, leaves: list[Point], colors: dict[str, str], optimizers: Sequence[str]
) -> None:
    """A marker at each minimum, its name below."""
    markers = optimizer_markers(tuple(optimizers) or network.groups)
    deeper = {i for i, (_, y) in enumerate(leaves) if y > network.loss[i]}
    look: dict[str, Any] = {"s": 30, "edgecolors": "white", "linewidths": 0.6, "zorder": 3}
    for group in dict.fromkeys(network.groups):
        mine = [i for i, g in enumerate(network.groups) if g == group]
        shown = [leaves[i] for i in mine if i not in deeper]
        points = np.reshape(shown, (-1, 2)).T  # none of a group may be shown, but the legend names it
        ax.scatter(*points, color=colors[group], marker=markers[group], label=plain(group) or "_", **look)
    if deeper:
        below = [colors[network.groups[i]] for i in deeper]
        ax.scatter(
            *np.transpose([leaves[i] for i in deeper]), c=below, marker="v", label="deeper than drawn", **look
        )
    names = [_short(label, group) for label, group in zip(network.labels, network.groups, strict=True)]
    turned = 90 if max(map(len, names)) > _letters(ax, len(names)) else 0
    for name, leaf, group in zip(names, leaves, network.groups, strict=True):
        at: dict[str, Any] = {"textcoords": "offset points", "xytext": (0, -6), "ha": "center", "va": "top"}
        ax.annotate(plain(name, 24), leaf, fontsize=LEAF, rotation=turned, color=colors[group], **at)


def _letters(ax: Axes, count: int) -> float:
    """About how many letters of a leaf's name fit side by side with so many names."""
    figure = ax.get_figure(root=True)
    points = ax.get_window_extent().width * 72 / (figure.dpi if figure is not None else 72)
    return points / (count * LETTER * LEAF)


def _vertical(ax: Axes, values: np.ndarray, scale: str) -> None:
    """The scale and limits of the vertical axis, with room for names below and a stem above."""
    if scale:
        ax.set_yscale(scale)
    else:
        fit_scale(ax, [values])
    ax.plot(np.zeros(2), [values.min(), values.max()], alpha=0, label="_")
    ax.set_ymargin(0.1)
    ax.autoscale_view()
    ax.set_autoscaley_on(False)


def _colours(matrix: np.ndarray) -> Normalize:
    """Logarithmic for positive heights that span more than a factor of 20, linear otherwise."""
    known = matrix[np.isfinite(matrix)]
    low, high = (float(known.min()), float(known.max())) if known.size else (0.0, 1.0)
    return (
        LogNorm(low, high) if low > 0 and high > 20 * low else Normalize(low, high if high > low else low + 1)
    )


def _short(label: str, group: str) -> str:
    """The seed alone where the legend has the rest of the label."""
    return label.removeprefix(f"{group}/") if group else label

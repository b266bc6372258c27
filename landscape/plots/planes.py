"""Pictures of trajectories on a plane, and of how far off it they run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection

from ..results import Projection, Surface
from .scans import plot_surface
from .style import (
    INK,
    MUTED,
    dress,
    fit_scale,
    legend,
    new_axes,
    optimizer_colors,
    optimizer_markers,
    optimizer_of,
    plain,
)

WIDEST, THINNEST = 3.4, 0.7  # a stretch on the plane, and one as far off it as any point is from its center
CASING = 1.8  # how much wider the white line below it is


def plot_plane(
    surface: Surface,
    projections: Sequence[Projection] = (),
    ax: Axes | None = None,
    *,
    value: str = "loss",
    optimizers: Sequence[str] = (),
    **style: Any,
) -> Axes:
    """Axes with a surface, its marks, and trajectories on it, one colour an optimizer; see ``plot_surface``.

    An open circle marks a trajectory's first point, a filled marker its last. A line is the thinner the further off the plane it
    is, as a share of the largest ‖θ − center‖ of all that are drawn: where it is thin, the contours under it are not what it
    met. ``plot_residuals`` draws the distances. What leaves the grid is not drawn. ``style`` goes to plot_surface.
    """
    own = ax is None
    ax = plot_surface(surface, ax or new_axes(6.2, 4.8), value=value, **style)
    plot_projections(projections, ax, optimizers=optimizers)
    ax.set_xlim(surface.steps1.min(), surface.steps1.max())
    ax.set_ylim(surface.steps2.min(), surface.steps2.max())
    figure = ax.get_figure(root=True)
    if own and figure is not None and projections:
        handles = dict(zip(*reversed(ax.get_legend_handles_labels()), strict=True))
        figure.legend(
            handles.values(), handles, loc="outside lower center", ncols=4, frameon=False, fontsize=9
        )
    return ax


def plot_projections(
    projections: Sequence[Projection], ax: Axes | None = None, *, optimizers: Sequence[str] = (), **style: Any
) -> Axes:
    """Axes with trajectories as a plane shows them, to lie over a surface or a map of corridors of that plane.

    See ``plot_plane`` for what widths and markers say. ``style`` goes to the markers of last points.
    """
    ax = ax or new_axes(6.2, 4.8)
    names = [optimizer_of(p.label) for p in projections]
    shown = tuple(optimizers) or names
    colors, markers = optimizer_colors(shown), optimizer_markers(shown)
    farthest = max((float(p.reach.max()) for p in projections), default=0.0) or 1.0
    for projection, name in zip(projections, names, strict=True):
        width = WIDEST - (WIDEST - THINNEST) * projection.distance / farthest
        look = {"color": colors[name], "marker": markers[name], "label": plain(name) or "_"} | style
        _trajectory(ax, projection, width, **look)
    return ax


def plot_residuals(
    projections: Sequence[Projection], ax: Axes | None = None, *, optimizers: Sequence[str] = (), **style: Any
) -> Axes:
    """Axes with the distance from the plane along training, beside that from the plane's center (dotted).

    Where the two are near one another, the plane shows nothing of where a trajectory is. ``style`` goes to the lines.
    """
    own, ax = ax is None, ax or new_axes()
    pairs = [(p.distance, p.reach) for p in projections]
    other = {"linestyle": ":", "linewidth": 1.0}
    _lines(ax, projections, pairs, other, optimizers, name="from the plane's center", style=style)
    ax.set_ylim(bottom=0)
    if own:
        legend(ax, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return dress(ax, xlabel="step", ylabel="distance from the plane")


def plot_gaps(
    projections: Sequence[Projection], ax: Axes | None = None, *, optimizers: Sequence[str] = (), **style: Any
) -> Axes:
    """Axes with the loss of the points along training, and of the plane where they are drawn (dashed).

    ``style`` goes to the lines.
    """
    own, ax = ax is None, ax or new_axes()
    pairs = [(p.loss, p.loss_on_plane) for p in projections]
    other = {"linestyle": "--", "linewidth": 1.1}
    _lines(ax, projections, pairs, other, optimizers, name="of the plane, at the projection", style=style)
    fit_scale(ax, [losses for pair in pairs for losses in pair])
    if own:
        legend(ax, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    return dress(ax, xlabel="step", ylabel="train loss")


def _lines(
    ax: Axes,
    projections: Sequence[Projection],
    pairs: Sequence[tuple[np.ndarray, np.ndarray]],
    other: dict[str, Any],
    optimizers: Sequence[str],
    *,
    name: str,
    style: dict[str, Any],
) -> None:
    """Two curves a trajectory against the step, the second in the look ``other``, which the legend calls ``name``."""
    names = [optimizer_of(p.label) for p in projections]
    colors = optimizer_colors(tuple(optimizers) or names)
    for projection, (first, second), optimizer in zip(projections, pairs, names, strict=True):
        look = {"color": colors[optimizer], "linewidth": 1.5} | style
        ax.plot(projection.steps, first, label=plain(optimizer) or "_", **look)
        ax.plot(projection.steps, second, label="_", **(look | other))
    if projections:
        ax.plot([], [], color=MUTED, label=name, **other)


def _trajectory(
    ax: Axes, projection: Projection, width: np.ndarray, *, color: str, marker: str, label: str
) -> None:
    points = projection.coordinates
    pieces = np.stack([points[:-1], points[1:]], axis=1)
    width = (width[:-1] + width[1:]) / 2
    for widths, shade, order in ((width + CASING, "white", 3.0), (width, color, 3.5)):
        ax.add_collection(
            LineCollection(list(pieces), colors=shade, linewidths=widths, capstyle="round", zorder=order)
        )
    ax.scatter(*points[0], s=38, facecolors="white", edgecolors=color, linewidths=1.6, zorder=4)
    last: dict[str, Any] = {"s": 50, "color": color, "edgecolors": INK, "linewidths": 0.7, "zorder": 4.5}
    ax.scatter(*points[-1], marker=marker, label=label, **last)

"""Pictures of where solutions lie and how training went there: kernel PCA, trajectory PCA, and the controls beside them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..results import Embedding, TrajectoryPCA
from .labels import number, percent
from .style import GRID, INK, MUTED, dress, legend, new_axes, optimizer_colors, optimizer_markers, plain

LISTED = 12  # components of a scree picture
FIRST, LAST = 34, 150  # areas of the marks at the ends of a trajectory


def plot_embedding(
    embedding: Embedding, ax: Axes | None = None, *, optimizers: Sequence[str] = (), **style: Any
) -> Axes:
    """Axes with the first two coordinates of every solution, and a line along every trajectory from its first point (open) to
    its last; ``style`` goes to ``Axes.scatter``, of the points of trajectories to ``Axes.plot``."""
    own, ax = ax is None, ax or new_axes(5.2, 4.2)
    _draw(ax, embedding, embedding.coordinates[:, :2], optimizers, style=style)
    if own:
        legend(ax)
    second = component_name(embedding, 1) if embedding.coordinates.shape[1] > 1 else ""
    return dress(ax, xlabel=component_name(embedding, 0), ylabel=second)


def plot_embedding_control(
    embedding: Embedding, ax: Axes | None = None, *, optimizers: Sequence[str] = (), **style: Any
) -> Axes:
    """Axes with the first coordinate against the norm: where the points make a curve, the component shows the norm."""
    own, ax = ax is None, ax or new_axes(5.2, 4.2)
    _draw(
        ax,
        embedding,
        np.stack([embedding.norms, embedding.coordinates[:, 0]], axis=1),
        optimizers,
        style=style,
    )
    if own:
        legend(ax)
    title = f"Spearman's ρ: {number(embedding.norm_correlation[0])}"
    return dress(ax, xlabel=norm_name(embedding), ylabel=component_name(embedding, 0), title=title)


def plot_scree(record: Embedding | TrajectoryPCA, ax: Axes | None = None, **style: Any) -> Axes:
    """Axes with the share of the variance along each leading component, those that are kept filled, and the sum so far.

    Of a trajectory, beside it the shares of a random walk of as many steps.
    """
    own, ax = ax is None, ax or new_axes(5.2, 3.6)
    shares = record.shares[:LISTED]
    place, kept = np.arange(1, len(shares) + 1), record.coordinates.shape[1]
    colors = [INK if i < kept else GRID for i in range(len(shares))]
    ax.bar(
        place, 100 * shares, **{"color": colors, "edgecolor": INK, "linewidth": 0.7, "label": "each", **style}
    )
    ax.plot(
        place,
        100 * np.cumsum(shares),
        color=MUTED,
        marker="o",
        markersize=3.5,
        linewidth=1,
        label="sum so far",
    )
    if isinstance(record, TrajectoryPCA):
        walk = record.random_walk_shares[:LISTED]
        if np.isfinite(walk).all():
            look = {"color": "#D55E00", "marker": "D", "markersize": 4, "linestyle": "", "zorder": 4}
            ax.plot(place, 100 * walk, **look, label="each, of a random walk")
    ax.set_ylim(0, 104)
    ax.set_xticks(place)
    if own:
        legend(ax, loc="center right")
    what = "kernel's variance" if isinstance(record, Embedding) else "squared distance"
    return dress(ax, xlabel="component", ylabel=f"share of the {what} (%)", grid="y")


def plot_trajectory_pca(
    pca: TrajectoryPCA, ax: Axes | None = None, *, optimizers: Sequence[str] = (), **style: Any
) -> Axes:
    """Axes with trajectories in the plane that holds most of them, each from its first point (open) to its last.

    In a figure of its own, their distances from that plane are drawn beneath. ``style`` goes to ``Axes.plot``.
    """
    if ax is None:
        figure = Figure(figsize=(5.6, 6.2), layout="constrained")
        above, beneath = figure.subplots(2, 1, height_ratios=[2.2, 1])
        plot_trajectory_pca(pca, above, optimizers=optimizers, **style)
        plot_trajectory_residual(pca, beneath, optimizers=optimizers)
        legend(above)
        return above
    points = pca.coordinates if pca.coordinates.shape[1] > 1 else np.pad(pca.coordinates, ((0, 0), (0, 1)))
    names = tuple(optimizers) or _groups(pca)
    for group, which in _runs(pca):
        _line(ax, points[which, :2], optimizer_colors(names)[group], label=plain(group), style=style)
    ax.plot(0, 0, marker="+", color=INK, markersize=9, linestyle="", label=f"center ({pca.centered})")
    walk = pca.random_walk_shares
    title = "" if np.isnan(walk[0]) else f"shares of a random walk: {_share(walk[0])} and {_share(walk[1])}"
    dress(ax, xlabel=_direction(pca, 0), ylabel=_direction(pca, 1), title=title)
    ax.set_aspect("equal", adjustable="datalim")  # both axes are lengths
    return ax


def plot_trajectory_residual(
    pca: TrajectoryPCA, ax: Axes | None = None, *, optimizers: Sequence[str] = (), **style: Any
) -> Axes:
    """Axes with the distance of each point from the plane, and dotted its distance from the center, against the step."""
    own, ax = ax is None, ax or new_axes(5.6, 3.0)
    colors = optimizer_colors(tuple(optimizers) or _groups(pca))
    for group, which in _runs(pca):
        look = {"color": colors[group], "linewidth": 1.4} | style
        ax.plot(pca.steps[which], pca.residual[which], **look)
        ax.plot(pca.steps[which], pca.distances[which], **look | {"linestyle": ":", "linewidth": 1})
    ax.plot([], [], color=INK, linewidth=1.4, label="from the plane")
    ax.plot([], [], color=INK, linewidth=1, linestyle=":", label="from the center")
    if own:
        for group in dict.fromkeys(_groups(pca)):
            ax.plot([], [], color=colors[group], linewidth=1.4, label=plain(group))
    ax.set_ylim(bottom=0)
    legend(ax, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=4)
    return dress(ax, xlabel="step", ylabel="distance")


def component_name(embedding: Embedding, index: int) -> str:
    """ "PC1 (34 % of the kernel's variance)"; the share is left out where it is unknown."""
    share = embedding.explained[index] if index < len(embedding.explained) else np.nan
    return f"PC{index + 1}" + (
        f" ({100 * share:.0f} % of the kernel's variance)" if np.isfinite(share) else ""
    )


def norm_name(embedding: Embedding) -> str:
    """What the norms of an embedding are of."""
    return "norm ‖θ‖" if embedding.space == "parameters" else f"norm of the {embedding.space}"


def _draw(
    ax: Axes, embedding: Embedding, points: np.ndarray, optimizers: Sequence[str], *, style: dict[str, Any]
) -> None:
    """Solutions as marks, trajectories as lines; points (n, 2), or (n, 1) against nothing."""
    names = tuple(optimizers) or embedding.groups
    colors, markers = optimizer_colors(names), optimizer_markers(names)
    if points.shape[1] == 1:
        points = np.pad(points, ((0, 0), (0, 1)))
    groups, alone = np.array(embedding.groups), embedding.trajectory < 0
    for name in dict.fromkeys(embedding.groups):
        mine = (groups == name) & alone
        if mine.any():
            look = {"s": 46, "linewidths": 0.8, "edgecolors": "white", "alpha": 0.9} | style
            ax.scatter(
                points[mine, 0],
                points[mine, 1],
                color=colors[name],
                marker=markers[name],
                label=plain(name),
                **look,
            )
    for name, which in _runs(embedding):
        _line(ax, points[which], colors[name], label=plain(name), style=style)


def _line(ax: Axes, points: np.ndarray, color: str, *, label: str, style: dict[str, Any]) -> None:
    """A trajectory with its first point open and its last one filled."""
    look = {"linewidth": 1.1, "marker": "o", "markersize": 2.2, "alpha": 0.9} | style
    ax.plot(points[:, 0], points[:, 1], color=color, label=label, **look)
    ends = {"zorder": 4, "linewidths": 1.2}
    ax.scatter(*points[0], s=FIRST, facecolors="white", edgecolors=color, **ends)
    ax.scatter(
        *points[-1], s=LAST, color=color, marker="*", **ends | {"edgecolors": "white", "linewidths": 0.6}
    )


def _runs(record: Embedding | TrajectoryPCA) -> Iterator[tuple[str, np.ndarray]]:
    """The group of every trajectory and its points, in the order of their steps."""
    for which in np.unique(record.trajectory[record.trajectory >= 0]):
        points = np.flatnonzero(record.trajectory == which)
        yield _groups(record)[points[0]], points[np.argsort(record.steps[points], kind="stable")]


def _groups(record: Embedding | TrajectoryPCA) -> tuple[str, ...]:
    return tuple(group or "trajectory" for group in record.groups)


def _direction(pca: TrajectoryPCA, index: int) -> str:
    share = pca.explained[index] if index < len(pca.explained) else np.nan
    return f"PC{index + 1}" + (f" ({_share(share)} of the squared distance)" if np.isfinite(share) else "")


def _share(share: float) -> str:
    return percent(float(share))

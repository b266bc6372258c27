"""Pictures of the loss along lines and on planes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import LogNorm
from matplotlib.ticker import LogFormatterSciNotation, LogLocator

from ..refined import Refined
from ..results import Profile, Surface
from ..subsampling import SampledLosses
from .style import MUTED, dress, fit_scale, legend, new_axes, optimizer_colors, optimizer_of, plain


def plot_profile(profile: Profile, ax: Axes | None = None, **style: Any) -> Axes:
    """Axes with the loss along one line; the center is marked by a vertical line. ``style`` goes to ``Axes.plot``."""
    return plot_profiles([profile], ax, **style)


def plot_profiles(
    profiles: Sequence[Profile], ax: Axes | None = None, *, optimizers: Sequence[str] = (), **style: Any
) -> Axes:
    """Axes with the loss along several lines, coloured by the optimizer in each label; labelled once an optimizer."""
    own, ax = ax is None, ax or new_axes()
    names = [optimizer_of(p.label) for p in profiles]
    colors = optimizer_colors(optimizers or names)
    ax.axvline(0, color=MUTED, linewidth=0.8, linestyle=":")
    for profile, name, first in zip(profiles, names, _first(names), strict=True):
        look = {"color": colors[name], "linewidth": 1.3, "alpha": 0.8} | style
        ax.plot(profile.steps, profile.loss, label=plain(name) if first else "_", **look)
    fit_scale(ax, [p.loss for p in profiles])
    if own:
        legend(ax)
    direction = profiles[0].direction if profiles else ""
    return dress(ax, xlabel=f"step along the direction{_unit(direction)}", ylabel="train loss")


def plot_surface(
    surface: Surface,
    ax: Axes | None = None,
    *,
    levels: Sequence[float] | np.ndarray | None = None,
    colorbar: bool = True,
    **style: Any,
) -> Axes:
    """Axes with filled contours of the loss on a plane, its center marked by a cross; ``style`` goes to ``contourf``.

    Levels are spaced logarithmically (``log_levels``) unless given; give the same to pictures that are to be compared.
    """
    ax = ax or new_axes(5.2, 4.4)
    levels = log_levels([surface.loss]) if levels is None else np.asarray(levels, dtype=float)
    inside = np.ma.masked_invalid(np.maximum(surface.loss.T, np.finfo(float).tiny))
    look = {"cmap": "viridis", "norm": LogNorm(levels[0], levels[-1]), "extend": "both"} | style
    filled = ax.contourf(surface.steps1, surface.steps2, inside, levels=levels, **look)
    ax.contour(filled, levels=levels[::2], colors="white", linewidths=0.5, alpha=0.6)
    ax.plot(0, 0, "+", color="white", markersize=9, markeredgewidth=1.8)
    ax.set_aspect("equal")
    if colorbar:
        loss_bar(ax, filled)
    unit = _unit(surface.direction)
    return dress(
        ax,
        xlabel=f"step along d₁{unit}",
        ylabel=f"step along d₂{unit}",
        title=plain(surface.label, 30),
        grid="none",
    )


def plot_cells(refined: Refined, ax: Axes | None = None, **style: Any) -> Axes:
    """Axes with the outlines of the cells of a refined plane, to lie over ``plot_surface(refined.surface)``."""
    ax = ax or new_axes(5.2, 4.4)
    (x1, y1), (x2, y2) = (refined.cells[:, i].T for i in range(2))
    outlines = np.stack([x1, y1, x2, y1, x2, y2, x1, y2, x1, y1], axis=1).reshape(-1, 5, 2)
    ax.add_collection(LineCollection(list(outlines), **{"colors": "#BBBBBB", "linewidths": 0.4} | style))
    ax.autoscale_view()
    evaluations = f"{len(refined.loss)} evaluations, error of interpolation {refined.error:.2g}"
    in_log = " in log loss" if refined.scale == "log" else ""
    return dress(ax, xlabel="step along d₁", ylabel="step along d₂", title=evaluations + in_log, grid="none")


def plot_sampled(sampled: SampledLosses, ax: Axes | None = None, **style: Any) -> Axes:
    """Axes with the loss along a line as sampled data give it.

    The pale band is the standard error of the loss, the dark one that of its difference from the loss at the origin.
    """
    own, ax = ax is None, ax or new_axes()
    order = np.argsort(sampled.coordinates[:, 0])
    steps, loss = sampled.coordinates[order, 0], sampled.loss[order]
    (line,) = ax.plot(steps, loss, **{"linewidth": 1.3, "label": "estimate"} | style)
    for stderr, alpha, name in (
        (sampled.stderr[order], 0.2, "± standard error"),
        (sampled.difference_stderr[order], 0.5, "± that of the difference from step 0"),
    ):
        color = line.get_color()
        ax.fill_between(
            steps, loss - stderr, loss + stderr, color=color, alpha=alpha, linewidth=0, label=name
        )
    if own:
        legend(ax)
    count = f"loss on {len(sampled.drawn)} of {sampled.count} batches"
    return dress(ax, xlabel="step along the direction", ylabel=count)


def loss_bar(axes: Axes | Sequence[Axes], filled: Any) -> None:
    """A colour bar with powers of ten beside one axes, or beside several that share their levels."""
    first = axes if isinstance(axes, Axes) else axes[0]
    figure = first.get_figure(root=True)
    if figure is not None:
        bar = figure.colorbar(filled, ax=axes, shrink=0.8, pad=0.02)
        bar.ax.yaxis.set_major_locator(LogLocator())
        bar.ax.yaxis.set_major_formatter(LogFormatterSciNotation())
        bar.ax.tick_params(labelsize=9)
        bar.set_label("train loss (logarithmic)", fontsize=9.5)


def log_levels(losses: Sequence[np.ndarray], count: int = 19) -> np.ndarray:
    """``count`` contour levels, spaced logarithmically from the lowest hundredth of these losses to their maximum.

    The lowest hundredth and not the minimum: at a deep minimum the center alone would take half of all levels.
    """
    flat = np.concatenate([np.ravel(loss) for loss in losses])
    flat = flat[np.isfinite(flat) & (flat > 0)]
    low, high = (np.quantile(flat, 0.01), flat.max()) if flat.size else (0.1, 1.0)
    return np.geomspace(low, high if high > low * 1.01 else low * 1.01, count)


def _unit(direction: str) -> str:
    return " (in filter norms)" if "filter" in direction else ""


def _first(names: Sequence[str]) -> list[bool]:
    return [name not in names[:i] for i, name in enumerate(names)]

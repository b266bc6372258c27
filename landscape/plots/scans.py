"""Pictures of the loss along lines and on planes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.colors import LogNorm, Normalize
from matplotlib.patheffects import withStroke
from matplotlib.ticker import LogFormatterSciNotation, LogLocator, MaxNLocator

from ..refined import Refined
from ..results import Profile, Surface
from ..subsampling import SampledLosses
from .style import (
    INK,
    MUTED,
    dress,
    fit_aspect,
    fit_scale,
    legend,
    new_axes,
    optimizer_colors,
    optimizer_of,
    plain,
)


def plot_profile(profile: Profile, ax: Axes | None = None, **style: Any) -> Axes:
    """Axes with the loss along one line; the center is marked by a vertical line. ``style`` goes to ``Axes.plot``."""
    return plot_profiles([profile], ax, **style)


def plot_profiles(
    profiles: Sequence[Profile],
    ax: Axes | None = None,
    *,
    optimizers: Sequence[str] = (),
    value: str = "loss",
    **style: Any,
) -> Axes:
    """Axes with the loss along several lines, or another recorded value, coloured by the optimizer in each label.

    Each optimizer is labelled once. Marks are points at their steps, at their own losses, with their names.
    """
    own, ax = ax is None, ax or new_axes()
    names = [optimizer_of(p.label) for p in profiles]
    colors = optimizer_colors(optimizers or names)
    ax.axvline(0, color=MUTED, linewidth=0.8, linestyle=":")
    for profile, name, first in zip(profiles, names, _first(names), strict=True):
        look = {"color": colors[name], "linewidth": 1.3, "alpha": 0.8} | style
        ax.plot(profile.steps, profile.value(value), label=plain(name) if first else "_", **look)
        if value == "loss":
            _line_marks(ax, profile)
    fit_scale(ax, [p.value(value) for p in profiles])
    if own:
        legend(ax)
    direction = profiles[0].direction if profiles else ""
    name = "train loss" if value == "loss" else value
    return dress(ax, xlabel=f"step along the direction{_unit(direction)}", ylabel=plain(name))


def plot_surface(
    surface: Surface,
    ax: Axes | None = None,
    *,
    value: str = "loss",
    levels: Sequence[float] | np.ndarray | None = None,
    colorbar: bool = True,
    **style: Any,
) -> Axes:
    """Axes with filled contours of the loss on a plane, or of another recorded value; ``style`` goes to ``contourf``.

    Levels are spaced logarithmically (``log_levels``) unless given, or evenly where values are not all positive or, of values
    other than the loss, span less than a factor of 20; give the same to pictures that are to be compared. The surface's marks are
    drawn with their names; without any, a cross marks the center.
    """
    ax = ax or new_axes(5.2, 4.4)
    values = surface.value(value)
    logarithmic = _logarithmic(values, value) if levels is None else bool(np.min(levels) > 0)
    if levels is None:
        levels = log_levels([values]) if logarithmic else even_levels([values])
    levels = np.asarray(levels, dtype=float)
    inside = np.ma.masked_invalid(np.maximum(values.T, np.finfo(float).tiny) if logarithmic else values.T)
    norm = (LogNorm if logarithmic else Normalize)(levels[0], levels[-1])
    look = {"cmap": "viridis", "norm": norm, "extend": "both"} | style
    filled = ax.contourf(surface.steps1, surface.steps2, inside, levels=levels, **look)
    ax.contour(filled, levels=levels[::2], colors="white", linewidths=0.5, alpha=0.6)
    if surface.mark_labels:
        _plane_marks(ax, surface)
    else:
        ax.plot(0, 0, "+", color="white", markersize=9, markeredgewidth=1.8)
    fit_aspect(ax, surface.steps1, surface.steps2)
    if colorbar:
        loss_bar(ax, filled, name="train loss" if value == "loss" else value)
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


def loss_bar(axes: Axes | Sequence[Axes], filled: Any, *, name: str = "train loss") -> None:
    """A colour bar beside one axes, or beside several that share their levels; with powers of ten on a logarithmic scale."""
    first = axes if isinstance(axes, Axes) else axes[0]
    figure = first.get_figure(root=True)
    if figure is not None:
        bar = figure.colorbar(filled, ax=axes, shrink=0.8, pad=0.02)
        logarithmic = isinstance(filled.norm, LogNorm)
        low, high = filled.norm.vmin, filled.norm.vmax
        if logarithmic and high >= 300 * low:
            bar.ax.yaxis.set_major_locator(LogLocator())
            bar.ax.yaxis.set_major_formatter(LogFormatterSciNotation())
        else:
            locator = LogLocator(subs=(1.0, 2.0, 5.0)) if logarithmic else MaxNLocator(6)
            ticks = [tick for tick in locator.tick_values(low, high) if low <= tick <= high]
            bar.set_ticks(ticks, labels=[f"{tick:.3g}".replace("-", "−") for tick in ticks])
            bar.ax.minorticks_off()
        bar.ax.tick_params(labelsize=9)
        bar.set_label(plain(name) + (" (logarithmic)" if logarithmic else ""), fontsize=9.5)


def log_levels(losses: Sequence[np.ndarray], count: int = 19) -> np.ndarray:
    """``count`` contour levels, spaced logarithmically from the lowest hundredth of these losses to their maximum.

    The lowest hundredth and not the minimum: at a deep minimum the center alone would take half of all levels.
    """
    flat = np.concatenate([np.ravel(loss) for loss in losses])
    flat = flat[np.isfinite(flat) & (flat > 0)]
    low, high = (np.quantile(flat, 0.01), flat.max()) if flat.size else (0.1, 1.0)
    return np.geomspace(low, high if high > low * 1.01 else low * 1.01, count)


def even_levels(values: Sequence[np.ndarray], count: int = 19) -> np.ndarray:
    """``count`` evenly spaced contour levels from the least to the largest of these values."""
    flat = np.concatenate([np.ravel(v) for v in values])
    flat = flat[np.isfinite(flat)]
    low, high = (flat.min(), flat.max()) if flat.size else (0.0, 1.0)
    return np.linspace(low, high if high > low else low + max(abs(low), 1.0) * 1e-3, count)


def _logarithmic(values: np.ndarray, name: str) -> bool:
    finite = values[np.isfinite(values)]
    if name == "loss":
        return not finite.size or finite.min() > 0 or bool((finite >= 0).all() and (finite > 0).any())
    return bool(finite.size and finite.min() > 0 and finite.max() > 20 * finite.min())


def _plane_marks(ax: Axes, surface: Surface) -> None:
    """A white diamond and its name at each mark; hollow where the point lies off the plane."""
    on = surface.mark_distance <= 1e-6 * np.linalg.norm(surface.mark_coordinates, axis=1).max(initial=0.0)
    for label, (x, y), full in zip(surface.mark_labels, surface.mark_coordinates, on, strict=True):
        look: dict[str, Any] = {"s": 44, "edgecolors": "white", "linewidths": 1.3, "zorder": 5}
        ax.scatter(x, y, marker="D", facecolors=INK if full else "none", **look)
        right = 2 * x > surface.steps1.min() + surface.steps1.max()  # names stay inside
        name = ax.annotate(
            plain(label, 20),
            (x, y),
            (-6 if right else 6, 6),
            textcoords="offset points",
            ha="right" if right else "left",
            fontsize=9,
            color="white",
            zorder=6,
        )
        name.set_path_effects([withStroke(linewidth=2.2, foreground=INK)])


def _line_marks(ax: Axes, profile: Profile) -> None:
    places = zip(profile.mark_labels, profile.mark_coordinates[:, :1], profile.mark_loss, strict=True)
    for label, (x,), y in places:
        ax.scatter(x, y, marker="D", s=30, color=INK, zorder=5)
        ax.annotate(plain(label, 20), (x, y), (5, 5), textcoords="offset points", fontsize=9, color=INK)


def _unit(direction: str) -> str:
    if "steps are distances" in direction:
        return " (distance)"
    return " (in filter norms)" if "filter" in direction else ""


def _first(names: Sequence[str]) -> list[bool]:
    return [name not in names[:i] for i, name in enumerate(names)]

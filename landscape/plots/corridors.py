"""Pictures of corridors: where along training, how much of the loss they carry, where on a plane, and what noise adds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from ..results import Corridor, CorridorMap, CorridorNoise
from ..results.corridors import CORRIDOR_KAPPA, CORRIDOR_LINEARITY
from .labels import number
from .scans import even_levels, log_levels
from .style import (
    MUTED,
    PALETTE,
    dress,
    fit_aspect,
    fit_scale,
    legend,
    new_axes,
    optimizer_colors,
    optimizer_of,
    plain,
)

_SHADE = "#009E73"  # of corridors
_LEVELS = 16  # of the filled contours
_LOSSES = 10  # contours of the loss


def plot_corridor(
    corridor: Corridor,
    ax: Axes | None = None,
    *,
    kappa: float = CORRIDOR_KAPPA,
    linearity: float = CORRIDOR_LINEARITY,
    **style: Any,
) -> Axes:
    """Axes with κ and |1 − linearity| against the optimizer's step, corridors at these tolerances shaded.

    Each row of the record is drawn where it starts; ``style`` goes to ``plot``.
    """
    own, ax = ax is None, ax or new_axes()
    for interval in corridor.intervals(kappa=kappa, linearity=linearity):
        ax.axvspan(interval.start, interval.end, color=_SHADE, alpha=0.14, linewidth=0, label="corridor")
    defect = np.abs(1 - corridor.linearity)
    names = ("κ = h‖Hg‖/‖g‖", "|1 − linearity|")
    for values, color, name in zip((corridor.kappa, defect), PALETTE, names, strict=False):
        look = {"color": color, "linewidth": 1.2, "marker": "." if len(values) < 60 else None} | style
        ax.plot(corridor.steps[:-1], np.where(values > 0, values, np.nan), label=name, **look)
    ax.set_yscale("log")
    for tolerance, color in dict(zip((linearity, kappa), (PALETTE[1], PALETTE[0]), strict=True)).items():
        same = kappa == linearity
        ax.axhline(tolerance, color=MUTED if same else color, linewidth=1, linestyle=":", label="tolerance")
    if own:
        legend(ax)
    title = plain(corridor.label)
    return dress(ax, xlabel="step", ylabel="distance from a corridor (0 in one)", title=title)


def plot_corridor_loss(
    corridors: Sequence[Corridor],
    ax: Axes | None = None,
    *,
    kappa: float = CORRIDOR_KAPPA,
    linearity: float = CORRIDOR_LINEARITY,
    optimizers: Sequence[str] = (),
    **style: Any,
) -> Axes:
    """Axes with the loss against the optimizer's step, a line a run, coloured by optimizer; thick where it is a corridor."""
    own, ax = ax is None, ax or new_axes()
    names = [optimizer_of(c.label) for c in corridors]
    colors = optimizer_colors(optimizers or names)
    for i, (run, name) in enumerate(zip(corridors, names, strict=True)):
        look = {"color": colors[name], "linewidth": 1.0, "alpha": 0.9} | style
        ax.plot(run.steps, run.loss, label=plain(name) if name not in names[:i] else "_", **look)
        for interval in run.intervals(kappa=kappa, linearity=linearity):
            part = slice(interval.first, interval.last + 2)
            thick = look | {"linewidth": 4.5, "alpha": 0.45, "solid_capstyle": "butt"}
            ax.plot(run.steps[part], run.loss[part], label="_", **thick)
    fit_scale(ax, [c.loss for c in corridors])
    if own:
        legend(ax)
    title = f"thick: corridors, κ ≤ {kappa:g} and |1 − linearity| ≤ {linearity:g}"
    return dress(ax, xlabel="step", ylabel="loss", title=title)


def plot_corridor_map(
    field: CorridorMap,
    ax: Axes | None = None,
    *,
    kappa_at: float | None = None,
    kappa: float = CORRIDOR_KAPPA,
    colorbar: bool = True,
    **style: Any,
) -> Axes:
    """Axes with filled contours of κ at the learning rate ``kappa_at`` on a plane, dark in corridors, under contours of the loss.

    The boundary κ = ``kappa`` is a thick line. Without a rate the corridor rate ‖g‖/‖Hg‖ is shown, at which κ would be 1: large
    in corridors; then there is no boundary. Levels are spaced logarithmically; ``style`` goes to ``contourf``.
    """
    ax = ax or new_axes(5.4, 4.4)
    shown = field.corridor_rate if kappa_at is None else field.kappa(kappa_at)
    axes = field.steps1, field.steps2
    positive = np.ma.masked_where(~(np.isfinite(shown) & (shown > 0)), shown).T
    levels = log_levels([shown], _LEVELS)
    look = {
        "cmap": "cividis_r" if kappa_at is None else "cividis",
        "norm": LogNorm(levels[0], levels[-1]),
        "extend": "both",
    } | style
    filled = ax.contourf(*axes, positive, levels=levels, **look)
    spaced = log_levels if (field.loss > 0).any() and not (field.loss < 0).any() else even_levels
    heights = spaced([field.loss], _LOSSES)
    ax.contour(*axes, field.loss.T, levels=heights, colors="white", linewidths=0.6, alpha=0.8)
    if kappa_at is not None and np.nanmin(shown) < kappa < np.nanmax(shown):
        ax.contour(*axes, shown.T, levels=[kappa], colors=PALETTE[1], linewidths=1.8)
    fit_aspect(ax, *axes)
    rate = "" if kappa_at is None else f" at h = {kappa_at:.3g}"
    if colorbar:
        _bar(ax, filled, "corridor rate ‖g‖/‖Hg‖" if kappa_at is None else f"κ{rate}")
    boundary = "" if kappa_at is None else f"thick line: κ = {kappa:g}{rate}"
    title = " · ".join(filter(None, (plain(field.label, 30), boundary)))
    return dress(ax, xlabel="step along d₁", ylabel="step along d₂", title=title, grid="none")


def plot_corridor_noise(noise: CorridorNoise, ax: Axes | None = None, **style: Any) -> Axes:
    """Axes with the three mean cosines of mini-batch gradients against the step, bands of ± one standard error.

    The gap of "same batch" from 1 is curvature, that of "same point" noise. ``style`` goes to ``plot``.
    """
    own, ax = ax is None, ax or new_axes()
    series = (
        ("same batch, next point: curvature", noise.same_batch, noise.same_batch_stderr),
        ("two batches, same point: noise", noise.same_point, noise.same_point_stderr),
        ("two batches, next point: both", noise.both, noise.both_stderr),
    )
    steps = noise.steps[:-1]
    for (name, mean, stderr), color, line in zip(series, PALETTE, ("-", "--", ":"), strict=False):
        ax.plot(steps, mean, **{"color": color, "linewidth": 1.4, "linestyle": line, "label": name} | style)
        ax.fill_between(steps, mean - stderr, mean + stderr, color=color, alpha=0.18, linewidth=0)
    ax.axhline(1, color=MUTED, linewidth=1, linestyle=":")
    if own:
        legend(ax)
    title = " · ".join(filter(None, (plain(noise.label), noise.basis)))
    return dress(ax, xlabel="step", ylabel="mean cosine of mini-batch gradients", title=title)


def _bar(ax: Axes, filled: Any, label: str) -> None:
    figure = ax.get_figure(root=True)
    if figure is not None:
        bar = figure.colorbar(filled, ax=ax, shrink=0.8, pad=0.02)
        few_decades = filled.levels[-1] < 300 * filled.levels[0]
        bar.ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if few_decades else (1.0,)))
        if few_decades:
            bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value, digits=1)))
        bar.ax.yaxis.set_minor_formatter(NullFormatter())
        bar.ax.tick_params(labelsize=9)
        bar.set_label(label, fontsize=9.5)

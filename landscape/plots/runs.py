"""Pictures of training: its curves, and whether its last steps ran in a corridor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes

from ..results import Corridor, Solution
from .labels import metric
from .style import MUTED, dress, fit_scale, legend, new_axes, optimizer_colors, optimizer_of, plain


def plot_curves(
    solutions: Sequence[Solution],
    ax: Axes | None = None,
    *,
    part: Literal["train", "validation"] = "train",
    optimizers: Sequence[str] = (),
    **style: Any,
) -> Axes:
    """Axes with the loss per epoch of every run, thin, coloured and labelled by optimizer."""
    own, ax = ax is None, ax or new_axes()
    colors = optimizer_colors(optimizers or [s.optimizer for s in solutions])
    curves = [s.curve_train if part == "train" else s.curve_validation for s in solutions]
    _lines(
        ax,
        [s.curve_epoch for s in solutions],
        curves,
        [s.optimizer for s in solutions],
        colors=colors,
        style=style,
    )
    fit_scale(ax, curves)
    if own:
        legend(ax)
    return dress(ax, xlabel="epoch", ylabel=f"{part} loss")


def plot_corridors(
    corridors: Sequence[Corridor],
    ax: Axes | None = None,
    *,
    measure: str = "kappa",
    optimizers: Sequence[str] = (),
    **style: Any,
) -> Axes:
    """Axes with a corridor measure (a property of Corridor, such as "kappa" or "linearity") per step, by optimizer.

    The value it has in a corridor, 0 for kappa and kappa_weak and 1 for the others, is dotted where the scale holds it.
    """
    own, ax = ax is None, ax or new_axes()
    names = [optimizer_of(c.label) for c in corridors]
    values = [np.asarray(getattr(c, measure), dtype=float) for c in corridors]
    steps = [np.arange(1, len(v) + 1) for v in values]
    _lines(ax, steps, values, names, colors=optimizer_colors(optimizers or names), style=style)
    ideal = 0.0 if measure.startswith("kappa") else 1.0
    if not ideal:
        fit_scale(ax, values)
    elif any(np.nanmax(np.abs(v), initial=0) > 5 for v in values):
        ax.set_yscale("symlog", linthresh=2)  # linear around the 1 of a corridor
    if ideal or ax.get_yscale() != "log":
        ax.axhline(ideal, color=MUTED, linewidth=1, linestyle=":")
    if own:
        legend(ax)
    about = f"{metric(measure).axis}, {ideal:g} in a corridor"
    return dress(ax, xlabel="step of the last stretch of training", ylabel=about)


def _lines(
    ax: Axes,
    xs: Sequence[np.ndarray],
    ys: Sequence[np.ndarray],
    names: Sequence[str],
    *,
    colors: dict[str, str],
    style: dict[str, Any],
) -> None:
    for i, (x, y, name) in enumerate(zip(xs, ys, names, strict=True)):
        look = {"color": colors[name], "linewidth": 0.9, "alpha": 0.7} | style
        if len(y) == 1:
            look |= {"marker": "."}  # a line through one point shows nothing
        ax.plot(x, y, label=plain(name) if name not in names[:i] else "_", **look)

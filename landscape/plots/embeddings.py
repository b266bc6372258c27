"""Pictures of where solutions lie: kernel PCA, and the control that must stand beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from ..results import Embedding
from .labels import number
from .style import dress, legend, new_axes, optimizer_colors, optimizer_markers, plain


def plot_embedding(
    embedding: Embedding, ax: Axes | None = None, *, optimizers: Sequence[str] = (), **style: Any
) -> Axes:
    """Axes with the first two coordinates of every solution; ``style`` goes to ``Axes.scatter``."""
    own, ax = ax is None, ax or new_axes(5.2, 4.2)
    _scatter(ax, embedding, embedding.coordinates[:, 0], embedding.coordinates[:, 1], optimizers, style=style)
    if own:
        legend(ax)
    return dress(ax, xlabel=component_name(embedding, 0), ylabel=component_name(embedding, 1))


def plot_embedding_control(
    embedding: Embedding, ax: Axes | None = None, *, optimizers: Sequence[str] = (), **style: Any
) -> Axes:
    """Axes with the first coordinate against ‖θ‖: where the points make a curve, the component shows the norm."""
    own, ax = ax is None, ax or new_axes(5.2, 4.2)
    _scatter(ax, embedding, embedding.norms, embedding.coordinates[:, 0], optimizers, style=style)
    if own:
        legend(ax)
    title = f"Spearman's ρ of PC1 with ‖θ‖: {number(embedding.norm_correlation[0])}"
    return dress(ax, xlabel="norm ‖θ‖", ylabel=component_name(embedding, 0), title=title)


def component_name(embedding: Embedding, index: int) -> str:
    """ "PC1 (34 % of the kernel's variance)"; the share is left out where it is unknown."""
    share = embedding.explained[index] if index < len(embedding.explained) else np.nan
    return f"PC{index + 1}" + (
        f" ({100 * share:.0f} % of the kernel's variance)" if np.isfinite(share) else ""
    )


def _scatter(
    ax: Axes,
    embedding: Embedding,
    x: np.ndarray,
    y: np.ndarray,
    optimizers: Sequence[str],
    *,
    style: dict[str, Any],
) -> None:
    names = tuple(optimizers) or embedding.groups
    colors, markers = optimizer_colors(names), optimizer_markers(names)
    groups = np.array(embedding.groups)
    for name in dict.fromkeys(embedding.groups):
        look = {"s": 46, "linewidths": 0.8, "edgecolors": "white", "alpha": 0.9} | style
        mine = groups == name
        ax.scatter(x[mine], y[mine], color=colors[name], marker=markers[name], label=plain(name), **look)

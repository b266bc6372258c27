"""Pictures of where curvature sits: the traces of layers in their two parts, and curvature at the scale where one looks."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes

from ..results import Array, BlockTraces, CurvatureScales, SplitTrace
from .labels import number
from .style import INK, MUTED, PALETTE, dress, legend, new_axes, plain

_BLOCKS = 40  # that are named one by one
_PARTS = ("Gauss–Newton part", "residual part")


def plot_layers(
    record: SplitTrace | BlockTraces, ax: Axes | None = None, *, per_parameter: bool = False, **style: Any
) -> Axes:
    """Axes with the trace of every block ± its standard error, the Gauss–Newton and the residual part beside one another.

    A trace that was not told apart has one bar a block. Of more than 40 blocks the largest are shown. ``style`` goes to
    ``Axes.barh``.

    Args:
        per_parameter: divide every trace by the number of parameters in the block.
    """
    values, errors, names = _parts(record)  # (parts, B)
    scale = np.asarray(record.sizes) if per_parameter else np.ones(len(record.names))
    values, errors = values / scale, errors / scale
    largest = np.sort(np.argsort(-np.abs(values).sum(0), kind="stable")[:_BLOCKS])
    own, ax = ax is None, ax or new_axes(6.4, 1.4 + 0.42 * len(largest))
    height = 0.8 / len(values)
    for part, (name, color) in enumerate(zip(names, PALETTE, strict=False)):
        place = np.arange(len(largest)) + height * (part - (len(values) - 1) / 2)
        look: dict[str, Any] = {"color": color, "height": height, "label": name} | style
        ax.barh(place, values[part, largest], **look)
        ax.errorbar(
            values[part, largest], place, xerr=errors[part, largest], fmt="none", ecolor=INK, capsize=2.5
        )
    ax.axvline(0, color=MUTED, linewidth=0.8)
    ax.set_yticks(range(len(largest)), [plain(record.names[i], 32) for i in largest])
    ax.set_ylim(len(largest) - 0.4, -0.6)
    if own and len(values) > 1:
        legend(ax, loc="lower right", bbox_to_anchor=(1.0, 1.0), ncols=len(values))
    left_out = len(record.names) - len(largest)
    title = f"the {_BLOCKS} largest of {len(record.names)}" if left_out else ""
    return dress(ax, xlabel=f"trace{' per parameter' * per_parameter} (loss / θ²)", title=title, grid="x")


def plot_scales(record: CurvatureScales, ax: Axes | None = None, **style: Any) -> Axes:
    """Axes with the curvature of every direction as seen at each step, beside vᵀHv as a dashed line.

    Lines are differences of gradients, points second differences of losses. What rounding may make up more than half of is left
    out. ``style`` goes to ``Axes.plot``.
    """
    own, ax = ax is None, ax or new_axes(6.4, 4.0)
    for i, at_one_point in enumerate(record.hessian):
        color = PALETTE[i % len(PALETTE)]
        look: dict[str, Any] = {"color": color, "linewidth": 1.4} | style
        x = record.relative_steps
        lines = _known(record.of_gradients[i], record.of_gradients_rounding[i])
        points = _known(record.of_losses[i], record.of_losses_rounding[i])
        ax.axhline(
            float(at_one_point), color=color, linestyle="--", linewidth=1.0, label="vᵀHv" if not i else "_"
        )
        line: dict[str, Any] = {"label": f"from gradients, vᵀHv = {number(at_one_point)}"} | look
        ax.plot(x, lines, **line)
        dots: dict[str, Any] = {**look, "linestyle": "none", "marker": "o", "markersize": 4, "label": "_"}
        ax.plot(x, points, **dots)
    ax.plot([], [], linestyle="none", marker="o", markersize=4, color=MUTED, label="from losses")
    ax.set_xscale("log")
    if own:
        legend(ax)
    return dress(ax, xlabel="step h, share of ‖θ‖", ylabel="curvature along a unit direction (loss / θ²)")


def _parts(record: SplitTrace | BlockTraces) -> tuple[Array, Array, tuple[str, ...]]:
    """Values and standard errors (parts, B) of the blocks, and what the parts are called."""
    if isinstance(record, BlockTraces):
        return record.values[None], record.stderr[None], ("trace",)
    values = np.stack([record.gauss_newton, record.residual])[:, 1:]
    return values, np.stack([record.gauss_newton_stderr, record.residual_stderr])[:, 1:], _PARTS


def _known(values: Array, rounding: Array) -> Array:
    return np.where(2 * rounding < np.abs(values), values, np.nan)

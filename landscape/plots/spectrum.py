"""A picture of the eigenvalues of curvature: their density with its band, and those known one by one."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, NullLocator

from ..errors import InputError
from ..results import Array, Eigenpairs, SpectralDensity
from .labels import number, percent
from .style import GRID, PALETTE, dress, legend, new_axes

MATRICES = {
    "hessian": "∇²L",
    "gauss-newton": "the Gauss–Newton matrix",
    "fisher": "the Fisher matrix",
    "residual": "the residual part of ∇²L",
}
_DECADES = 6  # below the largest node: the most that a logarithmic picture shows unless told
_WIDTH = 0.1  # decades, of the Gaussian that smooths a logarithmic picture
_SHARE = 0.01  # of the range, likewise for a linear one
_POINTS = 500  # of a curve


def plot_density(
    record: SpectralDensity,
    ax: Axes | None = None,
    *,
    eigenpairs: Eigenpairs | None = None,
    scale: Literal["log", "linear"] = "log",
    smallest: float | None = None,
    **style: Any,
) -> Axes:
    """Axes with the density of eigenvalues ± its standard error over probes, and strokes at eigenvalues known one by one.

    Those are the record's outliers, or the values of ``eigenpairs``. The ordinate is logarithmic and ends below what a single
    eigenvalue, the share 1/P, adds. ``style`` goes to ``Axes.plot``.

    Args:
        scale: "log" draws the share per decade of |λ|, negative ones to the left; "linear" the share per unit of λ.
        smallest: |λ| below which a logarithmic picture shows only what share of eigenvalues is there; if None, the record's
            resolution, below which eigenvalues are not told apart from 0, but no less than 1e-6 of the largest node.
    """
    if scale not in ("log", "linear"):
        raise InputError(f"scale must be log or linear, got {scale!r}.")
    own, ax = ax is None, ax or new_axes(6.8, 4.0)
    xlabel = f"eigenvalue λ of {MATRICES.get(record.of, record.of)} (loss / θ²)"
    ylabel = f"share of eigenvalues\nper {'decade of |λ|' if scale == 'log' else 'unit of λ'}"
    if record.message:
        return dress(ax, xlabel=xlabel, ylabel=ylabel, title=record.message)
    look: dict[str, Any] = {"color": PALETTE[0], "linewidth": 1.4} | style
    logarithmic = scale == "log"
    width = _logarithmic(ax, record, smallest, look) if logarithmic else _linear(ax, record, look)
    ax.set_yscale("log")
    highest = max(float(np.max(np.asarray(line.get_ydata()), initial=0)) for line in ax.lines)
    ax.set_ylim(0.1 / (record.dim * width), 4 * highest)
    values = record.outliers if eigenpairs is None else eigenpairs.values
    if np.isfinite(values).any():
        _strokes(ax, values[np.isfinite(values)])
    if own:
        legend(ax)
    return dress(ax, xlabel=xlabel, ylabel=ylabel)


def _logarithmic(ax: Axes, record: SpectralDensity, smallest: float | None, look: dict[str, Any]) -> float:
    """Both signs on a symmetric logarithmic axis; the width of smoothing."""
    largest = max(abs(record.lowest), abs(record.highest)) or 1.0
    resolution = record.resolution if np.isfinite(record.resolution) else 0.0
    smallest = smallest or max(resolution, largest * 10.0**-_DECADES)
    ax.set_xscale("symlog", linthresh=smallest, linscale=0.5)
    ax.xaxis.set_major_locator(FixedLocator(_ticks(record, smallest)))
    ax.xaxis.set_minor_locator(NullLocator())
    for sign, end in ((-1, -record.lowest), (1, record.highest)):
        if end > smallest:
            magnitudes = np.geomspace(smallest, 2 * end, _POINTS)
            _band(ax, sign * magnitudes, record.log_density(magnitudes, sign=sign, width=_WIDTH), look)
    share, _ = record.share(low=-smallest, high=smallest)
    label = f"|λ| < {number(smallest, 1)}: {percent(float(share))} of all"
    ax.axvspan(-smallest, smallest, color=GRID, linewidth=0, label=label)
    return _WIDTH


def _ticks(record: SpectralDensity, smallest: float) -> list[float]:
    """0 and the powers of ten that have room, on both sides."""
    ends = -record.lowest, record.highest
    first, last = math.ceil(math.log10(3 * smallest)), math.ceil(math.log10(max(ends)) + 0.3)
    apart = 1 + (last - first) // 4
    powers = [10.0**power for power in range(first, max(last, first) + 1, apart)]
    left, right = ([power for power in powers if power < 4 * end] for end in ends)
    return [*(-power for power in reversed(left)), 0.0, *right]


def _linear(ax: Axes, record: SpectralDensity, look: dict[str, Any]) -> float:
    """All from the lowest to the highest node; the width of smoothing."""
    width = _SHARE * ((record.highest - record.lowest) or abs(record.highest) or 1.0)
    grid = np.linspace(record.lowest - 4 * width, record.highest + 4 * width, _POINTS)
    _band(ax, grid, record.density(grid, width=width), look)
    return width


def _band(ax: Axes, x: Array, density: tuple[Array, Array], look: dict[str, Any]) -> None:
    mean, stderr = density
    named: dict[str, Any] = {"label": "mean over probes, ± standard error"} | look
    ax.plot(x, mean, **named)
    ax.fill_between(x, mean - stderr, mean + stderr, color=look["color"], alpha=0.22, linewidth=0)


def _strokes(ax: Axes, values: Array) -> None:
    ax.plot(
        values,
        np.full(len(values), 0.03),
        transform=ax.get_xaxis_transform(),
        linestyle="none",
        marker="|",
        markersize=11,
        markeredgewidth=1.4,
        color=PALETTE[1],
        label=f"{len(values)} eigenvalues, one by one",
    )

"""What all plots share: one colour and marker per optimizer, axes without pyplot, scales that fit the numbers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from .labels import number

# Okabe & Ito (2008), told apart with every common colour blindness; without yellow, which is too pale on white.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#5D5D5D")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
KNOWN = ("sgd", "lbfgs", "alto", "adamw", "sam", "e", "clr")
Grid = Literal["both", "x", "y", "none"]
INK, MUTED, GRID = "#222222", "#767676", "#E4E4E4"
# What may still fall: a path or merge whose search has not settled.
UNSETTLED: dict[str, Any] = {
    "marker": "o",
    "s": 22,
    "facecolors": "white",
    "edgecolors": INK,
    "linewidths": 0.9,
    "zorder": 4,
}


def optimizer_colors(names: Iterable[str]) -> dict[str, str]:
    """A colour per optimizer: a known one keeps its own in every picture, the others take the free ones in order."""
    return {name: PALETTE[slot % len(PALETTE)] for name, slot in _slots(names).items()}


def optimizer_markers(names: Iterable[str]) -> dict[str, str]:
    """A marker per optimizer, so that no picture depends on colour alone; colour and marker together never repeat
    within 49 names."""
    return {name: MARKERS[(s + s // len(MARKERS)) % len(MARKERS)] for name, s in _slots(names).items()}


def optimizer_of(label: str) -> str:
    """The optimizer in a solution's label ``optimizer/seed``; the label itself where there is no seed."""
    return label.rpartition("/")[0] or label


def plain(text: str, longest: int = 40) -> str:
    """Text as matplotlib must be given it to draw it letter for letter (a dollar sign starts no formula), cut if too long."""
    text = text if len(text) <= longest else text[: longest - 1] + "…"
    return text.replace("$", r"\$")


def new_axes(width: float = 6.4, height: float = 4.0) -> Axes:
    """Axes of a figure of their own (inches), which belongs to no backend and no pyplot state."""
    return Figure(figsize=(width, height), layout="constrained").add_subplot()


def dress(ax: Axes, *, title: str = "", xlabel: str = "", ylabel: str = "", grid: Grid = "both") -> Axes:
    """The axes, with the labels and the plain look that all pictures have."""
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(MUTED)
    ax.tick_params(color=MUTED, labelsize=9)
    if grid != "none":
        ax.grid(True, axis=grid, color=GRID, linewidth=0.7)
    ax.set_axisbelow(True)
    if title:
        ax.set_title(title, fontsize=10.5, loc="left", color=INK)
    ax.set_xlabel(xlabel, fontsize=9.5)
    ax.set_ylabel(ylabel, fontsize=9.5)
    return ax


def fit_aspect(ax: Axes, extent1: np.ndarray, extent2: np.ndarray) -> None:
    """The same length along both axes of a plane, unless one is more than three times the other."""
    ratio = np.ptp(extent1) / np.ptp(extent2) if np.ptp(extent2) > 0 else np.inf
    ax.set_aspect("equal" if 1 / 3 <= ratio <= 3 else "auto")


def fit_scale(ax: Axes, values: Sequence[np.ndarray], axis: str = "y") -> None:
    """Scale an axis for these values: logarithmic if all are positive and span more than a factor of 20, symmetric
    logarithmic if they span as much with zeros or negative numbers among them, linear otherwise."""
    flat = (
        np.concatenate([np.ravel(np.asarray(v, dtype=float)) for v in values]) if len(values) else np.zeros(0)
    )
    size = np.abs(flat[np.isfinite(flat) & (flat != 0)])
    if size.size == 0 or size.max() <= 20 * size.min():
        return
    scale, ruler = (ax.set_yscale, ax.yaxis) if axis == "y" else (ax.set_xscale, ax.xaxis)
    if np.nanmin(flat) > 0:
        scale("log")
        few_decades = size.max() < 300 * size.min()
        ruler.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if few_decades else (1.0,)))
        if few_decades:
            ruler.set_major_formatter(FuncFormatter(lambda value, _: number(value, digits=1)))
        ruler.set_minor_formatter(NullFormatter())
    else:
        # Below the threshold the axis is linear: all but the smallest tenth of the sizes lie on the logarithmic part.
        scale("symlog", linthresh=10.0 ** np.floor(np.log10(np.quantile(size, 0.1))))


def legend(ax: Axes, **options: Any) -> None:
    """A legend of what is labelled, each name once; none where nothing is."""
    handles, labels = ax.get_legend_handles_labels()
    first = dict(zip(reversed(labels), reversed(handles), strict=True))
    if first:
        names = list(dict.fromkeys(labels))
        ax.legend([first[n] for n in names], names, **({"frameon": False, "fontsize": 9} | options))


def _slots(names: Iterable[str]) -> dict[str, int]:
    """A place in the palette per name; ``alto(lr=0.1)`` counts as alto while alto's own place is free."""
    names = list(dict.fromkeys(names))
    slots: dict[str, int] = {}
    for exact in (True, False):
        for name in names:
            known = name if exact else name.partition("(")[0]
            if name not in slots and known in KNOWN and KNOWN.index(known) not in slots.values():
                slots[name] = KNOWN.index(known)
    for name in names:
        if name not in slots:
            slots[name] = next(i for i in range(len(names) + len(KNOWN)) if i not in slots.values())
    return {name: slots[name] for name in names}

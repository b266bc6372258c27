"""Pictures of the topology of a surface: its persistence diagram and its merge tree."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes

from ..results import Topology
from .style import INK, MUTED, PALETTE, dress, fit_scale, legend, new_axes, plain

STEM = 0.06  # of the range of values: how far what never dies goes on
RING = 1.1  # the width of the line around what is hollow


def plot_persistence(topology: Topology, ax: Axes | None = None, **style: Any) -> Axes:
    """Axes with the birth and death of every minimum and loop, a point each: the further above the diagonal, the more
    persistent.

    Bars are the errors of sampling. Triangles at the top never die. Hollow minima are on the edge of the grid, beyond which the
    function may go on falling. ``style`` goes to the points.
    """
    own, ax = ax is None, ax or new_axes(4.8, 4.4)
    top = _top(topology)
    kinds = (
        (
            "minima",
            "o",
            PALETTE[0],
            topology.births,
            topology.deaths,
            topology.birth_errors,
            topology.death_errors,
            topology.on_edge,
        ),
        (
            "loops",
            "s",
            PALETTE[1],
            topology.loop_births,
            topology.loop_deaths,
            topology.loop_birth_errors,
            topology.loop_death_errors,
            np.zeros(len(topology.loop_births), dtype=bool),
        ),
    )
    ax.plot([topology.lowest, top], [topology.lowest, top], color=MUTED, linewidth=0.9, label="_")
    for name, marker, color, births, deaths, below, above, hollow in kinds:
        dies = np.isfinite(deaths)
        errors = [np.where(np.isfinite(e), e, 0.0)[dies] for e in (below, above)]
        ax.errorbar(
            births[dies], deaths[dies], errors[1], errors[0], "none", ecolor=color, alpha=0.4, linewidth=1
        )
        look = {
            "marker": marker,
            "color": color,
            "s": 26,
            "edgecolors": "white",
            "linewidths": 0.5,
            "zorder": 3,
        } | style
        dying = ax.scatter(births[dies], deaths[dies], label=name if len(births) else "_", **look)
        look |= {"marker": "^", "s": 40}
        lasting = ax.scatter(births[~dies], np.full((~dies).sum(), top), label="_", **look)
        _hollow(dying, hollow[dies])
        _hollow(lasting, hollow[~dies])
    if own and topology.on_edge.any():
        look = {"marker": "o", "facecolors": "white", "edgecolors": PALETTE[0], "s": 26, "linewidths": RING}
        ax.scatter([], [], label="minima on the edge", **look)
    if own:
        legend(ax, loc="lower right")
    ax.set_aspect("equal")
    what = "loss" if topology.value == "loss" else topology.value
    return dress(ax, xlabel=f"birth: {plain(what)}", ylabel="death", title=plain(topology.label, 30))


def plot_merge_tree(topology: Topology, ax: Axes | None = None, *, scale: str = "", **style: Any) -> Axes:
    """Axes with the merge tree: every minimum a branch from its value up to where it joins a deeper one.

    Horizontal places mean nothing: they keep branches from crossing. What never dies ends in an arrow. Hollow minima are on the
    edge of the grid, beyond which the function may go on falling. ``scale`` is matplotlib's name of the vertical scale, by
    default one that fits; ``style`` goes to the lines.
    """
    m = len(topology.births)
    ax = ax or new_axes(max(4.2, 1.6 + 0.22 * min(m, 60)), 4.4)
    across = _across(topology)
    dies = np.isfinite(topology.deaths)
    top = _top(topology)
    if scale:
        ax.set_yscale(scale)
    else:
        fit_scale(ax, [topology.births, topology.deaths[dies]])
    look = {"color": INK, "linewidth": 1.3, "solid_capstyle": "round"} | style
    for i in range(m):
        x, birth, death = across[i], topology.births[i], topology.deaths[i]
        if dies[i]:
            ax.plot([x, x, across[topology.parents[i]]], [birth, death, death], label="_", **look)
        else:
            ax.plot([x, x], [birth, top], label="_", **look)
            ax.plot(x, top, "^", color=look["color"], markersize=5, label="_")
    look = {"color": PALETTE[0], "s": 28, "edgecolors": "white", "linewidths": 0.6, "zorder": 3}
    _hollow(ax.scatter(across, topology.births, **look), topology.on_edge)
    ax.set_xlim(-0.8, m - 0.2)
    ax.set_xticks([])
    title = plain(topology.label, 30) or f"{m} {'minimum' if m == 1 else 'minima'}"
    hollow = "hollow: on the edge of the grid" if topology.on_edge.any() else ""
    dress(ax, xlabel=hollow, ylabel=plain(topology.value), title=title, grid="y")
    ax.spines["bottom"].set_visible(False)
    return ax


def _hollow(points: Any, hollow: np.ndarray) -> None:
    """Makes some of drawn points (m,) white ones, with their colour around them."""
    face, edge = points.get_facecolor(), points.get_edgecolor()
    if hollow.any() and len(face):
        points.set_facecolor(np.where(hollow[:, None], np.ones(4), face))
        points.set_edgecolor(np.where(hollow[:, None], face, edge if len(edge) else face))
        points.set_linewidth(np.where(hollow, RING, points.get_linewidth()))


def _across(topology: Topology) -> np.ndarray:
    """A place (m,) for each branch: right of its parent, beyond the branches that join that one lower down.

    So the way from a branch to its parent crosses only branches that have ended below.
    """
    children: dict[int, list[int]] = {}
    for i in np.argsort(topology.deaths, kind="stable"):
        children.setdefault(int(topology.parents[i]), []).append(int(i))
    places = np.zeros(len(topology.births))
    waiting, place = children.get(-1, [])[::-1], 0
    while waiting:
        i = waiting.pop()
        places[i], place = place, place + 1
        waiting += children.get(i, [])[::-1]
    return places


def _top(topology: Topology) -> float:
    """Where what never dies is drawn: above all finite deaths."""
    deaths = np.concatenate([topology.deaths, topology.loop_deaths, topology.births])
    highest = float(deaths[np.isfinite(deaths)].max())
    return highest + STEM * max(
        highest - topology.lowest, 1e-3 * (topology.highest - topology.lowest), 1e-300
    )

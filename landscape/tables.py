"""Tables for the terminal: summaries with intervals, the flatness and curvature of solutions, and what joins them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from rich.console import Console
from rich.table import Table

from .plots.flatness import MEASURES, flatness_value
from .plots.labels import bounded, metric, number, percent
from .results import (
    BlockTraces,
    Embedding,
    Flatness,
    MinimaNetwork,
    Roughness,
    SpectralDensity,
    SplitTrace,
    Summary,
    Topology,
)

_WITHOUT_TERMINAL = 200  # columns
_CONTROLS = {"these coordinates": "kernel", "the norm alone": "norm", "the nearest centroid": "centroid"}


def show_summary(summary: Summary, group: str, names: Sequence[str] = ()) -> None:
    """Print a summary: one row a metric, called by its name or these, one column a group, each number with its interval."""
    if not summary.groups:
        return
    table = Table(
        title=f"by {group}, {summary.confidence:.0%} intervals over solutions", title_justify="left"
    )
    table.add_column("")
    for name in summary.groups:
        table.add_column(name, justify="right")
    for row, key in enumerate(summary.metrics):
        known = metric(key)
        cells = [
            _cell(known.write, summary.center[row, i], summary.low[row, i], summary.high[row, i])
            for i in range(len(summary.groups))
        ]
        table.add_row(names[row] if names else known.axis, *cells)
    _console().print(table)


def show_markdown(summary: Summary, title: str) -> None:
    """Print a summary as a table in Markdown: one row a metric, one column a group, "1.52 (1.2 to 1.8)"."""
    _say(f"| {' | '.join([title, *summary.groups])} |\n{'|---' * (len(summary.groups) + 1)}|")
    intervals = np.stack([summary.center, summary.low, summary.high], axis=-1)
    for key, row in zip(summary.metrics, intervals, strict=True):
        cells = (bounded(*cell) if np.isfinite(cell).all() else number(cell[0]) for cell in row)
        _say(f"| {' | '.join([metric(key).axis, *cells])} |")


def show_flatness(records: Sequence[Flatness]) -> None:
    """Print one row a solution: every measure that some record has, with its error, in as many tables as the width asks for."""
    columns = {
        "loss": [number(f.loss) for f in records],
        "norm": [number(f.theta_norm) for f in records],
        "gradient norm": [number(f.gradient_norm, 2) for f in records],
    }
    for key in MEASURES:
        found = [flatness_value(f, key) for f in records]
        if any(math.isfinite(value) for value, _ in found):
            known = metric(key)
            columns[known.name + "*" * bool(known.invariant)] = [_with_error(*pair) for pair in found]
    _show([f.label for f in records], columns)
    _say(
        "± one standard error, of the eigenvalue its residual; rises of the loss were found by ascent, true ones may be larger"
    )
    _say("* does not change when layers are rescaled against each other; the others do")
    _say_messages([f.label for f in records], [f.message for f in records])


def show_network(network: MinimaNetwork) -> None:
    """Print one row a merge of the disconnectivity graph, lowest first: its height, whose path it is, and what it joins."""
    table = Table("height", "barrier", "path between", "minima", "path")
    for merge in network.merges:
        a, b = (network.labels[i] for i in merge.edge)
        parts, path = f"{len(merge.left)} + {len(merge.right)}", str(network.status[merge.edge])
        path += "" if path != "searched" else ", settled" if merge.settled else ", not settled"
        barrier = number(network.barriers[merge.edge], 2)
        table.add_row(number(merge.height), barrier, f"{a} – {b}", parts, path)
    _console().print(table)
    searched = int((network.status == "searched").sum()) // 2
    _say(f"paths were searched for {searched} of {len(network.loss) * (len(network.loss) - 1) // 2} pairs")


def show_embedding(embedding: Embedding) -> None:
    """Print how well groups are told apart by coordinates, norm and centroid, and the coordinates of up to 40 points."""
    if len(embedding.labels) <= 40:
        for label, row in zip(embedding.labels, embedding.coordinates, strict=True):
            _say(f"{label}: " + "  ".join(f"{x: .5f}" for x in row))
    shares = ", ".join(f"{share:.0%}" for share in embedding.explained)
    _say(f"the components hold {shares} of the kernel's variance")
    if not np.isfinite(embedding.norm_accuracy):
        _say("groups of one solution, or of one trajectory, cannot be told apart")
        return
    table = Table("told apart by", "accuracy", "p, groups permuted", title_justify="left")
    for name, control in _CONTROLS.items():
        accuracy, spread = getattr(embedding, f"{control}_accuracy"), embedding.spread(control)
        table.add_row(name, f"{accuracy:.2f} ± {spread:.2f}", number(embedding.p_value(control), 2))
    table.add_row("chance", f"{embedding.chance:.2f}", "")
    _console().print(table)
    _say("± over splits of a cross-validation, which is no error over solutions")


def show_topology(topology: Topology, roughness: Roughness) -> None:
    """Print one row a minimum of a plane that counts, deepest first: where it is, and where it joins a deeper one."""
    table = Table(
        "minimum", topology.value, "along d1", "along d2", "on the edge", "joins", "at", "persistence"
    )
    rows = zip(
        topology.births,
        topology.minima_coordinates,
        topology.on_edge,
        topology.parents,
        topology.deaths,
        topology.persistence,
        strict=True,
    )
    for i, (birth, (x, y), on_edge, parent, death, persistence) in enumerate(rows):
        joins = (str(parent), number(death), number(persistence, 2)) if parent >= 0 else ("", "", "")
        table.add_row(str(i), number(birth), number(x), number(y), "yes" if on_edge else "", *joins)
    _console().print(table)
    _say(
        f"{len(topology.loop_births)} loops; of the plane's Hessians {percent(roughness.nonconvex)} have a negative eigenvalue; "
        f"the best quadratic leaves {percent(roughness.misfit)} of the variance; total persistence is "
        f"{number(roughness.total_persistence, 2)} of the range"
    )


def show_curvature(
    labels: Sequence[str],
    layers: Sequence[SplitTrace | BlockTraces],
    densities: Sequence[SpectralDensity],
) -> None:
    """Print one row a solution: the two parts of the trace, the block that holds most of it, and how eigenvalues are spread."""
    columns: dict[str, list[str]] = {name: [] for name in _CURVATURE}
    for layer, density in zip(layers, densities, strict=True):
        columns["Gauss–Newton trace"].append(_part(layer, "gauss_newton"))
        columns["residual trace"].append(_part(layer, "residual"))
        columns["largest block"].append(_largest(layer))
        small = _SMALL * density.highest
        columns[_CURVATURE[3]].append(_count(density, low=small))
        columns[_CURVATURE[4]].append(_count(density, high=-small))
        columns["lowest eigenvalue"].append(number(density.lowest))
        columns["highest eigenvalue"].append(number(density.highest))
    _show(labels, columns)
    _say(
        "eigenvalues above 1 % and below −1 % of the highest are counts with 95 % intervals; the true ends may lie further out"
    )
    _say_messages(labels, [layer.message for layer in layers])


_CURVATURE = (
    *("Gauss–Newton trace", "residual trace", "largest block"),
    *(
        "eigenvalues above\u00a01\u00a0%",
        "eigenvalues below\u00a0−1\u00a0%",
        "lowest eigenvalue",
        "highest eigenvalue",
    ),
)
_SMALL = 0.01


def _part(layers: SplitTrace | BlockTraces, part: str) -> str:
    if isinstance(layers, BlockTraces):
        return number(math.nan)
    return _with_error(float(getattr(layers, part)[0]), float(getattr(layers, f"{part}_stderr")[0]))


def _count(density: SpectralDensity, **bounds: float) -> str:
    """How many eigenvalues are there, in an interval for errors of both kinds."""
    center, (low, high) = density.share(**bounds)[0], density.share_bounds(**bounds)
    return _cell(lambda share: f"{density.dim * share:.0f}", float(center), float(low), float(high))


def _largest(layers: SplitTrace | BlockTraces) -> str:
    """Its name, and its share of the trace where all of it is positive."""
    block = int(layers.values.argmax())
    total = float(layers.values.sum())
    share = f" ({percent(layers.values[block] / total)})" if layers.values.min() >= 0 < total else ""
    return f"{layers.names[block]}{share}"


def _show(labels: Sequence[str], columns: Mapping[str, Sequence[str]]) -> None:
    """Print one row a label, the columns in as many tables as the width of the terminal asks for."""
    console = _console()
    first = max(map(len, ("solution", *labels))) + 4
    for group in _side_by_side(columns, console.width - first):
        table = Table("solution")
        for name in group:
            table.add_column(_in_two_lines(name), justify="right", no_wrap=True)
        for row, label in enumerate(labels):
            table.add_row(label, *(columns[name][row] for name in group))
        console.print(table)


def _side_by_side(columns: Mapping[str, Sequence[str]], width: int) -> Iterator[list[str]]:
    """Names of columns that fit beside one another, at least one at a time."""
    group, left = [], width
    for name, cells in columns.items():
        needed = max(map(len, (*_in_two_lines(name).splitlines(), *cells))) + 3
        if group and needed > left:
            yield group
            group, left = [], width
        group.append(name)
        left -= needed
    if group:
        yield group


def _in_two_lines(name: str) -> str:
    return "\n".join(name.rsplit(" ", 1))


def _with_error(value: float, error: float) -> str:
    """0 ± 0 is what no sample saw, and is not exact."""
    told = math.isfinite(error) and (value or error)
    return f"{number(value)} ± {number(error, 2)}" if told else number(value)


def _cell(write: Callable[[float], str], center: float, low: float, high: float) -> str:
    text = write(center)
    return text if low != low else f"{text} [{write(low)}, {write(high)}]"


def _say(line: str) -> None:
    _console().print(line, style="dim", highlight=False)


def _say_messages(labels: Sequence[str], messages: Sequence[str]) -> None:
    """Every message once, with the solutions that it is of."""
    for message in dict.fromkeys(filter(None, messages)):
        whose = [label for label, said in zip(labels, messages, strict=True) if said == message]
        _say(f"{', '.join(whose)}: {message}")


def _console() -> Console:
    """As wide as the terminal, or as wide tables where there is none."""
    console = Console()
    return console if console.is_terminal else Console(width=_WITHOUT_TERMINAL)

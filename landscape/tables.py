"""Tables for the terminal: summaries with intervals, and the flatness of solutions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rich.console import Console
from rich.table import Table

from .plots.labels import metric, number
from .results import Flatness, Summary


def show_summary(summary: Summary, group: str) -> None:
    """Print a summary: one row a metric, one column a group, each number with its interval."""
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
        table.add_row(known.axis, *cells)
    _console().print(table)


def show_flatness(records: Sequence[Flatness]) -> None:
    """Print one row a solution."""
    table = Table()
    columns = (
        "solution",
        "loss",
        "trace ± s.e.",
        "λ₁",
        "λ₁ residual",
        "SAM sharpness",
        "adaptive sharpness*",
        "‖θ‖",
    )
    for name in columns:
        table.add_column(name, justify="left" if name == "solution" else "right")
    for f in records:
        table.add_row(
            f.label,
            number(f.loss),
            f"{number(f.trace)} ± {number(f.trace_stderr, 2)}",
            number(float(f.eigenvalues[0])),
            number(float(f.residuals[0]), 2),
            number(f.sam_sharpness),
            number(f.adaptive_sharpness),
            number(f.theta_norm),
        )
    _console().print(table)
    _console().print(
        "* does not change when layers are rescaled against each other; the others do", style="dim"
    )


def _cell(write: Callable[[float], str], center: float, low: float, high: float) -> str:
    text = write(center)
    return text if low != low else f"{text} [{write(low)}, {write(high)}]"


def _console() -> Console:
    """As wide as the terminal, or as the table where there is none."""
    console = Console()
    return console if console.is_terminal else Console(width=200)

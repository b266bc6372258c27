"""The report of a comparison: one HTML page that holds everything it needs and opens without a network."""

from __future__ import annotations

import base64
import json
import math
import os
import re
from html import unescape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from .comparison import Comparison
from .plots import (
    comparison_captions,
    comparison_figures,
    comparison_findings,
    interactive_figures,
    optimizer_colors,
    save_figures,
)
from .plots.captions import TITLES
from .plots.findings import capital
from .plots.labels import METRICS, metric, number, percent
from .records import atomic_file
from .results import Flatness, Solution, Summary

if TYPE_CHECKING:
    import plotly.graph_objects as go

TEMPLATES = Path(__file__).parent / "templates"
FIGURES = "figures"
LARGEST_SVG = 400_000  # bytes; a picture with more lines than that goes into the page as PNG
SECTIONS = ("Depth", "Flatness", "Position", "Corridor", "Cost", "Pairs", "Other")


def write_report(comparison: Comparison, *, key: str = "") -> Path:
    """The path of the comparison's report.html, written anew with its figures (PNG and SVG) in figures/ beside it.

    ``key`` is kept in the page for report_key, to tell whether a report is of these records. The page is written
    last and atomically: where it is, it is whole. The same records give the same bytes.
    """
    figures = comparison_figures(comparison)
    save_figures(figures, comparison.directory / FIGURES)
    interactive = interactive_figures(comparison)
    page = (
        _environment()
        .get_template("report.html.j2")
        .render(
            key=key,
            settings=comparison.settings,
            settings_text=json.dumps(comparison.settings, indent=2, ensure_ascii=False, default=str),
            version=_mapping(comparison.settings, "versions").get("torch-landscape", ""),
            facts=_facts(comparison),
            problem=_problem(comparison),
            recipes=_recipes(comparison),
            optimizers=comparison.optimizers,
            colors=optimizer_colors(comparison.optimizers),
            findings=comparison_findings(comparison),
            confidence=f"{100 * comparison.summary.confidence:g} %",
            one_in=round(1 / max(1 - comparison.summary.confidence, 1e-9)),
            table=_table(comparison.summary),
            pairs=_table(comparison.pair_summary),
            solutions=_solutions(comparison),
            figures={name: _picture(comparison.directory / FIGURES, name) for name in figures},
            titles=TITLES,
            captions=comparison_captions(comparison),
            interactive={name: _interactive(figure) for name, figure in interactive.items()},
            plotly=Markup(_plotly_source()) if interactive else "",
            metrics=_definitions(comparison),
            radii=_radii(comparison),
        )
    )
    with atomic_file(comparison.report) as handle:
        handle.write(page.encode())
    return comparison.report


def report_key(path: str | os.PathLike[str]) -> str | None:
    """The key a report was written with; None where there is no report or none of ours."""
    try:
        with Path(path).open("rb") as handle:
            head = handle.read(1 << 16).decode(errors="replace")
    except OSError:
        return None
    found = re.search(r'<meta name="torch-landscape-key" content="([^"]*)">', head)
    return unescape(found[1]) if found else None


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "percent": percent, "capital": capital}
    return environment


def _problem(comparison: Comparison) -> str:
    return str(comparison.settings.get("problem") or comparison.solutions[0].problem)


def _recipes(comparison: Comparison) -> dict[str, str]:
    """The recipe of every optimizer, empty where the settings do not hold it."""
    known = _mapping(comparison.settings, "optimizers")
    return {name: str(known.get(name, "")) for name in comparison.optimizers}


def _facts(comparison: Comparison) -> list[tuple[str, str]]:
    """What was run, as (name, value), of what the settings hold."""
    settings = comparison.settings
    seeds, first = settings.get("seeds"), settings.get("first_seed")
    count = str(len(comparison.solutions))
    if seeds is not None:
        count += f", from {seeds} seed{'' if seeds == 1 else 's'} per optimizer"
    facts = [
        ("Problem", _problem(comparison)),
        ("Examples", ", ".join(f"{_whole(n)} {part}" for part, n in _mapping(settings, "data").items())),
        ("Parameters", _whole(settings.get("parameters", comparison.solutions[0].theta.size))),
        ("Solutions", count),
        ("First seed", "" if first is None else str(first)),
        ("Precision", str(settings.get("dtype", ""))),
        ("Device", str(settings.get("device", ""))),
        ("BatchNorm", str(settings.get("batchnorm", "")).removeprefix("none")),
        ("Versions", ", ".join(f"{k} {v}" for k, v in _mapping(settings, "versions").items())),
    ]
    return [(name, value) for name, value in facts if value]


def _mapping(settings: dict[str, Any], name: str) -> dict[str, Any]:
    """A part of the settings; empty where it is missing or no mapping."""
    part = settings.get(name)
    return part if isinstance(part, dict) else {}


def _whole(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _table(summary: Summary) -> list[dict[str, Any]]:
    """Sections of rows, a row a metric: its cells in the order of the groups, and the places of its dots."""
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in SECTIONS}
    for i, key in enumerate(summary.metrics):
        known = metric(key)
        numbers = list(zip(summary.center[i], summary.low[i], summary.high[i], strict=True))
        cells = [
            {
                "center": known.write(center),
                "interval": f"[{known.write(low)}, {known.write(high)}]"
                if np.isfinite([low, high]).all()
                else "",
                "count": int(summary.counts[i, j]),
            }
            for j, (center, low, high) in enumerate(numbers)
        ]
        row = {"metric": known, "scale": summary.scales[i], "cells": cells}
        rows[known.section].append(row | {"dots": _dots(np.array(numbers, dtype=float), summary.scales[i])})
    counts = [int(n) for n in summary.counts.max(axis=0, initial=0)]
    return [
        {"name": name, "rows": found, "groups": list(zip(summary.groups, counts, strict=True))}
        for name, found in rows.items()
        if found and summary.groups
    ]


def _dots(numbers: np.ndarray, scale: str) -> list[tuple[float, float, float] | None]:
    """(center, low, high) of each group as places from 0 to 100 on one common scale; None where there is no number."""
    finite = numbers[np.isfinite(numbers)]
    with_log = scale == "geometric mean" and finite.size > 0 and bool((finite > 0).all())
    change = math.log if with_log else float
    if not finite.size or finite.min() == finite.max():
        return [None] * len(numbers)
    first, last = change(finite.min()), change(finite.max())

    def place(value: float) -> float:
        return round(4 + 92 * (change(value) - first) / (last - first), 2)

    return [
        tuple(place(v if math.isfinite(v) else row[0]) for v in row) if math.isfinite(row[0]) else None
        for row in numbers
    ]  # pyright: ignore[reportReturnType]


def _solutions(comparison: Comparison) -> list[tuple[Solution, Flatness | None]]:
    flatness = {f.label: f for f in comparison.flatness}
    return [(s, flatness.get(s.label)) for s in comparison.solutions]


def _definitions(comparison: Comparison) -> list[Any]:
    """What is known of the metrics that this report holds, in the order of their sections."""
    present = {*comparison.summary.metrics, *comparison.pair_summary.metrics}
    return [m for m in METRICS.values() if m.key in present]


def _radii(comparison: Comparison) -> str:
    """The radii that sharpness was measured with."""
    sam = sorted({f.sam_rho for f in comparison.flatness})
    adaptive = sorted({f.adaptive_rho for f in comparison.flatness})
    if not sam:
        return ""
    return f"Here ρ is {', '.join(map(number, sam))} for SAM and {', '.join(map(number, adaptive))} for adaptive sharpness."


def _picture(directory: Path, name: str) -> str:
    """A saved figure as a data: address."""
    content, kind = (directory / f"{name}.svg").read_bytes(), "svg+xml"
    if len(content) > LARGEST_SVG:
        content, kind = (directory / f"{name}.png").read_bytes(), "png"
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def _interactive(figure: go.Figure) -> Markup:
    """A plotly figure as JSON that no HTML parser can leave: <, > and & are escaped."""
    text = figure.to_json() or "{}"
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)


def _plotly_source() -> str:
    """plotly.js as the installed plotly package ships it."""
    from plotly.offline import get_plotlyjs

    return get_plotlyjs()

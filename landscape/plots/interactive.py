"""Pictures to hover over, as plotly figures. All traces are drawn as SVG: nothing here needs WebGL or a network."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

from ..comparison import Comparison
from ..results import Embedding
from .embeddings import component_name, norm_name
from .labels import number
from .scans import log_levels
from .style import GRID, INK, optimizer_colors, optimizer_markers

if TYPE_CHECKING:
    import plotly.graph_objects as go

SYMBOLS = {
    "o": "circle",
    "s": "square",
    "^": "triangle-up",
    "D": "diamond",
    "v": "triangle-down",
    "P": "cross",
    "X": "x",
}


def interactive_figures(comparison: Comparison) -> dict[str, go.Figure]:
    """Plotly figures by the name of the still figure they stand for: "embedding" and "surfaces", where there are any."""
    figures = {}
    embedding = comparison.embedding
    if embedding is not None and embedding.coordinates.ndim == 2 and embedding.coordinates.shape[1] > 1:
        figures["embedding"] = embedding_figure(comparison, embedding)
    if comparison.surfaces:
        figures["surfaces"] = surfaces_figure(comparison)
    return figures


def embedding_figure(comparison: Comparison, embedding: Embedding) -> go.Figure:
    """Kernel PCA beside its control PC1 against ‖θ‖; hovering names the solution with its losses and norm."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    figure = make_subplots(rows=1, cols=2, horizontal_spacing=0.12)
    colors, markers = optimizer_colors(comparison.optimizers), optimizer_markers(comparison.optimizers)
    losses = {s.label: (s.train_loss, s.test_loss) for s in comparison.solutions}
    groups = np.array(embedding.groups)
    for name in dict.fromkeys(embedding.groups):
        rows = np.flatnonzero(groups == name)
        hover = [_solution_text(embedding.labels[i], losses, embedding.norms[i]) for i in rows]
        look = {
            "mode": "markers",
            "name": escape(name),
            "legendgroup": name,
            "hovertext": hover,
            "hoverinfo": "text",
            "marker": {"color": colors.get(name, INK), "symbol": SYMBOLS[markers.get(name, "o")], "size": 11}
            | {"line": {"color": "white", "width": 1}},
        }
        first, second = embedding.coordinates[rows, 0], embedding.coordinates[rows, 1]
        figure.add_trace(go.Scatter(x=_list(first), y=_list(second), **look), row=1, col=1)
        control = go.Scatter(x=_list(embedding.norms[rows]), y=_list(first), showlegend=False, **look)
        figure.add_trace(control, row=1, col=2)
    figure.update_xaxes(title_text=component_name(embedding, 0), row=1, col=1)
    figure.update_yaxes(title_text=component_name(embedding, 1), row=1, col=1)
    figure.update_xaxes(title_text=norm_name(embedding), row=1, col=2)
    figure.update_yaxes(title_text=component_name(embedding, 0), row=1, col=2)
    return _dress(figure, height=430)


def surfaces_figure(comparison: Comparison) -> go.Figure:
    """Contours of the loss around each optimizer's deepest solution on one logarithmic scale; hovering says the loss."""
    import plotly.graph_objects as go
    from plotly.subplots import make_subplots

    surfaces = comparison.surfaces
    columns = min(3, len(surfaces))
    rows = -(-len(surfaces) // columns)
    titles = [escape(s.label) for s in surfaces]
    figure = make_subplots(
        rows=rows, cols=columns, subplot_titles=titles, horizontal_spacing=0.06, vertical_spacing=0.14
    )
    levels = np.log10(log_levels([s.loss for s in surfaces]))
    for i, surface in enumerate(surfaces):
        place: dict[str, Any] = {"row": i // columns + 1, "col": i % columns + 1}
        loss = surface.loss.T
        height = np.log10(np.maximum(loss, np.finfo(float).tiny))
        figure.add_trace(
            go.Contour(
                x=_list(surface.steps1),
                y=_list(surface.steps2),
                z=[_list(row) for row in height],
                customdata=[[number(value) for value in row] for row in loss],
                hovertemplate="d₁ %{x:.3g}, d₂ %{y:.3g}<br>train loss <b>%{customdata}</b><extra></extra>",
                coloraxis="coloraxis",
                autocontour=False,
                contours={
                    "start": levels[0],
                    "end": levels[-1],
                    "size": (levels[-1] - levels[0]) / (len(levels) - 1),
                },
                line={"width": 0.4, "color": "white"},
            ),
            **place,
        )
        center = {"symbol": "cross-thin", "size": 12, "line": {"color": "white", "width": 2}}
        figure.add_trace(
            go.Scatter(x=[0], y=[0], mode="markers", marker=center, hoverinfo="skip", showlegend=False),
            **place,
        )
        last = i + columns >= len(surfaces)
        figure.update_xaxes(title_text="step along d₁" if last else "", constrain="domain", **place)
        figure.update_yaxes(
            title_text="step along d₂" if i % columns == 0 else "", constrain="domain", **place
        )
        figure.update_yaxes(scaleanchor=f"x{i + 1 if i else ''}", **place)
    ticks = _decades(levels[0], levels[-1])
    bar = {
        "title": {"text": "train loss"},
        "tickvals": ticks,
        "ticktext": [number(10.0**t, 1) for t in ticks],
        "thickness": 14,
    }
    scale = {"colorscale": "Viridis", "cmin": levels[0], "cmax": levels[-1], "colorbar": bar}
    figure.update_layout(coloraxis=scale)
    return _dress(figure, height=110 + rows * {1: 460, 2: 380, 3: 225}[columns])


def _solution_text(label: str, losses: dict[str, tuple[float, float]], norm: float) -> str:
    train, test = losses.get(label, (np.nan, np.nan))
    return f"<b>{escape(label)}</b><br>train loss {number(train)}<br>test loss {number(test)}<br>‖θ‖ {number(norm)}"


def _dress(figure: go.Figure, *, height: int) -> go.Figure:
    axis = {
        "showline": True,
        "linecolor": "#767676",
        "gridcolor": GRID,
        "zeroline": False,
        "ticks": "outside",
    }
    figure.update_xaxes(axis)
    figure.update_yaxes(axis)
    figure.update_layout(
        template="none",
        height=height,
        margin={"l": 60, "r": 20, "t": 50, "b": 55},
        font={"family": "system-ui, sans-serif", "size": 12, "color": INK},
        legend={"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom"},
        paper_bgcolor="white",
        plot_bgcolor="white",
    )
    return figure


def _decades(low: float, high: float) -> list[float]:
    """Whole powers of ten in a range of exponents, at most eight of them; its ends where it holds fewer than two."""
    powers = np.arange(np.ceil(low), np.floor(high) + 1)
    return [float(p) for p in (powers[:: max(1, -(-len(powers) // 8))] if len(powers) > 1 else (low, high))]


def _list(values: np.ndarray) -> list[Any]:
    """Numbers as JSON takes them: what is not finite is missing."""
    return [float(v) if np.isfinite(v) else None for v in values]

"""A line or plane that was refined: its points, its cells and what they say in between."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from .records import Record
from .results import NAN, Array, Profile, Surface

Scale = Literal["linear", "log"]
DEGREE = 3  # of a cell's polynomial along each axis


@dataclass(frozen=True, kw_only=True, eq=False)
class Refined(Record):
    """The loss at n points of a line (d = 1) or plane (d = 2), and the cubics through them in m cells.

    coordinates (n, d), loss (n,); cells (m, 2, d) lower and upper corners; nodes (m, 4^d) the losses at the regular
    grid of a cell's own points, last axis fastest. miss (m,) is measured: how far the cell before its last halving, or the cell
    itself, was off at points that it had not been drawn through; in the loss, or in its logarithm where ``scale`` is "log".
    It is infinite beside a loss that is not finite on this scale, NaN where none is.
    """

    steps1: Array
    steps2: Array
    coordinates: Array
    loss: Array
    cells: Array
    nodes: Array
    miss: Array
    scale: Scale
    tolerance: float
    converged: bool
    direction: str = ""
    label: str = ""

    @property
    def error(self) -> float:
        """The largest error of the interpolation: the largest finite miss.

        It was measured before the last halving, which leaves half of it at a kink and a sixteenth where the loss is smooth: so
        it is mostly several times too large. It says nothing of a spike between all points: there the error can be anything.
        """
        return self.error_quantile(1.0)

    def error_quantile(self, share: float = 0.95) -> float:
        """The miss that is not exceeded on this share of the area (of the cells whose miss is finite)."""
        kept = np.isfinite(self.miss)
        order = np.argsort(self.miss[kept])
        area = np.cumsum(np.prod(self.cells[kept, 1] - self.cells[kept, 0], axis=1)[order])
        if not area.size:
            return NAN
        at = min(int(np.searchsorted(area, share * area[-1])), area.size - 1)
        return float(self.miss[kept][order][at])

    @property
    def not_finite(self) -> int:
        """How many of the losses are NaN or infinite."""
        return int((~np.isfinite(self.loss)).sum())

    def at(self, coordinates: Array) -> Array:
        """The loss (q,) at coordinates (q, d): exact at cells' corners, NaN outside of all cells.

        Also NaN in a cell that has a loss which is not finite, except at its corners.
        """
        where = np.asarray(coordinates, dtype=float)
        found = np.full(len(where), NAN)
        for (low, high), nodes in zip(self.cells, self.nodes, strict=True):
            inside = np.flatnonzero(((where >= low) & (where <= high)).all(axis=1))
            weights = node_weights((where[inside] - low) / (high - low))
            with np.errstate(invalid="ignore"):
                value = weights @ scaled(nodes, self.scale)
            value = np.exp(value) if self.scale == "log" else value
            value = np.where(weights.max(axis=1) == 1, nodes[weights.argmax(axis=1)], value)
            found[inside] = np.where(np.isfinite(value) | np.isnan(found[inside]), value, found[inside])
        return found

    @property
    def surface(self) -> Surface:
        """The interpolated loss on the plane's own steps."""
        where = np.stack(np.meshgrid(self.steps1, self.steps2, indexing="ij"), axis=-1)
        loss = self.at(where.reshape(-1, 2)).reshape(where.shape[:2])
        return Surface(steps1=self.steps1, steps2=self.steps2, loss=loss, **self._labels)

    @property
    def profile(self) -> Profile:
        """The interpolated loss on the line's own steps."""
        return Profile(steps=self.steps1, loss=self.at(self.steps1[:, None]), **self._labels)

    @property
    def _labels(self) -> dict[str, Any]:
        said = {"evaluations": len(self.loss), "error": self.error, "scale": self.scale}
        about = self.about | {"interpolated": said}
        return {"direction": self.direction, "label": self.label, "about": about}


def node_weights(u: Array) -> Array:
    """(q, 4^d) of a cell's nodes in the (bi)cubic through them, at u (q, d) in the unit cell: Lagrange's polynomials."""
    x, at = DEGREE * u, range(DEGREE + 1)
    axes = np.stack([np.prod([(x - j) / (i - j) for j in at if j != i], axis=0) for i in at], axis=-1)
    weights = axes[:, 0]
    for i in range(1, u.shape[1]):
        weights = (weights[:, :, None] * axes[:, i, None]).reshape(len(u), (DEGREE + 1) ** (i + 1))
    return weights


def scaled(loss: Array, scale: Scale) -> Array:
    """The loss, or its logarithm."""
    if scale == "linear":
        return loss
    with np.errstate(divide="ignore"):
        return np.log(loss)

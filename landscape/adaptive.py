"""Lines and planes refined where the loss bends: cells are halved until what they predict is what is found."""

from __future__ import annotations

from bisect import bisect_right
from itertools import product

import numpy as np
import torch

from .choosing import choose, losses
from .engines import Engine
from .errors import InputError
from .families import Family
from .measuring import Choice
from .objective import Objective
from .parameters import float64_array
from .probes import Line, Plane
from .refined import DEGREE, Refined, Scale, node_weights, scaled
from .results import NAN, Array

DEEPEST = 9  # halvings at most, so that the lattice of all places fits in memory


def refine(
    objective: Objective,
    probe: Line | Plane,
    *,
    tolerance: float = 0.01,
    max_points: int = 10_000,
    scale: Scale = "linear",
    max_depth: int = 6,
    engine: str = "auto",
    direction: str = "",
    label: str = "",
) -> Refined:
    """The loss on a line or plane, evaluated densely only where it bends, with the measured error of interpolation.

    A cell has 4 points along each axis and the (bi)cubic through them. Halved along each axis, it shows how far that was off
    at the new points. A part in which this exceeds the tolerance is halved again; so is a cell that is off at the points of a
    finer neighbour. The points of one round are evaluated together, none twice. There are two cells along each axis at first;
    they meet at step 0 if that is inside, so that the center is a point.

    Cost: one loss evaluation a point, 169 on a plane and 13 on a line where the loss is cubic. Where it is smooth on the scale of
    the whole plane, as a small network's often is, a uniform grid of as many points under a cubic spline does as well, but says
    nothing of its error.

    Args:
        probe: its steps bound what is refined, and are where ``surface`` and ``profile`` interpolate.
        tolerance: of the error, as a share of the range of the loss that was found (of its logarithm if scale="log").
        max_points: evaluations at most; cells that are most off come first. ``converged`` says whether any is left.
        scale: "log" measures the error, and interpolates, in log loss: for a loss that spans orders of magnitude.
        max_depth: halvings of the first cells at most; as many are made beside a loss that is not finite on its scale.
        engine: as for ``scan``, and by "auto" the one that a scan of this probe would take.

    Raises:
        InputError: fewer than two different steps along an axis, or a negative loss under scale="log".
    """
    axes = (probe.steps1, probe.steps2) if isinstance(probe, Plane) else (probe.steps,)
    steps = [_checked_steps(s) for s in axes]
    _check(tolerance, max_points, scale, max_depth, first=(4 * DEGREE + 1) ** len(steps))
    samples = _Samples(objective, probe, [_edges(s) for s in steps], DEGREE * 2**max_depth, scale, engine)
    cells, miss = samples.first()
    while True:
        beside = samples.off_beside_finer(cells)
        miss = np.where(beside > 0, np.fmax(miss, beside), miss)
        bound = tolerance * samples.range()
        wanted = np.flatnonzero((miss > bound) & (cells[:, -1] > DEGREE))
        wanted = wanted[_worst_first(miss[wanted])]
        split = wanted[: samples.affordable(cells[wanted], max_points)]
        if not split.size:
            break
        parts, missed = samples.halved(cells[split])
        cells = np.concatenate([np.delete(cells, split, axis=0), parts])
        miss = np.concatenate([np.delete(miss, split), missed])
    order = np.argsort(-cells[:, -1], kind="stable")  # finer ones later: Refined.at takes the last
    cells, miss = cells[order], miss[order]
    return Refined(
        steps1=steps[0],
        steps2=steps[1] if len(steps) > 1 else np.zeros(0),
        coordinates=samples.coordinates(samples.places),
        loss=samples.loss,
        cells=samples.coordinates(_places(cells, 2)[:, [0, -1]]),
        nodes=samples.found(_places(cells, DEGREE + 1)),
        miss=miss,
        scale=scale,
        tolerance=tolerance,
        converged=bool((miss <= bound).all()),
        direction=direction,
        label=label,
        about={"engine": samples.choice.said()},
    )


class _Samples:
    """Losses at places (d,) of an integer lattice, each evaluated once. A cell (d + 1,) is its lowest place and its size."""

    def __init__(
        self,
        objective: Objective,
        probe: Line | Plane,
        edges: list[Array],
        size: int,
        scale: Scale,
        engine: str,
    ) -> None:
        self.objective, self.edges, self.size = objective, edges, size
        self.scale: Scale = scale
        self.family = probe.family(objective)
        self.choice = choose(objective, self.family) if engine == "auto" else Choice(Engine.named(engine))
        self.index = np.full([size * (len(e) - 1) + 1 for e in edges], -1)
        self.places, self.loss = np.zeros((0, len(edges)), dtype=int), np.zeros(0)

    def first(self) -> tuple[Array, Array]:
        """Two cells along each axis, evaluated, with an infinite miss, so that all are halved."""
        lowest = self.size * _offsets(len(self.edges), 2)
        cells = np.insert(lowest, len(self.edges), self.size, axis=1)
        self.evaluate(_places(cells, DEGREE + 1))
        return cells, np.full(len(cells), np.inf)

    def evaluate(self, places: Array) -> None:
        new = self.unseen(places)
        at = torch.from_numpy(self.coordinates(new)).to(self.family.origin)
        family = Family(self.family.origin, self.family.directions, at)
        found, _ = losses(self.objective, family, engine=self.choice.engine.name)
        loss = float64_array(found)
        if self.scale == "log" and (loss < 0).any():
            raise InputError(
                f"scale must be 'linear' where the loss is negative, got 'log' and a loss of {loss.min():.4g}."
            )
        self.index[tuple(new.T)] = np.arange(len(new)) + len(self.places)
        self.places, self.loss = np.concatenate([self.places, new]), np.concatenate([self.loss, loss])

    def unseen(self, places: Array) -> Array:
        """Those of places (..., d) that have not been evaluated, each once (q, d)."""
        flat = places.reshape(-1, places.shape[-1])
        return np.unique(flat[self.index[tuple(flat.T)] < 0], axis=0)

    def coordinates(self, places: Array) -> Array:
        """(..., d) the steps at places (..., d): exactly 0 where the first cells meet there."""
        known = [np.arange(len(e)) * self.size for e in self.edges]
        return np.stack([np.interp(places[..., i], known[i], e) for i, e in enumerate(self.edges)], axis=-1)

    def found(self, places: Array) -> Array:
        """The losses at places (..., d), NaN where they have not been evaluated."""
        index = self.index[tuple(np.moveaxis(places, -1, 0))]
        return np.where(index < 0, NAN, self.loss[index])

    def range(self) -> float:
        """Of the finite losses, on the scale."""
        values = scaled(self.loss, self.scale)
        values = values[np.isfinite(values)]
        return float(np.ptp(values)) if values.size else 0.0

    def affordable(self, cells: Array, max_points: int) -> int:
        """How many of the cells, from the first on, can be halved within max_points."""
        points, room = _places(cells, 2 * DEGREE + 1), max_points - len(self.loss)
        return bisect_right(range(1, len(cells) + 1), room, key=lambda k: len(self.unseen(points[:k])))

    def halved(self, cells: Array) -> tuple[Array, Array]:
        """The 2^d m parts of cells (m, d + 1), and how far the cells were off in each: NaN where no loss is finite."""
        d = len(self.edges)
        self.evaluate(_places(cells, 2 * DEGREE + 1))
        half = cells[:, -1:] // 2
        lowest = cells[:, None, :-1] + _offsets(d, 2) * half[:, None]
        parts = np.concatenate([lowest, np.broadcast_to(half[:, None], (*lowest.shape[:2], 1))], axis=-1)
        found = scaled(self.found(_places(parts, DEGREE + 1)), self.scale)
        inside = (DEGREE * _offsets(d, 2)[:, None] + _offsets(d, DEGREE + 1)) / (2 * DEGREE)
        off = _distance(self.predicted(cells, inside.reshape(-1, d)).reshape(found.shape), found)
        off[~np.isfinite(found).any(axis=-1)] = NAN
        return parts.reshape(-1, d + 1), off.max(axis=-1).reshape(-1)

    def off_beside_finer(self, cells: Array) -> Array:
        """How far each cell is off at the points that finer neighbours have on its sides, 0 if there are none (m,)."""
        off, wide = np.zeros(len(cells)), cells[:, -1] > DEGREE
        places = _places(cells[wide], 2 * DEGREE + 1)
        guess = self.predicted(cells[wide], _offsets(len(self.edges), 2 * DEGREE + 1) / (2 * DEGREE))
        distance = _distance(guess, scaled(self.found(places), self.scale))
        off[wide] = np.where(self.index[tuple(np.moveaxis(places, -1, 0))] < 0, 0, distance).max(axis=1)
        return off

    def predicted(self, cells: Array, inside: Array) -> Array:
        """(m, q) by cells (m, d + 1) at points (q, d) of the unit cell, on the scale."""
        with np.errstate(invalid="ignore"):
            return scaled(self.found(_places(cells, DEGREE + 1)), self.scale) @ node_weights(inside).T


def _distance(one: Array, other: Array) -> Array:
    """|one − other|, infinite where only one of them is finite, 0 where none is."""
    with np.errstate(invalid="ignore"):
        distance = np.abs(one - other)
    alike = np.isfinite(one) == np.isfinite(other)
    return np.where(np.isfinite(distance), distance, np.where(alike, 0, np.inf))


def _worst_first(miss: Array) -> Array:
    """Indices by miss, largest first, but infinite ones last: halving does not mend them."""
    return np.argsort(np.where(np.isfinite(miss), -miss, 0), kind="stable")


def _places(cells: Array, count: int) -> Array:
    """(..., count^d, d) so many places along each axis of cells (..., d + 1), ends included."""
    spacing = cells[..., None, -1:] // (count - 1)
    return cells[..., None, :-1] + _offsets(cells.shape[-1] - 1, count) * spacing


def _offsets(d: int, count: int) -> Array:
    return np.array(list(product(range(count), repeat=d)))


def _edges(steps: Array) -> Array:
    low, high = steps.min(), steps.max()
    return np.array([low, 0.0 if low < 0 < high else (low + high) / 2, high])


def _checked_steps(steps: torch.Tensor) -> Array:
    values = float64_array(steps)
    if values.ndim != 1 or not np.isfinite(values).all() or len(np.unique(values)) < 2:
        raise InputError(f"steps must be a vector of at least two different numbers, got {values.tolist()}.")
    return values


def _check(tolerance: float, max_points: int, scale: str, max_depth: int, *, first: int) -> None:
    if not tolerance > 0:
        raise InputError(f"tolerance must be positive, a share of the range of the loss, got {tolerance}.")
    if max_points < first:
        raise InputError(
            f"max_points must be at least {first}, which the first halving takes, got {max_points}."
        )
    if scale not in ("linear", "log"):
        raise InputError(f"scale must be 'linear' or 'log', got {scale!r}.")
    if not 1 <= max_depth <= DEEPEST:
        raise InputError(f"max_depth must be from 1 to {DEEPEST}, got {max_depth}.")

"""Persistent homology of the sublevel sets of a plane, and its merge tree.

Edelsbrunner, Letscher and Zomorodian (2002, Discrete Comput. Geom. 28, 511); of loss landscapes: Xie et al. (2024,
arXiv 2411.09807). By GUDHI's cubical complex (Wagner, Chen and Vuçini 2012), the extra ``topology``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.ndimage import label as connected

from landscape import InputError
from landscape.results import Surface, Topology

Array = np.ndarray


def topology(surface: Surface, *, value: str = "loss", about: Mapping[str, Any] | None = None) -> Topology:
    """Minima of a surface, the heights at which they join, and its loops: sublevel-set persistence of the samples.

    Samples are the *vertices* of a cubical complex; an edge or square is there once all of its corners are. So neighbours are
    the four along the axes, not diagonal ones: two minima join no lower than where a path along the grid's lines joins them,
    an upper bound on the height of the pass of the bilinear interpolant. Equal values are told apart by their index, and pairs
    with no persistence are left out: a flat bottom is one minimum. NaN counts as infinite: there is no loss there, so no
    sublevel set holds it; ``not_finite`` says how many.

    A minimum of a grid is one of its samples. The one of a smooth function near it is lower, by up to
    max ½ δᵀHδ over |δᵢ| ≤ hᵢ/2, half a step to every side, with H by second differences: that is its ``birth_error``; likewise
    deaths. Persistence below the two is noise of the sampling (``Topology.significant``). The estimate
    presumes that the surface is smooth on the scale of the grid; at kinks, or between spikes, it says nothing. Nor does it know
    of a minimum that no sample is near. A minimum on the edge of the grid (``Topology.on_edge``) is one of the piece that was
    looked at: beyond it the function may go on falling, by no amount that its birth_error knows.

    Cost: no evaluation; under a second for 200 × 200 samples.

    Raises:
        InputError: GUDHI is not installed, a surface of less than 2 × 2, or one without any finite value.
    """
    values = surface.value(value).astype(float)
    finite = np.isfinite(values)
    if min(values.shape) < 2 or not finite.any():
        raise InputError(
            f"a surface needs at least 2 × 2 samples of which some are finite, got {values.shape} with {int(finite.sum())}."
        )
    filled = np.where(np.isnan(values), np.inf, values)
    components, loops = _pairs(filled)
    births, deaths, minima, saddles = _sorted(filled, components)
    loop_births, loop_deaths, loop_saddles, loop_maxima = _sorted(filled, loops)
    errors = _sampling_errors(values)
    return Topology(
        value=value,
        label=surface.label,
        steps1=surface.steps1,
        steps2=surface.steps2,
        births=births,
        deaths=deaths,
        minima=minima,
        saddles=saddles,
        parents=_parents(filled, minima, deaths, saddles),
        birth_errors=_at(errors, minima),
        death_errors=_at(errors, saddles),
        loop_births=loop_births,
        loop_deaths=loop_deaths,
        loop_saddles=loop_saddles,
        loop_maxima=loop_maxima,
        loop_birth_errors=_at(errors, loop_saddles),
        loop_death_errors=_at(errors, loop_maxima),
        lowest=float(values[finite].min()),
        highest=float(values[finite].max()),
        not_finite=int((~finite).sum()),
        about=dict(about or {}),
    )


def _pairs(values: Array) -> tuple[Array, Array]:
    """Pairs (m, 2) of flat indices, where components and loops are born and die; −1 for a death that never comes.

    GUDHI is given ranks instead of values, all of them different: so it has no ties to break and no infinities to meet.
    """
    try:
        from gudhi import CubicalComplex  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InputError(
            "topology needs the package gudhi, which is not installed; get it by pip install 'torch-landscape[topology]'."
        ) from error
    order = np.argsort(values, axis=None, kind="stable")
    complex_: Any = CubicalComplex(vertices=_ranks(values).astype(float))
    complex_.compute_persistence(homology_coeff_field=2, min_persistence=0)
    flat = np.append(order, -1)
    components, loops = (_flat_indices(complex_.persistence_intervals_in_dimension(k), flat) for k in (0, 1))
    return components, loops


def _ranks(values: Array) -> Array:
    """The place of each sample in the order of values, and of indices where they are equal."""
    ranks = np.empty(values.size, dtype=np.int64)
    ranks[np.argsort(values, axis=None, kind="stable")] = np.arange(values.size)
    return ranks.reshape(values.shape)


def _flat_indices(intervals: Any, flat: Array) -> Array:
    """Flat indices (m, 2) of ranks; an infinite one has the last of ``flat``."""
    ranks = np.reshape(intervals, (-1, 2))
    return flat[np.where(np.isfinite(ranks), ranks, -1).astype(int)]


def _sorted(values: Array, pairs: Array) -> tuple[Array, Array, Array, Array]:
    """Births, deaths (m,) and their grid indices (m, 2), the deepest birth first, without pairs of no persistence."""
    births = values.ravel()[pairs[:, 0]]
    deaths = np.where(pairs[:, 1] < 0, np.inf, values.ravel()[pairs[:, 1]])
    kept = np.flatnonzero((deaths > births) & (births < np.inf))
    kept = kept[np.lexsort((pairs[kept, 0], births[kept]))]
    born, died = pairs[kept].T
    died = np.where(np.isfinite(deaths[kept]), died, -1)
    return births[kept], deaths[kept], _indices(born, values.shape), _indices(died, values.shape)


def _indices(flat: Array, shape: tuple[int, ...]) -> Array:
    found = np.stack(np.unravel_index(np.maximum(flat, 0), shape), axis=1)
    return np.where(flat[:, None] < 0, -1, found)


def _parents(values: Array, minima: Array, deaths: Array, saddles: Array) -> Array:
    """By the elder rule: the deepest minimum of the component of {values ≤ death} that a minimum lies in when it dies.

    Samples are told apart as in _pairs, so that exactly one vertex is added at a death.
    """
    rank = _ranks(values)
    sets = np.empty(values.shape, dtype=np.int64)
    born = rank[tuple(minima.T)]
    parents = np.full(len(minima), -1)
    for i in np.flatnonzero(np.isfinite(deaths)):
        connected(rank <= rank[tuple(saddles[i])], output=sets)  # neighbours along the axes only; 0 outside
        here = sets[tuple(minima.T)] == sets[tuple(minima[i])]
        parents[i] = np.flatnonzero(here)[np.argmin(born[here])]
    return parents


def _sampling_errors(values: Array) -> Array:
    """max |½ δᵀHδ| over |δᵢ| ≤ hᵢ/2 at every sample, with H by second differences; those of the nearest inner sample at edges."""
    with np.errstate(invalid="ignore"):
        bend = [_padded(np.diff(values, 2, axis=axis), axis) for axis in (0, 1)]
        twist = np.gradient(np.gradient(values, axis=0), axis=1)
    return (np.abs(bend[0]) + np.abs(bend[1])) / 8 + np.abs(twist) / 4


def _padded(differences: Array, axis: int) -> Array:
    width = [(1, 1) if a == axis else (0, 0) for a in (0, 1)]
    if not differences.shape[axis]:  # two samples have no second difference
        return np.pad(differences, width, constant_values=np.nan)
    return np.pad(differences, width, mode="edge")


def _at(values: Array, indices: Array) -> Array:
    """Values at grid indices (m, 2), 0 where there is no index, infinite where neighbours are not finite."""
    found = values[tuple(indices.T)]
    return np.where(indices[:, 0] < 0, 0.0, np.where(np.isnan(found), np.inf, found))

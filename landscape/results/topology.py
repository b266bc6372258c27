"""The sublevel sets of a plane: which minima there are, at which heights they join, and what loops are filled when.

Shapes: m minima, l loops. Missing numbers are NaN, missing indices −1.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..errors import InputError
from ..records import NAN, Array, Record


@dataclass(frozen=True, kw_only=True, eq=False)
class Topology(Record):
    """Persistent homology of {value ≤ c} on a grid, c growing, with its merge tree.

    Minimum i of the samples, at grid indices minima[i] (m, 2), is born at births[i] and dies at deaths[i] (m,), where at
    saddles[i] (m, 2) its component meets that of parents[i] (m,), which is older: born deeper (the elder rule).
    The first minimum is the deepest; it never dies (death infinite), nor does one that only infinite values part from others
    (parent −1). Loops (l,) are born at a saddle and die at the maximum within.

    birth_errors and death_errors (m,), loop_* (l,): how far the extreme of a smooth function may be from its sample, see
    ``analysis.topology``; of a minimum on the grid's edge they say nothing of what is outside. lowest, highest: of the finite
    values; not_finite: how many were not.
    """

    value: str
    label: str
    steps1: Array
    steps2: Array
    births: Array
    deaths: Array
    minima: Array
    saddles: Array
    parents: Array
    birth_errors: Array
    death_errors: Array
    loop_births: Array
    loop_deaths: Array
    loop_saddles: Array
    loop_maxima: Array
    loop_birth_errors: Array
    loop_death_errors: Array
    lowest: float
    highest: float
    not_finite: int

    @property
    def persistence(self) -> Array:
        """(m,) death − birth: how far the value must rise before a minimum joins a deeper one."""
        return self.deaths - self.births

    @property
    def loop_persistence(self) -> Array:
        """(l,) death − birth."""
        return self.loop_deaths - self.loop_births

    @property
    def on_edge(self) -> Array:
        """(m,) whether a minimum is a sample on the edge of the grid, beyond which the function may go on falling."""
        last = len(self.steps1) - 1, len(self.steps2) - 1
        return ((self.minima == 0) | (self.minima == last)).any(axis=1)

    @property
    def minima_coordinates(self) -> Array:
        """(m, 2) steps along d1 and d2."""
        return self._coordinates(self.minima)

    @property
    def saddle_coordinates(self) -> Array:
        """(m, 2) steps along d1 and d2, NaN where none is."""
        return self._coordinates(self.saddles)

    def significant(self, persistence: float | None = None) -> Topology:
        """The same with only those minima and loops whose persistence is greater than a number.

        By default that number is each pair's own error, birth's and death's together. A minimum whose parent is left out
        has the nearest ancestor that is kept as its parent: where it joins is at the same height.
        """
        if persistence is not None and not persistence >= 0:
            raise InputError(f"persistence must be a number of at least 0, got {persistence}.")
        least = self.birth_errors + self.death_errors if persistence is None else persistence
        loops = self.loop_birth_errors + self.loop_death_errors if persistence is None else persistence
        kept, kept_loops = self.persistence > least, self.loop_persistence > loops
        kept[0] = True
        place = np.cumsum(kept) - 1
        parents = [self._ancestor(int(i), kept) for i in np.flatnonzero(kept)]
        minima = ("births", "deaths", "minima", "saddles", "birth_errors", "death_errors")
        loop = ("births", "deaths", "saddles", "maxima", "birth_errors", "death_errors")
        changed = {name: getattr(self, name)[kept] for name in minima}
        changed |= {f"loop_{name}": getattr(self, f"loop_{name}")[kept_loops] for name in loop}
        changed["parents"] = np.array([-1 if p < 0 else place[p] for p in parents])
        return replace(self, **changed)

    def _ancestor(self, i: int, kept: Array) -> int:
        parent = int(self.parents[i])
        while parent >= 0 and not kept[parent]:
            parent = int(self.parents[parent])
        return parent

    def _coordinates(self, indices: Array) -> Array:
        found = np.stack([self.steps1[indices[:, 0]], self.steps2[indices[:, 1]]], axis=1)
        return np.where(indices < 0, NAN, found)


@dataclass(frozen=True, kw_only=True, eq=False)
class Roughness(Record):
    """Numbers that say how far a plane is from one convex, quadratic bowl; see ``analysis.roughness`` for each.

    minima: of persistence above ``threshold`` (NaN: above each one's error), inside of the grid, and edge_minima, those on its
    edge, beyond which the function may go on falling; total_persistence over the range of values; nonconvex: the share of
    Hessians on the grid with a negative eigenvalue; misfit: 1 − R² of the best quadratic.
    """

    value: str
    label: str
    threshold: float
    minima: int
    edge_minima: int
    total_persistence: float
    nonconvex: float
    misfit: float

    @property
    def convex(self) -> float:
        """The share of Hessians on the grid that are positive semidefinite."""
        return 1 - self.nonconvex

"""Paths between minima, the passes on them, and the network that they make.

Shapes: P parameters, K points, T steps, N samples along a path. Missing numbers are NaN.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from ..records import Array, Record


@dataclass(frozen=True, kw_only=True, eq=False)
class PathRecord(Record):
    """The loss along a path between two points, sampled densely enough that its maximum is bracketed.

    t (N,) increasing in [0, 1] with both ends and the top; loss, norm (N,) at those; points (M, P) and
    coefficients say how to rebuild the path (see landscape.paths). ``gradients`` and ``losses`` count evaluations. metric (N,) is
    the problem's metric, such as accuracy, on the same data at the same points; empty where there is none.
    """

    method: str
    start: str
    end: str
    t: Array
    loss: Array
    norm: Array
    path_kind: str
    points: Array
    coefficients: Array
    length: float
    gradients: int
    losses: int
    converged: bool
    message: str
    metric: Array = field(default_factory=lambda: np.empty(0))

    @property
    def height(self) -> float:
        """The largest loss on the path: absolute, from the dense samples."""
        return float(np.max(self.loss))

    @property
    def barrier(self) -> float:
        """The height minus the larger endpoint loss; never negative, since the ends are samples."""
        return self.height - float(max(self.loss[0], self.loss[-1]))

    @property
    def top(self) -> float:
        """t of the largest loss."""
        return float(self.t[np.argmax(self.loss)])

    @property
    def held(self) -> bool:
        """Whether its norm is held between those of the ends."""
        return self.path_kind.startswith("held ")

    @property
    def spectrum(self) -> Array:
        """‖b_n‖ (n,) of a Fourier path: how far each mode bends it. Empty for others."""
        return np.linalg.norm(self.coefficients, axis=1)

    @property
    def path(self) -> Any:
        """The path itself: a landscape.paths.Path with γ(t), γ′(t) and length."""
        from ..paths import restore

        return restore(self.path_kind, self.points, self.coefficients)


@dataclass(frozen=True, kw_only=True, eq=False)
class Pass(Record):
    """A stationary point θ (P,) near a path's top, with the lowest end of the Hessian's spectrum there.

    eigenvalues (k,) lowest first, residuals (k,) ‖Hv − λv‖ of them; direction (P,) the unit eigenvector of the first. Each
    is known to ``errors``: its residual and ``floor``, below which rounding and what is left of the gradient may hide a 0.
    gradient_norms (S+1,) at the start and after each step; ``moved`` is the distance from the start. If θ is not stationary
    ``converged`` is False; ``message`` says why, or what θ is. ``gradients`` and ``matvecs`` count what was spent.
    """

    theta: Array
    loss: float
    gradient_norms: Array
    eigenvalues: Array
    residuals: Array
    floor: float
    direction: Array
    moved: float
    gradients: int
    matvecs: int
    converged: bool
    message: str

    @property
    def gradient_norm(self) -> float:
        return float(self.gradient_norms[-1])

    @property
    def errors(self) -> Array:
        """Of the eigenvalues, (k,)."""
        return self.residuals + self.floor

    @property
    def index(self) -> int:
        """How many eigenvalues are negative beyond their error; −1 where not all of them may be known."""
        negative = int((self.eigenvalues < -self.errors).sum())
        complete = len(self.theta) == len(self.eigenvalues) or negative < len(self.eigenvalues)
        return negative if complete and np.isfinite(self.errors).all() else -1

    @property
    def undecided(self) -> int:
        """How many of ``eigenvalues`` are too close to 0 to tell their sign, as those of symmetries are."""
        return int((np.abs(self.eigenvalues) <= self.errors).sum())


class Merge(NamedTuple):
    """Two sets of minima that become one at a height, by the path between the two minima ``edge``.

    ``settled``: whether the search for that path converged, or it is as low as its higher end; the height is an upper bound
    anyhow. The set with the deepest of the minima is ``left``; both list theirs from left to right, so that no branches cross.
    """

    height: float
    edge: tuple[int, int]
    settled: bool
    left: tuple[int, ...]
    right: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class MinimaNetwork(Record):
    """Minima, and how high the paths between them climb: upper bounds of what the landscape demands.

    loss (n,) of the minima, called ``labels``, of ``groups``. Of every pair (n, n), symmetric, with ``loss`` on the diagonal:
    lines, the height of the straight line, and heights, of the lowest path found, NaN where none was searched; infinite where
    the loss on it is not finite. converged (n, n): whether the search for that path settled. status (n, n) in words: "searched";
    not searched as "at its bound", since a chain of paths is as low as the higher end already, or "off the tree", "out of
    budget", "not asked for". found (m, P): the last m of the n minima, which were found on paths between the others.
    ``gradients`` and ``losses`` count evaluations. rounding: the share of a loss that may come of the order of a sum, no barrier.
    """

    labels: tuple[str, ...]
    groups: tuple[str, ...]
    loss: Array
    lines: Array
    heights: Array
    converged: Array
    status: Array
    method: str
    gradients: int
    losses: int
    rounding: float = 0.0
    found: Array = field(default_factory=lambda: np.zeros((0, 0)))

    @property
    def direct(self) -> Array:
        """The lowest height known of one path (n, n), be it the straight line; infinite where none is known."""
        known = np.fmin(self.heights, self.lines)
        return np.where(np.isnan(known), np.inf, known)

    @cached_property
    def merges(self) -> tuple[Merge, ...]:
        """What joins at which height as the level of the loss rises: the n − 1 merges of the disconnectivity graph, lowest first.

        Their edges are the minimum spanning tree (Kruskal 1956). Becker and Karplus (1997, J. Chem. Phys. 106, 1495) drew the
        graph at given levels; here every merge is at its own height.
        """
        first, second = np.triu_indices(len(self.loss), 1)
        height = self.direct[first, second]
        member: dict[int, tuple[int, ...]] = {i: (i,) for i in range(len(self.loss))}
        merges = []
        for k in np.argsort(height, kind="stable"):
            edge = int(first[k]), int(second[k])
            parts = member[edge[0]], member[edge[1]]
            if parts[0] is not parts[1]:
                left, right = sorted(parts, key=lambda part: self.loss[list(part)].min())
                settled = bool(self.converged[edge]) or self.status[edge] == "at its bound"
                merges.append(Merge(float(height[k]), edge, settled, left, right))
                member |= dict.fromkeys(left + right, left + right)
        return tuple(merges)

    @property
    def order(self) -> tuple[int, ...]:
        """All minima from left to right, as the merges list them."""
        return self.merges[-1].left + self.merges[-1].right if self.merges else (0,)

    @cached_property
    def minimax(self) -> Array:
        """The least height (n, n) at which a chain of known paths joins two minima, with ``loss`` on the diagonal.

        It is an ultrametric: of the three heights of any three minima the two largest are equal.
        """
        joined = np.diag(self.loss).astype(float)
        for merge in self.merges:
            here, there = np.ix_(merge.left, merge.right)
            joined[here, there] = joined[there, here] = merge.height
        return joined

    @property
    def barriers(self) -> Array:
        """minimax minus the loss of the higher end (n, n), rounding aside; 0 on the diagonal."""
        return self._above_ends(self.minimax)

    @property
    def direct_barriers(self) -> Array:
        """Of the paths found (n, n), NaN where none was searched: heights minus the loss of the higher end, rounding aside."""
        return self._above_ends(self.heights)

    def clusters(self, height: float) -> Array:
        """Which minima are joined below a height: a number (n,) for each, the same within a cluster; −1 for minima above it.

        Clusters are numbered from 0 in the order of their deepest minima.
        """
        numbers = np.full(len(self.loss), -1)
        joined = self.minimax <= height  # with nothing, not even itself, where the minimum is above it
        for i in np.argsort(self.loss, kind="stable"):
            if numbers[i] < 0:
                numbers[joined[i]] = numbers.max() + 1
        return numbers

    def _above_ends(self, heights: Array) -> Array:
        higher = np.maximum(self.loss[:, None], self.loss[None, :])
        above = heights - higher
        return np.where(np.abs(above) <= self.rounding * np.abs(higher), 0.0, above)

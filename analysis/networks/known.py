"""What is known of minima and of the paths between them, and which pair to search next."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch

from landscape import InputError
from landscape.results import MinimaNetwork, PathRecord

Pair = tuple[int, int]  # smaller first
_ROUNDING = 100  # what rounding may leave in a loss, in units of eps


def network_of(
    paths: Iterable[PathRecord],
    *,
    groups: Mapping[str, str] | None = None,
    about: Mapping[str, Any] | None = None,
) -> MinimaNetwork:
    """The network of minima that is made of paths that are there already, named after their ends.

    Those of method "linear" are the straight lines. Of several others between the same two minima the lowest counts, and
    of several losses of one minimum the smallest. Paths may come from an iterator: one at a time is held.

    Args:
        groups: what found each minimum, by its label; by default the label up to its last "/".
        about: provenance for the record's header.

    Raises:
        InputError: there are no paths, one does not name its ends, or a label has no group.
    """
    return known_of(paths, groups=groups).network(set(), about=about)


def known_of(
    paths: Iterable[PathRecord],
    *,
    groups: Mapping[str, str] | None = None,
    dtype: torch.dtype = torch.float64,
) -> Known:
    """What is known by paths that are there already (see network_of); ``open_pairs`` says which to search next.
    dtype: that the losses were computed in, whose rounding is no barrier."""
    known, place = Known(rounding=rounding_of(dtype)), {}
    for path in paths:
        if not path.start or not path.end or path.start == path.end:
            raise InputError(
                f"a path must name its two ends to be part of a network, got {path.start!r} and {path.end!r}; "
                "find it with start= and end=."
            )
        for label, loss in ((path.start, path.loss[0]), (path.end, path.loss[-1])):
            if label not in place:
                place[label] = known.grow(label, _group(label, groups), float(loss))
            known.loss[place[label]] = min(known.loss[place[label]], float(loss))
        known.add((place[path.start], place[path.end]), path)
    if not place:
        raise InputError("paths must hold at least one path, got none.")
    return known


def rounding_of(dtype: torch.dtype) -> float:
    """What rounding may change in a loss, as a share of it."""
    return _ROUNDING * torch.finfo(dtype).eps


def group_of(label: str) -> str:
    """ "sgd" of "sgd/0"; a label without a "/" is of the group ""."""
    return label.rpartition("/")[0]


class Seen(NamedTuple):
    """A path in three numbers: its height, the lowest loss on it, and whether the search for it converged."""

    height: float
    lowest: float
    converged: bool


@dataclass(eq=False)
class Known:
    """Minima, and lines and paths between them by pair, as a search adds them; ``rounding`` is a share of losses."""

    labels: list[str] = field(default_factory=list)
    groups: list[str] = field(default_factory=list)
    loss: list[float] = field(default_factory=list)
    lines: dict[Pair, Seen] = field(default_factory=dict)
    paths: dict[Pair, Seen] = field(default_factory=dict)
    found: list[np.ndarray] = field(default_factory=list)
    methods: set[str] = field(default_factory=set)
    gradients: int = 0
    losses: int = 0
    rounding: float = 0.0

    def grow(self, label: str, group: str, loss: float) -> int:
        """The number of a new minimum."""
        self.labels.append(label)
        self.groups.append(group)
        self.loss.append(loss)
        return len(self.loss) - 1

    def shrink(self) -> None:
        """Forgets the newest minimum, but not what was spent on it."""
        last = len(self.loss) - 1
        for names in (self.labels, self.groups, self.loss):
            names.pop()
        for table in (self.lines, self.paths):
            for pair in [pair for pair in table if last in pair]:
                del table[pair]

    def add(self, pair: tuple[int, int], path: PathRecord) -> None:
        self.gradients += path.gradients
        self.losses += path.losses
        finite = bool(np.isfinite(path.loss).all())
        seen = Seen(path.height if finite else math.inf, float(np.nanmin(path.loss)), path.converged)
        table, pair = self.lines if path.method == "linear" else self.paths, ordered(pair)
        self.methods |= {path.method} - {"linear"}
        if pair not in table or seen.height < table[pair].height:
            table[pair] = seen

    def pairs(self) -> set[Pair]:
        return {(i, j) for j in range(len(self.loss)) for i in range(j)}

    def at_bound(self, pair: Pair, height: float, negligible: float) -> bool:
        """Whether a height is that of the higher end, which no path of the pair can be below, give or take what is negligible:
        a share of the line's barrier, or what brackets its top (paths/heights.py)."""
        bound, line = max(self.loss[pair[0]], self.loss[pair[1]]), self.lines.get(pair)
        if line is None or not math.isfinite(line.height):
            return height <= bound
        rounding = self.rounding * max(abs(line.height), abs(line.lowest))
        resolution = max(_TOLERANCE * (line.height - line.lowest), rounding)
        return height <= bound + max(negligible * (line.height - bound), resolution)

    def open_pairs(
        self, chosen: set[Pair] | None = None, rule: str = "open", negligible: float = 1e-5
    ) -> list[Pair]:
        """The pairs left to search, of those chosen or of all, what matters most first: pairs of the spanning tree, then those
        whose chain may be most above what a path could reach, then those of the lowest line. rule is "tree", "open" or "all",
        as in minima_network."""
        network = self.network()
        tree, room = {merge.edge for merge in network.merges}, network.barriers
        left = [
            pair
            for pair in (self.pairs() if chosen is None else chosen) - set(self.paths)
            if (rule != "tree" or pair in tree)
            and (rule == "all" or not self.at_bound(pair, network.minimax[pair], negligible))
        ]
        lines = {pair: self.lines[pair].height if pair in self.lines else math.inf for pair in left}
        return sorted(left, key=lambda pair: (pair not in tree, -room[pair], lines[pair], pair))

    def network(
        self,
        chosen: set[Pair] | None = None,
        rule: str = "all",
        negligible: float = 0.0,
        *,
        method: str = "",
        about: Mapping[str, Any] | None = None,
    ) -> MinimaNetwork:
        """All of it as a record, which says why pairs were not searched, by the arguments of ``open_pairs``."""
        network = MinimaNetwork(
            labels=tuple(self.labels),
            groups=tuple(self.groups),
            loss=np.array(self.loss, dtype=float),
            lines=self._square({pair: seen.height for pair, seen in self.lines.items()}, np.nan, self.loss),
            heights=self._square({pair: seen.height for pair, seen in self.paths.items()}, np.nan, self.loss),
            converged=self._square({pair: seen.converged for pair, seen in self.paths.items()}, False, True),
            status=self._square(dict.fromkeys(self.paths, "searched"), "not asked for", ""),
            method=method or ", ".join(sorted(self.methods)) or "linear",
            gradients=self.gradients,
            losses=self.losses,
            rounding=self.rounding,
            found=np.array(self.found) if self.found else np.zeros((0, 0)),
            about=dict(about or {}),
        )
        tree = {merge.edge for merge in network.merges}
        for pair in (self.pairs() if chosen is None else chosen) - set(self.paths):
            if rule != "all" and self.at_bound(pair, network.minimax[pair], negligible):
                why = "at its bound"
            else:
                why = "off the tree" if rule == "tree" and pair not in tree else "out of budget"
            network.status[pair] = network.status[pair[::-1]] = why
        return network

    def _square(self, values: Mapping[Pair, Any], missing: Any, diagonal: Any) -> np.ndarray:
        """A symmetric array (n, n) of a value for each pair."""
        n = len(self.loss)
        square = np.full((n, n), missing, dtype="U16" if isinstance(missing, str) else None)
        for (i, j), value in values.items():
            square[i, j] = square[j, i] = value
        np.fill_diagonal(square, diagonal)
        return square


_TOLERANCE = 1e-6  # of the range of the loss on a line, to which its top is bracketed


def ordered(pair: tuple[int, int]) -> Pair:
    return min(pair), max(pair)


def _group(label: str, groups: Mapping[str, str] | None) -> str:
    if groups is None:
        return group_of(label)
    if label not in groups:
        raise InputError(f"groups must name what found each minimum, but has nothing for {label!r}.")
    return groups[label]

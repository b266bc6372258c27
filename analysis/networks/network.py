"""The network of minima: paths between pairs of them, in the order in which they matter, and none where it cannot matter."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from landscape import InputError, Objective
from landscape.results import MinimaNetwork, PathRecord

from ..paths.find import METHODS, Method
from ..points import seed_of
from .known import Known, Pair, group_of, ordered, rounding_of
from .searching import Search, content


def minima_network(
    objective: Objective,
    thetas: Any,
    *,
    labels: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
    method: str | Method = "fourier",
    modes: int | None = None,
    steps: int | None = None,
    negligible: float = 1e-5,
    hold_norm: bool = False,
    batches: int | None = None,
    minima: bool = True,
    engine: str = "loop",
    pairs: Literal["tree", "open", "all"] | Iterable[tuple[int, int]] = "open",
    budget: float = math.inf,
    discover: int = 0,
    paths: Mapping[tuple[int, int], PathRecord] | None = None,
    folder: str | Path | None = None,
    on_path: Callable[[PathRecord], None] | None = None,
    generator: torch.Generator | None = None,
    about: Mapping[str, Any] | None = None,
) -> MinimaNetwork:
    """How high the lowest known paths between n minima climb, pair by pair, and so what joins them at which height.

    First the straight lines of all pairs. Then paths, one pair at a time: those of the minimum spanning tree of what is
    known before others (as Draxler et al. 2018, arXiv 1803.00885), then where the lowest chain known is most above its
    higher end, then where the line is lowest. No path is lower than its higher end. So a pair that a chain joins at that
    height, give or take what is negligible, could change nothing, neither for itself nor as a link of other chains, and is
    not searched. ``status`` says of every pair what became of it. (Four minima by Adam and four by L-BFGS of a small
    network on digits: 18 of 28 pairs were searched until nothing was left to gain; by the height of the line alone, 26.)

    Cost: about 80 losses a pair for the lines; for each pair searched that of find_path. Memory: one path at a time; they are
    kept in ``folder``, or by ``on_path``.

    Args:
        thetas: the minima (n, P), no two the same.
        labels, groups: names (n,) of the minima, all different, and of what found each; by default numbers, and the labels up to
            their last "/", so that "sgd/0" is of the group "sgd".
        method, modes, steps, hold_norm, batches, minima, engine: as in find_path; method "linear" searches nothing.
        negligible: what does not matter, as a share of the straight line's barrier.
        pairs: which are searched (straight lines are of all): "open", those that could change something; "tree", of those the
            ones on the spanning tree, until all of it was searched, at least n − 1 searches, for a tree that may be too
            high; "all", or a list of pairs (i, j), whatever is known, for statistics of the heights of pairs.
        budget: start no search once so many gradients are spent.
        discover: the most minima to add to those given. Where a path that was found dips by a hundredth of its barrier or
            more, L-BFGS goes down; what it comes to is new if the straight line to each other minimum climbs as much. Its
            pairs are then searched like all others; of a list of pairs, those with the two ends of the path.
        paths: paths to take for pairs (i, j) instead of searching them.
        folder: where every path is saved as it is found, under a name made of the two minima and all settings. What is there is
            taken: a run that was killed goes on where it was, and one with more minima does what is new.
        on_path: called with every path and straight line, found or taken.
        generator: a search draws from a generator made of one number of this one and the two ends, so that neither order nor
            a resumed run changes what it finds.
        about: provenance for the headers of records.

    Raises:
        InputError: fewer than two minima, some equal or not finite; names that do not fit; pairs or paths that are not of these
            minima; a pair that is searched has an end that is no minimum (unless minima=False); or a setting is wrong.
    """
    _check(method, pairs, negligible, discover, hold_norm)
    rows = _minima(objective, thetas)
    known = _named(labels, groups, [float(objective(row)) for row in rows], objective.dtype)
    rule = pairs if isinstance(pairs, str) else "all"
    chosen = None if isinstance(pairs, str) else {_pair(pair, len(rows), "pairs") for pair in pairs}
    search = Search(
        objective,
        list(rows),
        known,
        lined={"hold_norm": hold_norm, "engine": engine},
        searched={
            "method": method,
            "modes": modes,
            "steps": steps,
            "negligible": negligible,
            "batches": batches,
        },
        minima=minima,
        seed=seed_of(generator),
        folder=None if folder is None else Path(folder),
        on_path=on_path or (lambda _: None),
        about=dict(about or {}),
    )
    for pair, path in (paths or {}).items():
        search.take(_pair(pair, len(rows), "paths"), path, turned=pair[0] > pair[1])
    for pair in sorted(known.pairs()):
        search.line(pair)
    if method == "linear":
        return known.network(set(), rule, negligible, about=about)
    while (pairs_left := known.open_pairs(chosen, rule, negligible)) and known.gradients < budget:
        pair = pairs_left[0]
        path = search.path(pair)
        for new in search.minima_below(pair, path, discover - len(known.found)):
            chosen = None if chosen is None else chosen | {(end, new) for end in pair}
    name = method if isinstance(method, str) else method.name
    return known.network(chosen, rule, negligible, method=name, about=about)


def _check(method: str | Method, pairs: Any, negligible: float, discover: int, hold_norm: bool) -> None:
    if isinstance(method, str) and method not in ("linear", *METHODS):
        raise InputError(f"there is no path method {method!r}; choose one of linear, {', '.join(METHODS)}.")
    if isinstance(pairs, str) and pairs not in ("tree", "open", "all"):
        raise InputError(f"pairs must be tree, open, all, or a list of pairs (i, j), got {pairs!r}.")
    if not negligible >= 0 or discover < 0 or (discover and hold_norm):
        raise InputError(
            "negligible and discover must be at least 0, and discover must be 0 where norms are held, "
            f"got negligible={negligible}, discover={discover}, hold_norm={hold_norm}."
        )


def _minima(objective: Objective, thetas: Any) -> Tensor:
    """The rows (n, P), finite and distinct."""
    rows = objective.point(thetas, name="thetas")
    if rows.ndim != 2 or len(rows) < 2:
        raise InputError(
            f"thetas must be at least two minima (n, {objective.dim}), got shape {tuple(rows.shape)}."
        )
    bad = (~rows.isfinite()).any(dim=1).nonzero().flatten().tolist()
    if bad:
        raise InputError(
            f"thetas must be finite, but row {bad[0]} holds values that are NaN or infinite; leave it out."
        )
    seen: dict[bytes, int] = {}
    for i, row in enumerate(rows):
        first = seen.setdefault(content(row), i)
        if first != i:
            raise InputError(
                f"thetas must be different minima, but rows {first} and {i} are the same; leave one out."
            )
    return rows


def _named(
    labels: Sequence[str] | None, groups: Sequence[str] | None, loss: list[float], dtype: torch.dtype
) -> Known:
    n = len(loss)
    labels = [str(i) for i in range(n)] if labels is None else list(labels)
    groups = [group_of(label) for label in labels] if groups is None else list(groups)
    if len(labels) != n or len(set(labels)) != n or len(groups) != n:
        raise InputError(
            f"labels must be {n} different names and groups {n} names, one a minimum, "
            f"got {len(labels)} labels, {len(set(labels))} of them different, and {len(groups)} groups."
        )
    if not np.isfinite(loss).all():
        bad = int(np.flatnonzero(~np.isfinite(loss))[0])
        raise InputError(
            f"the loss at thetas must be finite, but at row {bad} it is {loss[bad]}; leave that out."
        )
    return Known(labels, groups, loss, losses=n, rounding=rounding_of(dtype))


def _pair(pair: tuple[int, int], n: int, name: str) -> Pair:
    i, j = pair
    if i == j or not (0 <= i < n and 0 <= j < n):
        raise InputError(f"{name} must be of two different minima, each from 0 to {n - 1}, got {pair}.")
    return ordered(pair)

"""What connects two solutions of a study: paths between them by several methods (a roof module, as stages is)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch

from analysis import find_path, known_of, linear_path

from .choosing import losses
from .errors import InputError
from .measures import PathSettings
from .networks import BatchNormPolicy
from .objective import Objective
from .parameters import float64_array
from .progress import progress
from .results import MinimaNetwork, PathRecord, Solution
from .solution_files import SolutionFile
from .stages import Workplace
from .tasks import Given, Task, run_tasks, sole_use

_RUNNING = ("running_mean", "running_var", "num_batches_tracked")


def connect(
    place: Workplace,
    a: Solution,
    b: Solution,
    *,
    generator: torch.Generator,
    method: str,
    batchnorm: BatchNormPolicy,
    engine: str,
    **settings: Any,
) -> PathRecord:
    place.load().check(b)
    theirs = {name for name, b1 in a.buffers.items() if not np.array_equal(b1, b.buffers.get(name, np.nan))}
    if batchnorm == "batch":
        theirs = {name for name in theirs if name.rpartition(".")[2] not in _RUNNING}
    if theirs:
        raise InputError(
            f"{a.label} and {b.label} differ in the constant {min(theirs)!r}, and what it should be on a path between them is "
            "not defined; only running statistics of normalization layers are recomputed there."
        )
    objective = place.objective(a, batchnorm)
    ends = {"start": a.label, "end": b.label, "engine": engine, "about": place.about(objective)}
    search = linear_path if method == "linear" else partial(find_path, method=method, generator=generator)
    try:
        found = search(objective, a.theta, b.theta, **ends, **settings)
    except InputError as error:
        raise InputError(f"a path from a ({a.label}) to b ({b.label}) cannot be found: {error}") from error
    problem = place.load()
    if problem.metric is None:
        return found
    return with_metric(found, place.objective(a, batchnorm, measure=problem.metric), engine)


def with_metric(path: PathRecord, measured: Objective, engine: str = "loop") -> PathRecord:
    """The path, with another measure than the loss at its samples."""
    metric, _ = losses(measured, path.path.family(torch.from_numpy(path.t)), engine=engine)
    return replace(path, metric=float64_array(metric))


def network(
    place: Workplace,
    *paths: PathRecord,
    generator: torch.Generator,
    rule: str = "all",
    negligible: float = 0.0,
) -> MinimaNetwork:
    """What joins all solutions at which height, by the paths of a study; rule: which of the others were to be searched."""
    known, chosen = known_of(paths, dtype=place.torch_dtype), set() if rule == "all" else None
    return known.network(chosen, rule, negligible, about=place.about(place.objective()))


def join(
    place: Workplace,
    given: Sequence[Given],
    folder: Path,
    *,
    method: str = "fourier",
    rule: str = "open",
    minima: bool = True,
    settings: PathSettings | None = None,
    jobs: int = 1,
    show_progress: bool = True,
) -> MinimaNetwork:
    """The network of solutions, in ``folder``: straight lines between all pairs, then paths between those that matter.

    As many pairs at a time as there are processes, those first that matter most by what is known then (``rule`` as in
    minima_network), so more processes may search a few pairs more. Paths that are there already are taken, also those that
    ``rule`` would not ask for.
    """
    labels = [SolutionFile(g.output).label for g in given]
    if len(labels) < 2 or len(set(labels)) < len(labels):
        raise InputError(f"solutions must be two or more with different labels, got {', '.join(labels)}.")
    ordered = [g for _, g in sorted(zip(labels, given, strict=True), key=lambda both: both[0])]
    settings = settings or PathSettings()
    how, under = path_methods(settings, (method,), minima=minima), place.under
    pairs = {  # of one name each, whatever the order of the files
        (i, j): path_tasks(place, ordered[i], ordered[j], folder / "paths", how, under=under)
        for i, j in combinations(range(len(ordered)), 2)
    }
    with sole_use(folder):
        tasks = [kinds["linear"] for kinds in pairs.values()]
        run_tasks(tasks, place, title="Straight lines", jobs=jobs, show_progress=show_progress)
        done = {pair: kinds[method] for pair, kinds in pairs.items() if kinds[method].is_done()}
        tasks += done.values()
        known = known_of(_read(tasks), dtype=place.torch_dtype)
        with progress("Paths", len(pairs), done=len(done), shown=show_progress) as advance:
            while left := known.open_pairs(rule=rule, negligible=settings.negligible):
                found = {pair: pairs[pair][method] for pair in (left if rule == "all" else left[:jobs])}
                run_tasks([*found.values()], place, title="", jobs=jobs, show_progress=False)
                for pair, path in zip(found, _read(found.values()), strict=True):
                    known.add(pair, path)
                tasks += found.values()
                advance(len(found), note=f"{len(left) - len(found)} of the others may matter")
        ask = {"rule": rule, "negligible": settings.negligible}
        tasks.sort(key=lambda task: task.output)  # whatever the order in which they were searched
        whole = Task(folder / "network.npz", network, tuple(tasks), ask, replaceable=True)
        run_tasks([whole], place, title="", jobs=1, show_progress=False)
    return MinimaNetwork.load(whole.output)


def _read(tasks: Iterable[Task]) -> Iterator[PathRecord]:
    return (PathRecord.load(task.output) for task in tasks)


def path_tasks(
    place: Workplace,
    a: Task | Given,
    b: Task | Given,
    folder: Path,
    methods: Mapping[str, Mapping[str, Any]],
    *,
    under: Mapping[str, Any] | None = None,
) -> dict[str, Task]:
    """The task of connecting two solutions by each of the methods (as path_methods gives them), in files named after both."""
    name = f"{a.output.stem}--{b.output.stem}"
    policy = {"batchnorm": place.policy}
    return {
        method: Task(
            folder / f"{name}.{method}.npz", connect, (a, b), {**policy, **settings}, under=under or {}
        )
        for method, settings in methods.items()
    }


def path_methods(
    settings: PathSettings, methods: Sequence[str] = ("fourier",), *, minima: bool = False
) -> dict[str, dict[str, Any]]:
    """The settings of ``connect`` for the straight line and each method of path that a pair is connected by.

    minima: refuse ends that are none, which a study of many solutions had better not.
    """
    given = asdict(settings) | {"minima": minima}
    straight = {name: given[name] for name in ("engine", "hold_norm")}
    return {"linear": {"method": "linear", **straight}} | {
        name: {"method": name, **given, "modes": given["modes"] if name.startswith("fourier") else None}
        for name in methods
    }

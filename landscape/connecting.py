"""What connects two solutions of a study: paths between them by several methods (a roof module, as stages is)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
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
    if method == "linear":
        found = linear_path(objective, a.theta, b.theta, **ends, **settings)
    else:
        found = find_path(objective, a.theta, b.theta, method=method, generator=generator, **ends, **settings)
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
    return known_of(paths).network(set() if rule == "all" else None, rule, negligible)


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
    minima_network), so more processes may search a few pairs more. What is there already is taken.
    """
    labels = [SolutionFile(g.output).label for g in given]
    if len(labels) < 2 or len(set(labels)) < len(labels):
        raise InputError(f"solutions must be two or more with different labels, got {', '.join(labels)}.")
    settings = settings or PathSettings()
    how, policy = path_methods(settings, (method,), minima=minima), "batch" if place.has_batchnorm else "eval"

    def task(pair: tuple[int, int], kind: str) -> Task:
        a, b = (given[i] for i in pair)
        file = folder / "paths" / f"{a.output.stem}--{b.output.stem}.{kind}.npz"
        return Task(file, connect, (a, b), {"batchnorm": policy, **how[kind]}, under=place.under)

    with sole_use(folder):
        tasks = [task(pair, "linear") for pair in combinations(range(len(given)), 2)]
        run_tasks(tasks, place, title="Straight lines", jobs=jobs, show_progress=show_progress)
        known = known_of(_read(tasks))
        with progress("Paths", len(tasks), shown=show_progress) as advance:
            while left := known.open_pairs(rule=rule, negligible=settings.negligible):
                some = left[:jobs]
                found = [task(pair, method) for pair in some]
                run_tasks(found, place, title="", jobs=len(found), show_progress=False)
                for pair, path in zip(some, _read(found), strict=True):
                    known.add(pair, path)
                tasks += found
                advance(len(found), note=f"{len(left) - len(found)} left")
        whole = Task(
            folder / "network.npz",
            network,
            tuple(tasks),
            {"rule": rule, "negligible": settings.negligible},
            replaceable=True,
        )
        run_tasks([whole], place, title="", jobs=1, show_progress=False)
    return MinimaNetwork.load(whole.output)


def _read(tasks: Sequence[Task]) -> Iterator[PathRecord]:
    return (PathRecord.load(task.output) for task in tasks)


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

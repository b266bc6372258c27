"""compare: the roof under which optimizers make solutions and analysis measures them.

The plan is a list of tasks, each one record in the comparison's directory:

    solutions/  ->  flatness/  corridors/  profiles/  surfaces/  paths/  embedding  ->  summary  pair_summary  network
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import combinations, product
from pathlib import Path
from typing import Any

from optimizers import Recipe, parse_recipe

from . import connecting, geometry, stages
from .comparison import SETTINGS, Comparison, load_comparison
from .errors import InputError
from .measures import FlatnessSettings, PathSettings, ScanSettings
from .problems import Problem
from .records import atomic_file, file_name, versions
from .stages import Workplace
from .tasks import Task, Work, processes, run_tasks, sole_use

DEFAULT_OPTIMIZERS = ("sgd", "lbfgs", "alto")


@dataclass(frozen=True)
class Measures:
    """Everything that is measured of solutions, and how finely."""

    pairs: int
    flatness: FlatnessSettings
    paths: PathSettings
    scans: ScanSettings


def compare(
    problem: str | Problem,
    optimizers: Sequence[str | Recipe] = DEFAULT_OPTIMIZERS,
    seeds: int = 5,
    *,
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    dtype: str = "float64",
    device: str = "cpu",
    jobs: int | None = None,
    pairs: int = 25,
    flatness: FlatnessSettings | None = None,
    paths: PathSettings | None = None,
    scans: ScanSettings | None = None,
    show_progress: bool = True,
    command: str = "",
) -> Comparison:
    """Which minima did the optimizers find? Trains, measures, connects, draws and reports; returns all records.

    Args:
        problem: name, ``package.module:attribute``, or a Problem.
        optimizers: recipes, as text or objects.
        seeds: runs of each optimizer, from seeds seed, seed + 1, …
        out: directory of the comparison, by default runs/ and the problem's name. What is finished there under the
            same settings is not done again; more seeds or optimizers add to it.
        jobs: processes; by default one a core (on a GPU, one).
        pairs: the most pairs of solutions connected within, and across, two optimizers.
        flatness, paths, scans: how finely solutions are measured.
    """
    for name, value in {"seeds": seeds, "pairs": pairs}.items():
        if value < 1:
            raise InputError(f"{name} must be at least 1, got {value}.")
    if not 0 <= seed < 2**63 - seeds:
        raise InputError(
            f"seed must be a whole number from 0 to 2**63 - 1 less the number of seeds, got {seed}."
        )
    place = Workplace(problem, _recipes(optimizers), dtype, str(device))
    place.check()
    loaded = place.load()
    directory = Path(out) if out is not None else Path("runs") / file_name(loaded.name)
    jobs = processes(jobs, place.device)
    measures = Measures(
        pairs, flatness or FlatnessSettings(), paths or PathSettings(), scans or ScanSettings()
    )
    plan = Plan(place, directory, range(seed, seed + seeds), measures)
    settings = _settings(plan, loaded, command)
    with sole_use(directory):
        for wave in plan.waves.values():
            for task in wave:
                task.is_done()  # other settings in this directory are refused before anything is run
        _write_manifest(plan, settings)
        for title, wave in plan.waves.items():
            run_tasks(wave, place, title=title, jobs=min(jobs, len(wave)), show_progress=show_progress)
        comparison = load_comparison(directory)
        publish(comparison, key=plan.key)
    return comparison


def publish(comparison: Comparison, *, key: str = "") -> Path:
    """Draw the figures of a comparison and write its report, unless the report of this key is there."""
    from .report import report_key, write_report

    if key and report_key(comparison.report) == key:
        return comparison.report
    return write_report(comparison, key=key)


class Plan:
    """The tasks of a comparison, in waves that need the ones before."""

    def __init__(self, place: Workplace, directory: Path, seeds: range, measures: Measures) -> None:
        self.place, self.directory, self.measures = place, directory, measures
        self.runs = {
            (label, s): solution_task(place, label, s, self._path("solutions", f"{label}-{s}"))
            for label in place.recipes
            for s in seeds
        }
        every = tuple(self.runs.values())
        self.records: dict[str, list[Task]] = {
            "solutions": list(every),
            "flatness": self._each("flatness", stages.measure_flatness, **asdict(measures.flatness)),
            "corridors": self._each("corridors", stages.measure_corridor),
            "profiles": self._each("profiles", geometry.scan_line, **self._scan(measures.scans.line)),
            "surfaces": [self._surface(label) for label in place.recipes],
            "paths": self._paths(),
            "embedding": [self._all("embedding", geometry.embed, every, read=Path)] if len(every) > 2 else [],
        }
        r = self.records
        self.records["summary"] = [
            self._all("summary", stages.summary, (*r["solutions"], *r["flatness"], *r["corridors"]))
        ]
        self.records["pair_summary"] = [
            self._all("pair_summary", stages.pair_summary, (*r["solutions"], *r["paths"]))
        ]
        self.records["network"] = (
            [self._all("network", connecting.network, tuple(r["paths"]))] if r["paths"] else []
        )

    @property
    def waves(self) -> dict[str, list[Task]]:
        r = self.records
        return {
            "Training": r["solutions"],
            "Measuring": [
                t for k in ("flatness", "corridors", "profiles", "surfaces", "embedding") for t in r[k]
            ],
            "Connecting": r["paths"],
            "Summarizing": [*r["summary"], *r["pair_summary"], *r["network"]],
        }

    @property
    def key(self) -> str:
        """Changes with anything in the plan."""
        tasks = tuple(task for wave in self.waves.values() for task in wave)
        return Task(self.directory, stages.summary, tasks, versions()).key

    def _scan(self, points: int) -> dict[str, Any]:
        scans = self.measures.scans
        return {"points": points, "reach": scans.reach, "engine": scans.engine}

    def _each(self, kind: str, work: Work, **settings: Any) -> list[Task]:
        return [Task(self._path(kind, run.output.stem), work, (run,), settings) for run in self.runs.values()]

    def _surface(self, label: str) -> Task:
        runs = tuple(run for (name, _), run in self.runs.items() if name == label)
        settings = self._scan(self.measures.scans.plane)
        return Task(self._path("surfaces", label), geometry.scan_plane, runs, settings, replaceable=True)

    def _all(self, name: str, work: Work, inputs: tuple[Task, ...], **how: Any) -> Task:
        return Task(self.directory / f"{name}.npz", work, inputs, replaceable=True, **how)

    def _paths(self) -> list[Task]:
        folder, methods = self.directory / "paths", connecting.path_methods(self.measures.paths)
        tasks = (connecting.path_tasks(self.place, a, b, folder, methods) for a, b in self._pairs())
        return [task for kinds in tasks for task in kinds.values()]

    def _pairs(self) -> list[tuple[Task, Task]]:
        """At most ``measures.pairs`` a group, the first ones in an order that uses all solutions evenly."""
        labels = list(self.place.recipes)
        chosen = []
        for one, other in [*((x, x) for x in labels), *combinations(labels, 2)]:
            mine = [run for (label, _), run in self.runs.items() if label == one]
            theirs = [run for (label, _), run in self.runs.items() if label == other]
            n = len(mine)
            indices = combinations(range(n), 2) if one == other else product(range(n), repeat=2)
            ordered = sorted(indices, key=lambda ij: ((ij[1] - ij[0]) % n, ij))
            chosen += [(mine[i], theirs[j]) for i, j in ordered[: self.measures.pairs]]
        return chosen

    def _path(self, kind: str, name: str) -> Path:
        return self.directory / kind / f"{file_name(name)}.npz"


def solution_task(
    place: Workplace, label: str, seed: int, output: Path, *, record: Mapping[str, Any] | None = None
) -> Task:
    """The task of training one of the workplace's recipes from a seed.

    record: settings of Recording beside its directory, if the trajectory is to be kept in the folder beside the output.
    """
    problem = place.load()
    settings = {
        "problem": problem.fingerprint,
        "recipe": str(place.recipes[label].on(problem)),
        "label": label,
        "seed": seed,
        "dtype": place.dtype,
        "device": place.device,
    }
    if record is None:
        return Task(output, stages.train, settings=settings)
    return Task(output, stages.train, settings={**settings, "record": dict(record)}, folder=True)


def _recipes(optimizers: Sequence[str | Recipe]) -> dict[str, Recipe]:
    if not optimizers:
        raise InputError("optimizers must name at least one recipe, got none.")
    recipes = [parse_recipe(o) if isinstance(o, str) else o for o in optimizers]
    found = {file_name(recipe.label): recipe for recipe in recipes}
    if len(found) < len(recipes):
        labels = [recipe.label for recipe in recipes]
        raise InputError(
            f"every optimizer needs a label of its own, got {labels}; write label=name(…) to tell them apart."
        )
    return {recipe.label: recipe for recipe in recipes}


def _settings(plan: Plan, problem: Problem, command: str) -> dict[str, Any]:
    place = plan.place
    seeds = sorted({seed for _, seed in plan.runs})
    return {
        "problem": problem.name,
        "problem_fingerprint": problem.fingerprint,
        "data": problem.sizes,
        "parameters": place.objective().dim,
        "optimizers": {label: str(recipe.on(problem)) for label, recipe in place.recipes.items()},
        "seeds": len(seeds),
        "first_seed": seeds[0],
        "dtype": place.dtype,
        "device": place.device,
        "batchnorm": "recomputed on paths" if place.has_batchnorm else "none",
        "measures": asdict(plan.measures),
        "versions": versions(),
        "command": command,
    }


def _write_manifest(plan: Plan, settings: dict[str, Any]) -> None:
    files = {
        kind: [task.output.relative_to(plan.directory).as_posix() for task in tasks]
        for kind, tasks in plan.records.items()
    }
    text = json.dumps({"settings": settings, "files": files}, indent=1, ensure_ascii=False)
    with atomic_file(plan.directory / SETTINGS) as handle:
        handle.write(text.encode())

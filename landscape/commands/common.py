"""What the commands share. They import what they run when they run, so that --help is quick."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from ..stages import Workplace
    from ..tasks import Given, Task

Dtype = Literal["float32", "float64"]


def solutions_given(
    files: list[str], problem: str | None, dtype: str, device: str
) -> tuple[Workplace, list[Given]]:
    """The place to measure solutions at, and the solutions as given inputs; all must be of one problem."""
    from ..results import Solution
    from ..stages import Workplace
    from ..tasks import Given

    found = [Solution.load(file) for file in files]
    name = problem or found[0].problem
    place = Workplace(name, {}, dtype, device)
    place.check()
    loaded = place.load()
    for solution in found:
        loaded.check(solution)
    return place, [Given(Path(file)) for file in files]


def trajectories_given(
    folders: list[str], problem: str | None, dtype: str, device: str
) -> tuple[Workplace, list[Given]]:
    """The place to measure trajectories at, and their folders as given inputs; all must be of one problem."""
    from ..errors import InputError
    from ..stages import Workplace
    from ..tasks import Given
    from ..trajectories import Trajectory

    paths = [Path(folder).resolve() for folder in folders]
    for path in paths:
        if path.is_file():
            beside = f"; its own may be {path.with_suffix('')}" if path.with_suffix("").is_dir() else ""
            raise InputError(
                f"{path} is a file, and trajectories are folders, as landscape train --record makes them{beside}."
            )
    found = [Trajectory(path) for path in paths]
    place = Workplace(problem or found[0].problem, {}, dtype, device)
    place.check()
    loaded = place.load()
    for trajectory in found:
        loaded.check(trajectory.checkpoint(-1))
    return place, [Given(path) for path in paths]


def run(tasks: Sequence[Task], place: Workplace, *, title: str, jobs: int | None = 1) -> None:
    from ..tasks import processes, run_tasks

    run_tasks(tasks, place, title=title, jobs=processes(jobs, place.device), show_progress=bool(title))


def say(line: str) -> None:
    print(line)  # noqa: T201

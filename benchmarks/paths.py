"""How low paths between minima get for equal gradients: all methods of find_path on ten pairs of L-BFGS minima.

    python -m benchmarks.paths                                            # digits-mlp, a quarter of an hour
    python -m benchmarks.paths --problem "mnist-fcp(train=5000)" --gradients 1000  # an hour on two cores
    python -m benchmarks.paths --write docs/paths.md                      # also puts the table between the page's markers

Heights are dense maxima, bracketed, in float64 on all training data. Every method starts from the straight line and has as many
gradients; it is looked at every 50 or so, and the lowest path so far counts. Solutions and paths are files: the same command
goes on where it was stopped.
"""

from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch

from analysis.paths.find import METHODS
from analysis.paths.heights import INTERVALS, Survey
from landscape import stages
from landscape.paths import Segment
from landscape.records import file_name, load
from landscape.results import Solution, Track
from landscape.study import solution_task
from landscape.tasks import Task, cores, run_tasks, sole_use
from optimizers import parse_recipe
from scripts.study import command

from .measure import head, machine, replaced, row

PAIRS = 10


def main(
    problem: str = "digits-mlp",
    optimizer: str = "lbfgs",
    gradients: int = 3000,
    only: str = "",
    out: Path = Path("runs"),
    write: str = "",
) -> None:
    names = [name for name in METHODS if only in name]
    out = out / "paths" / file_name(problem)
    place = stages.Workplace(problem, {optimizer: parse_recipe(optimizer)})
    pairs = list(combinations(range(5), 2))[:PAIRS]
    runs = [solution_task(place, optimizer, s, out / f"{optimizer}-{s}.npz") for s in range(5)]
    with sole_use(out):
        run_tasks(runs, place, title=f"{problem}, solutions", jobs=cores())
        tasks = {
            (name, pair): Task(
                out / f"{name}-{pair[0]}-{pair[1]}-{gradients}.npz",
                descend,
                (runs[pair[0]], runs[pair[1]]),
                {"method": name, "gradients": gradients},
            )
            for name in names
            for pair in pairs
        }
        run_tasks(list(tasks.values()), place, title=f"{problem}, paths", jobs=cores())
    found: dict[str, list[Any]] = {n: [load(tasks[n, pair].output) for pair in pairs] for n in names}
    lines = list(table(found, problem, optimizer, gradients))
    print("\n".join(lines))
    if write:
        replaced(Path(write), f"paths {problem}", "\n".join(lines))


def descend(
    place: stages.Workplace,
    a: Solution,
    b: Solution,
    *,
    generator: torch.Generator,
    method: str,
    gradients: int,
) -> Track:
    """The lowest dense height so far, by gradients spent, and the height of the higher end."""
    objective, search = place.objective(a), METHODS[method]()
    ends = objective.point(a.theta), objective.point(b.theta)
    survey = Survey(objective, tolerance=1e-6, intervals=max(INTERVALS, search.intervals))
    line = survey.sample(Segment(*ends))
    spent, heights = [0.0], [line.height]
    steps = gradients // 51 if method == "fourier-published" else gradients
    for found in search.search(survey, *ends, steps=steps, generator=generator):
        spent.append(survey.gradients)
        heights.append(min(heights[-1], found.height))
    end = np.full(len(spent), max(line.loss[0], line.loss[-1]))
    values = {"height": np.array(heights), "end": end}
    return Track(label=method, seed=0, steps=np.array(spent), values=values)


def table(found: dict[str, list[Track]], problem: str, optimizer: str, gradients: int) -> Any:
    """Markdown rows: heights and what it takes to be as low as Bézier curves end."""
    first = next(iter(found.values()))
    line = np.median([d.values["height"][0] for d in first])
    yield (
        f"{machine()}. {problem}, {len(first)} pairs of {optimizer} minima, {gradients} gradients each; median height of the "
        f"straight line {line:.3g}, of the higher end {np.median([d.values['end'][0] for d in first]):.2g}:\n"
    )
    yield from head(
        "method",
        "median height",
        "lowest",
        "highest",
        "over Bézier's, median",
        "worst",
        "gradients to Bézier's height",
    )
    bezier = np.array([d.values["height"][-1] for d in found["bezier"]]) if "bezier" in found else None
    for name, descents in found.items():
        ends = np.array([d.values["height"][-1] for d in descents])
        cells = [name, *(f"{x:.3g}" for x in (np.median(ends), ends.min(), ends.max()))]
        if bezier is not None:
            ratio = ends / bezier
            cells += [f"{np.median(ratio):.2f}", f"{ratio.max():.2f}", _reached(descents, bezier)]
        yield row(*cells)


def _reached(descents: list[Track], heights: np.ndarray) -> str:
    """The median of the gradients at which the heights were first reached; never counts as infinitely many."""
    firsts = [
        min(d.steps[d.values["height"] <= height], default=np.inf)
        for d, height in zip(descents, heights, strict=True)
    ]
    return f"{np.median(firsts):.0f} (never in {np.isinf(firsts).sum()} of {len(firsts)})"


if __name__ == "__main__":
    command(main)

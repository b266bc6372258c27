"""Are minima of SGD joined by lower barriers than those of quasi-Newton, as Yu and Morozov (arXiv 2602.21276) have it?

python -m scripts.topography joins pairs in all WAYS, prints medians with intervals, draws histograms.png and network-WAY.png.

Args:
    problem: a problem's name.
    sgd: its recipe, as published on 60,000 images.
    lbfgs: its recipe.
    solutions: of each optimizer.
    pairs: within each optimizer, and as many across.
    steps: gradients of a fair search, at most, of a thorough one five times as many; the published one takes 5,100.
    only: a part of the names of the ways to go.
    out: the folder of records, which resume, and pictures.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from analysis import align, find_path, group_statistics, linear_path, network_of
from landscape import stages
from landscape.plots import plot_disconnectivity, plot_height_histogram
from landscape.plots.labels import bounded
from landscape.records import file_name, load
from landscape.results import MinimaNetwork, PathRecord, Solution
from landscape.study import solution_task
from landscape.tasks import Task, cores, run_tasks, sole_use
from optimizers import parse_recipe
from scripts.study import command, drawn_pairs, matching, save

FAIR = ("straight", "free", "held")
WAYS = ("published", *FAIR, "thorough", *(f"aligned {way}" for way in FAIR))


def main(
    problem: str = "mnist-fcp(train=5000)",
    sgd: str = "sgd(lr=0.1, epochs=75)",
    lbfgs: str = "lbfgs(epochs=1000)",
    solutions: int = 12,
    pairs: int = 30,
    steps: int = 1000,
    only: str = "",
    out: Path = Path("runs"),
) -> None:
    ways, out = matching(WAYS, only), out / "topography" / file_name(problem)
    recipes = {n: replace(parse_recipe(t), label=n) for n, t in (("sgd", sgd), ("lbfgs", lbfgs))}
    place, kept = stages.Workplace(problem, recipes), out / "solutions"
    runs = [[solution_task(place, n, i, kept / f"{n}-{i}.npz") for i in range(solutions)] for n in recipes]
    found: dict[str, MinimaNetwork] = {}
    with sole_use(out):
        run_tasks([run for some in runs for run in some], place, title=f"{problem}, solutions", jobs=cores())
        for way in ways:
            how, folder = {"way": way, "steps": steps}, out / file_name(way)
            named = [(f"{a.output.stem}--{b.output.stem}.npz", (a, b)) for a, b in drawn_pairs(runs, pairs)]
            tasks = [Task(folder / name, joined, ends, how) for name, ends in named]
            run_tasks(tasks, place, title=way, jobs=cores())
            found[way] = network_of(load(task.output) for task in tasks)  # pyright: ignore[reportArgumentType]
    print_table(found, "height", "geometric median")
    print_table(found, "barrier", "median")
    figure = Figure(figsize=(9, 1.8 * len(found)), layout="constrained")
    for ax, way in zip(figure.subplots(len(found), squeeze=False, sharex=True)[:, 0], found, strict=True):
        plot_height_histogram(found[way], ax).legend(fontsize=7, title=way)
        ax.label_outer()
    save(figure, out / "histograms.png")
    for way, network in found.items():
        figure = Figure(figsize=(9, 5), layout="constrained")
        plot_disconnectivity(network, figure.subplots()).legend()
        save(figure, out / f"network-{file_name(way)}.png")


def joined(place: Any, a: Solution, b: Solution, *, generator: Any, way: str, steps: int) -> PathRecord:
    objective = place.objective(a)
    how: Any = {"start": a.label, "end": b.label}
    if way.startswith("aligned"):
        b = align(place.load(), a, b, generator=generator).aligned(b)
    if way.endswith("straight"):
        line = linear_path(objective, a.theta, b.theta, **how)
        return replace(line, method="straight")  # a path like others, for a network
    fair = {"steps": steps, "hold_norm": way.endswith("held")}
    how |= {"method": "fourier-published"} if way == "published" else fair
    how |= {"steps": 5 * steps, "negligible": 1e-8} if way == "thorough" else {}
    return find_path(objective, a.theta, b.theta, minima=False, generator=generator, **how)


def print_table(found: dict[str, MinimaNetwork], what: str, average: str) -> None:
    """The average of each kind of pairs and how these differ, with intervals over solutions, by differences or ratios."""
    tables = {way: group_statistics(network, what=what, average=average) for way, network in found.items()}
    groups = next(iter(tables.values())).groups
    print("\n", what, *groups, "settled", f"\n{'|---' * (len(groups) + 2)}|", sep=" | ")
    for way, table in tables.items():
        pairs = found[way].converged[np.triu(np.isfinite(found[way].heights), 1)]
        cells = map(bounded, table.center[0], table.low[0], table.high[0])
        print("", way, *cells, f"{pairs.sum()} of {len(pairs)}", "", sep=" | ")


if __name__ == "__main__":
    command(main)

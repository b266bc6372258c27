"""Are minima of SGD joined by lower barriers than those of quasi-Newton, as Yu and Morozov (arXiv 2602.21276) have it?

python -m scripts.topography connects pairs in every way of WAYS, as published and fairly, and prints medians with intervals over
solutions; draws histograms.png, and network.png: what joins the minima at which height.

Args:
    problem: a problem's name.
    solutions: of each optimizer.
    pairs: within each optimizer, and as many across.
    steps: gradients of a fair search, at most; the published one takes 5,100.
    only: a part of the names of the ways to go.
    out: the folder of records, which resume, and pictures.
"""

from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from analysis import align, find_path, group_statistics, linear_path, network_of
from landscape import stages
from landscape.plots import plot_disconnectivity, plot_height_histogram
from landscape.plots.labels import number
from landscape.records import file_name, load
from landscape.results import MinimaNetwork, PathRecord, Solution
from landscape.study import solution_task
from landscape.tasks import Task, cores, run_tasks, sole_use
from optimizers import parse_recipe
from scripts.study import command, drawn_pairs, matching, save

RECIPES = {"sgd": "sgd=sgd(lr=0.1, epochs=75)", "lbfgs": "lbfgs=lbfgs(epochs=1000)"}  # as published
WAYS = ("published", "straight", "free", "held", "aligned straight", "aligned free", "aligned held")


def main(
    problem: str = "mnist-fcp(train=5000)",
    solutions: int = 12,
    pairs: int = 30,
    steps: int = 1000,
    only: str = "",
    out: Path = Path("runs"),
) -> None:
    ways, out = matching(WAYS, only), out / "topography" / file_name(problem)
    place = stages.Workplace(problem, {name: parse_recipe(text) for name, text in RECIPES.items()})
    files = {name: [out / "solutions" / f"{name}-{i}.npz" for i in range(solutions)] for name in RECIPES}
    runs = [[solution_task(place, name, i, f) for i, f in enumerate(files[name])] for name in RECIPES]
    found: dict[str, MinimaNetwork] = {}
    with sole_use(out):
        run_tasks([*chain(*runs)], place, title=f"{problem}, solutions", jobs=cores())
        for way in ways:
            how, tasks = {"way": way, "steps": steps}, []
            for a, b in drawn_pairs(runs, pairs):
                name = f"{a.output.stem}--{b.output.stem}.npz"
                tasks.append(Task(out / file_name(way) / name, joined, (a, b), how))
            run_tasks(tasks, place, title=way, jobs=cores())
            found[way] = network_of(load(task.output) for task in tasks)  # pyright: ignore[reportArgumentType]
    figure = Figure(figsize=(9, 1.8 * len(found)), layout="constrained")
    for ax, way in zip(figure.subplots(len(found), squeeze=False, sharex=True)[:, 0], found, strict=True):
        print_rows(way, found[way])
        plot_height_histogram(found[way], ax).set_title(way)
        ax.legend(fontsize=7)
    save(figure, out / "histograms.png")
    if "free" in found:
        figure = Figure(figsize=(9, 5), layout="constrained")
        plot_disconnectivity(found["free"], figure.subplots()).legend()
        save(figure, out / "network.png")


def joined(
    place: Any, a: Solution, b: Solution, *, generator: torch.Generator, way: str, steps: int
) -> PathRecord:
    objective = place.objective(a)
    ends: Any = {"start": a.label, "end": b.label}
    if way.startswith("aligned"):
        b = align(place.load(), a, b, generator=generator).aligned(b)
    if way.endswith("straight"):
        line = linear_path(objective, a.theta, b.theta, **ends)
        return replace(line, method="straight")  # as a network takes it for a path like others
    how: Any = {"steps": steps, "hold_norm": way.endswith("held"), **ends}
    how |= {"method": "fourier-published", "steps": None} if way == "published" else {}
    return find_path(objective, a.theta, b.theta, minima=False, generator=generator, **how)


def print_rows(way: str, network: MinimaNetwork) -> None:
    """Medians of heights, absolute as published, and of barriers; then how these differ between kinds of pairs."""
    for what in ("height", "barrier"):
        table = group_statistics(network, what=what)
        rows = zip(table.groups, table.center[0], table.low[0], table.high[0], strict=True)
        cells = [
            f"{kind}: {number(c)} ({number(low, 2)} to {number(high, 2)})" for kind, c, low, high in rows
        ]
        print("", f"{way}, {what}", *cells, "", sep=" | ")


if __name__ == "__main__":
    command(main)

"""Where in training are corridors, how long are they, and how much of the loss do they carry? SGD, E, ALTO, L-BFGS, full batch.

python -m scripts.corridors records every step of every run, measures the loss of all training data along it, prints tables,
and draws loss.png and measures.png (one run of each optimizer) and plane.png (corridors around three of them).
For MNIST: --problem "mnist-fcp(train=5000)" --steps 400 --seeds 3, forty minutes on two cores.

Args:
    problem: a problem's name.
    steps: of each optimizer; L-BFGS ends when it has converged.
    seeds: runs of each optimizer.
    rate: h, at which corridors are asked for besides those of the steps that were made.
    out: the folder of trajectories and records, which resume, and pictures.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from landscape import geometry, plots
from landscape.plots.style import legend
from landscape.records import file_name, load
from landscape.stages import Workplace
from landscape.study import solution_task
from landscape.summary import change_table, corridor_table
from landscape.tables import show_markdown
from landscape.tasks import Given, Task, cores, run_tasks, sole_use
from optimizers import Recipe, parse_recipe
from scripts.study import command, save

RUNS = {
    "gd": "sgd(lr=0.1, batch_size=None)",
    "sgd": "sgd(lr=0.1)",
    "e-sgd": "e-sgd",
    "alto": "alto",
    "lbfgs": "lbfgs",
}
MAPPED = ("gd", "sgd", "e-sgd")


def main(
    problem: str = "digits-mlp",
    steps: int = 1000,
    seeds: int = 5,
    rate: float = 0.1,
    out: Path = Path("runs"),
) -> None:
    place, out = Workplace(problem), out / "corridors" / file_name(problem)
    place = replace(place, recipes={name: recipe(name, steps, place) for name in RUNS})
    each, every = [(name, i) for name in RUNS for i in range(seeds)], {"budget": 2**33}
    runs = [solution_task(place, n, i, out / f"runs/{n}-{i}.npz", record=every) for n, i in each]
    tracks = {(n, i): Given(run.output.with_suffix("")) for (n, i), run in zip(each, runs, strict=True)}

    def task(name: str, work, *inputs: Given | Task, **settings) -> Task:
        return Task(out / f"{name}.npz", work, inputs, settings, read=geometry.read_input)

    along = [task(f"{n}-{i}", geometry.follow_corridor, track) for (n, i), track in tracks.items()]
    noise = [task(f"{n}-noise", geometry.follow_noise, tracks[n, 0], batch_size=64, draws=8) for n in RUNS]
    base = task("plane", geometry.lay_plane, *(tracks[n, 0] for n in MAPPED))
    plane = [task("map", geometry.map_corridor, base, tracks["gd", 0], points=31)]
    plane += [task(f"map-{n}", geometry.project_trajectory, base, tracks[n, 0]) for n in MAPPED]
    with sole_use(out):
        run_tasks(runs, place, title="Training", jobs=cores())
        run_tasks([*along, *noise, base], place, title="Measuring", jobs=cores())
        run_tasks(plane, place, title="Mapping", jobs=cores())
    found, noise, plane = ([load(task.output) for task in tasks] for tasks in (along, noise, plane))
    ways = {"own steps": [c.by_length() for c in found], f"h = {rate:g}": [c.at_rate(rate) for c in found]}
    figure = Figure(figsize=(12, 4.5), layout="constrained")
    for ax, (way, some), linearity in zip(figure.subplots(1, 2), ways.items(), (0.1, np.inf), strict=True):
        show_markdown(corridor_table(some, linearity=linearity), f"corridors, {way}")
        drawn = plots.plot_corridor_loss(some[::seeds], ax, linearity=linearity, optimizers=list(RUNS))
        drawn.set_title(f"corridors, {way}", loc="left")
    show_markdown(change_table(found), "the loss, start to end")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    save(figure, out / "loss.png")
    figure = Figure(figsize=(12, 2.8 * len(RUNS)), layout="constrained")
    for (left, right), run, noisy in zip(
        figure.subplots(len(RUNS), 2), ways["own steps"][::seeds], noise, strict=True
    ):
        legend(plots.plot_corridor(run, left), fontsize=7)
        legend(plots.plot_corridor_noise(noisy, right), fontsize=7)
    save(figure, out / "measures.png", dpi=70)
    figure, (field, *paths) = Figure(figsize=(12, 4.8), layout="constrained"), plane
    left, right = figure.subplots(1, 2)
    field = plots.plot_corridor_map(field, left, kappa_at=rate)
    legend(plots.plot_projections(paths, field, optimizers=list(RUNS)))
    legend(plots.plot_residuals(paths, right, optimizers=list(RUNS)))
    save(figure, out / "plane.png")


def recipe(name: str, steps: int, place: Workplace) -> Recipe:
    """A recipe for so many steps."""
    found, count = parse_recipe(RUNS[name]), place.load().sizes["train"]
    epochs = -(-steps // -(-count // min(found.batch_size or count, count)))
    return replace(found, label=name, epochs=epochs)


if __name__ == "__main__":
    command(main)

"""Which optimizer finds the flattest minima, and by which measure? Every number with its interval over seeds.

python -m scripts.flatness prints a table, measures by optimizers, with geometric means where all values are positive; draws
flatness.png, layers.png and spectra.png. A star marks what does not change when layers are rescaled against each other.
python -m scripts.flatness --problem "mnist-lenet(train=1000)" --epochs 100 --dtype float32 does the same on images, in an hour.

Args:
    problem: a problem's name.
    epochs: passes over the data, for full-batch optimizers steps; 0 for what each recipe says.
    seeds: runs of each optimizer.
    dtype: float64 or float32, in which convolutions are four times as fast on a CPU.
    only: a part of the names of the optimizers to run; all if empty.
    out: the folder of records, which resume, and pictures.
"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from landscape import stages
from landscape.measures import FlatnessSettings
from landscape.plots import plot_density, plot_flatness, plot_layers
from landscape.plots.flatness import MEASURES, flatness_value
from landscape.plots.labels import metric
from landscape.records import file_name, load
from landscape.study import solution_task
from landscape.tasks import Task, cores, run_tasks, sole_use
from optimizers import parse_recipe
from scripts.study import command, interval, matching, save

KNOWN = ("train_loss", "test_loss", "test_accuracy", "norm")
OPTIMIZERS = ("sgd", "adamw", "sam", "lbfgs", "alto")
DRAWN = "trace eigenvalue sam_sharpness pac_bayes_sigma adaptive_sharpness adaptive_average relative_flatness fisher_rao"
MEASURED: dict[str, tuple[Any, dict[str, Any]]] = {  # what is done, with which settings
    "flatness": (stages.measure_flatness, asdict(FlatnessSettings(pairs=32))),
    "layers": (stages.measure_layers, {"by": "layer", "matvecs": 30}),
    "density": (stages.measure_density, {"probes": 8, "steps": 100, "deflate": 10}),
}


def main(
    problem: str = "digits-mlp",
    epochs: int = 0,
    seeds: int = 3,
    dtype: str = "float64",
    only: str = "",
    out: Path = Path("runs"),
) -> None:
    names = matching(OPTIMIZERS, only)
    recipes = {name: parse_recipe(f"{name}={name}(epochs={epochs})" if epochs else name) for name in names}
    place, out = stages.Workplace(problem, recipes, dtype), out / "flatness" / file_name(problem)
    place.check()
    each = [(name, seed) for name in names for seed in range(seeds)]
    runs = [solution_task(place, name, seed, out / "solutions" / f"{name}-{seed}.npz") for name, seed in each]
    found = {"solutions": runs}
    for kind, (work, settings) in MEASURED.items():
        some = runs if kind == "flatness" else runs[::seeds]  # of the others one is drawn
        found[kind] = [Task(out / kind / run.output.name, work, (run,), settings) for run in some]
    with sole_use(out):
        for kind, tasks in found.items():
            run_tasks(tasks, place, title=f"{problem}, {kind}", jobs=cores())
    records: dict[str, list[Any]] = {kind: [load(t.output) for t in tasks] for kind, tasks in found.items()}
    print_table(names, records["solutions"], records["flatness"])
    figure, axes = grid(8, 4)
    for ax, key in zip(axes, DRAWN.split(), strict=True):
        plot_flatness(records["flatness"], ax, metric=key)
    save(figure, out / "flatness.png")
    for kind, plot, file in (("layers", plot_layers, "layers"), ("density", plot_density, "spectra")):
        figure, axes = grid(len(names), 3)
        for ax, name, record in zip(axes, names, records[kind], strict=False):
            plot(record, ax).set_title(f"{name}, seed 0")
        if kind == "layers":
            figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
        save(figure, out / f"{file}.png", dpi=70)


def print_table(names: list[str], solutions: list[Any], flatness: list[Any]) -> None:
    rows: dict[str, Any] = {metric(key).name: [getattr(s, key) for s in solutions] for key in KNOWN}
    for key in MEASURES:
        name = metric(key).name + "*" * bool(metric(key).invariant)
        rows[name] = [flatness_value(f, key)[0] for f in flatness]
    print("", "measure", *names, "", sep=" | ")
    for name, values in rows.items():
        if np.isfinite(values).any():
            print("", name, *map(interval, np.reshape(values, (len(names), -1))), "", sep=" | ")


def grid(count: int, columns: int) -> tuple[Figure, list[Any]]:
    figure = Figure(figsize=(12.4, 2.7 * (rows := -(-count // columns))), layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for ax in axes[count:]:
        ax.set_axis_off()
    return figure, axes


if __name__ == "__main__":
    command(main)

"""Who leaves a sharp minimum? RS and SA beside SAM, SGD and gradient descent, from minima made to generalize badly.

python -m scripts.escape               # the settings in METHODS, five seeds: a table of the ends, and escape.png
python -m scripts.escape --rho 1       # the same with one ρ for all methods: escape-1.0.png
python -m scripts.escape --grid true   # how the settings were chosen: all of the grid, on another seed

All methods run at one cost, counted in full gradients. Cross-entropy has no minimum, and its trace falls with the loss by itself:
so at every mark descent also takes a copy of the model to one train loss, SETTLED. See sharp_minima for the start.
"""

from collections.abc import Iterable
from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch.optim import SGD

from landscape import load_problem
from landscape.intervals import mean_interval
from landscape.plots import plot_tracks
from landscape.results import Track
from optimizers import SAM, SmoothedPerturbation
from optimizers import SharpnessAwarePerturbation as SA
from scripts.sharp_minima import closure_of, descend, measured, sharp_minimum
from scripts.study import command, tracks

METHODS: dict[str, tuple[Any, float, float]] = {  # η and ρ: the lowest validation loss of the grid
    "gd": (lambda params, lr, rho, **_: SGD(params, lr), 0.1, 0.0),
    "sgd": (lambda params, lr, rho, **_: SGD(params, lr), 0.1, 0.0),
    "sam": (lambda params, lr, rho, **_: SAM(SGD(params, lr), rho), 0.1, 1.0),
    "rs": (SmoothedPerturbation, 0.1, 30.0),
    "sa-all": (partial(SA, batch_size=None), 0.1, 3.0),
    "sa-16": (partial(SA, batch_size=16), 0.1, 10.0),
    "sa-1": (partial(SA, batch_size=1), 0.1, 1.0),
}
RATES, RHOS, GRID_SEED = (0.03, 0.1), (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0), 100
MINI_BATCH, SETTLED, OUT = 64, 2e-4, Path("runs/escape")
ENDS = ("settled trace / loss", "settled validation loss", "settled test accuracy")


def main(
    gradients: int = 2000, seeds: int = 5, rho: float = np.nan, grid: bool = False, out: Path = OUT
) -> None:
    every = [(a, lr, r) for a in METHODS for lr in RATES for r in (RHOS if METHODS[a][2] else (0.0,))]
    chosen = [(a, lr, rho if rho > 0 and r > 0 else r) for a, (_, lr, r) in METHODS.items()]
    settings, over, marks = (every, [GRID_SEED], 1) if grid else (chosen, range(seeds), 8)
    told = [dict(zip(("label", "lr", "rho"), setting, strict=True)) for setting in settings]
    cells = [{**one, "gradients": gradients, "marks": marks, "seed": seed} for one in told for seed in over]
    found = tracks(out, escape, cells, title="escape", context="digits-mlp")
    for setting, runs in zip(settings, np.array_split(np.array(found), len(settings)), strict=True):
        print("", *setting, *(end(runs, name) for name in ENDS), sep=" | ")
    if not grid:
        figure = Figure(figsize=(11, 6.4), layout="constrained")
        shown = ("train loss", "trace", "test accuracy", *ENDS)
        for ax, name in zip(figure.subplots(2, 3).flat, shown, strict=True):
            plot_tracks(found, ax, value=name, log="accuracy" not in name, xlabel="full gradients spent")
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=7)
        figure.savefig(out / f"escape{f'-{rho}' if rho > 0 else ''}.png", dpi=80)


def escape(
    problem: str, *, label: str, lr: float, rho: float, gradients: int, marks: int, seed: int, generator: Any
) -> Track:
    """What is measured at so many marks after the start, of the model and of its copy at SETTLED."""
    task, draws, rows = load_problem(problem), torch.Generator().manual_seed(seed), []
    model, steps = sharp_minimum(task, seed, draws), np.linspace(0, gradients, marks + 1).round()
    train = closure_of(task, model)
    optimizer = METHODS[label][0](model.parameters(), lr, rho, generator=draws)
    for step in steps:
        while train.spent["gradients"] < step * train.count:
            optimizer.step(train.sample(MINI_BATCH, draws) if label in ("sgd", "sam") else train)
        below = closure_of(task, deepcopy(model))
        descend(SGD(below.model.parameters(), 0.1, momentum=0.98), below, below, SETTLED)
        settled = {f"settled {name}": x for name, x in measured(task, below.model, generator).items()}
        rows.append(measured(task, model, generator) | settled)
    values = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    return Track(label=label, seed=seed, steps=steps, values=values)


def end(runs: Iterable[Track], name: str) -> str:
    """Mean over seeds and its 95 % interval, geometric but for accuracy."""
    last, log = np.array([run.values[name][-1] for run in runs]), "accuracy" not in name
    interval = np.exp(mean_interval(np.log(last))) if log else mean_interval(last)
    return "{:.3g} ({:.3g} to {:.3g})".format(*interval)


if __name__ == "__main__":
    command(main)

"""Who leaves a sharp minimum? RS and SA beside SAM, SGD and gradient descent, from minima made to generalize badly.

python -m scripts.escape               # the chosen settings, five seeds: a table, and escape.png
python -m scripts.escape --grid true   # how they were chosen: the whole grid, on another seed

The minimum of a seed: Adam fits random labels of inputs with half their pixels gone, then descent on the true data goes on from
there until every training label is right. From it all methods run at one cost, counted in full gradients. Cross-entropy has no
minimum, and its trace falls with the loss by itself: so in the end descent takes every run to one train loss, SETTLED.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch.optim import SGD, Adam

from analysis import hessian_trace
from landscape import Parameters, load_problem
from landscape.intervals import mean_interval
from landscape.networks import placed
from landscape.plots import plot_tracks
from landscape.results import Track
from optimizers import DataClosure
from optimizers.sam import SAM
from optimizers.sharpness_aware import SharpnessAwarePerturbation as SA
from optimizers.smoothed import SmoothedPerturbation as RS
from scripts.study import command, tracks

METHODS: dict[str, tuple[Callable[..., Any], float, float]] = {  # with η and ρ as the grid chose them
    "gd": (lambda params, lr, rho, **_: SGD(params, lr), 0.1, 0.0),
    "sgd": (lambda params, lr, rho, **_: SGD(params, lr), 0.1, 0.0),
    "sam": (lambda params, lr, rho, **_: SAM(SGD(params, lr), rho), 0.1, 1.0),
    "rs": (RS, 0.1, 30.0),
    "sa-all": (partial(SA, batch_size=None), 0.1, 3.0),
    "sa-16": (partial(SA, batch_size=16), 0.1, 10.0),
    "sa-1": (partial(SA, batch_size=1), 0.1, 1.0),
}
RATES, RHOS = (0.03, 0.1), (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
MINI_BATCH, SETTLED, GRID_SEED = 64, 2e-4, 100
SHOWN = {"train loss": True, "trace": True, "test accuracy": False}  # on a logarithmic scale?


def main(gradients: int = 2000, seeds: int = 5, grid: bool = False, out: Path = Path("runs/escape")) -> None:
    every = [(a, lr, rho) for a in METHODS for lr in RATES for rho in (RHOS if METHODS[a][2] else (0.0,))]
    settings = every if grid else [(label, lr, rho) for label, (_, lr, rho) in METHODS.items()]
    cells = [
        {"label": label, "lr": lr, "rho": rho, "gradients": gradients, "seed": seed}
        for label, lr, rho in settings
        for seed in ([GRID_SEED] if grid else range(seeds))
    ]
    found = tracks(out, escape, cells, title="escape", context="digits-mlp")
    for (label, lr, rho), runs in zip(settings, np.array_split(np.array(found), len(settings)), strict=True):
        intervals = [mean_interval(values) for values in np.array([ends(run.values) for run in runs]).T]
        print("", label, lr, rho, *("{:.4g} ({:.4g} to {:.4g})".format(*i) for i in intervals), sep=" | ")
    if not grid:
        figure = Figure(figsize=(11, 3.6), layout="constrained")
        for ax, (value, log) in zip(figure.subplots(1, 3), SHOWN.items(), strict=True):
            plot_tracks(found, ax, value=value, log=log, xlabel="full gradients spent")
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=7)
        figure.savefig(out / "escape.png", dpi=90)


def escape(
    problem: str, *, label: str, lr: float, rho: float, gradients: int, seed: int, generator: Any
) -> Track:
    """What is measured at 17 points of the way; in the last one, also where descent to SETTLED ends from there."""
    task, draws = load_problem(problem), generator.manual_seed(seed)
    model, objective = task.build(seed).float(), task.objective("train")
    train, validation, test = (
        placed(data, torch.float32, torch.device("cpu")) for data in (task.train, task.validation, task.test)
    )
    whole, right = (DataClosure(model, f, train) for f in (task.loss_fn, task.metric))
    others = DataClosure(model, task.loss_fn, validation), DataClosure(model, task.metric, test)

    def measured() -> dict[str, float]:
        trace = hessian_trace(objective, Parameters.of(model).theta(model), generator=draws)
        names = ("train loss", "train accuracy", "validation loss", "test accuracy")
        losses = [float(closure.loss()) for closure in (whole, right, *others)]
        return {**dict(zip(names, losses, strict=True)), "trace": trace.value, "trace error": trace.stderr}

    half = train[0] * (torch.rand(train[0].shape, generator=draws) < 0.5)
    wrong = half, train[1][torch.randperm(len(half), generator=draws)]
    by_heart = DataClosure(model, task.metric, wrong)
    descend(
        Adam(model.parameters(), 0.01), DataClosure(model, task.loss_fn, wrong), lambda: by_heart.loss() == 1
    )
    descend(SGD(model.parameters(), 0.05, momentum=0.9), whole, lambda: right.loss() == 1)
    optimizer = METHODS[label][0](model.parameters(), lr, rho, generator=draws)
    steps, rows, start = np.linspace(0, gradients, 17).round(), [], whole.spent["gradients"]
    for step in steps:
        while whole.spent["gradients"] - start < step * whole.count:
            optimizer.step(whole.sample(MINI_BATCH, draws) if label in ("sgd", "sam") else whole)
        rows.append(measured())
    descend(SGD(model.parameters(), 0.1, momentum=0.98), whole, lambda: whole.loss() < SETTLED)
    rows[-1] |= {f"settled {name}": value for name, value in measured().items()}
    values = {name: np.array([row.get(name, np.nan) for row in rows]) for name in rows[-1]}
    return Track(label=label, seed=seed, steps=steps, values=values)


def ends(values: dict[str, np.ndarray]) -> tuple[float, float, float]:
    """Trace over train loss, validation loss and test accuracy once settled."""
    trace, loss = values["settled trace"][-1], values["settled train loss"][-1]
    return trace / loss, values["settled validation loss"][-1], values["settled test accuracy"][-1]


def descend(optimizer: Any, closure: DataClosure, done: Callable[[], Any]) -> None:
    for _ in range(5000):
        if done():
            return
        for _ in range(20):
            optimizer.step(closure)


if __name__ == "__main__":
    command(main)

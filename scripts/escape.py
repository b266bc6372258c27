"""Who leaves a sharp minimum? RS and SA beside SAM, NSO, SGD and gradient descent, from minima made to generalize badly.

python -m scripts.escape prints the ends of all methods, each with its own ρ, and draws escape.png. All run at one rate and one
cost. Cross-entropy has no minimum, and its trace falls with the loss by itself: so at every mark descent also takes a copy of the
model to one train loss, SETTLED. The start is that of scripts.sharp_minima.

Args:
    gradients: what a run may cost, in full gradients.
    lr: the rate η of all methods.
    rho: one ρ for all methods, in place of each one's own (draws escape-RHO.png). NSO's noise is of length ρ too.
    seeds: runs of each method.
    grid: run the grid that the methods' own ρ come from, on another seed, and draw nothing.
    out: the folder of runs, which resume, and pictures.
"""

from copy import deepcopy
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch.optim import SGD

from landscape import load_problem
from landscape.plots import plot_tracks
from landscape.results import Track
from optimizers import NSO, SAM, SmoothedPerturbation
from optimizers import SharpnessAwarePerturbation as SA
from scripts.sharp_minima import closure_of, descend, measured, sharp_minimum
from scripts.study import command, end, save, tracks

NUMBERS = 2410  # d of digits-mlp: noise of σ = ρ/√d in every number has length ρ
METHODS: dict[str, tuple[Any, float]] = {  # ρ: the lowest validation loss of the grid, above SETTLED
    "sgd": (lambda params, lr, rho, **_: SGD(params, lr), 0.0),
    "sam": (lambda params, lr, rho, **_: SAM(SGD(params, lr), rho), 1.0),
    "nso": (lambda params, lr, rho, **draws: NSO(SGD(params, lr), rho / NUMBERS**0.5, **draws), 30.0),
    "rs": (SmoothedPerturbation, 30.0),
    "sa-all": (partial(SA, batch_size=None), 3.0),
    "sa-16": (partial(SA, batch_size=16), 3.0),
    "sa-1": (partial(SA, batch_size=1), 3.0),
    "gd": (lambda params, lr, rho, **_: SGD(params, lr), 0.0),
}
RHOS, GRID_SEEDS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0), (100,)
MINI, MINI_BATCH, SETTLED, OUT = ("sgd", "sam", "nso"), 64, 2e-4, Path("runs/escape")
ENDS = ("settled trace / loss", "settled validation loss", "settled test accuracy")


def main(
    gradients: int = 2000,
    lr: float = 0.1,
    rho: float = 0,
    seeds: int = 5,
    grid: bool = False,
    out: Path = OUT,
) -> None:
    every = [(label, r) for label, (_, best) in METHODS.items() for r in (RHOS if best else (0.0,))]
    chosen = [(label, (rho or best) if best else 0.0) for label, (_, best) in METHODS.items()]
    settings, over, marks = (every, GRID_SEEDS, 1) if grid else (chosen, range(seeds), 8)
    cells = [
        {"label": label, "lr": lr, "rho": r, "gradients": gradients, "marks": marks, "seed": seed}
        for label, r in settings
        for seed in over
    ]
    found = tracks(out, escape, cells, title="escape", context="digits-mlp")
    for i, setting in enumerate(settings):
        runs = found[i * len(over) : (i + 1) * len(over)]
        ends = [end(runs, name, log="accuracy" not in name)[1] for name in ENDS]
        print("", *setting, *ends, sep=" | ")
    if not grid:
        figure = Figure(figsize=(11, 6.4), layout="constrained")
        shown = ("train loss", "trace", "test accuracy", *ENDS)
        for ax, name in zip(figure.subplots(2, 3).flat, shown, strict=True):
            plot_tracks(found, ax, value=name, log="accuracy" not in name, xlabel="full gradients spent")
        figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=8)
        save(figure, out / f"escape{f'-{rho}' if rho else ''}.png")


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
            optimizer.step(train.sample(MINI_BATCH, draws) if label in MINI else train)
        below = closure_of(task, deepcopy(model))
        descend(SGD(below.model.parameters(), 0.1, momentum=0.98), below, below, SETTLED)
        settled = {f"settled {name}": x for name, x in measured(task, below.model, generator).items()}
        rows.append(measured(task, model, generator) | settled)
    values = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    return Track(label=label, seed=seed, steps=steps, values=values)


if __name__ == "__main__":
    command(main)

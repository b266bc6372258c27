"""Does E help a layer-wise Adam at large batches? ALTO beside Lamb, equally late Lamb, AdamW with and without E, and SGD.

python -m scripts.large_batch prints every rate tried, with its validation loss, and the ends at the best; draws large_batch.png.
ALTO with α = 0 is Lamb bit for bit, so it is left out. Lamb has ALTO's bias correction, trust ratio and (no) clipping; all have
weight decay 1e-4, moments of 0.9 and 0.99 (SGD: momentum 0.9) and a cosine schedule; α is the paper's −5, at every batch.

Args:
    problem: a problem's name.
    epochs: passes over the data; with the full batch, steps.
    seeds: runs of each method, at the rate of lowest validation loss on seed 100.
    only: full, 512 or 64 for that batch alone.
    out: the folder of runs, which resume, and the picture.
"""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch.optim import SGD, AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR

from landscape import load_problem
from landscape.plots import plot_tracks
from landscape.problems import select
from landscape.results import Track
from optimizers import ALTO, DataClosure, E, Lamb, equal_momentum
from scripts.sharp_minima import closure_of, measured
from scripts.study import command, end, matching, save, tracks

BATCHES = {"full batch": 10**9, "batch 512": 512, "batch 64": 64}
ADAMW: Any = partial(AdamW, betas=(0.9, 0.99), weight_decay=1e-4)
METHODS: dict[str, Any] = {  # (parameters, lr) -> optimizer
    "alto": ALTO,
    "lamb": Lamb,
    "lamb, as late": partial(Lamb, betas=(equal_momentum(-5.0, 0.9), 0.99)),  # β₂ = 0.933
    "e(adamw)": lambda params, lr: E(ADAMW(params, lr), -5.0, 0.99),
    "adamw": ADAMW,
    "sgd": partial(SGD, momentum=0.9, weight_decay=1e-4),
}
RATES, GRID_SEED = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0), 100
ENDS = ("train loss", "validation loss", "test accuracy", "trace", "trace / loss")


def main(
    problem: str = "digits-mlp", epochs: int = 300, seeds: int = 5, only: str = "", out: Path = Path("runs")
) -> None:
    out, found = out / "large-batch" / problem, {}
    for batch in matching(BATCHES, only):
        follow = partial(tracks, out, run, context=problem, title=f"{problem}, {batch}")
        each, grid = {"epochs": epochs, "batch": batch}, {"marks": 1, "seed": GRID_SEED}
        tried = follow([{**each, "label": label, "lr": lr, **grid} for label in METHODS for lr in RATES])
        losses = np.reshape([track.values["validation loss"][-1] for track in tried], (len(METHODS), -1))
        rates = {label: RATES[np.nanargmin(row)] for label, row in zip(METHODS, losses, strict=True)}
        for label, row in zip(METHODS, losses, strict=True):
            print("", batch, label, *(f"{loss:.3g}" for loss in row), "", sep=" | ")
        chosen = [{**each, "label": label, "lr": lr, "marks": 20} for label, lr in rates.items()]
        found[batch] = follow([{**cell, "seed": seed} for cell in chosen for seed in range(seeds)])
        for label, lr in rates.items():
            runs = [track for track in found[batch] if track.label == label]
            ends = [end(runs, name, log="accuracy" not in name)[1] for name in ENDS]
            print("", batch, label, lr, *ends, "", sep=" | ")
    picture(found, out / "large_batch.png")


def run(
    problem: str, *, epochs: int, batch: str, label: str, lr: float, marks: int, seed: int, generator: Any
) -> Track:
    """What is measured at so many marks after the start; with one mark, which may have diverged, the validation loss."""
    task, order, rows = load_problem(problem), torch.Generator().manual_seed(seed), []
    model, steps = task.build(seed).float(), np.unique(np.linspace(0, epochs, marks + 1).round())
    train, optimizer = closure_of(task, model), METHODS[label](model.parameters(), lr)
    schedule = CosineAnnealingLR(optimizer, epochs)
    for epoch in range(epochs + 1):
        for index in torch.randperm(train.count, generator=order).split(BATCHES[batch]) if epoch else ():
            optimizer.step(DataClosure(model, task.loss_fn, select(train.data, index)))
        if epoch:
            schedule.step()
        if epoch in steps:
            loss = closure_of(task, model, "validation").loss()
            rows.append(measured(task, model, generator) if marks > 1 else {"validation loss": float(loss)})
    values = {name: np.array([row[name] for row in rows]) for name in rows[0]}
    return Track(label=label, seed=seed, steps=steps, values=values)


def picture(found: dict[str, list[Track]], path: Path) -> None:
    figure = Figure(figsize=(11, 3 * len(found) + 0.4), layout="constrained")
    for row, batch in zip(figure.subplots(len(found), 3, squeeze=False), found, strict=True):
        for ax, name in zip(row, ("train loss", "test accuracy", "trace"), strict=True):
            plot_tracks(found[batch], ax, value=name, log="accuracy" not in name, xlabel="epoch")
            ax.set(title=batch, ylim=(0.93, 0.98) if "accuracy" in name else None)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=6)
    save(figure, path)


if __name__ == "__main__":
    command(main)

"""Does the corridor learning rate spare the search for a rate? CLR and its safeguards beside fixed SGD rates.

python -m scripts.corridor_rate prints the ends, and draws curves.png (rules, and in hindsight the best fixed rate) and ends.png.

Args:
    problem: a problem's name; for MNIST "mnist-fcp(train=5000)", with --epochs 20 --seeds 3.
    epochs: passes over the data.
    seeds: runs of each rule.
    only: full, 512 or 64 for that batch alone.
    out: the folder of runs, which resume, and pictures.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch.optim import SGD

from landscape import load_problem
from landscape.networks import placed
from landscape.plots import plot_tracks
from landscape.problems import select
from landscape.results import Track
from optimizers import CLR, DataClosure
from scripts.study import command, end, matching, save, tracks

BATCHES = {"batch 64": 64, "batch 512": 512, "full batch": 10**9}
GRID = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0)
FIXED = {f"sgd(lr={rate})": partial(SGD, lr=rate) for rate in GRID}
CAPPED = {f"clr(max_lr={rate})": partial(CLR, max_lr=rate) for rate in GRID}
RULES: dict[str, Any] = {  # parameters -> optimizer
    "clr": CLR,
    "clr(lower_bound=0.01)": partial(CLR, lower_bound=0.01),
    "clr on momentum": lambda params: CLR(SGD(params, lr=0.1, momentum=0.9)),
    "clr(max_lr=1.0) on momentum": lambda params: CLR(SGD(params, lr=0.1, momentum=0.9), 1.0),
}
LOSS, ACCURACY = "train loss", "test accuracy"
SHOWN = {LOSS: (5e-5, 20), ACCURACY: (0.5, 1), "rate": (1e-2, 1e3)}  # what diverges leaves the picture


def main(
    problem: str = "digits-mlp", epochs: int = 300, seeds: int = 5, only: str = "", out: Path = Path("runs")
) -> None:
    out, names, curves, ends = out / "corridor-rate" / problem, (*RULES, *CAPPED, *FIXED), {}, {}
    for batch in matching(BATCHES, only):
        each = {"epochs": epochs, "batch": batch}
        cells = [{**each, "label": name, "seed": seed} for name in names for seed in range(seeds)]
        found = tracks(out, run, cells, context=problem, title=f"{problem}, {batch}")
        runs = {name: [track for track in found if track.label == name] for name in names}
        losses = {name: end(runs[name], LOSS, log=True) for name in names}
        for name in names:
            print(f"| {batch} | {name} | {losses[name][1]} | {end(runs[name], ACCURACY)[1]} |")
        best = [replace(track, label="sgd") for track in runs[min(FIXED, key=lambda a: losses[a][0])]]
        curves[batch] = [track for a in (*RULES, "clr(max_lr=1.0)") for track in runs[a]] + best
        ends[batch] = [against_rate(name, [track] * len(GRID)) for name in RULES for track in runs[name]]
        for label, grid in {"clr(max_lr=rate)": CAPPED, "sgd": FIXED}.items():
            ends[batch] += [against_rate(label, row) for row in zip(*(runs[a] for a in grid), strict=True)]
    picture(curves, (*SHOWN,), "epoch", out / "curves.png")
    picture(ends, (LOSS, ACCURACY), "rate", out / "ends.png")


def run(problem: str, *, epochs: int, batch: str, label: str, seed: int, generator: Any) -> Track:
    """Loss, accuracy and the median rate since the last measure, at up to 61 epochs. All labels see the same batches."""
    task = load_problem(problem)
    model, order = task.build(seed).double(), generator.manual_seed(seed)
    data, test = (placed(split, torch.float64, torch.device("cpu")) for split in (task.train, task.test))
    loss, accuracy = DataClosure(model, task.loss_fn, data), DataClosure(model, task.metric, test)
    optimizer: Any = {**RULES, **CAPPED, **FIXED}[label](model.parameters())
    steps, rates, rows = np.unique(np.linspace(0, epochs, 61).round()), [np.nan], []
    for epoch in range(epochs + 1):
        for index in torch.randperm(loss.count, generator=order).split(BATCHES[batch]) if epoch else ():
            optimizer.step(DataClosure(model, task.loss_fn, select(data, index)))
            rates.append(getattr(optimizer, "rate", optimizer.param_groups[0]["lr"]))
        if epoch in steps:
            rows, rates = [*rows, [loss.loss(), accuracy.loss(), np.median(rates) or np.nan]], []
    return Track(label=label, seed=seed, steps=steps, values=dict(zip(SHOWN, np.array(rows).T, strict=True)))


def against_rate(label: str, runs: Sequence[Track]) -> Track:
    values = {value: np.array([track.values[value][-1] for track in runs]) for value in (LOSS, ACCURACY)}
    return Track(label=label, seed=runs[0].seed, steps=np.array(GRID), values=values)


def picture(found: dict[str, list[Track]], values: Sequence[str], xlabel: str, path: Path) -> None:
    figure = Figure(figsize=(11, 9), layout="constrained")
    for row, batch in zip(figure.subplots(len(found), len(values), squeeze=False), found, strict=True):
        for ax, value in zip(row, values, strict=True):
            plot_tracks(found[batch], ax, value=value, log=value != ACCURACY, xlabel=xlabel)
            ax.set(xscale="log" if xlabel == "rate" else "linear", ylim=SHOWN[value], title=batch)
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    save(figure, path, dpi=75)


if __name__ == "__main__":
    command(main)

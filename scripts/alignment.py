"""How much of the barrier between two networks is only the order of their hidden units? Wide MLPs on MNIST, raw and aligned.

python -m scripts.alignment trains MLPs 784 – width – width – width – 10 with ReLU from a few seeds. It prints the barriers of the
straight lines between all of them in test loss, and the lowest test accuracy there: raw, and with hidden units permuted to match
by weights, and by activations; and draws lines.png. Ainsworth et al. (2022, arXiv 2209.04836) found next to none for wide ones.

Args:
    widths: of the three hidden layers.
    seeds: solutions of each width.
    epochs: passes over the 50,000 training images, by Adam at 0.001 in batches of 500.
    out: the folder of records, which resume, and the picture.
"""

from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import nn

from analysis import align, linear_path
from landscape import Problem, load_problem, stages
from landscape.connecting import with_metric
from landscape.plots.style import dress
from landscape.records import load
from landscape.results import PathRecord, Solution
from landscape.study import solution_task
from landscape.tasks import Task, cores, run_tasks, sole_use
from optimizers import parse_recipe
from scripts.study import command, interval, save

WAYS = {"raw": "#A0A0A0", "weights": "#222222", "activations": "#0072B2"}


def wide(width: int) -> Problem:
    """MNIST, 784 – width – width – width – 10 with ReLU."""

    def model() -> nn.Module:
        sizes = (784, width, width, width)
        hidden = [m for n, k in pairwise(sizes) for m in (nn.Linear(n, k), nn.ReLU())]
        return nn.Sequential(*hidden, nn.Linear(width, 10))

    mnist = load_problem("mnist-fcp")
    return Problem(
        "wide", model, nn.functional.cross_entropy, mnist.train, mnist.validation, mnist.test, mnist.metric
    )


def main(
    widths: tuple[int, ...] = (32, 128, 512), seeds: int = 3, epochs: int = 20, out: Path = Path("runs")
) -> None:
    out = out / "alignment"
    recipes = {"adam": parse_recipe(f"adam=torch.optim:Adam(lr=0.001, epochs={epochs}, batch_size=500)")}
    figure = Figure(figsize=(3.2 * len(widths), 3.2), layout="constrained")
    for ax, width in zip(figure.subplots(1, len(widths), squeeze=False, sharey=True)[0], widths, strict=True):
        place = stages.Workplace(f"scripts.alignment:wide(width={width})", recipes, "float32")
        runs = [solution_task(place, "adam", s, out / f"adam-{width}-{s}.npz") for s in range(seeds)]
        pairs = list(combinations(runs, 2))
        tasks = {
            way: [
                Task(out / f"{way}-{a.output.stem}--{b.output.stem}.npz", joined, (a, b), {"way": way})
                for a, b in pairs
            ]
            for way in WAYS
        }
        with sole_use(out):
            run_tasks(runs, place, title=f"width {width}, solutions", jobs=cores())
            run_tasks([t for some in tasks.values() for t in some], place, title="lines", jobs=cores())
        for way, color in WAYS.items():
            lines: Any = [load(task.output) for task in tasks[way]]
            ends = [(p.start, p.end) for p in lines]
            barrier, lowest = (
                interval(x, ends) for x in ([p.barrier for p in lines], [p.metric.min() for p in lines])
            )
            print(f"| {width} | {way} | {barrier} | {lowest} |")
            for i, line in enumerate(lines):
                ax.plot(line.t, line.loss, color=color, linewidth=1, label="_" if i else way)
        dress(ax, title=f"width {width}", xlabel="position on the line", ylabel="test loss")
    figure.axes[0].legend(fontsize=8)
    save(figure, out / "lines.png")


def joined(
    place: stages.Workplace, a: Solution, b: Solution, *, generator: torch.Generator, way: str
) -> PathRecord:
    """The test loss along the straight line; its metric is the test accuracy."""
    problem, theta = place.load(), b.theta
    if way != "raw":
        theta = align(problem, a, b, method=way, generator=generator).theta  # pyright: ignore[reportArgumentType]
    under: Any = {"dtype": place.torch_dtype, "device": place.device}
    line = linear_path(problem.objective("test", **under), a.theta, theta, start=a.label, end=b.label)
    return with_metric(line, problem.objective("test", measure=problem.metric, **under))


if __name__ == "__main__":
    command(main)

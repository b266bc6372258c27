"""Does kernel PCA tell minima of SGD from those of L-BFGS by where they lie, as Yu and Morozov (arXiv 2602.21276) have it?

python -m scripts.embedding draws their picture with its controls, a row a way, and prints what tells the groups apart.
Ways: rbf, as published, at γ = 1/P; at one over the median squared distance; linear; cosine, blind to the norm; aligned, after
hidden units were permuted to match those of the first solution, of SGD, or of the last, of L-BFGS; outputs, the
probabilities of test images, which no permutation changes; path, the points that two runs of each went through.

Args:
    problem: a problem's name.
    sgd: its recipe, as published on 60,000 images.
    lbfgs: its recipe.
    solutions: of each optimizer; the published picture has 48.
    dtype: float64 or float32.
    only: a part of the names of the ways to go.
    out: the folder of records, which resume, and of embedding.png.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from analysis import align, function_embedding, kernel_pca
from landscape import Trajectory, stages
from landscape.plots import plot_embedding, plot_embedding_control
from landscape.records import file_name
from landscape.results import Embedding, Solution
from landscape.study import solution_task
from landscape.tasks import Given, Task, cores, run_tasks, sole_use
from optimizers import parse_recipe
from scripts.study import command, matching, save

ALIGNED = ("aligned rbf", "aligned cosine", "aligned cosine to lbfgs")
WAYS = ("rbf", "rbf at the median", "linear", "cosine", *ALIGNED, "outputs", "path")
CONTROLS = {"kernel": "told apart by the coordinates", "norm": "by the norm", "centroid": "by the centroid"}


def main(
    problem: str = "mnist-fcp(train=5000)",
    sgd: str = "sgd(lr=0.1, epochs=75)",
    lbfgs: str = "lbfgs(epochs=1000)",
    solutions: int = 48,
    dtype: str = "float64",
    only: str = "",
    out: Path = Path("runs"),
) -> None:
    ways, out = matching(WAYS, only), out / "embedding" / file_name(problem)
    recipes = {n: replace(parse_recipe(t), label=n) for n, t in (("sgd", sgd), ("lbfgs", lbfgs))}
    place = stages.Workplace(problem, recipes, dtype)
    each = [(n, i) for n in recipes for i in range(solutions)]
    runs = [solution_task(place, n, i, out / "solutions" / f"{n}-{i}.npz") for n, i in each]
    ends = [(n, i, out / f"paths/{n}-{i}.npz") for n, i in each if i < 2]
    paths = [solution_task(place, *end, record={"budget": 40_000_000}) for end in ends]
    with sole_use(out):
        run_tasks(runs, place, title=f"{problem}, solutions", jobs=cores())
        run_tasks(paths if "path" in ways else [], place, title="trajectories", jobs=cores())
        tracks = [Given(path.output.with_suffix("")) for path in paths]
        of = {way: tuple(tracks if way == "path" else runs) for way in ways}
        tasks = [Task(out / f"{file_name(w)}.npz", embedded, of[w], {"way": w}, read=Path) for w in ways]
        run_tasks(tasks, place, title="embeddings", jobs=1)
    found = {way: Embedding.load(task.output) for way, task in zip(ways, tasks, strict=True)}
    print_table(found)
    figure = Figure(figsize=(9, 3.6 * len(ways)), layout="constrained")
    for row, way in zip(figure.subplots(len(ways), 2, squeeze=False), ways, strict=True):
        plot_embedding(found[way], row[0]).set_title(way, loc="left")
        plot_embedding_control(found[way], row[1])
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    save(figure, out / "embedding.png", dpi=70)


def embedded(place: Any, *files: Any, generator: Any, way: str) -> Embedding:
    if way == "outputs":
        return function_embedding(place.load(), files, generator=generator)
    if way == "path":
        return kernel_pca([Trajectory(file) for file in files], generator=generator)
    kernel: Any = next(name for name in ("rbf", "linear", "cosine") if name in way)
    if way.startswith("aligned"):
        first, *others = map(Solution.load, reversed(files) if way.endswith("lbfgs") else files)
        files = first, *(align(place.load(), first, s, generator=generator).aligned(s) for s in others)
    return kernel_pca(files, kernel=kernel, gamma="median" if "median" in way else None, generator=generator)


def print_table(found: dict[str, Embedding]) -> None:
    """Accuracies ± standard deviations over splits, with p-values by permuting the groups."""
    heads = ("way", "PC1's share", "ρ of PC1 and norm", *CONTROLS.values(), "by chance")
    print("", *heads, f"\n{'|---' * len(heads)}|", sep=" | ")
    for way, e in ((way, e) for way, e in found.items() if way != "path"):  # two runs of each tell nothing
        told = (f"{np.mean(e.accuracies[c]):.2f} ± {e.spread(c):.2f}, p {e.p_value(c):.2g}" for c in CONTROLS)
        cells = (way, f"{e.explained[0]:.0%}", f"{e.norm_correlation[0]:.2f}", *told, f"{e.chance:.2f}")
        print("", *cells, "", sep=" | ")


if __name__ == "__main__":
    command(main)

"""Making solutions, and whole comparisons of them."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from ..measures import FlatnessSettings, PathSettings, ScanSettings
from ..recording import Gradients
from .common import Dtype, run, say


def compare_optimizers(
    problem: str,
    *,
    optimizers: list[str],
    seeds: int = 5,
    seed: int = 0,
    out: str | None = None,
    dtype: Dtype = "float64",
    device: str = "cpu",
    jobs: int | None = None,
    pairs: int = 25,
    flatness: FlatnessSettings = FlatnessSettings(),  # noqa: B008 (frozen)
    paths: PathSettings = PathSettings(),  # noqa: B008 (frozen)
    scans: ScanSettings = ScanSettings(),  # noqa: B008 (frozen)
) -> None:
    """Train with several optimizers from several seeds, measure and connect what they found, and write a report.

    Args:
        problem: digits-mlp, digits-cnn, mnist-fcp, mnist-lenet, or your own as package.module:attribute.
        seeds: runs of each optimizer.
        seed: seed of the first run; the others follow.
        out: directory for records, figures and report; by default runs/PROBLEM. A run that was stopped there goes on.
        dtype: precision of parameters and data.
        device: where to compute, as PyTorch names it (cpu, cuda, cuda:1, mps).
        jobs: processes at a time; by default one a core, or one on a GPU.
        pairs: the most pairs of solutions connected within, and across, two optimizers.
        flatness: how the flatness of a solution is measured.
        paths: how curved paths are searched.
        scans: how the loss around a solution is scanned.
    """
    from ..study import compare

    command = shlex.join(["landscape", *sys.argv[1:]])
    comparison = compare(
        problem,
        optimizers,
        seeds,
        seed=seed,
        out=out,
        dtype=dtype,
        device=device,
        jobs=jobs,
        pairs=pairs,
        flatness=flatness,
        paths=paths,
        scans=scans,
        command=command,
    )
    from ..tables import show_summary

    show_summary(comparison.summary, "optimizer")
    show_summary(comparison.pair_summary, "pair")
    say(f"report: {comparison.report.resolve()}")


def train(
    problem: str,
    *,
    optimizer: str = "sgd",
    seed: int = 0,
    out: str | None = None,
    dtype: Dtype = "float64",
    device: str = "cpu",
    record: bool = False,
    budget: float = 1.0,
    every: int = 1,
    consecutive: int = 1,
    gradients: Gradients = "none",
) -> None:
    """Train one solution and save it, and if wanted the points on the way to it.

    Args:
        problem: digits-mlp, digits-cnn, mnist-fcp, mnist-lenet, or your own as package.module:attribute.
        optimizer: a recipe: sgd, adamw, lbfgs, alto, lamb, e-sgd, e-adamw, qhm, sam, nso, clr, rs, sa, alone or with
            settings as in 'alto(lr=0.01, epochs=500)', or your own as package.module:attribute.
        seed: of initialisation and order of the data.
        out: file for the solution; by default runs/PROBLEM/solutions/OPTIMIZER-SEED.npz.
        dtype: precision of parameters and data.
        device: where to compute, as PyTorch names it (cpu, cuda, cuda:1, mps).
        record: keep the trajectory, in a folder beside the solution and named as it; a killed run then goes on from there.
        budget: GiB of disk for it, never exceeded: as checkpoints grow in number, every second one goes.
        every: a checkpoint every so many steps, as long as there is room.
        consecutive: checkpoints in a row each time; 2 lets single steps be measured.
        gradients: of mini-batches, kept with the checkpoints: none, a sketch of 1,024 numbers, or full.
    """
    from optimizers import parse_recipe

    from ..errors import InputError
    from ..recording import Recording
    from ..records import file_name
    from ..results import Solution
    from ..stages import Workplace
    from ..study import solution_task

    recipe = parse_recipe(optimizer)
    place = Workplace(problem, {recipe.label: recipe}, dtype, device, show_progress=True)
    place.check()
    default = (
        Path("runs") / file_name(place.load().name) / "solutions" / f"{file_name(recipe.label)}-{seed}.npz"
    )
    if not 0 < budget < float("inf"):
        raise InputError(f"budget must be GiB greater than 0, got {budget}.")
    kept = {
        "budget": max(1, int(budget * 2**30)),
        "every": every,
        "consecutive": consecutive,
        "gradients": gradients,
    }
    Recording("", **kept)  # refuses what cannot be
    output = Path(out) if out else default
    task = solution_task(place, recipe.label, seed, output, record=kept if record else None)
    run([task], place, title="")
    found = Solution.load(task.output)
    say(
        f"{found.label}: train loss {found.train_loss:.4g}, validation {found.validation_loss:.4g}, "
        f"test {found.test_loss:.4g} ({found.status})"
    )
    say(f"solution: {task.output}")
    if record:
        say(f"trajectory: {task.output.with_suffix('')}")


def report(directory: str) -> None:
    """Draw figures and report of a comparison again from its records; needs neither model nor data.

    Args:
        directory: where landscape compare wrote it.
    """
    from ..comparison import load_comparison
    from ..report import report_key, write_report
    from ..tasks import sole_use

    comparison = load_comparison(directory)
    with sole_use(comparison.directory):
        page = write_report(comparison, key=report_key(comparison.report) or "")
    say(f"report: {page.resolve()}")

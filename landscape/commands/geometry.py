"""Where saved solutions lie, and what the loss looks like around them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ..measures import ScanSettings
from .common import Dtype, run, say, solutions_given


def embed(
    solutions: list[str],
    *,
    problem: str | None = None,
    out: str | None = None,
    memory: float = 1.0,
) -> None:
    """Embed saved solutions in a plane by RBF kernel PCA, with the norm controls beside it.

    Args:
        problem: what they were trained on; by default what the solutions say.
        out: file for the record, by default embedding.npz beside the first solution; its figure gets the same name.
        memory: for reading the solutions in slices, in GiB; together they may be larger. The result does not depend on it.
    """
    from .. import stages
    from ..plots import plot_embedding, save_axes
    from ..problems import load_problem
    from ..results import Embedding
    from ..solution_files import SolutionFile, fingerprint
    from ..tasks import Task, run_tasks

    files = [SolutionFile(file) for file in solutions]
    loaded = load_problem(problem or files[0].problem)
    for file in files:
        loaded.check(file)  # pyright: ignore[reportArgumentType] (what it asks a solution for stands in the header)
    task = Task(
        Path(out) if out else files[0].path.parent / "embedding.npz",
        stages.embed_files,
        under={"solutions": fingerprint(files)},
    )
    place = stages.Files(tuple(file.path for file in files), int(memory * 2**30))
    run_tasks([task], place, title="", jobs=1, show_progress=False)
    found = Embedding.load(task.output)
    for label, row in zip(found.labels, found.coordinates, strict=True):
        say(f"{label}: " + "  ".join(f"{x: .5f}" for x in row))
    say(
        f"told apart by coordinates {found.kernel_accuracy:.2f}, by norm alone {found.norm_accuracy:.2f}, "
        f"by nearest centroid {found.centroid_accuracy:.2f}, by chance {found.chance:.2f}"
    )
    save_axes(plot_embedding(found), task.output.with_suffix(""))
    say(f"record and figure: {task.output.with_suffix('')}.*")


def scan(
    solution: str,
    *,
    probe: Literal["line", "plane"] = "line",
    problem: str | None = None,
    out: str | None = None,
    dtype: Dtype = "float64",
    device: str = "cpu",
    settings: ScanSettings = ScanSettings(),  # noqa: B008 (frozen)
) -> None:
    """Scan the loss around a saved solution along random filter-normalized directions.

    Args:
        solution: file of the solution.
        probe: a line through it, or a plane.
        problem: what it was trained on; by default what the solution says.
        out: directory for record and figure; by default scans/ beside the solution.
        dtype: precision of parameters and data.
        device: where to compute, as PyTorch names it (cpu, cuda, cuda:1, mps).
        settings: how finely and how far it is scanned.
    """
    from .. import stages
    from ..plots import plot_profile, plot_surface, save_axes
    from ..records import load
    from ..results import Surface
    from ..tasks import Task

    place, (given,) = solutions_given([solution], problem, dtype, device)
    folder = Path(out) if out else given.output.parent / "scans"
    shared = {"reach": settings.reach, "engine": settings.engine}
    work, options = {
        "line": (stages.scan_line, {"points": settings.line, **shared}),
        "plane": (stages.scan_plane, {"points": settings.plane, **shared}),
    }[probe]
    task = Task(folder / f"{given.output.stem}.{probe}.npz", work, (given,), options, under=place.under)
    run([task], place, title="", jobs=1)
    record = load(task.output)
    axes = plot_surface(record) if isinstance(record, Surface) else plot_profile(record)
    save_axes(axes, task.output.with_suffix(""))
    say(f"loss at the solution {record.center_loss:.6g}, largest {record.loss.max():.6g}")
    say(f"record and figure: {task.output.with_suffix('')}.*")

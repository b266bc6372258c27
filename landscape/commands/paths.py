"""What lies between saved solutions."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ..measures import PathSettings
from .common import Dtype, run, say, solutions_given

PathMethod = Literal["fourier", "fourier-published", "bezier", "polychain", "neb", "autoneb", "string"]


def barrier(
    start: str,
    end: str,
    *,
    problem: str | None = None,
    out: str | None = None,
    dtype: Dtype = "float64",
    device: str = "cpu",
    methods: list[PathMethod] = ["fourier"],  # noqa: B006 (read only)
    minima: bool = True,
    settings: PathSettings = PathSettings(),  # noqa: B008 (frozen)
) -> None:
    """Find the barrier between two saved solutions, on the straight line and on curved paths.

    Args:
        start: file of the first solution.
        end: file of the second solution.
        problem: what they were trained on; by default what the solutions say.
        out: directory for records and figure; by default paths/ beside the first solution.
        dtype: precision of parameters and data.
        device: where to compute, as PyTorch names it (cpu, cuda, cuda:1, mps).
        methods: of searching curved paths.
        minima: refuse solutions that are not near a minimum.
        settings: how curved paths are searched.
    """
    from .. import connecting
    from ..plots import plot_paths, save_axes
    from ..results import PathRecord

    place, (a, b) = solutions_given([start, end], problem, dtype, device)
    folder = Path(out) if out else a.output.parent / "paths"
    name = f"{a.output.stem}--{b.output.stem}"
    ways = connecting.path_methods(settings, methods, minima=minima)
    tasks = list(connecting.path_tasks(place, a, b, folder, ways, under=place.under).values())
    run(tasks, place, title="Paths", jobs=1)
    paths = [PathRecord.load(task.output) for task in tasks]
    for path in paths:
        say(f"{path.method}: height {path.height:.6g}, barrier {path.barrier:.6g} ({path.message})")
    save_axes(plot_paths(paths), folder / name)
    say(f"records and figure: {folder / name}.*")


def network(
    solutions: list[str],
    *,
    problem: str | None = None,
    out: str | None = None,
    dtype: Dtype = "float64",
    device: str = "cpu",
    jobs: int | None = None,
    method: PathMethod = "fourier",
    pairs: Literal["open", "tree", "all"] = "open",
    minima: bool = True,
    settings: PathSettings = PathSettings(),  # noqa: B008 (frozen)
) -> None:
    """Join saved solutions by paths, and draw at which height of the loss they come together.

    Args:
        problem: what they were trained on; by default what the solutions say.
        out: directory for records and figures; by default network/ beside the first solution.
        dtype: precision of parameters and data.
        device: where to compute, as PyTorch names it (cpu, cuda, cuda:1, mps).
        jobs: processes at a time; by default one a core, or one on a GPU.
        method: of searching paths.
        pairs: which are searched: open, those that could still change something; tree, those of the spanning tree; or all,
            for statistics of pairs.
        minima: refuse solutions that are not near a minimum.
        settings: how paths are searched.
    """
    from analysis import group_statistics

    from .. import connecting
    from ..plots import plot_disconnectivity, plot_height_histogram, plot_heights, save_axes
    from ..tables import show_network, show_summary
    from ..tasks import processes

    place, given = solutions_given(solutions, problem, dtype, device)
    folder = Path(out) if out else given[0].output.parent / "network"
    how = {"method": method, "rule": pairs, "minima": minima, "settings": settings}
    found = connecting.join(place, given, folder, **how, jobs=processes(jobs, place.device))
    show_network(found)
    if pairs == "all" and (found.heights < float("inf")).all():
        show_summary(group_statistics(found), "pair", [f"median barrier, {found.method}"])
    elif pairs == "all":
        say("some pairs have no path of finite loss, so there are no statistics of pairs")
    for name, plot in {
        "network": plot_disconnectivity,
        "heights": plot_heights,
        "histogram": plot_height_histogram,
    }.items():
        save_axes(plot(found), folder / name)
    say(f"records and figures: {folder}")

"""Where on recorded trajectories, and around them, there are corridors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from .common import Dtype, run, say, trajectories_given

if TYPE_CHECKING:
    from ..results import Corridor
    from ..stages import Workplace
    from ..tasks import Given, Task

Rate = Literal["length", "recorded"]


def corridor(
    trajectories: list[str],
    *,
    problem: str | None = None,
    out: str | None = None,
    dtype: Dtype = "float64",
    device: str = "cpu",
    jobs: int | None = None,
    kappa: float = 0.1,
    linearity: float = 0.1,
    rate: Rate = "length",
    flow_steps: int = 0,
    eigenvectors: int = 0,
    noise: int = 0,
    draws: int = 8,
    plane: int = 0,
) -> None:
    """Find the corridors on recorded trajectories: where steepest descent goes straight, and how much of the loss falls there.

    Args:
        problem: what they were trained on; by default what the trajectories say.
        out: directory for records and figures; by default corridors/ beside the first trajectory.
        dtype: precision of parameters and data.
        device: where to compute, as PyTorch names it (cpu, cuda, cuda:1, mps).
        jobs: processes at a time; by default one a core, or one on a GPU.
        kappa: the largest h|Hg|/|g| of a corridor.
        linearity: the largest |fall of the loss over what the gradient foretold - 1| of a corridor.
        rate: h, the length of an optimizer's step over |g|, which compares optimizers; or the recorded rate, for plain descent.
        flow_steps: substeps of the gradient flow that steps are compared with, an even number; 0 for none.
        eigenvectors: of the Hessian, for the shares of gradient and step in their span; 0 for none. Slow.
        noise: size of mini-batches whose gradients tell noise from curvature; 0 for none.
        draws: mini-batches of each row.
        plane: points along each axis of a map of corridors on the plane of all trajectories; 0 for none.
    """
    from ..errors import InputError
    from ..results import Corridor

    least = {"kappa": (kappa, 0), "linearity": (linearity, 0), "noise": (noise, 0), "draws": (draws, 3)}
    for name, (value, fewest) in least.items():
        if not value >= fewest:
            raise InputError(f"{name} must be at least {fewest}, got {value}.")
    if plane and plane < 3:
        raise InputError(f"plane must be at least 3 points, or 0 for no map, got {plane}.")
    place, given = trajectories_given(trajectories, problem, dtype, device)
    folder = Path(out) if out else given[0].output.parent / "corridors"
    along = {"flow_steps": flow_steps, "eigenvectors": eigenvectors}
    tasks = _tasks(place, given, folder, along, noise={"batch_size": noise, "draws": draws}, points=plane)
    run(tasks.pop("plane"), place, title="")
    run([task for some in tasks.values() for task in some], place, title="Corridors", jobs=jobs)
    found = [Corridor.load(task.output) for task in tasks["along"]]
    found = [c.by_length() for c in found] if rate == "length" else found
    _draw(tasks, found, folder, kappa=kappa, linearity=linearity)
    say(f"records and figures: {folder}")


def _tasks(
    place: Workplace,
    given: list[Given],
    folder: Path,
    along: Mapping[str, Any],
    *,
    noise: Mapping[str, Any],
    points: int,
) -> dict[str, list[Task]]:
    """Measures along each trajectory; noise along each, and a map with its projections, where they were asked for."""
    from .. import geometry
    from ..tasks import Task

    def task(name: str, work: Any, *inputs: Any, replaceable: bool = False, **settings: Any) -> Task:
        how: dict[str, Any] = {"under": place.under, "read": geometry.read_input, "replaceable": replaceable}
        return Task(folder / f"{name}.npz", work, inputs, settings, **how)

    plane = task("together.plane", geometry.lay_plane, *given, replaceable=True)
    field = task("together.map", geometry.map_corridor, plane, given[0], replaceable=True, points=points)
    paths = [
        task(f"together.{g.output.name}", geometry.project_trajectory, plane, g, replaceable=True)
        for g in given
    ]
    return {
        "along": [task(g.output.name, geometry.follow_corridor, g, **along) for g in given],
        "noise": [
            task(f"{g.output.name}.noise", geometry.follow_noise, g, **noise)
            for g in given
            if noise["batch_size"]
        ],
        "plane": [plane] if points else [],
        "map": [field, *paths] if points else [],
    }


def _draw(tasks: dict[str, list[Task]], found: list[Corridor], folder: Path, **tolerances: float) -> None:
    """The figures, and what they say in words."""
    from .. import plots
    from ..plots.style import legend
    from ..records import load
    from ..summary import change_table, corridor_table
    from ..tables import show_summary

    some: Any = tolerances
    for task, c in zip(tasks["along"], found, strict=True):
        _tell(c, tolerances)
        plots.save_axes(plots.plot_corridor(c, **some), task.output.with_suffix(""))
    show_summary(corridor_table(found, **some), "optimizer")
    show_summary(change_table(found), "optimizer")
    plots.save_axes(plots.plot_corridor_loss(found, **some), folder / "together.loss")
    for task in tasks["noise"]:
        plots.save_axes(plots.plot_corridor_noise(load(task.output)), task.output.with_suffix(""))
    if tasks["map"]:
        field, *paths = (load(task.output) for task in tasks["map"])
        at = float(np.nanmedian(np.concatenate([c.rate for c in found])))
        axes = plots.plot_corridor_map(field, kappa_at=at, kappa=tolerances["kappa"])
        legend(plots.plot_projections(paths, axes))
        plots.save_axes(axes, folder / "together.map")


def _tell(found: Corridor, tolerances: dict[str, float]) -> None:
    inside, longest = found.intervals(**tolerances), found.longest(**tolerances)
    rows = np.diff(found.steps)
    apart = f"{rows.min()} to {rows.max()}" if rows.min() < rows.max() else f"{rows.min()}"
    spacing = "" if (rows == 1).all() else f" (checkpoints are {apart} steps apart)"
    say(
        f"{found.label}: {len(inside)} corridors, {found.share_of_steps(**tolerances):.0%} of the steps and "
        f"{found.share_of_decrease(**tolerances):.0%} of the fall of the loss; the longest is {longest:.0f} steps{spacing}"
    )

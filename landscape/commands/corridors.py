"""Where on recorded trajectories, and around them, there are corridors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from .common import Dtype, run, say, trajectories_given

if TYPE_CHECKING:
    from ..results import Corridor

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
        rate: h, the length of each step over |g|, which compares optimizers; or the recorded learning rate, for plain descent.
        flow_steps: substeps of the gradient flow that steps are compared with, an even number; 0 for none.
        eigenvectors: of the Hessian, for the shares of gradient and step in their span; 0 for none. Slow.
        noise: size of mini-batches whose gradients tell noise from curvature; 0 for none.
        draws: mini-batches of each row.
        plane: points along each axis of a map of corridors on the plane of all trajectories; 0 for none.
    """
    from .. import geometry
    from ..plots import plot_corridor, plot_corridor_loss, plot_corridor_map, plot_corridor_noise, save_axes
    from ..results import Corridor, CorridorMap, CorridorNoise
    from ..summary import corridor_table
    from ..tables import show_summary
    from ..tasks import Task
    from ..trajectories import Trajectory

    place, given = trajectories_given(trajectories, problem, dtype, device)
    folder = Path(out) if out else given[0].output.parent / "corridors"
    shared = {"read": Trajectory, "under": place.under}

    def task(name: str, work: Any, inputs: Any, **settings: Any) -> Task:
        return Task(folder / f"{name}.npz", work, tuple(inputs), settings, **shared)

    names = [g.output.name for g in given]
    along = {"flow_steps": flow_steps, "eigenvectors": eigenvectors}
    tasks = [task(name, geometry.follow_corridor, [g], **along) for name, g in zip(names, given, strict=True)]
    noises = [
        task(f"{name}.noise", geometry.follow_noise, [g], batch_size=noise, draws=draws)
        for name, g in zip(names, given, strict=True)
        if noise
    ]
    maps = [task("map", geometry.map_corridor, given, points=plane)] if plane else []
    run([*tasks, *noises, *maps], place, title="Corridors", jobs=jobs)
    found = [Corridor.load(t.output) for t in tasks]
    found = [c.by_length() for c in found] if rate == "length" else found
    tolerances: Any = {"kappa": kappa, "linearity": linearity}
    for name, c in zip(names, found, strict=True):
        _tell(c, tolerances)
        save_axes(plot_corridor(c, **tolerances), folder / name)
    show_summary(corridor_table(found, **tolerances), "optimizer")
    save_axes(plot_corridor_loss(found, **tolerances), folder / "loss")
    for t in noises:
        save_axes(plot_corridor_noise(CorridorNoise.load(t.output)), t.output.with_suffix(""))
    for t in maps:
        at = float(np.nanmedian(np.concatenate([c.rate for c in found])))
        save_axes(plot_corridor_map(CorridorMap.load(t.output), kappa_at=at, kappa=kappa), folder / "map")
    say(f"records and figures: {folder}")


def _tell(found: Corridor, tolerances: dict[str, float]) -> None:
    inside, longest = found.intervals(**tolerances), found.longest(**tolerances)
    say(
        f"{found.label}: {len(inside)} corridors, {found.share_of_steps(**tolerances):.0%} of the steps and "
        f"{found.share_of_decrease(**tolerances):.0%} of the fall of the loss; the longest is {longest:.0f} steps"
    )

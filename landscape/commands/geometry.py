"""Where saved solutions and trajectories lie, and what the loss looks like around them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..measures import ScanSettings
from ..probes import IN_SPAN, SLOPES
from .common import Dtype, run, say, solutions_given, trajectories_given

if TYPE_CHECKING:
    from ..results import Projection
    from ..stages import Workplace
    from ..tasks import Given, Task

_UNDRAWN = (IN_SPAN, *SLOPES)  # of what a gradient tells


def embed(
    solutions: list[str],
    *,
    problem: str | None = None,
    out: str | None = None,
    kernel: Literal["rbf", "linear", "cosine"] = "rbf",
    space: Literal["parameters", "outputs"] = "parameters",
    components: int = 2,
    dtype: Dtype = "float64",
    device: str = "cpu",
    memory: float = 1.0,
) -> None:
    """Embed saved solutions and trajectories by kernel PCA, with the controls beside it that a picture needs.

    Args:
        problem: what they were trained on; by default what the solutions say.
        out: file for the record, by default embedding.npz beside the first solution; its figures get the same name.
        kernel: rbf, linear or cosine.
        space: their parameters, or their outputs on test data, which no permutation of hidden units changes.
        components: how many coordinates.
        dtype: precision of the outputs.
        device: where to compute outputs, as PyTorch names it (cpu, cuda, cuda:1, mps).
        memory: for reading the solutions in slices, in GiB; together they may be larger. The result does not depend on it.
    """
    from .. import geometry
    from ..plots import plot_embedding, plot_embedding_control, plot_scree, save_axes
    from ..results import Embedding
    from ..solution_files import SolutionFile, fingerprint
    from ..stages import Workplace
    from ..tables import show_embedding
    from ..tasks import Given, Task, run_tasks
    from ..trajectories import Trajectory

    paths = [Path(name) for name in solutions]
    groups = [Trajectory(path).files if path.is_dir() else (path,) for path in paths]
    files = [SolutionFile(file) for group in groups for file in group]
    place = Workplace(problem or files[0].problem, {}, dtype, device)
    place.check()
    loaded = place.load()
    for group in groups:
        loaded.check(SolutionFile(group[0]))  # pyright: ignore[reportArgumentType] (all it asks for stands in the header)
    output = Path(out) if out else paths[0].parent / "embedding.npz"
    settings = {"kernel": kernel, "components": components}
    if space == "outputs":
        inputs = tuple(Given(path) for path in paths)
        task, context = (
            Task(output, geometry.embed_outputs, inputs, settings, read=Path, under=place.under),
            place,
        )
    else:
        task = Task(output, geometry.embed_files, settings=settings, under={"solutions": fingerprint(files)})
        context = geometry.Files(tuple(paths), int(memory * 2**30))
    run_tasks([task], context, title="", jobs=1, show_progress=False)
    found = Embedding.load(task.output)
    show_embedding(found)
    base = task.output.with_suffix("")
    save_axes(plot_embedding(found), base)
    save_axes(plot_embedding_control(found), base.with_name(f"{base.name}.control"))
    save_axes(plot_scree(found), base.with_name(f"{base.name}.scree"))
    say(f"record and figures: {base}.*")


def scan(
    solutions: list[str],
    *,
    probe: Literal["line", "plane"] | None = None,
    directions: Literal["filter", "layer", "whole", "none", "eigenvectors"] | None = None,
    also: list[str],
    problem: str | None = None,
    out: str | None = None,
    dtype: Dtype = "float64",
    device: str = "cpu",
    settings: ScanSettings = ScanSettings(),  # noqa: B008 (frozen)
) -> None:
    """Scan the loss around one saved solution, between two, through three, or where trajectories went.

    Args:
        probe: a line (the default) or a plane about one solution. Two span a line, three, or trajectories, a plane.
        directions: about one solution: random ones, normalized by filter (the default), by layer, as a whole, or not; or
            eigenvectors of the Hessian, as far as the loss doubles by them; settings.reach is of random ones.
        also: what is recorded beside the train loss: validation, test (their losses), accuracy, gradient.
        problem: what they were trained on; by default what the solutions say.
        out: directory for record and figure; by default scans/ beside the solution.
        dtype: precision of parameters and data.
        device: where to compute, as PyTorch names it (cpu, cuda, cuda:1, mps).
        settings: how finely and how far it is scanned.
    """
    from ..errors import InputError
    from ..records import load

    folders = [Path(name).is_dir() for name in solutions]
    if any(folders) and not all(folders):
        raise InputError(
            "solutions must be files, or all of them folders of trajectories, got both; a checkpoint in a folder is a file too."
        )
    if (probe or directions) and (len(solutions) > 1 or any(folders)):
        raise InputError(
            "probe and directions are for one solution; more of them, and trajectories, say where to look."
        )
    place, given = (trajectories_given if any(folders) else solutions_given)(
        solutions, problem, dtype, device
    )
    folder = Path(out) if out else given[0].output.parent / "scans"
    how = {"engine": settings.engine, "values": sorted(set(also))}
    if not any(folders):
        how |= {"probe": probe or "line", "directions": directions or "filter"}
        scanned, paths = _around(place, given, folder, how, settings=settings), []
    else:
        plane, scanned, *paths = _on_their_plane(place, given, folder, how | {"points": settings.plane})
        run([plane], place, title="")
    run([scanned, *paths], place, title="Scanning" if paths else "")
    _draw(scanned.output, [load(task.output) for task in paths])


def _draw(output: Path, paths: list[Projection]) -> None:
    """The figures of a scan, and what it found in words."""
    from .. import plots
    from ..records import load
    from ..results import Surface

    record, base = load(output), output.with_suffix("")
    for name in ("loss", *(n for n in record.values if n not in _UNDRAWN)):
        plane = isinstance(record, Surface)
        axes = (
            plots.plot_plane(record, paths, value=name) if plane else plots.plot_profile(record, value=name)
        )
        plots.save_axes(
            axes, base if name == "loss" else base.with_name(f"{base.name}.{name.replace(' ', '-')}")
        )
    if paths:
        plots.save_axes(plots.plot_residuals(paths), base.with_name(f"{base.name}.distance"))
        plots.save_axes(plots.plot_gaps(paths), base.with_name(f"{base.name}.gap"))
    say(f"train loss: {record.center_loss:.6g} where steps are 0, largest {np.nanmax(record.loss):.6g}")
    for label, loss, distance in zip(record.mark_labels, record.mark_loss, record.mark_distance, strict=True):
        say(f"{label}: train loss {loss:.6g}, {distance:.2g} from the probe")
    for path in paths:
        far = path.distance.argmax()
        say(
            f"{path.label}: at most {path.distance[far]:.3g} from the plane, where it is {path.reach[far]:.3g} from its center"
        )
    say(f"records and figures: {base}.*")


def _around(
    place: Workplace, given: list[Given], folder: Path, how: dict[str, Any], *, settings: ScanSettings
) -> Task:
    """The scan about one solution, between two, or through three."""
    from .. import geometry
    from ..errors import InputError
    from ..tasks import Task

    if len(given) > 3:
        raise InputError(
            f"solutions must be one, two or three files, or folders of trajectories, got {len(given)}."
        )
    kind, directions = how["probe"], how["directions"]
    if len(given) > 1:
        kind = "line" if len(given) == 2 else "plane"
        how, work = {name: how[name] for name in ("engine", "values")}, geometry.scan_between
    else:
        how, work = how | {"reach": settings.reach}, geometry.scan_about
    how["points"] = settings.line if kind == "line" else settings.plane
    name = "--".join(g.output.stem for g in given)
    name += "" if directions == "filter" else f".{directions}"
    return Task(folder / f"{name}.{kind}.npz", work, tuple(given), how, under=place.under)


def _on_their_plane(place: Workplace, given: list[Given], folder: Path, how: dict[str, Any]) -> list[Task]:
    """The plane of trajectories, its scan, and each of them on it."""
    from .. import geometry
    from ..tasks import Task

    base = "--".join(g.output.name for g in given) + ".trajectories"
    shared: dict[str, Any] = {"read": geometry.read_input, "under": place.under}
    plane = Task(folder / f"{base}.plane.npz", geometry.lay_plane, tuple(given), **shared)
    paths = [
        Task(folder / f"{base}.{g.output.name}.npz", geometry.project_trajectory, (plane, g), **shared)
        for g in given
    ]
    scanned = Task(folder / f"{base}.npz", geometry.scan_trajectories, (plane, given[0]), how, **shared)
    return [plane, scanned, *paths]

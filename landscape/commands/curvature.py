"""How flat saved solutions are."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from ..measures import CurvatureSettings, FlatnessSettings
from .common import Dtype, run, say, solutions_given


def flatness(
    solutions: list[str],
    *,
    problem: str | None = None,
    out: str | None = None,
    dtype: Dtype = "float64",
    device: str = "cpu",
    jobs: int | None = None,
    settings: FlatnessSettings = FlatnessSettings(),  # noqa: B008 (frozen)
    curvature: CurvatureSettings = CurvatureSettings(),  # noqa: B008 (frozen)
) -> None:
    """Measure the flatness of saved solutions, every number with its error; the traces of layers, and the spectrum.

    Args:
        problem: what they were trained on; by default what the solutions say.
        out: directory for records and figures; by default flatness/ beside the first solution.
        dtype: precision of parameters and data.
        device: where to compute, as PyTorch names it (cpu, cuda, cuda:1, mps).
        jobs: processes at a time; by default one a core, or one on a GPU.
        settings: how flatness is measured.
        curvature: how curvature is told apart, by layer and by eigenvalue.
    """
    from .. import stages
    from ..plots import plot_density, plot_layers, save_axes
    from ..plots.style import plain
    from ..records import load
    from ..results import Flatness, SpectralDensity
    from ..tables import show_curvature, show_flatness
    from ..tasks import Task

    place, given = solutions_given(solutions, problem, dtype, device)
    folder = Path(out) if out else given[0].output.parent / "flatness"
    options = asdict(curvature)
    density = {name: options.pop(name) for name in ("probes", "steps", "deflate")}
    tasks = [
        Task(folder / f"{g.output.stem}{kind}.npz", work, (g,), how, under=place.under)
        for g in given
        for kind, work, how in (
            ("", stages.measure_flatness, asdict(settings)),
            (".layers", stages.measure_layers, options),
            (".density", stages.measure_density, density),
        )
    ]
    run(tasks, place, title="Flatness", jobs=jobs)
    found = [Flatness.load(task.output) for task in tasks[::3]]
    layers = [load(task.output) for task in tasks[1::3]]
    densities = [SpectralDensity.load(task.output) for task in tasks[2::3]]
    show_flatness(found)
    show_curvature([f.label for f in found], layers, densities)
    for task, f, layer, density in zip(tasks[::3], found, layers, densities, strict=True):
        path = task.output.with_suffix("")
        for name, axes in {"layers": plot_layers(layer), "density": plot_density(density)}.items():
            title = filter(None, (plain(f.label), axes.get_title(loc="left")))
            axes.set_title(": ".join(title), fontsize=10.5, loc="left")
            save_axes(axes, folder / f"{path.name}.{name}")
    say(f"records and figures: {folder}")

"""What the command line can do: each command is a function; its signature and docstring are its options and help."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from .measures import CurvatureSettings, FlatnessSettings, PathSettings, ScanSettings

if TYPE_CHECKING:
    from .stages import Workplace
    from .tasks import Given, Task

# Commands import what they run when they run, so that --help is quick.
Dtype = Literal["float32", "float64"]
PathMethod = Literal["fourier", "fourier-published", "bezier", "polychain", "neb", "autoneb", "string"]


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
    from .study import compare as run

    command = shlex.join(["landscape", *sys.argv[1:]])
    comparison = run(
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
    from .tables import show_summary

    show_summary(comparison.summary, "optimizer")
    show_summary(comparison.pair_summary, "pair")
    _say(f"report: {comparison.report.resolve()}")


def train(
    problem: str,
    *,
    optimizer: str = "sgd",
    seed: int = 0,
    out: str | None = None,
    dtype: Dtype = "float64",
    device: str = "cpu",
) -> None:
    """Train one solution and save it.

    Args:
        problem: digits-mlp, digits-cnn, mnist-fcp, mnist-lenet, or your own as package.module:attribute.
        optimizer: a recipe: sgd, adamw, lbfgs, alto, lamb, e-sgd, e-adamw, qhm, sam, nso, clr, rs, sa, alone or with
            settings as in 'alto(lr=0.01, epochs=500)', or your own as package.module:attribute.
        seed: of initialisation and order of the data.
        out: file for the solution; by default runs/PROBLEM/solutions/OPTIMIZER-SEED.npz.
        dtype: precision of parameters and data.
        device: where to compute, as PyTorch names it (cpu, cuda, cuda:1, mps).
    """
    from optimizers import parse_recipe

    from .records import file_name
    from .results import Solution
    from .stages import Workplace
    from .study import solution_task

    recipe = parse_recipe(optimizer)
    place = Workplace(problem, {recipe.label: recipe}, dtype, device, show_progress=True)
    place.check()
    default = (
        Path("runs") / file_name(place.load().name) / "solutions" / f"{file_name(recipe.label)}-{seed}.npz"
    )
    task = solution_task(place, recipe.label, seed, Path(out) if out else default)
    _run([task], place, title="")
    found = Solution.load(task.output)
    _say(
        f"{found.label}: train loss {found.train_loss:.4g}, validation {found.validation_loss:.4g}, "
        f"test {found.test_loss:.4g} ({found.status})"
    )
    _say(f"solution: {task.output}")


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
    from . import stages
    from .plots import plot_density, plot_layers, save_axes
    from .plots.style import plain
    from .records import load
    from .results import Flatness, SpectralDensity
    from .tables import show_curvature, show_flatness
    from .tasks import Task

    place, given = _solutions(solutions, problem, dtype, device)
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
    _run(tasks, place, title="Flatness", jobs=jobs)
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
    _say(f"records and figures: {folder}")


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
    from . import connecting
    from .plots import plot_paths, save_axes
    from .results import PathRecord

    place, (a, b) = _solutions([start, end], problem, dtype, device)
    folder = Path(out) if out else a.output.parent / "paths"
    name = f"{a.output.stem}--{b.output.stem}"
    ways = connecting.path_methods(settings, methods, minima=minima)
    tasks = list(connecting.path_tasks(place, a, b, folder, ways, under=place.under).values())
    _run(tasks, place, title="Paths", jobs=1)
    paths = [PathRecord.load(task.output) for task in tasks]
    for path in paths:
        _say(f"{path.method}: height {path.height:.6g}, barrier {path.barrier:.6g} ({path.message})")
    save_axes(plot_paths(paths), folder / name)
    _say(f"records and figure: {folder / name}.*")


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

    from . import connecting
    from .plots import plot_disconnectivity, plot_height_histogram, plot_heights, save_axes
    from .tables import show_network, show_summary
    from .tasks import processes

    place, given = _solutions(solutions, problem, dtype, device)
    folder = Path(out) if out else given[0].output.parent / "network"
    how = {"method": method, "rule": pairs, "minima": minima, "settings": settings}
    found = connecting.join(place, given, folder, **how, jobs=processes(jobs, place.device))
    show_network(found)
    if pairs == "all" and (found.heights < float("inf")).all():
        show_summary(group_statistics(found), "pair", [f"median barrier, {found.method}"])
    elif pairs == "all":
        _say("some pairs have no path of finite loss, so there are no statistics of pairs")
    for name, plot in {
        "network": plot_disconnectivity,
        "heights": plot_heights,
        "histogram": plot_height_histogram,
    }.items():
        save_axes(plot(found), folder / name)
    _say(f"records and figures: {folder}")


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
    from . import stages
    from .plots import plot_embedding, save_axes
    from .problems import load_problem
    from .results import Embedding
    from .solution_files import SolutionFile, fingerprint
    from .tasks import Task, run_tasks

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
        _say(f"{label}: " + "  ".join(f"{x: .5f}" for x in row))
    _say(
        f"told apart by coordinates {found.kernel_accuracy:.2f}, by norm alone {found.norm_accuracy:.2f}, "
        f"by nearest centroid {found.centroid_accuracy:.2f}, by chance {found.chance:.2f}"
    )
    save_axes(plot_embedding(found), task.output.with_suffix(""))
    _say(f"record and figure: {task.output.with_suffix('')}.*")


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
    from . import stages
    from .plots import plot_profile, plot_surface, save_axes
    from .records import load
    from .results import Surface
    from .tasks import Task

    place, (given,) = _solutions([solution], problem, dtype, device)
    folder = Path(out) if out else given.output.parent / "scans"
    shared = {"reach": settings.reach, "engine": settings.engine}
    work, options = {
        "line": (stages.scan_line, {"points": settings.line, **shared}),
        "plane": (stages.scan_plane, {"points": settings.plane, **shared}),
    }[probe]
    task = Task(folder / f"{given.output.stem}.{probe}.npz", work, (given,), options, under=place.under)
    _run([task], place, title="", jobs=1)
    record = load(task.output)
    axes = plot_surface(record) if isinstance(record, Surface) else plot_profile(record)
    save_axes(axes, task.output.with_suffix(""))
    _say(f"loss at the solution {record.center_loss:.6g}, largest {record.loss.max():.6g}")
    _say(f"record and figure: {task.output.with_suffix('')}.*")


def report(directory: str) -> None:
    """Draw figures and report of a comparison again from its records; needs neither model nor data.

    Args:
        directory: where landscape compare wrote it.
    """
    from .comparison import load_comparison
    from .report import report_key, write_report
    from .tasks import sole_use

    comparison = load_comparison(directory)
    with sole_use(comparison.directory):
        page = write_report(comparison, key=report_key(comparison.report) or "")
    _say(f"report: {page.resolve()}")


def _solutions(
    files: list[str], problem: str | None, dtype: str, device: str
) -> tuple[Workplace, list[Given]]:
    """The place to measure solutions at, and the solutions as given inputs; all must be of one problem."""
    from .results import Solution
    from .stages import Workplace
    from .tasks import Given

    found = [Solution.load(file) for file in files]
    name = problem or found[0].problem
    place = Workplace(name, {}, dtype, device)
    place.check()
    loaded = place.load()
    for solution in found:
        loaded.check(solution)
    return place, [Given(Path(file)) for file in files]


def _run(tasks: Sequence[Task], place: Workplace, *, title: str, jobs: int | None = 1) -> None:
    from .tasks import processes, run_tasks

    run_tasks(tasks, place, title=title, jobs=processes(jobs, place.device), show_progress=bool(title))


def _say(line: str) -> None:
    print(line)  # noqa: T201

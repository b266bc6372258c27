"""What the studies share: a command line from a function's signature, and runs that resume."""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
from jsonargparse import auto_cli
from matplotlib.figure import Figure

from landscape import InputError
from landscape.intervals import mean_interval, pair_mean_interval
from landscape.plots.labels import bounded
from landscape.records import atomic_file, file_name, load
from landscape.results import Track
from landscape.tasks import Task, cores, run_tasks, sole_use


def command(main: Callable[..., None]) -> None:
    """Run main with options from the command line, explained under "Args:" in its script's docstring.

    Input that cannot be used ends in one sentence and exit code 2.
    """
    main.__doc__ = sys.modules[main.__module__].__doc__
    try:
        auto_cli(main, as_positional=False)
    except InputError as error:
        print(f"{Path(sys.argv[0]).stem}: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        raise SystemExit(130) from None


def matching(names: Iterable[str], only: str) -> list[str]:
    """The names that ``only`` is part of, all if it is empty; InputError if there are none."""
    found = [name for name in names if only in name]
    if not found:
        raise InputError(f"only must be part of one of {', '.join(names)}, got {only!r}.")
    return found


def tracks(
    out: Path,
    work: Callable[..., Track],
    cells: Sequence[Mapping[str, Any]],
    *,
    title: str,
    context: Any = None,
    jobs: int | None = None,
) -> list[Track]:
    """The track of every cell: ``work(context, generator=…, **cell)``, run once and kept in ``out``, in cell order.

    A cell is JSON, and named by its values. Cells run in as many processes as there are cores, unless jobs says otherwise.
    """
    if not cells:
        raise InputError("there is nothing to run; give at least one seed.")
    tasks = [
        Task(out / f"{file_name('-'.join(map(str, cell.values())))}.npz", work, settings=cell)
        for cell in cells
    ]
    with sole_use(out):
        run_tasks(tasks, context, title=title, jobs=jobs or cores())
    found = [load(task.output) for task in tasks]
    return [track for track in found if isinstance(track, Track)]


def drawn_pairs(groups: Sequence[Sequence[Any]], count: int) -> list[tuple[Any, Any]]:
    """At most so many pairs within each group and across each two, drawn at random once."""
    draw, every = np.random.default_rng(0), [list(combinations(group, 2)) for group in groups]
    every += [list(product(one, other)) for one, other in combinations(groups, 2)]
    return [some[k] for some in every for k in sorted(draw.permutation(len(some))[:count])]


def save(figure: Figure, path: Path, *, dpi: int = 80) -> None:
    """Write a picture as PNG, whole or not at all."""
    with atomic_file(path) as file:
        figure.savefig(file, format="png", dpi=dpi)


def end(runs: Sequence[Track], value: str, *, log: bool = False) -> tuple[float, str]:
    """Where a value ended, over runs: (mean, "mean (low to high)") with its 95 % interval; with log the geometric mean."""
    last = np.array([track.values[value][-1] for track in runs])
    mean, low, high = np.exp(mean_interval(np.log(last))) if log else mean_interval(last)
    return float(mean), f"{mean:.3g} ({low:.3g} to {high:.3g})"


def interval(values: Any, ends: Sequence[tuple[str, str]] = ()) -> str:
    """The mean and its 95 % interval over seeds; the geometric mean if all are positive.

    ``ends``: the two solutions of each pair, over which the interval is then taken, since pairs share them.
    """
    positive = min(values) > 0
    numbers = np.log(values) if positive else np.asarray(values)
    found = pair_mean_interval(numbers, *np.transpose(ends)) if len(ends) else mean_interval(numbers)
    return bounded(*(np.exp(found) if positive else found))

"""What the studies share: a command line from a function's signature, and runs that resume."""

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from jsonargparse import auto_cli

from landscape import InputError
from landscape.records import file_name, load
from landscape.results import Track
from landscape.tasks import Task, cores, run_tasks, sole_use


def command(main: Callable[..., None]) -> None:
    """Run main with options from the command line; input that cannot be used ends in one sentence and exit code 2."""
    try:
        auto_cli(main, as_positional=False)
    except InputError as error:
        print(f"{main.__module__}: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        raise SystemExit(130) from None


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
    tasks = [
        Task(out / f"{file_name('-'.join(map(str, cell.values())))}.npz", work, settings=cell)
        for cell in cells
    ]
    with sole_use(out):
        run_tasks(tasks, context, title=title, jobs=jobs or cores())
    found = [load(task.output) for task in tasks]
    return [track for track in found if isinstance(track, Track)]

"""Tasks: records made from records, each once. A killed run resumes because finished records lie on disk.

A task's key is a hash of what it depends on: its function, its settings and its inputs' keys. A record carries the
key it was made under, so that a second run knows what is done, and what belongs to other settings.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from joblib import Parallel, delayed, parallel_config

from .errors import InputError
from .progress import progress
from .records import Record, check_writable, load, read_about, versions

Work = Callable[..., Record]


@dataclass(frozen=True, eq=False)
class Given:
    """A record that is there already, or a trajectory's folder: an input of tasks, known by its content."""

    output: Path

    @cached_property
    def key(self) -> str:
        if not self.output.is_dir():
            return _content(self.output)[:16]
        keys = [_content(path) for path in sorted(self.output.glob("step-*.npz"))]
        return hashlib.sha256("".join(keys).encode()).hexdigest()[:16]


@dataclass(frozen=True, eq=False)
class Task:
    """``work(context, *records of inputs, generator=…, **settings)`` -> the record at ``output``.

    work must be a function of a module, so that it travels to other processes. ``settings`` is JSON. A task that
    summarizes others (``replaceable``) may overwrite its record when those have changed. ``under`` is what else the
    result depends on, in the context (precision, device), where no input's key tells it. ``read`` makes an argument of an
    input's file; with Path the work reads what it needs itself. With ``folder`` the work gets ``folder=…``, named as its
    record without the ending, for files that it makes beside.
    """

    output: Path
    work: Work
    inputs: tuple[Task | Given, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    replaceable: bool = False
    under: Mapping[str, Any] = field(default_factory=dict)
    read: Callable[[Path], Any] = load
    folder: bool = False

    def __post_init__(self) -> None:
        if self.folder and not self.output.suffix:
            raise InputError(
                f"{self.output} must have an ending, such as .npz, since its folder is named as it is without one."
            )

    @cached_property
    def key(self) -> str:
        inputs = [task.key for task in self.inputs]
        told = json.dumps([self.work.__name__, self.conditions, inputs], sort_keys=True)
        return hashlib.sha256(told.encode()).hexdigest()[:16]

    @property
    def conditions(self) -> dict[str, Any]:
        """Everything that was set, as JSON gives it back."""
        return json.loads(json.dumps({**self.under, **self.settings}))

    def is_done(self) -> bool:
        """Whether the record is there; InputError if one of other settings is in its place."""
        if not self.output.exists():
            return False
        about = read_about(self.output)
        if about.get("key") == self.key:
            return True
        if self.replaceable:
            return False
        raise InputError(
            f"{self.output} was made {self._difference(about)}; "
            "choose another --out, or remove what is there."
        )

    def _difference(self, about: Mapping[str, Any]) -> str:
        theirs, ours = _flat(about.get("settings") or {}), _flat(self.conditions)
        for name in {**ours, **theirs}:
            if theirs.get(name) != ours.get(name):
                return f"with other settings ({name} is {theirs.get(name)!r} there, {ours.get(name)!r} here)"
        return "from other inputs"

    def execute(self, context: Any, threads: int) -> None:
        """Make the record and save it. Runs in a worker process."""
        torch.set_num_threads(threads)
        inputs = [self.read(task.output) for task in self.inputs]
        seed = int(self.key, 16) % 2**63
        generator = torch.Generator().manual_seed(seed)
        beside = {"folder": self.output.with_suffix("")} if self.folder else {}
        record = self.work(context, *inputs, generator=generator, **beside, **self.settings)
        about = {
            "versions": versions(),
            **record.about,
            "key": self.key,
            "settings": self.conditions,
            "generator_seed": seed,
            "threads": threads,
        }
        replace(record, about=about).save(self.output)


def run_tasks(
    tasks: Sequence[Task], context: Any, *, title: str, jobs: int, show_progress: bool = True
) -> int:
    """Run those tasks that are not done, in at most ``jobs`` processes; how many were run.

    Every process uses its share of the cores. Raises what a task raises; what was finished by then stays.
    """
    for i, task in enumerate(tasks):
        if any(task.output == other.output for other in tasks[:i]):
            raise InputError(
                f"two results would be written to {task.output}; give inputs of different names, or one at a time."
            )
    todo = [task for task in tasks if not task.is_done()]
    if not todo:
        return 0
    for directory in {task.output.parent for task in todo}:
        check_writable(directory)
    jobs = min(jobs, len(tasks))
    threads = max(1, cores() // jobs)
    with progress(title, len(tasks), done=len(tasks) - len(todo), shown=show_progress) as advance:
        if jobs == 1:
            before = torch.get_num_threads()
            try:
                for task in todo:
                    task.execute(context, threads)
                    advance()
            finally:
                torch.set_num_threads(before)
            return len(todo)
        leave = {"initializer": _leave_with, "initargs": (os.getpid(),)}
        with parallel_config(backend="loky", inner_max_num_threads=threads, **leave):
            calls = (delayed(task.execute)(context, threads) for task in todo)
            for _ in Parallel(n_jobs=jobs, return_as="generator_unordered")(calls):
                advance()
    return len(todo)


def _leave_with(parent: int) -> None:
    """From now on this process ends soon after its parent: a run that was killed leaves no workers behind."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings within settings as "outer.inner"."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        inner = _flat(value) if isinstance(value, Mapping) else {"": value}
        flat |= {f"{name}.{key}" if key else name: v for key, v in inner.items()}
    return flat


def _content(path: Path) -> str:
    """A hash of a record's file."""
    read_about(path)  # a file that is no record is refused here
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processes(jobs: int | None, device: str) -> int:
    """Processes at a time: ``jobs``, by default one a core, or one on a GPU."""
    if jobs is not None and jobs < 1:
        raise InputError(f"jobs must be at least 1, got {jobs}.")
    return jobs or (cores() if device == "cpu" else 1)


class sole_use:
    """A directory that no other run writes to inside the ``with`` block; left-overs of killed runs are removed."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.lock = FileLock(directory / ".lock", timeout=0)

    def __enter__(self) -> None:
        check_writable(self.directory)
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self.lock.acquire()
        except Timeout as error:
            raise InputError(
                f"another run is writing to {self.directory}; wait for it, or choose another --out."
            ) from error
        except OSError as error:
            reason = error.strerror or error
            raise InputError(
                f"{self.directory} cannot be written ({reason}); choose another --out."
            ) from error
        for part in self.directory.rglob(".*.part"):
            part.unlink(missing_ok=True)

    def __exit__(self, *_: object) -> None:
        self.lock.release()

"""Which steps of a run are kept, so that their checkpoints fit into a budget of bytes however long it goes on.

With a stride S the checkpoint of step t belongs if t mod S < c (c = 2: pairs of consecutive points), or if t is the first.
S = every · 2^j, for the smallest j at which all that belong fit. A larger S keeps some of what a smaller one does, so that
what is kept after t steps depends on t alone, not on where a run was stopped and taken up again.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .errors import InputError
from .recording import DirectoryLock
from .records import atomic_file
from .trajectories import checkpoint_file, recorded_steps

MANIFEST = "recording.json"
FEWEST = 4  # checkpoints that a budget must hold
_SPARE = 4096  # bytes for the manifest, while it is replaced; its settings are counted on top


class Thinned:
    """The checkpoints in a directory, at most so many bytes of them: the last point, which always stays, included.

    The stride is on disk before anything that no longer belongs is deleted: a kill in between is mended at the next start.
    Where a run goes on, the last point that is there stays until the next one is written, whether it belongs or not.

    Args:
        settings: what the recording is told by, kept in recording.json; those of a trajectory that goes on must be equal.
        size: an upper bound of one checkpoint's bytes.
        budget: bytes. Room for one file is left free, for the last point, or for a checkpoint that is being replaced.
        lock: the directory's, which is taken here if the caller does not hold it.

    Raises:
        InputError: a budget that is too small, or a directory that cannot be written or that another run is writing to.
    """

    def __init__(
        self,
        directory: Path,
        *,
        settings: Mapping[str, Any],
        size: int,
        budget: int,
        lock: DirectoryLock | None = None,
    ) -> None:
        self.directory, self.settings = directory, dict(settings)
        self.every: int = self.settings["every"]
        self.consecutive: int = self.settings["consecutive"]
        self.stride = self.every
        fewest = max(FEWEST, 2 * self.consecutive)
        apart = _SPARE + 2 * len(json.dumps(self.settings))
        self.capacity = (budget - apart) // size - 1
        if self.capacity < fewest:
            raise InputError(
                f"budget must be at least {(fewest + 1) * size + apart} bytes, {fewest} checkpoints of this model and the last, "
                f"got {budget}; give more, or dtype='float32' or fewer gradients."
            )
        self.first = 0
        self.end: int | None = None  # the last step that was there, until the next one is
        self.lock = lock or DirectoryLock(directory)
        self.steps = set(recorded_steps(directory))

    def before(self, step: int) -> int | None:
        """The last step up to this one whose checkpoint is there."""
        return max((s for s in self.steps if s <= step), default=None)

    def begin(self, step: int) -> None:
        """Make the directory hold what a run that is at this step would have left there, and the last point up to it."""
        for left in (*self.directory.glob(".step-*.part"), *self.directory.glob(f".{MANIFEST}.*.part")):
            left.unlink(missing_ok=True)  # of a killed run
        self.end = self.before(step)
        self._remove(s for s in self.steps if s > step)
        self.first = min(self.steps, default=step)
        if self.steps:
            self.stride = max(self.every, _manifest(self.directory).get("stride", self.every))
        while len(self._belonging(self.stride) - {step}) > self.capacity:  # the budget is smaller now
            self.stride *= 2
        self._write()
        self._thin()

    def belongs(self, step: int) -> bool:
        return self._belongs(step, self.stride)

    def takes(self, step: int) -> bool:
        """Whether the checkpoint of this step is to be written, after making room for it."""
        stride = self.stride
        while self._belongs(step, stride) and len(self._belonging(stride) - {step}) >= self.capacity:
            stride *= 2
        if stride != self.stride:
            self.stride = stride
            self._write()
            self._thin()
        return self.belongs(step)

    def make_room(self) -> None:
        """For the last point, which is written whether it belongs or not."""
        if len(self.steps) > self.capacity:
            self.end = None
            self._thin()

    def wrote(self, step: int) -> None:
        """The checkpoint of this step is there now."""
        self.steps.add(step)
        self.end = None
        self._remove(self.steps - self._belonging(self.stride) - {step})

    def file(self, step: int) -> Path:
        return checkpoint_file(self.directory, step)

    def _belongs(self, step: int, stride: int) -> bool:
        return step == self.first or step % stride < self.consecutive

    def _belonging(self, stride: int) -> set[int]:
        return {s for s in self.steps if self._belongs(s, stride)}

    def _thin(self) -> None:
        self._remove(self.steps - self._belonging(self.stride) - {self.end})

    def _remove(self, steps: Iterable[int]) -> None:
        for step in sorted(steps, reverse=True):
            self.file(step).unlink(missing_ok=True)
            self.steps.discard(step)

    def _write(self) -> None:
        with atomic_file(self.directory / MANIFEST) as handle:
            handle.write(json.dumps({**self.settings, "stride": self.stride}).encode())


def check_settings(directory: Path, settings: Mapping[str, Any]) -> None:
    """InputError naming the setting in which the trajectory that is there differs."""
    found = _manifest(directory)
    for name, value in settings.items():
        if name in found and found[name] != value:
            raise InputError(
                f"{directory} was recorded with {name}={found[name]!r}, which this recording has as {value!r}; go on "
                "with the same, or choose another directory."
            )


def _manifest(directory: Path) -> dict[str, Any]:
    try:
        found = json.loads((directory / MANIFEST).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}

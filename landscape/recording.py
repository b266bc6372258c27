"""Recording: what of a training run is recorded, and where; and the lock of a directory that is written to."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self, get_args

from filelock import FileLock, Timeout

from .errors import InputError

Gradients = Literal["none", "sketch", "full"]
StoredDtype = Literal["float32"]


@dataclass(frozen=True)
class Recording:
    """What of a run is recorded, and where.

    Args:
        directory: of this run alone.
        budget: bytes on disk that the checkpoints never exceed: as they grow in number, every second one goes.
        every: a checkpoint every so many steps, as long as there is room.
        consecutive: how many consecutive points each time; 2 lets single steps be measured.
        gradients: of the mini-batch at θ_t: "none", a "sketch" of them (see sketches.py), or "full", as large as θ.
        sketch: length k of a sketch, whose inner products have a relative error of about 1/√k.
        dtype: "float32" stores θ and full gradients in half the bytes of float64; None as they are (16-bit types as float32).
        state_every: seconds from one saved state of ``fit`` to the next; a killed run goes on from the last. 0: every step.
    """

    directory: str | os.PathLike[str]
    budget: int = 2**30
    every: int = 1
    consecutive: int = 1
    gradients: Gradients = "none"
    sketch: int = 1024
    dtype: StoredDtype | None = None
    state_every: float = 60.0

    def __post_init__(self) -> None:
        for name in ("budget", "every", "consecutive", "sketch"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"{name} must be a whole number of at least 1, got {value!r}.")
        if self.gradients not in get_args(Gradients):
            raise InputError(f"gradients must be 'none', 'sketch' or 'full', got {self.gradients!r}.")
        if self.dtype not in (None, *get_args(StoredDtype)):
            raise InputError(f"dtype must be 'float32', or None for the model's own, got {self.dtype!r}.")
        if not self.state_every >= 0:
            raise InputError(f"state_every must be at least 0 seconds, got {self.state_every!r}.")

    @property
    def settings(self) -> dict[str, Any]:
        """What Recorder takes as keywords."""
        return {n: v for n, v in asdict(self).items() if n not in ("directory", "state_every")}

    def fixed(self, label: str, seed: int) -> dict[str, Any]:
        """What a trajectory keeps to as long as it goes on, as recording.json holds it."""
        kept = {n: v for n, v in self.settings.items() if n != "budget"}
        return {"label": label, "seed": seed, **kept}


class DirectoryLock:
    """A directory that no other recorder or fit writes to: until ``release``, the end of a ``with`` block, or of the process.

    Its file stays, empty, unless nothing was written to a directory made for it: that is gone with it. Across machines it
    holds as far as the file system's locks do.

    Raises:
        InputError: another one holds it, in this process too, or the directory cannot be written.
    """

    def __init__(self, directory: Path) -> None:
        self._lock = FileLock(directory / ".recording.lock", timeout=0, thread_local=False)
        self._directory, self._made = directory, not directory.exists()
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
        except Timeout as error:
            raise InputError(
                f"another run is recorded in {directory} just now; wait for its end, close its recorder, or choose another "
                "directory."
            ) from error
        except OSError as error:
            raise InputError(
                f"{directory} cannot be written ({error.strerror or error}); choose another directory."
            ) from error

    def release(self) -> None:
        """Releasing again does nothing."""
        file = Path(self._lock.lock_file)
        unused = self._made and self._lock.is_locked and [*self._directory.iterdir()] == [file]
        if unused:
            file.unlink()
        self._lock.release()
        if unused:
            self._directory.rmdir()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

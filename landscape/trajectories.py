"""Trajectories: the points of one training run, recorded in a directory, read one at a time."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .errors import InputError
from .parameters import Parameters
from .records import Array, read_fields
from .results import Checkpoint

_NAMED = re.compile(r"step-(\d{8,})\.npz")


class Trajectory:
    """The checkpoints in a directory, in the order of their steps; θ is read when it is asked for.

    Has what all of them share: label ("sgd/0"), optimizer, seed, problem, parameters (names, shapes). ``steps``, ``epochs``,
    ``rates``, ``batch_losses`` and ``travelled`` (T,) come from the headers, NaN where nothing was recorded. Going through it
    yields a Checkpoint at a time. Cost: one read of each header.

    Raises:
        InputError: there is no such directory, or no checkpoint in it, a file is truncated, or they are of different runs or
            models.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = Path(directory)
        found = recorded_steps(self.directory)
        if not found:
            raise InputError(
                f"{self.directory} holds no checkpoints (step-*.npz); name a directory that a Recorder or "
                "fit(…, record=…) wrote."
            )
        self.files: tuple[Path, ...] = tuple(checkpoint_file(self.directory, step) for step in found)
        headers = [read_fields(file, Checkpoint) for file in self.files]
        first = headers[0]
        for file, header in zip(self.files, headers, strict=True):
            for name, what in _SHARED.items():
                if header.get(name) != first.get(name):
                    raise InputError(
                        f"{file} has another {what} than {self.files[0].name}; keep the checkpoints of each run in a directory "
                        "of its own."
                    )
        self.optimizer: str = first["optimizer"]
        self.seed: int = first["seed"]
        self.problem: str = first["problem"]
        self.label = f"{self.optimizer}/{self.seed}"
        self.about = first.get("about") or {}
        self.parameters = Parameters(first["names"], first["shapes"])
        self.steps = np.array([header["step"] for header in headers])
        self.epochs, self.rates, self.batch_losses, self.travelled = (
            np.array([header[name] for header in headers], dtype=float)
            for name in ("epoch", "rate", "batch_loss", "travelled")
        )

    def __len__(self) -> int:
        return len(self.files)

    def __iter__(self) -> Iterator[Checkpoint]:
        return (Checkpoint.load(file) for file in self.files)

    @property
    def dim(self) -> int:
        return self.parameters.dim

    def checkpoint(self, i: int) -> Checkpoint:
        """The i-th checkpoint, from the end where i is negative; InputError if there are not so many."""
        if not -len(self) <= i < len(self):
            raise InputError(
                f"{self.directory} holds {len(self)} checkpoints, so there is none of index {i}."
            )
        return Checkpoint.load(self.files[i])

    def thetas(self) -> Array:
        """All points (T, P) at once, in main memory."""
        first = self.checkpoint(0).theta
        thetas = np.empty((len(self), len(first)), first.dtype)
        for i, point in enumerate(self):
            thetas[i] = point.theta
        return thetas


_SHARED = {
    "optimizer": "label",
    "seed": "seed",
    "problem": "problem",
    "names": "model (its parameters have other names)",
    "shapes": "model (its parameters have other shapes)",
}


def checkpoint_file(directory: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return directory / f"step-{step:08d}.npz"


def recorded_steps(directory: Path) -> list[int]:
    """The steps whose checkpoints a directory holds, in order; InputError if it is none."""
    try:
        names = os.listdir(directory)
    except OSError as error:
        raise InputError(
            f"{directory} is no directory that can be read ({error.strerror}); name one that holds a trajectory."
        ) from error
    return sorted(int(match[1]) for name in names if (match := _NAMED.fullmatch(name)))

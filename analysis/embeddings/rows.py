"""Solutions as rows: of records, of files larger than memory together, of an array, and of whole trajectories."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from landscape import InputError, Solution
from landscape.results import Checkpoint
from landscape.solution_files import SolutionFile
from landscape.trajectories import Trajectory

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Rows:
    """n vectors in R^P, in memory or on disk, with what they are called in results and in errors.

    steps (n,): when in training, NaN where unknown. trajectory (n,): which trajectory they are of, counted from 0;
    −1 for a solution by itself.
    """

    vectors: Sequence[np.ndarray | SolutionFile]
    labels: tuple[str, ...]
    groups: tuple[str, ...]
    names: tuple[str, ...]
    steps: Array
    trajectory: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.vectors)

    @property
    def dim(self) -> int:
        first = self.vectors[0]
        return first.dim if isinstance(first, SolutionFile) else len(first)

    @property
    def dtype(self) -> np.dtype:
        return np.result_type(*{vector.dtype for vector in self.vectors})

    @property
    def files(self) -> list[SolutionFile]:
        return [v for v in self.vectors if isinstance(v, SolutionFile)]

    @property
    def itemsize(self) -> int:
        """Bytes of one column as far as it lies on disk."""
        return sum(file.dtype.itemsize for file in self.files)

    def slices(self, width: int) -> Iterator[tuple[np.ndarray, ...]]:
        """``width`` columns at a time, from the first to the last: one array a vector, valid until the next come."""
        # strict, so that every file is gone through to its end, where its checksum is compared
        return zip(*(_slices(vector, width) for vector in self.vectors), strict=True)

    def whole(self) -> np.ndarray:
        """All of them as one array (n, P)."""
        whole = np.empty((len(self), self.dim), self.dtype)
        for i, vector in enumerate(self.vectors):
            (whole[i],) = _slices(vector, max(1, self.dim))
        return whole


One = Solution | str | os.PathLike[str]
Solutions = Sequence[One | np.ndarray | Trajectory] | np.ndarray | Trajectory | Rows


def solution_rows(solutions: Solutions, *, least: int = 2) -> Rows:
    """The θ of solutions as rows: of records, of files (only their headers are read here), of an array (n, P), of a
    trajectory, and of a list of any of these; an array (T, P) in a list is a trajectory.

    Raises:
        InputError: fewer than ``least``, different architectures, a file that is no solution, an array that is not (n, P).
    """
    if isinstance(solutions, Rows):
        return solutions
    found = list(_rows(solutions))
    if len(found) < least:
        count = {1: "one", 2: "two"}.get(least, least)
        raise InputError(f"solutions must hold at least {count}, got {len(found)}; train another one.")
    for row in found:
        if row.shapes != found[0].shapes:
            raise InputError(
                f"solutions must be of one architecture, but the parameters of {row.name} and "
                f"{found[0].name} differ in shape; compare those of one model."
            )
    return Rows(
        [row.vector for row in found],
        tuple(row.label for row in found),
        tuple(row.group for row in found),
        tuple(row.name for row in found),
        np.array([row.step for row in found], dtype=np.float64),
        np.array([row.trajectory for row in found], dtype=np.int64),
    )


def named(name: str, given: Sequence[str] | None, default: tuple[str, ...]) -> tuple[str, ...]:
    """What is given to name the rows, or what they are called already; InputError if it does not name each."""
    if given is not None and len(given) != len(default):
        raise InputError(f"{name} must name each of the {len(default)} solutions, got {len(given)}.")
    return default if given is None else tuple(given)


def check_one_group(trajectory: NDArray[np.int64], groups: Sequence[str], names: Sequence[str]) -> None:
    """InputError where points of one trajectory are in two groups: a run is one witness, made by one thing."""
    first: dict[int, int] = {}
    for i, which in enumerate(trajectory.tolist()):
        start = i if which < 0 else first.setdefault(which, i)
        if groups[i] != groups[start]:
            raise InputError(
                f"groups must be the same for all points of one trajectory, but {names[start]} is in {groups[start]!r} and "
                f"{names[i]} in {groups[i]!r}; name each trajectory once."
            )


@dataclass(frozen=True, eq=False)
class _Row:
    vector: np.ndarray | SolutionFile
    shapes: tuple[tuple[int, ...], ...]
    label: str
    group: str
    name: str
    step: float = float("nan")
    trajectory: int = -1


def _rows(solutions: Sequence[One | np.ndarray | Trajectory] | np.ndarray | Trajectory) -> Iterator[_Row]:
    if isinstance(solutions, str | os.PathLike):
        raise InputError(f"solutions must be a sequence of files, got the single path {solutions}.")
    if isinstance(solutions, np.ndarray):
        yield from _of_array(solutions)
        return
    count = 0
    for one in [solutions] if isinstance(solutions, Trajectory) else solutions:
        if isinstance(one, Trajectory | np.ndarray):
            yield from _of_trajectory(one, count)
            count += 1
        else:
            yield _of_solution(one)


def _of_array(x: np.ndarray) -> list[_Row]:
    if x.ndim != 2:
        raise InputError(f"solutions must be an array (n, P), got shape {x.shape}.")
    return [_Row(row, (row.shape,), str(i), "", str(i)) for i, row in enumerate(x)]


def _of_solution(one: One) -> _Row:
    if isinstance(one, Solution):
        step = float(one.step) if isinstance(one, Checkpoint) else float("nan")
        return _Row(one.theta, one.shapes, one.label, one.optimizer, one.label, step)
    file = SolutionFile(one)
    step = float("nan") if file.step is None else float(file.step)
    return _Row(file, file.shapes, file.label, file.optimizer, f"{file.label} ({file.path})", step)


def _of_trajectory(points: Trajectory | np.ndarray, which: int) -> Iterator[_Row]:
    if isinstance(points, Trajectory):
        yield from (replace(_of_solution(file), trajectory=which) for file in points.files)
        return
    for i, row in enumerate(_of_array(points)):
        label = f"{which}@{i}"
        yield replace(row, label=label, group=str(which), name=label, step=float(i), trajectory=which)


def _slices(vector: np.ndarray | SolutionFile, width: int) -> Iterator[np.ndarray]:
    if isinstance(vector, SolutionFile):
        return vector.slices(width)
    return (vector[first : first + width] for first in range(0, len(vector), width))

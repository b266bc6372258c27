"""Distances and Gram matrices of solutions, from memory or from files that do not fit into it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from landscape import InputError, Solution
from landscape.progress import progress
from landscape.solution_files import SolutionFile

Array = NDArray[np.float64]
Kernel = Literal["rbf", "linear", "cosine"] | Callable[[np.ndarray], np.ndarray]
Solutions = Sequence[Solution | str | os.PathLike[str]] | np.ndarray
MEMORY = 2**30
ENTRIES = 2**18  # of a block in double precision: 2 MiB, so that it stays in cache while it is used
NARROWEST, WIDEST = 512, 8192  # columns of a block
READ = 2**20  # columns read from a file at a time: several MiB, beyond which longer reads gain nothing
NEAR = 0.01  # a squared distance below this share of the squared lengths is taken from differences


@dataclass(frozen=True, eq=False)
class Rows:
    """n vectors in R^P, in memory or on disk, with what they are called in results and in errors."""

    vectors: Sequence[np.ndarray | SolutionFile]
    labels: tuple[str, ...]
    groups: tuple[str, ...]
    names: tuple[str, ...]

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


def solution_rows(solutions: Solutions) -> Rows:
    """The θ of solutions as rows: of records, of files (only their headers are read here), or of an array (n, P).

    Raises:
        InputError: fewer than two, different architectures, a file that is no solution, an array that is not (n, P).
    """
    if isinstance(solutions, np.ndarray):
        if solutions.ndim != 2:
            raise InputError(f"solutions must be an array (n, P), got shape {solutions.shape}.")
        names = tuple(str(i) for i in range(len(solutions)))
        rows = Rows(list(solutions), names, ("",) * len(solutions), names)
    else:
        if isinstance(solutions, str | os.PathLike):
            raise InputError(f"solutions must be a sequence of files, got the single path {solutions}.")
        found = [s if isinstance(s, Solution) else SolutionFile(s) for s in solutions]
        names = tuple(f"{s.label} ({s.path})" if isinstance(s, SolutionFile) else s.label for s in found)
        for s, name in zip(found, names, strict=True):
            if s.shapes != found[0].shapes:
                raise InputError(
                    f"solutions must be of one architecture, but the parameters of {name} and "
                    f"{names[0]} differ in shape; compare those of one model."
                )
        vectors = [s if isinstance(s, SolutionFile) else s.theta for s in found]
        rows = Rows(vectors, tuple(s.label for s in found), tuple(s.optimizer for s in found), names)
    if len(rows) < 2:
        raise InputError(f"solutions must hold at least two, got {len(rows)}; train another one.")
    return rows


def norms_and_distances(
    rows: Rows, *, memory: int = MEMORY, show_progress: bool = False
) -> tuple[Array, Array]:
    """Norms ‖x‖ (n,) and squared distances ‖x − x′‖² (n, n) of n vectors, in double precision.

    Squares are sums over columns. So all rows are taken at once and columns in slices as wide as the memory allows:
    every file is read once, front to back, however small the memory is. Within a slice the sums run over blocks of
    columns whose width depends on n alone: files and vectors in memory, under any memory, give the same numbers to the bit.

    Double precision, whatever the vectors are stored in: ‖x‖² + ‖x′‖² − 2x·x′ loses a factor (‖x‖/‖x − x′‖)² of
    accuracy, in single precision all of it where solutions are closer than 3e-4 of their norm. It is taken of vectors
    less their mean over the rows, which changes no distance; and in each block, pairs for which it falls below NEAR of
    ‖x‖² + ‖x′‖² get the sum of squared differences instead. So each term is right to about 1e-14 of itself, and their
    sum too, for near and far vectors alike.

    Cost: n²P floating-point operations in a symmetric matrix product, and 3P for each near pair. Memory: ``memory``
    bytes, beside vectors that are in memory already and (n, n) matrices.

    Args:
        rows: as solution_rows makes them.
        memory: in bytes; least is three blocks (12 KiB a vector, or 6 MiB if that is more) and as many columns of files.
        show_progress: draw a bar on standard error, if that is a terminal.

    Raises:
        InputError: memory is too small, a value is not finite, or a file cannot be read to its end.
    """
    n, width = len(rows), _block_width(rows)
    norms, squared = np.zeros(n), np.zeros((n, n))
    whole, spare = np.empty((n, width)), np.empty((n, width))
    with progress("Gram matrix", -(-rows.dim // width), shown=show_progress) as advance:
        for pieces in rows.slices(_slice_width(rows, memory)):
            for first in range(0, len(pieces[0]), width):
                block = whole[:, : len(pieces[0]) - first]  # the last one is narrower
                for i, piece in enumerate(pieces):
                    block[i] = piece[first : first + width]
                _check_finite(block, rows)
                norms += np.einsum("ij,ij->i", block, block)
                squared += _squared_distances(block, spare[:, : block.shape[1]])
                advance()
    return np.sqrt(norms), squared


def check_kernel(kernel: Kernel, rows: Rows, *, gamma: float, memory: int) -> None:
    """What can be refused before any file is read.

    Raises:
        InputError: an unknown kernel, a gamma that is not positive, or a function where files do not fit into the memory.
    """
    if callable(kernel):
        needed = rows.dim * (len(rows) + 1) * rows.dtype.itemsize  # all, and the file at hand
        if rows.files and needed > memory:
            raise InputError(
                f"kernel must be 'rbf', 'linear' or 'cosine' for files larger than memory ({memory} bytes), got a function, "
                f"which is called with all of them at once; raise memory to {needed}, or name a kernel."
            )
    elif kernel not in ("rbf", "linear", "cosine"):
        raise InputError(f"kernel must be 'rbf', 'linear', 'cosine' or a function, got {kernel!r}.")
    elif kernel == "rbf" and not gamma > 0:
        raise InputError(f"gamma must be positive, got {gamma}.")


def kernel_matrix(kernel: Kernel, rows: Rows, norms: Array, squared: Array, *, gamma: float) -> Array:
    """The Gram matrix (n, n) of a kernel that check_kernel let pass, up to what centring on both sides takes off.

    All from norms and distances, without cancellation between near vectors. Linear: −½‖x − x′‖², which centring turns
    into the same matrix as x·x′. Cosine: 1 − (‖x − x′‖² − (‖x‖ − ‖x′‖)²)/(2‖x‖‖x′‖), right to about 1e-15 times the ratio
    of the norms.

    Raises:
        InputError: a function that gives no symmetric (n, n).
    """
    if callable(kernel):
        gram = np.asarray(kernel(_whole(rows)), dtype=np.float64)
        if gram.shape != squared.shape or not np.allclose(gram, gram.T, rtol=1e-6, atol=1e-12):
            raise InputError(
                f"kernel must give a symmetric and finite matrix {squared.shape} for {len(rows)} solutions, "
                f"got shape {gram.shape}; it is called with all of them at once."
            )
        return gram
    if kernel == "rbf":
        return np.exp(-gamma * squared)
    if kernel == "linear":
        return -squared / 2
    products = np.outer(norms, norms)
    apart = (squared - np.subtract.outer(norms, norms) ** 2) / 2
    cosine = np.zeros_like(products)  # of θ = 0, which has no direction
    return np.divide(products - apart, products, out=cosine, where=products > 0)


def _slices(vector: np.ndarray | SolutionFile, width: int) -> Iterator[np.ndarray]:
    if isinstance(vector, SolutionFile):
        return vector.slices(width)
    return (vector[first : first + width] for first in range(0, len(vector), width))


def _squared_distances(block: Array, spare: Array) -> Array:
    """‖x − x′‖² (n, n) of the rows of a block (n, w); spare (n, w) is overwritten."""
    np.subtract(block, block.mean(axis=0), out=spare)
    centred = spare @ spare.T
    lengths = centred.diagonal()[:, None] + centred.diagonal()
    squared = lengths - 2 * centred
    near = np.triu(~(squared >= NEAR * lengths), 1)  # also where it is NaN, the difference of two infinities
    for i in np.flatnonzero(near.any(axis=1)):
        others = np.flatnonzero(near[i])
        differences = block[others]
        differences -= block[i]
        squared[i, others] = squared[others, i] = np.einsum("ij,ij->i", differences, differences)
    np.fill_diagonal(squared, 0)
    return squared


def _check_finite(block: Array, rows: Rows) -> None:
    finite = np.isfinite(block).all(axis=1)
    if not finite.all():
        name = rows.names[int(np.flatnonzero(~finite)[0])]
        raise InputError(f"solutions must be finite, but {name} holds NaN or infinity; leave it out.")


def _block_width(rows: Rows) -> int:
    """Columns of a block: a power of two that makes it about ENTRIES large."""
    wide = 2 ** int(np.log2(ENTRIES / len(rows)))
    return min(max(NARROWEST, min(WIDEST, wide)), max(1, rows.dim))


def _slice_width(rows: Rows, memory: int) -> int:
    """Columns of a slice: a multiple of the block's, so that slices never change which columns are summed together."""
    width = _block_width(rows)
    blocks = 3 * len(rows) * width * np.dtype(np.float64).itemsize  # a block, it centred, and differences
    least = blocks + width * rows.itemsize
    if not memory >= least:
        raise InputError(
            f"memory must be at least {least} bytes for {len(rows)} solutions of {rows.dim} parameters, got {memory}."
        )
    columns = (int(memory) - blocks) // rows.itemsize if rows.files else READ
    return min(READ, columns) // width * width


def _whole(rows: Rows) -> np.ndarray:
    """All rows as one array (n, P)."""
    whole = np.empty((len(rows), rows.dim), rows.dtype)
    for i, vector in enumerate(rows.vectors):
        (whole[i],) = _slices(vector, max(1, rows.dim))
    return whole

"""Norms and distances of solutions, from memory or from files that do not fit into it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from landscape import InputError
from landscape.progress import progress

from .rows import Array, Rows

MEMORY = 2**30
ENTRIES = 2**18  # of a block in double precision: 2 MiB, so that it stays in cache while it is used
NARROWEST, WIDEST = 512, 8192  # columns of a block
READ = 2**20  # columns read from a file at a time: several MiB, beyond which longer reads gain nothing
NEAR = 0.01  # a squared distance below this share of the squared lengths is taken from differences


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
    n = len(rows)
    norms, squared = np.zeros(n), np.zeros((n, n))
    spare = np.empty((n, block_width(rows)))
    for block in blocks(rows, memory=memory, show_progress=show_progress):
        norms += np.einsum("ij,ij->i", block, block)
        squared += _squared_distances(block, spare[:, : block.shape[1]])
    return np.sqrt(norms), squared


def norms_and_cross_distances(
    rows: Rows, count: int, *, memory: int = MEMORY, show_progress: bool = False
) -> tuple[Array, Array]:
    """Norms (n,) of all rows and squared distances (count, n − count) of the first ``count`` of them to the others.

    As norms_and_distances, to the same accuracy. Cost: 2 count (n − count) P floating-point operations, and 3P for each
    near pair.
    """
    n = len(rows)
    norms, squared = np.zeros(n), np.zeros((count, n - count))
    spare = np.empty((n, block_width(rows)))
    for block in blocks(rows, memory=memory, show_progress=show_progress):
        norms += np.einsum("ij,ij->i", block, block)
        squared += _cross_distances(block, spare[:, : block.shape[1]], count)
    return np.sqrt(norms), squared


def blocks(
    rows: Rows, *, memory: int = MEMORY, show_progress: bool = False, title: str = "Gram matrix"
) -> Iterator[Array]:
    """Columns of all rows from the first to the last, in double precision: (n, w) at a time, valid until the next come.

    Raises:
        InputError: memory is too small, a value is not finite, or a file cannot be read to its end.
    """
    width = block_width(rows)
    wide = _slice_width(rows, memory)
    whole = np.empty((len(rows), width))
    with progress(title, -(-rows.dim // width), shown=show_progress) as advance:
        for pieces in rows.slices(wide):
            for first in range(0, len(pieces[0]), width):
                block = whole[:, : len(pieces[0]) - first]  # the last one is narrower
                for i, piece in enumerate(pieces):
                    block[i] = piece[first : first + width]
                _check_finite(block, rows)
                yield block
                advance()


def block_width(rows: Rows) -> int:
    """Columns of a block: a power of two that makes it about ENTRIES large."""
    wide = 2 ** int(np.log2(ENTRIES / len(rows)))
    return min(max(NARROWEST, min(WIDEST, wide)), max(1, rows.dim))


def _squared_distances(block: Array, spare: Array) -> Array:
    """‖x − x′‖² (n, n) of the rows of a block (n, w); spare (n, w) is overwritten."""
    np.subtract(block, block.mean(axis=0), out=spare)
    centred = spare @ spare.T
    lengths = centred.diagonal()[:, None] + centred.diagonal()
    squared = lengths - 2 * centred
    near = np.triu(~(squared >= NEAR * lengths), 1)  # also where it is NaN, the difference of two infinities
    for i in np.flatnonzero(near.any(axis=1)):
        others = np.flatnonzero(near[i])
        squared[i, others] = squared[others, i] = _differences(block, i, others)
    np.fill_diagonal(squared, 0)
    return squared


def _cross_distances(block: Array, spare: Array, count: int) -> Array:
    """‖x − x′‖² (count, n − count) of the first rows of a block (n, w) to the others; spare (n, w) is overwritten."""
    np.subtract(block, block.mean(axis=0), out=spare)
    lengths = np.einsum("ij,ij->i", spare, spare)
    lengths = lengths[:count, None] + lengths[count:]
    squared = lengths - 2 * spare[:count] @ spare[count:].T
    near = ~(squared >= NEAR * lengths)
    for i in np.flatnonzero(near.any(axis=1)):
        others = np.flatnonzero(near[i])
        squared[i, others] = _differences(block, i, count + others)
    return squared


def _differences(block: Array, i: np.intp, others: np.ndarray) -> Array:
    differences = block[others]
    differences -= block[i]
    return np.einsum("ij,ij->i", differences, differences)


def _check_finite(block: Array, rows: Rows) -> None:
    finite = np.isfinite(block).all(axis=1)
    if not finite.all():
        name = rows.names[int(np.flatnonzero(~finite)[0])]
        raise InputError(f"solutions must be finite, but {name} holds NaN or infinity; leave it out.")


def _slice_width(rows: Rows, memory: int) -> int:
    """Columns of a slice: a multiple of the block's, so that slices never change which columns are summed together."""
    width = block_width(rows)
    blocks = 3 * len(rows) * width * np.dtype(np.float64).itemsize  # a block, it centred, and differences
    least = blocks + width * rows.itemsize
    if not memory >= least:
        raise InputError(
            f"memory must be at least {least} bytes for {len(rows)} solutions of {rows.dim} parameters, got {memory}."
        )
    columns = (int(memory) - blocks) // rows.itemsize if rows.files else READ
    return min(READ, columns) // width * width

"""Kernels of solutions from their norms and distances, and the components of what they make of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

from landscape import InputError

from .rows import Array, Rows

Kernel = Literal["rbf", "linear", "cosine"] | Callable[[np.ndarray], np.ndarray]
NAMED = ("rbf", "linear", "cosine")
ROUNDING = 1e-12  # of the largest eigenvalue: below are those that are 0 but for rounding, as scikit-learn takes them


def check_kernel(kernel: Kernel, rows: Rows, *, memory: int) -> None:
    """What can be refused before any file is read.

    Raises:
        InputError: an unknown kernel, or a function where files do not fit into the memory.
    """
    if callable(kernel):
        needed = rows.dim * (len(rows) + 1) * rows.dtype.itemsize  # all, and the file at hand
        if rows.files and needed > memory:
            raise InputError(
                f"kernel must be 'rbf', 'linear' or 'cosine' for files larger than memory ({memory} bytes), got a function, "
                f"which is called with all of them at once; raise memory to {needed}, or name a kernel."
            )
    elif kernel not in NAMED:
        raise InputError(f"kernel must be 'rbf', 'linear', 'cosine' or a function, got {kernel!r}.")


def named_kernel(kernel: str, squared: Array, norms: tuple[Array, Array], *, gamma: float) -> Array:
    """k(x, x′) (m, n) of squared distances (m, n) and norms (m,), (n,), up to what centring on both sides takes off.

    Without cancellation between near vectors. Linear: −½‖x − x′‖², which centring turns into the same matrix as x·x′.
    Cosine: 1 − (‖x − x′‖² − (‖x‖ − ‖x′‖)²)/(2‖x‖‖x′‖), right to about 1e-15 times the ratio of the norms.
    """
    if kernel == "rbf":
        return np.exp(-gamma * squared)
    if kernel == "linear":
        return -squared / 2
    products = np.outer(*norms)
    apart = (squared - np.subtract.outer(*norms) ** 2) / 2
    cosine = np.zeros_like(products)  # of θ = 0, which has no direction
    return np.divide(products - apart, products, out=cosine, where=products > 0)


def called_kernel(kernel: Callable[[np.ndarray], np.ndarray], rows: Rows) -> Array:
    """What a function makes of all rows at once: (n, n).

    Raises:
        InputError: it is not symmetric (n, n), or not finite.
    """
    gram, n = np.asarray(kernel(rows.whole()), dtype=np.float64), len(rows)
    if gram.shape != (n, n) or not np.allclose(gram, gram.T, rtol=1e-6, atol=1e-12):
        raise InputError(
            f"kernel must give a symmetric and finite matrix {(n, n)} for {n} solutions, "
            f"got shape {gram.shape}; it is called with all of them at once."
        )
    return gram


def principal(gram: Array, count: int) -> tuple[Array, Array, Array]:
    """All eigenvalues (n,) of the centred Gram matrix, largest first, coordinates (n, count), and means (n,) of gram.

    Coordinates are √λ_j u_j, the entry of largest magnitude of each made positive; 0 where λ_j is, to rounding.
    """
    means = gram.mean(axis=0)
    centred = gram - means - means[:, None] + means.mean()
    values, vectors = np.linalg.eigh((centred + centred.T) / 2)  # ascending
    values, vectors = values[::-1], vectors[:, ::-1][:, :count]
    return values, signed(vectors) * np.sqrt(_positive(values)[:count]), means


def onto(cross: Array, means: Array, values: Array, coordinates: Array) -> Array:
    """Coordinates (m, count) of other points, of which cross (m, n) is the kernel with those that principal was fitted to.

    k̃(x)·u_j/√λ_j, k̃ centred by the means of the fitted ones (Schölkopf, Smola, Müller 1998).
    """
    centred = cross - cross.mean(axis=1, keepdims=True) - means + means.mean()
    positive = _positive(values)[: coordinates.shape[1]]
    return centred @ np.divide(coordinates, positive, out=np.zeros_like(coordinates), where=positive > 0)


def signed(vectors: Array) -> Array:
    """Columns of which the entry of largest magnitude is positive."""
    largest = vectors[np.abs(vectors).argmax(axis=0), np.arange(vectors.shape[1])]
    return vectors * np.where(largest < 0, -1, 1)


def _positive(values: Array) -> Array:
    """Eigenvalues, largest first, with those at 0 that are below what rounding leaves."""
    return np.where(values > ROUNDING * max(values[0], 0), values, 0)

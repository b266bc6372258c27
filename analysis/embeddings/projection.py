"""New solutions in the coordinates of an embedding that was made without them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import numpy as np

from landscape import InputError
from landscape.results import Embedding

from .gram import MEMORY, norms_and_cross_distances
from .kernels import NAMED, Kernel, called_kernel, check_kernel, named_kernel, onto
from .rows import Array, Rows, Solutions, solution_rows

SAME = 1e-6  # of the largest norm, distance or mean: solutions that differ by more are others
ENDS = [0, -1]  # of the fitted ones: distances to them are compared


def project_solutions(
    embedding: Embedding,
    fitted: Solutions,
    new: Solutions,
    *,
    kernel: Callable[[np.ndarray], np.ndarray] | None = None,
    memory: int = MEMORY,
    show_progress: bool = False,
) -> Array:
    """Coordinates (m, components) of new solutions on the components that kernel_pca found for the fitted ones.

    Σ_i k̃(x, x_i) u_ij/√λ_j, k̃ centred by the fitted ones alone: Schölkopf, Smola, Müller 1998; as scikit-learn's
    KernelPCA.transform, to the embedding's signs. The fitted ones get their own coordinates back. A new solution far
    from all of them has an RBF of 0 with each, and lands where all such solutions do, whatever it is.

    Whether the fitted ones are those embedded is seen from their norms and from their distances to the first and the last
    of them, which a change of any vector changes; one map of all that keeps distances goes unseen.

    Cost: no evaluation of the loss; 2(m + 2)nP arithmetic and one read of each file, in slices as in kernel_pca, and one more
    of the first and the last of the fitted ones.

    Args:
        embedding: made by kernel_pca of ``fitted``.
        fitted: those solutions, in the same order and any form that kernel_pca takes.
        new: m solutions of the same architecture, in any of these forms; one is enough.
        kernel: the function, where the embedding was made with one. It is called with new and fitted ones together, and
            must give pairs the same values as before.
        memory, show_progress: as in kernel_pca.

    Raises:
        InputError: other solutions than those embedded, a function that is missing or not the one used, different
            architectures, or what kernel_pca refuses.
    """
    others, own = solution_rows(new, least=1), solution_rows(fitted)
    if others.dim != own.dim:
        raise InputError(
            f"new solutions must have the {own.dim} parameters of the fitted ones, got {others.dim}."
        )
    together, m = _together([others, own]), len(others)
    chosen = _kernel(embedding, kernel)
    check_kernel(chosen, together, memory=memory)
    if len(own) != len(embedding.norms):
        raise InputError(
            f"fitted must be the {len(embedding.norms)} solutions that were embedded, got {len(own)}."
        )
    ends = _together([others, _chosen(own, ENDS), own])
    norms, squared = norms_and_cross_distances(ends, m + 2, memory=memory, show_progress=show_progress)
    _check_same("norm", norms[m + 2 :], embedding.norms, own)
    for end, found in zip(ENDS, np.sqrt(squared[m:]), strict=True):
        _check_same(f"distance to {own.names[end]}", found, embedding.distances[end], own)
    if callable(chosen):
        gram = called_kernel(chosen, together)
        _check_same("mean", gram[m:, m:].mean(axis=0), embedding.kernel_means, own, name="kernel")
        cross = gram[:m, m:]
    else:
        cross = named_kernel(chosen, squared[:m], (norms[:m], norms[m + 2 :]), gamma=embedding.gamma)
    return onto(cross, embedding.kernel_means, embedding.eigenvalues, embedding.coordinates)


def _together(parts: Sequence[Rows]) -> Rows:
    return Rows(
        [vector for part in parts for vector in part.vectors],
        tuple(label for part in parts for label in part.labels),
        tuple(group for part in parts for group in part.groups),
        tuple(name for part in parts for name in part.names),
        np.concatenate([part.steps for part in parts]),
        np.concatenate([part.trajectory for part in parts]),
    )


def _chosen(rows: Rows, which: Sequence[int]) -> Rows:
    return Rows(
        [rows.vectors[i] for i in which],
        tuple(rows.labels[i] for i in which),
        tuple(rows.groups[i] for i in which),
        tuple(rows.names[i] for i in which),
        rows.steps[which],
        rows.trajectory[which],
    )


def _kernel(embedding: Embedding, given: Callable[[np.ndarray], np.ndarray] | None) -> Kernel:
    if given is None and embedding.kernel not in NAMED:
        raise InputError(
            f"kernel must be the function {embedding.kernel!r} that the embedding was made with; pass it."
        )
    if given is not None and embedding.kernel in NAMED:
        raise InputError(
            f"kernel must be left out, as the embedding was made with {embedding.kernel!r}, got a function."
        )
    return given if given is not None else cast(Kernel, embedding.kernel)


def _check_same(what: str, found: Array, stored: Array, rows: Rows, *, name: str = "fitted") -> None:
    """InputError unless what is found of the fitted ones is what the embedding holds of them."""
    scale = np.abs(stored).max()
    other = np.flatnonzero(~(np.abs(found - stored) <= SAME * scale))
    if other.size:
        raise InputError(
            f"{name} must be as the embedding was made with, but the {what} of {rows.names[other[0]]} was "
            f"{stored[other[0]]:.6g} and is {found[other[0]]:.6g}; give the same ones in the same order."
        )

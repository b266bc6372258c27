"""Kernel PCA of solutions, with the simple controls a picture of it must be read beside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.spatial.distance import cdist
from scipy.stats import spearmanr

from landscape import InputError
from landscape.results import Embedding

from .gram import (
    MEMORY,
    Array,
    Kernel,
    Solutions,
    check_kernel,
    kernel_matrix,
    norms_and_distances,
    solution_rows,
)


def kernel_pca(
    solutions: Solutions,
    *,
    kernel: Kernel = "rbf",
    components: int = 2,
    gamma: float | None = None,
    labels: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
    memory: int = MEMORY,
    show_progress: bool = False,
    about: Mapping[str, Any] | None = None,
) -> Embedding:
    """Coordinates of n solutions on the leading principal components in the feature space of a kernel.

    Schölkopf, Smola, Müller 1998: K is centred on both sides, its leading eigenvectors u_j with eigenvalues λ_j give the
    coordinates √λ_j u_j, and explained is λ_j/tr K, the share of all variance in feature space. The entry of
    largest magnitude of each u_j is made positive. As scikit-learn's KernelPCA on the same kernel, to that sign.

    Of the vectors in a high-dimensional space, nearly orthogonal ones differ mostly in norm, and an RBF's first
    component is then a monotone function of ‖θ‖. So the record holds controls: norms, distances, Spearman's ρ of each
    component with the norm (NaN where either is constant), and leave-one-out accuracies of telling the groups apart
    by the nearest mean norm, by the nearest centroid in θ, and by the nearest centroid in these coordinates (which
    are not fitted anew without the one left out). A tie, or a group of one, counts as not told apart; with a single
    group the accuracies are NaN. ``chance`` is the share of the largest group.

    Cost: no evaluation of the loss; O(n²P) arithmetic and one read of each file, of which at most ``memory`` bytes are
    held at a time, beside (n, n) matrices: see norms_and_distances. Files and records give the same numbers.

    Args:
        solutions: Solution records of one architecture, paths of their .npz files, or an array (n, P). Hundreds of files
            larger than memory together are fine: only their headers are held.
        kernel: "rbf" exp(−γ‖x − x′‖²), "linear" x·x′, "cosine" x·x′/(‖x‖‖x′‖), or a function X (n, P) -> (n, n), like those
            of sklearn.metrics.pairwise; a function needs all of X at once, so that files must fit into ``memory``.
        gamma: of the RBF; 1/P by default, as in scikit-learn and in Yu, Morozov (arXiv 2602.21276), where 2σ² = P.
        labels, groups: names (n,) of solutions and of what made them; those of the records by default.
        memory: for what is read and computed at a time, in bytes.
        show_progress: draw a bar on standard error, if that is a terminal.
        about: provenance for the record's header.

    Raises:
        InputError: fewer than two solutions, different architectures, a file that cannot be read, values that are not
            finite, components not between 1 and n − 1, too little memory, or a kernel that is unknown or gives no
            symmetric (n, n).
    """
    rows = solution_rows(solutions)
    labels, groups = _named("labels", labels, rows.labels), _named("groups", groups, rows.groups)
    n = len(rows)
    if not 1 <= components < n:
        raise InputError(f"components must be between 1 and {n - 1} for {n} solutions, got {components}.")
    gamma = float(1 / rows.dim if gamma is None else gamma)
    check_kernel(kernel, rows, gamma=gamma, memory=memory)
    norms, squared = norms_and_distances(rows, memory=memory, show_progress=show_progress)
    centred = _centre(kernel_matrix(kernel, rows, norms, squared, gamma=gamma))
    values, vectors = np.linalg.eigh(centred)  # ascending
    values, vectors = np.maximum(values[::-1][:components], 0), vectors[:, ::-1][:, :components]
    largest = vectors[np.abs(vectors).argmax(axis=0), np.arange(components)]
    coordinates = vectors * np.where(largest < 0, -1, 1) * np.sqrt(values)
    variance = centred.trace()
    return Embedding(
        coordinates=coordinates,
        eigenvalues=values,
        explained=values / variance if variance > 0 else np.full(components, np.nan),
        labels=labels,
        groups=groups,
        norms=norms,
        distances=np.sqrt(squared),
        kernel=kernel if isinstance(kernel, str) else getattr(kernel, "__name__", "callable"),
        gamma=gamma if kernel == "rbf" else float("nan"),
        norm_correlation=np.array([_spearman(column, norms) for column in coordinates.T]),
        norm_accuracy=_accuracy(norms[:, None], groups),
        centroid_accuracy=_leave_one_out(squared, groups),
        kernel_accuracy=_accuracy(coordinates, groups),
        chance=max(groups.count(group) for group in set(groups)) / n,
        about=dict(about or {}),
    )


def _named(name: str, given: Sequence[str] | None, default: tuple[str, ...]) -> tuple[str, ...]:
    if given is not None and len(given) != len(default):
        raise InputError(f"{name} must name each of the {len(default)} solutions, got {len(given)}.")
    return default if given is None else tuple(given)


def _centre(gram: Array) -> Array:
    """The Gram matrix of features with their mean taken off."""
    rows = gram.mean(axis=0)
    centred = gram - rows - rows[:, None] + gram.mean()
    return (centred + centred.T) / 2


def _spearman(component: Array, norms: Array) -> float:
    if np.ptp(component) == 0 or np.ptp(norms) == 0:
        return float("nan")
    return float(spearmanr(component, norms)[0])  # pyright: ignore[reportArgumentType]


def _accuracy(features: Array, groups: tuple[str, ...]) -> float:
    squared: Array = cdist(features, features, "sqeuclidean").astype(np.float64)
    return _leave_one_out(squared, groups)


def _leave_one_out(squared: Array, groups: tuple[str, ...]) -> float:
    """The share of points (n) nearer to the centroid of the others of their group than to any other centroid.

    squared (n, n): distances. ‖x_i − mean_S‖² = mean_{j∈S} d_ij − ½ mean_{j,k∈S} d_jk, so no centroid is formed.
    """
    names, n = sorted(set(groups)), len(groups)
    if len(names) < 2:
        return float("nan")
    told_apart = 0
    for i in range(n):
        distance = {}
        for name in names:
            others = [j for j in range(n) if groups[j] == name and j != i]
            within = squared[np.ix_(others, others)]
            distance[name] = squared[i, others].mean() - within.mean() / 2 if others else np.inf
        own = distance.pop(groups[i])
        told_apart += own < min(distance.values())
    return told_apart / n

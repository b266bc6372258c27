"""Kernel PCA of solutions, with the simple controls a picture of it must be read beside."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from scipy.stats import spearmanr

from landscape import InputError, Solution
from landscape.results import Embedding

Array = NDArray[np.float64]
Kernel = Literal["rbf", "linear", "cosine"] | Callable[[np.ndarray], np.ndarray]
BLOCK = 8192  # columns of θ taken in double precision at a time


def kernel_pca(
    solutions: Sequence[Solution] | np.ndarray,
    *,
    kernel: Kernel = "rbf",
    components: int = 2,
    gamma: float | None = None,
    labels: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
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

    Cost: no evaluation of the loss; O(n²P) arithmetic, memory 2nP numbers.

    Args:
        solutions: Solution records of one architecture, or an array (n, P).
        kernel: "rbf" exp(−γ‖x − x′‖²), "linear" x·x′, "cosine" x·x′/(‖x‖‖x′‖), or a function X (n, P) -> (n, n), like those
            of sklearn.metrics.pairwise.
        gamma: of the RBF; 1/P by default, as in scikit-learn and in Yu, Morozov (arXiv 2602.21276), where 2σ² = P.
        labels, groups: names (n,) of solutions and of what made them; those of the records by default.
        about: provenance for the record's header.

    Raises:
        InputError: fewer than two solutions, different architectures, values that are not finite, components not
            between 1 and n − 1, or a kernel that is unknown or gives no symmetric (n, n).
    """
    points, labels, groups = _points(solutions, labels, groups)
    n, dim = points.shape
    if not 1 <= components < n:
        raise InputError(f"components must be between 1 and {n - 1} for {n} solutions, got {components}.")
    inner, squared = _products(points)
    norms = np.sqrt(inner.diagonal())
    gamma = float(1 / dim if gamma is None else gamma)
    centred = _centre(_gram(kernel, points, inner, squared, gamma))
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


def _points(
    solutions: Sequence[Solution] | np.ndarray, labels: Sequence[str] | None, groups: Sequence[str] | None
) -> tuple[np.ndarray, tuple[str, ...], tuple[str, ...]]:
    """θ (n, P) in the type it came in, with labels and groups (n,)."""
    if isinstance(solutions, np.ndarray):
        points = solutions
        named, grouped = [str(i) for i in range(len(points))], [""] * len(points)
        if points.ndim != 2:
            raise InputError(f"solutions must be an array (n, P), got shape {points.shape}.")
    else:
        for s in solutions:
            if s.shapes != solutions[0].shapes:
                raise InputError(
                    f"solutions must be of one architecture, but the parameters of {s.label} and "
                    f"{solutions[0].label} differ in shape; compare those of one model."
                )
        points = np.stack([s.theta for s in solutions]) if len(solutions) else np.zeros((0, 0))
        named, grouped = [s.label for s in solutions], [s.optimizer for s in solutions]
    if len(points) < 2:
        raise InputError(f"solutions must hold at least two, got {len(points)}; train another one.")
    if not np.isfinite(points).all():
        row = int(np.flatnonzero(~np.isfinite(points).all(axis=1))[0])
        raise InputError(f"solutions must be finite, but {named[row]} holds NaN or infinity; leave it out.")
    for name, given in (("labels", labels), ("groups", groups)):
        if given is not None and len(given) != len(points):
            raise InputError(f"{name} must name each of the {len(points)} solutions, got {len(given)}.")
    return points, tuple(named if labels is None else labels), tuple(grouped if groups is None else groups)


def _products(points: np.ndarray) -> tuple[Array, Array]:
    """Inner products and squared distances, both (n, n), in double precision by blocks of columns."""
    n = len(points)
    inner, squared = np.zeros((n, n)), np.zeros((n, n))
    for first in range(0, points.shape[1], BLOCK):
        block = points[:, first : first + BLOCK].astype(np.float64)
        inner += block @ block.T
        squared += cdist(block, block, "sqeuclidean")  # of differences: exact where solutions are close
    return inner, squared


def _gram(kernel: Kernel, points: np.ndarray, inner: Array, squared: Array, gamma: float) -> Array:
    if callable(kernel):
        gram = np.asarray(kernel(points), dtype=np.float64)
        if gram.shape != inner.shape or not np.allclose(gram, gram.T, rtol=1e-6, atol=1e-12):
            raise InputError(
                f"kernel must give a symmetric and finite matrix {inner.shape} for {len(points)} solutions, "
                f"got shape {gram.shape}; it is called with all of them at once."
            )
        return gram
    if kernel == "rbf":
        if not gamma > 0:
            raise InputError(f"gamma must be positive, got {gamma}.")
        return np.exp(-gamma * squared)
    if kernel == "linear":
        return inner
    if kernel == "cosine":
        norms = np.sqrt(inner.diagonal())
        scale = np.divide(1, norms, out=np.zeros_like(norms), where=norms > 0)  # θ = 0 has no direction
        return inner * np.outer(scale, scale)
    raise InputError(f"kernel must be 'rbf', 'linear', 'cosine' or a function, got {kernel!r}.")


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

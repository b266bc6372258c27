"""What groups of points are told apart by, in cross-validation and under permuted groups, from distances alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import eigh
from scipy.spatial.distance import cdist

from .kernels import ROUNDING
from .rows import Array

CHUNK = 2**24  # entries of what many permutations take at a time


@dataclass(frozen=True, eq=False)
class Split:
    """Which points are told apart together: fold (repeats, n) of each, counted from 0; folds of them."""

    fold: NDArray[np.int64]
    folds: int


def stratified_splits(
    groups: Sequence[str], units: NDArray[np.int64], *, folds: int, repeats: int, seed: int
) -> Split | None:
    """Repeated stratified k-fold splits of units (the points of one trajectory are one unit), the same for all controls.

    scikit-learn's RepeatedStratifiedKFold. Of groups with fewer units than folds, as many folds as the smallest has;
    None for a single group, or where a group has one unit only, of which nothing would be left to learn from.
    """
    from sklearn.model_selection import RepeatedStratifiedKFold

    _, first, unit = np.unique(units, return_index=True, return_inverse=True)
    names = np.array(groups)[first]
    smallest = int(np.unique(names, return_counts=True)[1].min())
    folds = min(folds, smallest)
    if len(set(groups)) < 2 or folds < 2:
        return None
    splits = RepeatedStratifiedKFold(n_splits=folds, n_repeats=repeats, random_state=seed)
    fold = np.empty((repeats, len(names)), dtype=np.int64)
    for i, (_, told) in enumerate(splits.split(np.zeros(len(names)), names)):
        fold[i // folds, told] = i % folds
    return Split(fold[:, unit], folds)


def centroid_accuracies(squared: Array, groups: Sequence[str], split: Split) -> Array:
    """Shares (repeats,) told apart by the nearest centroid of the points of other folds, from squared distances (n, n).

    ‖x − mean_S‖² = mean_{j∈S} d²(x, j) − ½ mean_{j,k∈S} d²(j, k): no centroid is formed. The centroids of a fold are of
    all points outside it, those of its own group and of the others treated alike. Leave-one-out does not: the
    centroid of the own group has one point less, which alone puts its accuracy below chance where groups do not
    differ. Shares are means over groups, so that chance is one over their number whatever their sizes; a tie
    counts as not told apart.
    """
    return np.array([_told(_to_centroids(squared, groups, fold, split.folds), groups) for fold in split.fold])


def kernel_accuracies(gram: Array, groups: Sequence[str], split: Split, *, components: int) -> Array:
    """Shares (repeats,) told apart by the nearest centroid in kernel PCA coordinates that are fitted without the fold.

    gram (n, n). In each fold the components are those of the other points, onto which its own are projected. Cost: an
    eigendecomposition of (n, n) for each fold of each repetition.
    """
    shares = []
    for fold in split.fold:
        distance = np.empty((len(groups), len(set(groups))))
        for one in range(split.folds):
            told = fold == one
            x = _refitted(gram, ~told, min(components, int((~told).sum()) - 1))
            distance[told] = _to_centroids(squares(x), groups, told.astype(np.int64), 2)[told]
        shares.append(_told(distance, groups))
    return np.array(shares)


def squares(points: Array) -> Array:
    """Squared distances (n, n) of points (n, k)."""
    return cdist(points, points, "sqeuclidean").astype(np.float64)


def permuted_statistics(
    squared: Array,
    groups: Sequence[str],
    units: NDArray[np.int64],
    *,
    permutations: int,
    generator: torch.Generator,
) -> Array:
    """Pseudo-F (1 + permutations,) of squared distances (n, n): as groups are, then with their names permuted over units.

    F = (SS_between/(G − 1))/(SS_within/(n − G)), SS_within = Σ_g Σ_{j,k∈g} d²(j, k)/2n_g, SS_total = Σ_{j,k} d²(j, k)/2n:
    Anderson 2001 ("A new method for non-parametric multivariate analysis of variance"). On norms it is
    the F of the analysis of variance. NaN where it is 0/0. Cost: 2 n²G(1 + permutations) floating-point operations.
    """
    _, first, unit = np.unique(units, return_index=True, return_inverse=True)
    names = np.array(groups)[first]
    orders = [torch.randperm(len(names), generator=generator).numpy() for _ in range(permutations)]
    given = np.stack([names[order][unit] for order in [np.arange(len(names)), *orders]])
    n, kinds = len(groups), sorted(set(groups))
    within, total = np.zeros(len(given)), squared.sum() / (2 * n)
    several = max(1, CHUNK // n)
    for kind in kinds:
        for start in range(0, len(given), several):
            members = (given[start : start + several] == kind).T.astype(np.float64)  # (n, several)
            inside = np.einsum("ij,ij->j", members, squared @ members)
            within[start : start + several] += inside / (2 * np.maximum(members.sum(axis=0), 1))
    with np.errstate(divide="ignore", invalid="ignore"):
        return ((total - within) / (len(kinds) - 1)) / (within / (n - len(kinds)))


def _to_centroids(squared: Array, groups: Sequence[str], fold: NDArray[np.int64], folds: int) -> Array:
    """Squared distances (n, G) of each point to the centroids of those outside its fold; inf where none is left."""
    members = np.stack([np.array(groups) == name for name in sorted(set(groups))], axis=1)
    distance = np.empty(members.shape)
    for one in range(folds):
        told = fold == one
        weights = members * ~told[:, None]
        left = weights.sum(axis=0)
        weights = weights / np.maximum(left, 1)
        means = squared @ weights
        distance[told] = np.where(left > 0, means - (weights * means).sum(axis=0) / 2, np.inf)[told]
    return distance


def _told(distance: Array, groups: Sequence[str]) -> float:
    """The share of points strictly nearest to the centroid of their own group, the mean over groups."""
    names, own = np.unique(np.array(groups), return_inverse=True)
    each = np.arange(len(own))
    nearest = distance[each, own]
    others = distance.copy()
    others[each, own] = np.inf
    right = nearest < others.min(axis=1)
    return float(np.mean([right[own == i].mean() for i in range(len(names))]))


def _refitted(gram: Array, fitted: NDArray[np.bool_], components: int) -> Array:
    """Coordinates (n, components) of all points on the principal components of some of them."""
    inside = gram[np.ix_(fitted, fitted)]
    means = inside.mean(axis=0)
    centred = inside - means - means[:, None] + means.mean()
    top = len(inside) - components, len(inside) - 1
    values, vectors = eigh((centred + centred.T) / 2, subset_by_index=top)
    across = gram[:, fitted]
    across = across - across.mean(axis=1, keepdims=True) - means + means.mean()
    kept = values > ROUNDING * np.abs(values).max()
    return across @ (vectors[:, kept] / np.sqrt(values[kept]))

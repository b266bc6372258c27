"""What groups of points are told apart by, in cross-validation and under permuted groups, from distances alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from .kernels import ROUNDING, onto, principal
from .rows import Array

CHUNK = 2**24  # entries of what many permutations take at a time


@dataclass(frozen=True, eq=False)
class Split:
    """Which points are told apart together, and which they are told apart by.

    fold (repeats, n) of each point, counted from 0. learned (repeats, folds, n): those outside each fold whose means are
    the centroids there, of as many units in every group.
    """

    fold: NDArray[np.int64]
    learned: NDArray[np.bool_]

    @property
    def folds(self) -> int:
        return self.learned.shape[1]


def stratified_splits(
    groups: Sequence[str], units: NDArray[np.int64], *, folds: int, repeats: int, seed: int
) -> Split | None:
    """Repeated stratified k-fold splits of units (the points of one trajectory are one unit), the same for all controls.

    scikit-learn's RepeatedStratifiedKFold. Of groups with fewer units than folds, as many folds as the smallest has;
    None for a single group, or where a group has one unit only, of which nothing would be left to learn from.

    Centroids are of as many units in every group: the fewest that any has outside the fold, drawn at random where there
    are more. For the mean of m points of variance σ² in each of P coordinates lies Pσ²/m further from every other point
    than its expectation does, so that in high dimensions the mean of more points is nearer whatever they are.
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
    learned = np.empty((repeats, folds, len(names)), dtype=np.bool_)
    draw = np.random.default_rng(seed)
    for i, (left, told) in enumerate(splits.split(np.zeros(len(names)), names)):
        fold[i // folds, told] = i % folds
        learned[i // folds, i % folds] = _as_many_of_each(names, left, draw)
    return Split(fold[:, unit], learned[:, :, unit])


def centroid_accuracies(squared: Array, groups: Sequence[str], split: Split) -> Array:
    """Shares (repeats,) told apart by the nearest centroid of the points of other folds, from squared distances (n, n).

    ‖x − mean_S‖² = mean_{j∈S} d²(x, j) − ½ mean_{j,k∈S} d²(j, k): no centroid is formed. Shares are means over groups, and
    a tie of k centroids counts 1/k. Where names are exchangeable over units the expected share is so one over the
    number of groups exactly, in any dimension and for groups of any sizes: outside a fold, units that make one centroid
    could as well have made another.
    """
    members, shares = _members(groups), []
    for fold, learned in zip(split.fold, split.learned, strict=True):
        distance = np.empty(members.shape)
        for one, known in enumerate(learned):
            told = fold == one
            distance[told] = _to_centroids(squared, members & known[:, None])[told]
        shares.append(_told(distance, members))
    return np.array(shares)


def kernel_accuracies(gram: Array, groups: Sequence[str], split: Split, *, components: int) -> Array:
    """Shares (repeats,) told apart by the nearest centroid in kernel PCA coordinates that are fitted without the fold.

    gram (n, n). In each fold the components are those of all points outside it, onto which its own are projected; the
    centroids are as in centroid_accuracies. Cost: an eigendecomposition of (n, n) for each fold of each repetition.
    """
    members, shares = _members(groups), []
    for fold, learned in zip(split.fold, split.learned, strict=True):
        distance = np.empty(members.shape)
        for one, known in enumerate(learned):
            told = fold == one
            x = _refitted(gram, ~told, components)
            distance[told] = _to_centroids(squares(x), members & known[:, None])[told]
        shares.append(_told(distance, members))
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


def _as_many_of_each(
    names: NDArray[np.str_], left: NDArray[np.int64], draw: np.random.Generator
) -> NDArray[np.bool_]:
    """Of the units ``left``, as many of every name as there are of the rarest (n,), drawn without replacement."""
    each = [left[names[left] == name] for name in np.unique(names)]
    fewest = min(map(len, each))
    chosen = np.zeros(len(names), dtype=np.bool_)
    for units in each:
        chosen[draw.permutation(units)[:fewest]] = True
    return chosen


def _members(groups: Sequence[str]) -> NDArray[np.bool_]:
    """Which points (n, G) are of each group, in the order of their names."""
    return np.stack([np.array(groups) == name for name in sorted(set(groups))], axis=1)


def _to_centroids(squared: Array, known: NDArray[np.bool_]) -> Array:
    """Squared distances (n, G) of all points to the means of those known (n, G) of each group."""
    weights = known / known.sum(axis=0)
    means = squared @ weights
    return means - (weights * means).sum(axis=0) / 2


def _told(distance: Array, members: NDArray[np.bool_]) -> float:
    """The share of points nearest to the centroid of their own group, the mean over groups; of k as near, 1/k."""
    nearest = distance.min(axis=1, keepdims=True)
    ties = distance <= nearest + ROUNDING * np.abs(distance).max(axis=1, keepdims=True)
    right = (ties & members).sum(axis=1) / ties.sum(axis=1)
    return float(np.mean(right @ members / members.sum(axis=0)))


def _refitted(gram: Array, fitted: NDArray[np.bool_], components: int) -> Array:
    """Coordinates (n, components) of all points on the principal components of some of them."""
    values, coordinates, means = principal(gram[np.ix_(fitted, fitted)], components)
    return onto(gram[:, fitted], means, values, coordinates)

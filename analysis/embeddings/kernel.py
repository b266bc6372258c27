"""Kernel PCA of solutions and of trajectories, with the simple controls a picture of it must be read beside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr

from landscape import InputError
from landscape.results import Embedding

from .controls import (
    centroid_accuracies,
    kernel_accuracies,
    permuted_statistics,
    squares,
    stratified_splits,
)
from .gram import MEMORY, norms_and_distances
from .kernels import Kernel, called_kernel, check_kernel, named_kernel, principal
from .rows import Array, Rows, Solutions, check_one_group, named, solution_rows

Gamma = float | Literal["median"] | None


def kernel_pca(
    solutions: Solutions,
    *,
    kernel: Kernel = "rbf",
    components: int = 2,
    gamma: Gamma = None,
    labels: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
    folds: int = 5,
    repeats: int = 10,
    permutations: int = 999,
    generator: torch.Generator | None = None,
    memory: int = MEMORY,
    show_progress: bool = False,
    space: str = "parameters",
    about: Mapping[str, Any] | None = None,
) -> Embedding:
    """Coordinates of n solutions on the leading principal components in the feature space of a kernel.

    Schölkopf, Smola, Müller 1998: K is centred on both sides, its leading eigenvectors u_j with eigenvalues λ_j give the
    coordinates √λ_j u_j, and explained is λ_j/tr K, the share of all variance in feature space. The entry of
    largest magnitude of each u_j is made positive. As scikit-learn's KernelPCA on the same kernel, to that sign.

    Vectors in a high-dimensional space are nearly orthogonal and differ mostly in norm, of which the first component of
    an RBF of their width is then a monotone function. So the record holds controls: norms, distances, Spearman's ρ of each
    component with the norm (NaN where either is constant); accuracies of telling the groups apart by the nearest mean
    norm, the nearest centroid in θ, and the nearest centroid in these coordinates, in repeated stratified cross-validation
    with kernel PCA fitted anew without each fold and centroids of as many solutions in every group; and pseudo-F of
    the same three with permuted groups. Points of one trajectory are no independent witnesses: they stay in one fold,
    and are permuted, together. Where runs of all groups start at the same points, p-values are larger than they need be.

    Cost: no evaluation of the loss; O(n²P) arithmetic and one read of each file, of which at most ``memory`` bytes are
    held at a time, beside (n, n) matrices: see norms_and_distances. Files and records give the same numbers. The controls
    take ``folds · repeats`` eigendecompositions and 6n²G·permutations operations: a tenth of a second for n = 96.

    Args:
        solutions: Solution records of one architecture, paths of their .npz files, Trajectories, a list of any of these, or an
            array (n, P). Hundreds of files larger than memory together are fine: only their headers are held.
        kernel: "rbf" exp(−γ‖x − x′‖²), "linear" x·x′, "cosine" x·x′/(‖x‖‖x′‖), or a function X (n, P) -> (n, n), like those
            of sklearn.metrics.pairwise; a function needs all of X at once, so that files must fit into ``memory``.
        gamma: of the RBF; 1/P by default, as in scikit-learn and in Yu, Morozov (arXiv 2602.21276), where 2σ² = P; "median"
            is one over the median squared distance of two (Garreau, Jitkrittum, Kanagawa 2017, arXiv 1707.07269).
        labels, groups: names (n,) of solutions and of what made them, all points of one trajectory by the same; those of the
            records by default.
        folds, repeats, permutations: of the controls; the smallest group's size, if that is less, in place of folds.
            repeats=0 or permutations=0 leaves theirs out.
        generator: of splits and permutations; they are the same ones every time without it.
        memory: for what is read and computed at a time, in bytes.
        show_progress: draw a bar on standard error, if that is a terminal.
        space: what the vectors are, for the record.
        about: provenance for the record's header.

    Raises:
        InputError: fewer than two solutions, different architectures, a file that cannot be read, values that are not
            finite, components not between 1 and n − 1, points of one trajectory in two groups, too little memory, or a
            kernel that is unknown or gives no symmetric (n, n).
    """
    rows = solution_rows(solutions)
    labels, groups = named("labels", labels, rows.labels), named("groups", groups, rows.groups)
    check_one_group(rows.trajectory, groups, rows.names)
    _check(rows, components, gamma, folds=folds, repeats=repeats, permutations=permutations)
    check_kernel(kernel, rows, memory=memory)
    norms, squared = norms_and_distances(rows, memory=memory, show_progress=show_progress)
    width, rule = _gamma(gamma, squared, rows.dim)
    gram = _gram(kernel, rows, squared, norms, gamma=width)
    values, coordinates, means = principal(gram, components)
    controls = _controls(
        {"norm": squares(norms[:, None]), "centroid": squared, "kernel": squares(coordinates)},
        gram,
        components,
        groups=groups,
        units=_units(rows),
        counts=(folds, repeats, permutations),
        generator=generator or torch.Generator().manual_seed(0),
    )
    return Embedding(
        coordinates=coordinates,
        eigenvalues=values,
        kernel_means=means,
        labels=labels,
        groups=groups,
        steps=rows.steps,
        trajectory=rows.trajectory,
        norms=norms,
        distances=np.sqrt(squared),
        kernel=kernel if isinstance(kernel, str) else getattr(kernel, "__name__", "callable"),
        gamma=width if kernel == "rbf" else float("nan"),
        gamma_rule=rule if kernel == "rbf" else "",
        space=space,
        norm_correlation=np.array([_spearman(column, norms) for column in coordinates.T]),
        **controls,
        about=dict(about or {}),
    )


def _check(rows: Rows, components: int, gamma: Gamma, **counts: int) -> None:
    n = len(rows)
    if not 1 <= components < n:
        raise InputError(f"components must be between 1 and {n - 1} for {n} solutions, got {components}.")
    if gamma is not None and gamma != "median" and not (isinstance(gamma, float | int) and gamma > 0):
        raise InputError(f"gamma must be positive or 'median', got {gamma!r}.")
    for name, least in {"folds": 2, "repeats": 0, "permutations": 0}.items():
        if counts[name] < least:
            raise InputError(f"{name} must be at least {least}, got {counts[name]}.")


def _gamma(gamma: Gamma, squared: Array, dim: int) -> tuple[float, str]:
    """A number, and where it is from."""
    if gamma is None:
        return 1 / dim, "1/P"
    if gamma != "median":
        return float(gamma), "given"
    median = float(np.median(squared[np.triu_indices(len(squared), 1)]))
    if not median > 0:
        raise InputError(
            "gamma must be given as a number where half of all pairs of solutions are equal, got 'median'."
        )
    return 1 / median, "median"


def _gram(kernel: Kernel, rows: Rows, squared: Array, norms: Array, *, gamma: float) -> Array:
    if callable(kernel):
        return called_kernel(kernel, rows)
    return named_kernel(kernel, squared, (norms, norms), gamma=gamma)


def _units(rows: Rows) -> NDArray[np.int64]:
    """What is told apart and permuted as one (n,): a solution by itself, or all points of one trajectory."""
    return np.where(rows.trajectory < 0, -1 - np.arange(len(rows)), rows.trajectory)


def _controls(
    squared: dict[str, Array],
    gram: Array,
    components: int,
    *,
    groups: tuple[str, ...],
    units: NDArray[np.int64],
    counts: tuple[int, int, int],
    generator: torch.Generator,
) -> dict[str, Any]:
    """The fields of an Embedding that say what tells the groups apart."""
    folds, repeats, permutations = counts
    if len(set(groups)) < 2 or len(set(units.tolist())) <= len(set(groups)):
        return {}  # one group, or nothing that could differ within them
    seed = int(torch.randint(2**31 - 1, (), generator=generator))
    found: dict[str, Any] = {}
    split = repeats and stratified_splits(groups, units, folds=folds, repeats=repeats, seed=seed)
    if split:
        found["folds"] = split.folds
        found["accuracies"] = {
            k: centroid_accuracies(squared[k], groups, split) for k in ("norm", "centroid")
        } | {"kernel": kernel_accuracies(gram, groups, split, components=components)}
    if permutations:
        state = generator.get_state()
        found["statistics"] = {}
        for name, distances in squared.items():
            generator.set_state(state)  # the same permutations for all, so that they can be compared
            found["statistics"][name] = permuted_statistics(
                distances, groups, units, permutations=permutations, generator=generator
            )
    return found


def _spearman(component: Array, norms: Array) -> float:
    if np.ptp(component) == 0 or np.ptp(norms) == 0:
        return float("nan")
    return float(spearmanr(component, norms)[0])  # pyright: ignore[reportArgumentType]

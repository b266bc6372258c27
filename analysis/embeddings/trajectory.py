"""The plane that holds most of a training trajectory, and how far the trajectory is from it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from scipy.linalg import solve_triangular

from landscape import InputError
from landscape.results import TrajectoryPCA

from .gram import MEMORY, blocks, norms_and_distances
from .kernels import ROUNDING, signed
from .rows import Array, Rows, Solutions, check_one_group, named, solution_rows


def trajectory_pca(
    thetas: Solutions,
    *,
    components: int = 2,
    center: Literal["last", "mean"] = "last",
    labels: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
    memory: int = MEMORY,
    show_progress: bool = False,
    about: Mapping[str, Any] | None = None,
) -> TrajectoryPCA:
    """The plane through the center along the leading principal components of T points θ_i, with their distances from it.

    Li, Xu, Taylor, Studer, Goldstein 2018 (arXiv 1712.09913), section 7: the directions are the right singular vectors of
    the matrix whose rows are θ_i − center, about the last point as they write it. About the mean it is the PCA of
    scikit-learn (which their program calls on these rows, so that its plane is the mean's, drawn from the last point).
    Here they come from the Gram matrix of the rows, as T ≪ P: eigenvectors u_j, eigenvalues λ_j, coordinates √λ_j u_j,
    directions Σ_i u_ij (θ_i − center)/√λ_j, made orthonormal to rounding. The largest coordinate along each is positive.

    Read what is explained beside ``random_walk_shares`` of the record: about its mean, a random walk in many dimensions has
    61 % of its variance along one direction and 76 % in a plane, and draws Lissajous curves there, whatever the loss
    (Antognini and Sohl-Dickstein 2018, arXiv 1806.08805). And the loss on the plane is not that along the path, which lies
    ``residual`` away: right to about 1e-8 of the largest distance from the center.

    Cost: no evaluation of the loss; T²P + 2TkP arithmetic and two reads of each file in slices of ``memory`` bytes. Memory
    beside it: (k + 1, P) numbers in double precision, twice while they are made orthonormal.

    Args:
        thetas: an array (T, P), a Trajectory, records or files of one run in the order of training; or a list of several
            trajectories (arrays or Trajectories), whose points are pooled. Steps are those of Trajectories and checkpoints;
            where points have none, they are counted.
        components: k.
        center: the last point (of the first trajectory), or the mean of all.
        labels, groups: names (T,) of the points and of what made them, all points of one trajectory by the same.
        memory: for what is read and computed at a time, in bytes.
        show_progress: draw a bar on standard error, if that is a terminal.
        about: provenance for the record's header.

    Raises:
        InputError: fewer than two points, single points of two runs or whose steps do not ascend, points that span fewer
            directions than components, or what kernel_pca refuses.
    """
    rows = solution_rows(thetas)
    labels, groups = named("labels", labels, rows.labels), named("groups", groups, rows.groups)
    trajectory, steps = _order(rows)
    check_one_group(trajectory, groups, rows.names)
    weights = _center(center, trajectory)
    if not 1 <= components < len(rows):
        raise InputError(
            f"components must be between 1 and {len(rows) - 1} for {len(rows)} points, got {components}."
        )
    _, squared = norms_and_distances(rows, memory=memory, show_progress=show_progress)
    gram = _gram_about(squared, weights)
    values, vectors = np.linalg.eigh(gram)
    values, vectors = values[::-1], signed(vectors[:, ::-1][:, :components])
    _check_rank(values, components)
    roots = np.sqrt(values[:components])
    middle, directions = _directions(
        rows, weights, vectors / roots, memory=memory, show_progress=show_progress
    )
    directions, coordinates = _orthonormal(directions, vectors * roots)
    squares = gram.diagonal()
    return TrajectoryPCA(
        center=middle,
        directions=directions,
        coordinates=coordinates,
        eigenvalues=values,
        residual=np.sqrt(np.maximum(squares - (coordinates**2).sum(axis=1), 0)),
        distances=np.sqrt(squares),
        labels=labels,
        groups=groups,
        steps=steps,
        trajectory=trajectory,
        centered=center,
        about=dict(about or {}),
    )


def _order(rows: Rows) -> tuple[np.ndarray, Array]:
    """Which trajectory each point is of, and at which step: points by themselves make one, in their order."""
    alone = rows.trajectory < 0
    if alone.all():
        return np.zeros(len(rows), dtype=np.int64), _steps_of_one(rows)
    if alone.any():
        raise InputError(
            f"thetas must be points of one trajectory or whole trajectories, but {rows.names[int(alone.argmax())]} is a "
            "point beside a trajectory; give it as a list of its own."
        )
    return rows.trajectory, rows.steps


def _steps_of_one(rows: Rows) -> Array:
    """Steps (T,) of points given by themselves, counted from 0 where they have none."""
    known = np.isfinite(rows.steps)
    runs = [label.rpartition("@")[0] if s else label for label, s in zip(rows.labels, known, strict=True)]
    for i in range(1, len(rows) if rows.groups[0] else 0):  # rows of an array have no names
        if runs[i] != runs[0]:
            raise InputError(
                f"thetas must be points of one run where they are given one by one, but {rows.names[0]} and {rows.names[i]} "
                "are of two; give a list of Trajectories or of arrays (T, P)."
            )
    if not known.any():
        return np.arange(len(rows), dtype=np.float64)
    if not known.all():
        raise InputError(
            f"thetas must all be checkpoints or none, but {rows.names[int(known.argmin())]} has no step; leave it out."
        )
    late = np.flatnonzero(np.diff(rows.steps) <= 0)
    if late.size:
        raise InputError(
            f"thetas must be in the order of training, but {rows.names[late[0] + 1]} comes after {rows.names[late[0]]}; "
            "sort them by their steps, each once."
        )
    return rows.steps


def _center(center: str, trajectory: np.ndarray) -> Array:
    """Weights (T,) of the points in the center."""
    if center not in ("last", "mean"):
        raise InputError(f"center must be 'last' or 'mean', got {center!r}.")
    count = len(trajectory)
    if center == "mean":
        return np.full(count, 1 / count)
    weights = np.zeros(count)
    weights[np.flatnonzero(trajectory == trajectory[0])[-1]] = 1
    return weights


def _gram_about(squared: Array, weights: Array) -> Array:
    """(θ_i − c)·(θ_j − c) (T, T) from squared distances, c the mean under weights that sum to one (Torgerson 1952)."""
    away = squared @ weights
    away = away - (weights @ away) / 2  # ‖θ_i − c‖²
    gram = (away[:, None] + away - squared) / 2
    np.fill_diagonal(gram, np.maximum(away, 0))
    return gram


def _check_rank(values: Array, components: int) -> None:
    rank = int((values > ROUNDING * max(values[0], 0)).sum())
    if components > rank:
        raise InputError(
            f"components must be at most {rank}, as the points span no more directions from the center, got {components}."
        )


def _directions(
    rows: Rows, weights: Array, vectors: Array, *, memory: int, show_progress: bool
) -> tuple[Array, Array]:
    """The center (P,) and Σ_i vectors_ij (θ_i − center) (k, P), in one more pass over the points."""
    middle, directions, first = np.empty(rows.dim), np.empty((vectors.shape[1], rows.dim)), 0
    for block in blocks(rows, memory=memory, show_progress=show_progress, title="Directions"):
        here = slice(first, first := first + block.shape[1])
        middle[here] = weights @ block
        block -= middle[here]
        directions[:, here] = vectors.T @ block
    return middle, directions


def _orthonormal(directions: Array, coordinates: Array) -> tuple[Array, Array]:
    """Directions (k, P) made orthonormal to rounding, and the coordinates (T, k) along them; twice is enough."""
    for _ in range(2):
        lower = np.linalg.cholesky(directions @ directions.T)
        directions = solve_triangular(lower, directions, lower=True)
        coordinates = solve_triangular(lower, coordinates.T, lower=True).T
    return directions, coordinates

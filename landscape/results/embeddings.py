"""Solutions, and points on the way to them, in few dimensions.

Shapes: n solutions, T points of trajectories, P parameters, G groups. Missing numbers are NaN.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..records import NAN, Array, Record


@dataclass(frozen=True, kw_only=True, eq=False)
class Embedding(Record):
    """Kernel PCA of solutions: coordinates (n, components), all eigenvalues (n,) largest first, and controls beside them.

    labels and groups (n,) name solution and optimizer. steps (n,), NaN where unknown, and trajectory (n,), counted from 0 and
    −1 for a solution by itself, say where on which trajectory a point lies. kernel_means (n,) is what new points are centred
    by. ``gamma_rule`` says where gamma is from: "1/P", "median" or "given". ``space`` is what the vectors are:
    "parameters", or "outputs" on given examples; norms (n,) and distances (n, n) are theirs.

    A separation along a component says little where a simple control does as well. ``accuracies`` holds, by control, the
    shares told apart in each repetition (R,) of a cross-validation, ties of k groups counted 1/k: "norm" by ‖θ‖ alone,
    "centroid" by the nearest centroid in θ, "kernel" by the coordinates, whose kernel PCA was fitted without those to be
    told apart. ``statistics``
    holds pseudo-F (1 + permutations,) of the same three: as it is, then under permuted groups. Both are empty where
    there is nothing to tell apart. norm_correlation (components,) is Spearman's ρ of each component with the norm.
    """

    schema = 2

    coordinates: Array
    eigenvalues: Array
    kernel_means: Array
    labels: tuple[str, ...]
    groups: tuple[str, ...]
    steps: Array
    trajectory: Array
    norms: Array
    distances: Array  # (n, n) Euclidean
    kernel: str
    gamma: float
    gamma_rule: str = ""
    space: str = "parameters"
    norm_correlation: Array
    folds: int = 0
    accuracies: dict[str, Array] = field(default_factory=dict)
    statistics: dict[str, Array] = field(default_factory=dict)

    @property
    def shares(self) -> Array:
        """The share of all variance in feature space (n,) along every component, λ_j/tr K."""
        return _shares(self.eigenvalues)

    @property
    def explained(self) -> Array:
        """The share of all variance in feature space along the components that are drawn (components,)."""
        return self.shares[: self.coordinates.shape[1]]

    @property
    def group_names(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.groups))

    @property
    def centroid_distances(self) -> Array:
        """Distances (n, G) of the solutions to the mean of each group, themselves included; columns as group_names."""
        members = np.stack([np.array(self.groups) == name for name in self.group_names], axis=1)
        weights = members / members.sum(axis=0)
        squared = self.distances**2
        inside = (weights * (squared @ weights)).sum(axis=0) / 2
        return np.sqrt(np.maximum(squared @ weights - inside, 0))

    @property
    def norm_accuracy(self) -> float:
        """Share told apart by the nearest mean norm: mean over groups, then over repetitions; see ``accuracies``."""
        return self._accuracy("norm")

    @property
    def centroid_accuracy(self) -> float:
        """Share told apart by the nearest centroid."""
        return self._accuracy("centroid")

    @property
    def kernel_accuracy(self) -> float:
        """Share told apart by the nearest centroid in the coordinates."""
        return self._accuracy("kernel")

    @property
    def chance(self) -> float:
        """Expected accuracy of each control where groups do not differ: one over their number.

        Exactly, whatever the dimension and the sizes of groups: centroids are of as many of each, and ties count in parts.
        """
        return 1 / len(self.group_names)

    def spread(self, control: str) -> float:
        """Standard deviation of an accuracy over repetitions: how much it hangs on who was told apart with whom.

        No error over solutions, which can be far larger: that nothing but chance separates them is what p_value tests.
        """
        found = self.accuracies.get(control, np.zeros(0))
        return float(np.std(found, ddof=1)) if len(found) > 1 else NAN

    def p_value(self, control: str) -> float:
        """Chance of groups as far apart as these, were their names exchangeable: (b + 1)/(permutations + 1).

        b permuted statistics are at least the one observed. Never 0, and exact: Phipson and Smyth 2010. A statistic is
        infinite where points of a group are identical, and NaN, as is then p, where all are.
        """
        found = self.statistics.get(control, np.zeros(0))
        if len(found) < 2 or np.isnan(found[0]):
            return NAN
        # equal but for rounding counts as equal
        return float(np.mean(found >= found[0] * (1 - 1e-9)))

    def _accuracy(self, control: str) -> float:
        found = self.accuracies.get(control, np.zeros(0))
        return float(np.mean(found)) if len(found) else NAN


@dataclass(frozen=True, kw_only=True, eq=False)
class TrajectoryPCA(Record):
    """The plane that holds most of trajectories: θ ≈ center + coordinates @ directions, and how far each point is from it.

    center (P,), directions (k, P) orthonormal, coordinates (T, k), all eigenvalues (T,) of the points' Gram matrix about
    the center, largest first, residual (T,) the distance of each point from the plane, distances (T,) from the center.
    steps (T,), and trajectory (T,) which one each is of, counted from 0. ``centered`` is "last" or "mean".

    The loss on the plane is not the loss along the path: the points lie ``residual`` away from it.
    """

    center: Array
    directions: Array
    coordinates: Array
    eigenvalues: Array
    residual: Array
    distances: Array
    labels: tuple[str, ...]
    groups: tuple[str, ...]
    steps: Array
    trajectory: Array
    centered: str

    @property
    def shares(self) -> Array:
        """The share of the sum of squared distances from the center (T,) along every component."""
        return _shares(self.eigenvalues)

    @property
    def explained(self) -> Array:
        """The same along the directions that are kept (k,)."""
        return self.shares[: len(self.directions)]

    @property
    def relative_residual(self) -> Array:
        """Distance from the plane over distance from the center (T,), between 0 and 1; NaN at the center itself."""
        away = self.distances > 0
        return np.divide(self.residual, self.distances, out=np.full(len(away), NAN), where=away)

    @property
    def random_walk_shares(self) -> Array:
        """The share (T,) along every component for a random walk of the same steps: what is explained without any reason.

        Points θ_i of independent steps have the covariance min(t_i, t_j) I about their start. In many dimensions their Gram
        matrix is that one, seen from the center; its eigenvalues are returned as shares of its trace. About the mean of T
        evenly spaced points they are λ_j ∝ 1/(4 sin²(πj/2T)), with shares 6/π²j², and the coordinates are cosines, so
        that a plane shows Lissajous curves whatever the loss: Antognini and Sohl-Dickstein 2018 (arXiv 1806.08805).
        About the last point they tend to 8/π²(2j − 1)², 81 % and 9 %. Steps count alike
        here, in training they shrink. NaN for several trajectories, whose starts are no walk. Cost: O(T³).
        """
        if len(set(self.trajectory.tolist())) > 1:
            return np.full(len(self.steps), NAN)
        return random_walk_shares(self.steps, centered=self.centered)


def random_walk_shares(steps: Array, *, centered: str = "mean") -> Array:
    """The share (T,) of each principal component of a random walk seen at these steps (T,): see TrajectoryPCA."""
    time = np.asarray(steps, dtype=np.float64) - steps[0]
    gram = np.minimum.outer(time, time)
    if centered == "mean":
        gram = gram - gram.mean(axis=0) - gram.mean(axis=1)[:, None] + gram.mean()
    else:
        gram = gram - gram[-1] - gram[:, -1:] + gram[-1, -1]
    return _shares(np.linalg.eigvalsh(gram)[::-1])


def _shares(eigenvalues: Array) -> Array:
    total = eigenvalues.sum()
    return np.maximum(eigenvalues, 0) / total if total > 0 else np.full(len(eigenvalues), NAN)

"""Probes of the loss, embeddings of solutions, and tables over many of them.

Shapes: P parameters, K points, T steps, N samples along a path. Missing numbers are NaN.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..records import NAN, Array, Record


@dataclass(frozen=True, kw_only=True, eq=False)
class Embedding(Record):
    """Kernel PCA of solutions: coordinates (n, components), eigenvalues (components,) and controls beside them.

    norms (n,); labels and groups (n,) name solution and optimizer. A separation along a component says little
    where a simple control does as well: ``norm_accuracy`` and ``centroid_accuracy`` are leave-one-out accuracies
    of telling the groups apart by ‖θ‖ alone and by the nearest centroid, ``kernel_accuracy`` by the coordinates;
    ``chance`` is the share of the largest group. norm_correlation (components,) is Spearman's ρ of each component with ‖θ‖.
    """

    coordinates: Array
    eigenvalues: Array
    explained: Array
    labels: tuple[str, ...]
    groups: tuple[str, ...]
    norms: Array
    distances: Array  # (n, n) Euclidean
    kernel: str
    gamma: float
    norm_correlation: Array
    norm_accuracy: float
    centroid_accuracy: float
    kernel_accuracy: float
    chance: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Corridor(Record):
    """Corridor measures along consecutive points: loss (T+1,), and one number a step (T,) of each measure.

    kappa = h‖Hg‖/‖g‖ and kappa_weak = h gᵀHg/‖g‖² are 0 in a corridor; linearity (the loss decrease over its
    first-order prediction), cosine and norm_ratio (of successive gradients) are 1. h is the learning rate where it was
    given, otherwise the
    length of the step over ‖g‖. chord is net displacement over length travelled.
    """

    loss: Array
    gradient_norm: Array
    step: Array
    kappa: Array
    kappa_weak: Array
    linearity: Array
    cosine: Array
    norm_ratio: Array
    chord: float
    label: str = ""
    gradients: int = 0
    matvecs: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Profile(Record):
    """The loss along a line: loss (n,) at center + steps·direction, steps (n,). ``direction`` says how it was drawn."""

    steps: Array
    loss: Array
    direction: str = ""
    label: str = ""

    @property
    def center_loss(self) -> float:
        """The loss where the step is 0 (NaN if no step is)."""
        return float(self.loss[self.steps == 0][0]) if (self.steps == 0).any() else NAN


@dataclass(frozen=True, kw_only=True, eq=False)
class Surface(Record):
    """The loss on a plane: loss (n1, n2) at center + steps1[i]·d1 + steps2[j]·d2. ``direction`` says how they were drawn."""

    steps1: Array
    steps2: Array
    loss: Array
    direction: str = ""
    label: str = ""

    @property
    def center_loss(self) -> float:
        """The loss where both steps are 0 (NaN if none are)."""
        middle = self.loss[np.ix_(self.steps1 == 0, self.steps2 == 0)]
        return float(middle[0, 0]) if middle.size else NAN


@dataclass(frozen=True, kw_only=True, eq=False)
class Summary(Record):
    """One row a metric, one column a group: center, low and high (metrics, groups) of the stated interval.

    ``scales`` says per metric how groups are averaged: "mean", or "geometric mean" for what spans orders of
    magnitude. Intervals are bootstraps over solutions at ``confidence``; counts (metrics, groups) is how many
    solutions (or pairs) went in.
    """

    metrics: tuple[str, ...]
    groups: tuple[str, ...]
    scales: tuple[str, ...]
    center: Array
    low: Array
    high: Array
    counts: Array
    confidence: float

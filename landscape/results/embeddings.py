"""Solutions as points in few dimensions.

Shapes: n solutions, P parameters. Missing numbers are NaN.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..records import Array, Record


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

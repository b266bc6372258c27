"""Every result the toolkit makes, as records: solutions, and what was measured of them.

Shapes: P parameters, K points, T steps, N samples along a path. Missing numbers are NaN.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .errors import InputError
from .parameters import Parameters
from .records import Record

Array = np.ndarray
NAN = float("nan")


@dataclass(frozen=True, kw_only=True, eq=False)
class Solution(Record):
    """Parameters found by one run of one optimizer, with its curve and the last steps before the end.

    theta (P,); buffers by name: running statistics, and parameters that were frozen. curve_* (E,) at some epochs.
    tail (T+1, P) the last points, tail_lr (T,) their learning rates. ``status`` says in words how the run ended.
    """

    problem: str
    optimizer: str
    seed: int
    theta: Array
    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    buffers: dict[str, Array] = field(default_factory=dict)
    train_loss: float = NAN
    validation_loss: float = NAN
    test_loss: float = NAN
    train_accuracy: float = NAN
    validation_accuracy: float = NAN
    test_accuracy: float = NAN
    curve_epoch: Array = field(default_factory=lambda: np.zeros(0))
    curve_train: Array = field(default_factory=lambda: np.zeros(0))
    curve_validation: Array = field(default_factory=lambda: np.zeros(0))
    tail: Array = field(default_factory=lambda: np.zeros((0, 0)))
    tail_lr: Array = field(default_factory=lambda: np.zeros(0))
    gradients: float = NAN  # full-batch gradient evaluations spent
    losses: float = NAN  # full-batch loss evaluations spent beside those
    status: str = ""

    def __post_init__(self) -> None:
        if self.theta.shape != (self.parameters.dim,):
            raise InputError(
                f"the solution {self.label} has theta of shape {self.theta.shape}, "
                f"but its named parameters make ({self.parameters.dim},)."
            )
        if not np.isfinite(self.theta).all():
            bad = int((~np.isfinite(self.theta)).sum())
            raise InputError(
                f"the solution {self.label} holds {bad} values in theta that are NaN or infinite; train it anew."
            )

    @property
    def label(self) -> str:
        """Optimizer and seed: what the run is called in tables and pictures."""
        return f"{self.optimizer}/{self.seed}"

    @property
    def parameters(self) -> Parameters:
        return Parameters(self.names, self.shapes)

    @property
    def norm(self) -> float:
        return float(np.linalg.norm(self.theta))

    def load_into(self, model: nn.Module) -> nn.Module:
        """The model itself, with these parameters and buffers copied into it."""
        tensors: dict[str, Any] = dict(self.parameters.unpack(torch.from_numpy(self.theta)))
        tensors |= {name: torch.from_numpy(np.asarray(b)) for name, b in self.buffers.items()}
        model.load_state_dict(tensors, strict=False)
        return model

    def buffer_tensors(self) -> dict[str, Tensor]:
        return {name: torch.from_numpy(np.asarray(b)) for name, b in self.buffers.items()}


@dataclass(frozen=True, kw_only=True, eq=False)
class Trace(Record):
    """An estimate of tr ∇²L with its standard error, from ``matvecs`` Hessian-vector products."""

    value: float
    stderr: float
    samples: Array
    method: str
    matvecs: int
    dim: int

    @property
    def mean(self) -> float:
        """Trace per parameter, tr/P."""
        return self.value / self.dim


@dataclass(frozen=True, kw_only=True, eq=False)
class Eigenpairs(Record):
    """Eigenvalues (k,), largest first, unit eigenvectors (k, P) and residuals ‖Hv − λv‖ (k,) of ∇²L."""

    values: Array
    vectors: Array
    residuals: Array
    which: str
    matvecs: int
    converged: bool
    message: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class Flatness(Record):
    """Depth and flatness of one solution. ``eigenvalues`` (k,) largest first, with their residuals.

    Sharpness is the largest rise of the loss found inside a ball of radius ``*_rho``: in ℓ2 (SAM), which a
    rescaling of layers changes, and in units of |θ| (adaptive), which it does not. The SAM numbers are one ascent
    step and the iterated ascent. Trace, eigenvalues, Frobenius norm and SAM sharpness are not invariant.
    """

    optimizer: str
    seed: int
    loss: float
    gradient_norm: float
    theta_norm: float
    dim: int
    trace: float
    trace_stderr: float
    trace_method: str
    frobenius: float
    frobenius_stderr: float
    eigenvalues: Array
    residuals: Array
    sam_step: float
    sam_sharpness: float
    sam_rho: float
    adaptive_sharpness: float
    adaptive_rho: float
    gradients: int
    matvecs: int

    @property
    def label(self) -> str:
        return f"{self.optimizer}/{self.seed}"


@dataclass(frozen=True, kw_only=True, eq=False)
class PathRecord(Record):
    """The loss along a path between two points, sampled densely enough that its maximum is bracketed.

    t (N,) increasing in [0, 1] with both ends and the top; loss, norm (N,) at those; points (M, P) and
    coefficients say how to rebuild the path (see landscape.paths). ``gradients`` and ``losses`` count evaluations.
    """

    method: str
    start: str
    end: str
    t: Array
    loss: Array
    norm: Array
    path_kind: str
    points: Array
    coefficients: Array
    length: float
    gradients: int
    losses: int
    converged: bool
    message: str

    @property
    def height(self) -> float:
        """The largest loss on the path: absolute, from the dense samples."""
        return float(np.max(self.loss))

    @property
    def barrier(self) -> float:
        """The height minus the larger endpoint loss; never negative, since the ends are samples."""
        return self.height - float(max(self.loss[0], self.loss[-1]))

    @property
    def top(self) -> float:
        """t of the largest loss."""
        return float(self.t[np.argmax(self.loss)])

    @property
    def path(self) -> Any:
        """The path itself: a landscape.paths.Path with γ(t), γ′(t) and length."""
        from .paths import restore

        return restore(self.path_kind, self.points, self.coefficients)


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


@dataclass(frozen=True, kw_only=True, eq=False)
class Track(Record):
    """Numbers followed along one training run: ``values[name]`` (T,) at ``steps`` (T,), of an optimizer and a seed."""

    label: str
    seed: int
    steps: Array
    values: dict[str, Array]

    def __post_init__(self) -> None:
        for name, values in self.values.items():
            if np.shape(values) != np.shape(self.steps):
                raise InputError(
                    f"the track {self.label}/{self.seed} has {np.size(values)} values of {name!r} at "
                    f"{np.size(self.steps)} steps; give one a step."
                )

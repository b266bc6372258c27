"""Solutions, what was followed on the way to them, and one in the coordinates of another.

Shapes: P parameters, K points, T steps, N samples along a path. Missing numbers are NaN.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..errors import InputError
from ..parameters import Parameters
from ..records import NAN, Array, Record


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
class Checkpoint(Solution):
    """θ_t on the way to a solution, before the optimizer's step t, and what was known when that step was made.

    A subclass, because whatever takes solutions takes a point on the way to one. batch_loss and rate, and the mini-batch
    gradient (P,) or its ``sketch`` (k,) (see sketches.py), are those of step t, taken at θ_t; NaN and (0,) where they were not
    recorded, at the last point, from which no step was made, and where the optimizer evaluates no loss or gradient at θ_t (NSO)
    or says no rate (LBFGS). ``epoch`` counts passes over the data made up to here.
    ``travelled`` = Σ_{s<t} ‖θ_{s+1} − θ_s‖, over all steps, recorded or not.
    """

    step: int
    epoch: float = NAN
    rate: float = NAN
    batch_loss: float = NAN
    travelled: float = NAN
    gradient: Array = field(default_factory=lambda: np.zeros(0))
    sketch: Array = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gradient.shape not in {(0,), self.theta.shape}:
            raise InputError(
                f"the checkpoint {self.label} has a gradient of shape {self.gradient.shape}, which must be that of theta, "
                f"{self.theta.shape}, or (0,)."
            )

    @property
    def label(self) -> str:
        """Optimizer, seed and step, as in sgd/0@120."""
        return f"{super().label}@{self.step}"


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


@dataclass(frozen=True, kw_only=True, eq=False)
class Alignment(Record):
    """A solution's parameters theta (P,) and buffers after its hidden units were permuted to match those of a reference.

    ``permutations`` by group, called after the tensor and axis where its units first occur: (n,), unit i being what unit
    permutation[i] was; (n_host, n) where each head, or group of channels, has its own. ``similarity`` is what was
    maximised, ``distance`` that of the parameters to the reference. ``change`` is the largest change of an output,
    relative to the largest output: rounding, or ``converged`` is False. ``scales`` counts the scales a unit that were set,
    over groups.
    """

    reference: str
    other: str
    method: str
    theta: Array
    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    buffers: dict[str, Array]
    permutations: dict[str, Array]
    similarity_before: float
    similarity: float
    distance_before: float
    distance: float
    change: float
    scales: int
    converged: bool
    message: str

    @property
    def moved(self) -> float:
        """The share of units that another one took the place of."""
        moved = [np.arange(p.shape[-1]) != p for p in self.permutations.values()]
        return float(np.concatenate([m.ravel() for m in moved]).mean())

    def aligned(self, solution: Solution) -> Solution:
        """The solution that was aligned, with these parameters and buffers; the points before its end, and
        a checkpoint's gradient, are left out."""
        if (solution.names, solution.shapes) != (self.names, self.shapes):
            raise InputError(
                f"the solution {solution.label} has other parameters than the one aligned, {self.other}; give that one."
            )
        left_out: dict[str, Any] = {"tail": np.zeros((0, 0)), "tail_lr": np.zeros(0)}
        if isinstance(solution, Checkpoint):
            left_out |= {"gradient": np.zeros(0), "sketch": np.zeros(0)}
        return replace(solution, theta=self.theta, buffers=self.buffers, **left_out)

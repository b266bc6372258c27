"""Points along training, an array or checkpoints in files, one at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from landscape import InputError, Objective
from landscape.trajectories import Trajectory

Array = np.ndarray


@dataclass(frozen=True, eq=False)
class Points:
    """θ_0 … θ_T, read when iterated over. steps (T+1,) the optimizer's count, rates (T,) or None, travelled (T+1,) or None."""

    objective: Objective
    source: Any
    steps: Array
    rates: Array | None = None
    travelled: Array | None = None
    label: str = ""

    @classmethod
    def of(cls, objective: Objective, thetas: Any, *, steps: Any = None, least: int = 2) -> Points:
        """Of an array (T+1, P) or a Trajectory, of at least ``least`` points; InputError otherwise."""
        if isinstance(thetas, Trajectory):
            if steps is not None:
                raise InputError("steps must be None for a Trajectory, which has its own; leave it out.")
            count, shape = len(thetas), f"a trajectory of {len(thetas)}"
        else:
            thetas = objective.point(thetas, name="thetas")
            count, shape = len(thetas) if thetas.ndim == 2 else 0, f"shape {tuple(thetas.shape)}"
        if count < least:
            few = {1: "one point", 2: "two points"}[least]
            raise InputError(
                f"thetas must be at least {few} ({'T+1' if least > 1 else 'K'}, {objective.dim}), got {shape}."
            )
        if isinstance(thetas, Trajectory):
            known = np.isfinite(thetas.travelled).all()
            travelled = thetas.travelled if known else None
            return cls(objective, thetas, thetas.steps, thetas.rates[:-1], travelled, thetas.label)
        return cls(objective, thetas, _steps(steps, count))

    def __len__(self) -> int:
        return len(self.steps)

    def step_length(self, row: int, length: Tensor) -> Tensor:
        """How long the way of one optimizer step is in a row whose ends are ``length`` apart: the mean over its steps."""
        count = float(self.steps[row + 1] - self.steps[row])
        if count == 1 or self.travelled is None:
            return length / count
        return length.new_tensor((self.travelled[row + 1] - self.travelled[row]) / count)

    def __iter__(self) -> Iterator[Tensor]:
        for item in self.source:
            theta = self.objective.point(item if isinstance(item, Tensor) else item.theta, name="thetas")
            if theta.ndim != 1:
                raise InputError(f"thetas must be points ({self.objective.dim},), got {tuple(theta.shape)}.")
            yield theta


def _steps(steps: Any, count: int) -> Array:
    if steps is None:
        return np.arange(count)
    numbers = np.asarray(steps)
    if numbers.shape != (count,) or not (np.diff(numbers) > 0).all():
        raise InputError(f"steps must be {count} ascending numbers, one for each point, got {steps}.")
    return numbers

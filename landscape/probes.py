"""Where to look at a loss: lines and planes of points, and ``scan``, which evaluates an objective on them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from .errors import InputError
from .objective import Objective
from .results import Profile, Surface


@dataclass(frozen=True, eq=False)
class Line:
    """Points start + s·direction for s in steps. start, direction (P,); steps (n,)."""

    start: Tensor
    direction: Tensor
    steps: Tensor = field(default_factory=lambda: torch.linspace(-1, 1, 51))

    def points(self, objective: Objective) -> Tensor:
        """(n, P)"""
        start, direction, steps = _on(objective, self.start, self.direction, steps=(self.steps,))
        return torch.addcmul(start, steps[:, None], direction)


@dataclass(frozen=True, eq=False)
class Plane:
    """Points center + s·d1 + t·d2 for s in steps1 (n1,), t in steps2 (n2,). center, d1, d2 (P,)."""

    center: Tensor
    d1: Tensor
    d2: Tensor
    steps1: Tensor = field(default_factory=lambda: torch.linspace(-1, 1, 25))
    steps2: Tensor = field(default_factory=lambda: torch.linspace(-1, 1, 25))

    def rows(self, objective: Objective) -> list[Line]:
        """One line a value of steps1, so that no more than one row of points is held at a time."""
        center, d1, d2, steps1, steps2 = _on(
            objective, self.center, self.d1, self.d2, steps=(self.steps1, self.steps2)
        )
        return [Line(torch.add(center, d1 * s), d2, steps2) for s in steps1]


@overload
def scan(objective: Objective, probe: Line, **labels: Any) -> Profile: ...
@overload
def scan(objective: Objective, probe: Plane, **labels: Any) -> Surface: ...
def scan(objective: Objective, probe: Line | Plane, **labels: Any) -> Profile | Surface:
    """The loss at every point of a probe, as a record; labels (direction, label, about) go into it.

    Cost: one loss evaluation a point. Memory: one row of a plane, n2·P numbers. A point with step 0 is exactly the center,
    so its loss is that of the model.
    """
    if isinstance(probe, Line):
        loss = objective(probe.points(objective))
        return Profile(steps=_numpy(probe.steps), loss=_numpy(loss), **labels)
    rows = [objective(line.points(objective)) for line in probe.rows(objective)]
    return Surface(
        steps1=_numpy(probe.steps1), steps2=_numpy(probe.steps2), loss=_numpy(torch.stack(rows)), **labels
    )


def _on(objective: Objective, *vectors: Tensor, steps: tuple[Tensor, ...]) -> list[Tensor]:
    placed = [objective.point(vector, name="a probe's vector") for vector in vectors]
    for s in steps:
        if torch.as_tensor(s).ndim != 1 or torch.as_tensor(s).numel() == 0:
            raise InputError(
                f"steps must be a vector of at least one number, got shape {tuple(torch.as_tensor(s).shape)}."
            )
    return placed + [torch.as_tensor(s).to(device=objective.device, dtype=objective.dtype) for s in steps]


def _numpy(values: Tensor) -> np.ndarray:
    return torch.as_tensor(values).detach().cpu().numpy().astype(np.float64)

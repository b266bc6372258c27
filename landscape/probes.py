"""Where to look at a loss: lines and planes of points, and ``scan``, which evaluates an objective on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, overload

import torch
from torch import Tensor

from .choosing import losses
from .errors import InputError
from .families import Family
from .objective import Objective
from .parameters import float64_array
from .results import Profile, Surface


@dataclass(frozen=True, eq=False)
class Line:
    """Points start + s·direction for s in steps. start, direction (P,); steps (n,)."""

    start: Tensor
    direction: Tensor
    steps: Tensor = field(default_factory=lambda: torch.linspace(-1, 1, 51))

    def family(self, objective: Objective) -> Family:
        start, direction, steps = _on(objective, self.start, self.direction, steps=(self.steps,))
        return Family(start, direction[None], steps[:, None])


@dataclass(frozen=True, eq=False)
class Plane:
    """Points center + s·d1 + t·d2 for s in steps1 (n1,), t in steps2 (n2,). center, d1, d2 (P,)."""

    center: Tensor
    d1: Tensor
    d2: Tensor
    steps1: Tensor = field(default_factory=lambda: torch.linspace(-1, 1, 25))
    steps2: Tensor = field(default_factory=lambda: torch.linspace(-1, 1, 25))

    def family(self, objective: Objective) -> Family:
        """All points, row after row."""
        center, d1, d2, steps1, steps2 = _on(
            objective, self.center, self.d1, self.d2, steps=(self.steps1, self.steps2)
        )
        return Family(center, torch.stack([d1, d2]), torch.cartesian_prod(steps1, steps2))


@overload
def scan(
    objective: Objective, probe: Line, *, engine: str = ..., bfloat16: bool = ..., **labels: Any
) -> Profile: ...
@overload
def scan(
    objective: Objective, probe: Plane, *, engine: str = ..., bfloat16: bool = ..., **labels: Any
) -> Surface: ...
def scan(
    objective: Objective,
    probe: Line | Plane,
    *,
    engine: str = "auto",
    bfloat16: bool = False,
    about: Mapping[str, Any] | None = None,
    **labels: Any,
) -> Profile | Surface:
    """The loss at every point of a probe, as a record; labels (direction, label, about) go into it, and how it was evaluated.

    Cost: one loss evaluation a point, or less where points share work (engines.py). Memory: the few points that are
    evaluated at once. A point with step 0 is exactly the center.

    Args:
        engine: a name, such as "loop", the reference, or "shared x16"; "auto" measures which is fastest. All agree to
            rounding, but the last bits of a record by "auto" may differ from run to run.
        bfloat16: allow matrix products in bfloat16, with the deviation from the loop in the record.
    """
    family = probe.family(objective)
    loss, choice = losses(objective, family, engine=engine, bfloat16=bfloat16)
    labels["about"] = {**(about or {}), "engine": choice.said()}
    if isinstance(probe, Line):
        return Profile(steps=float64_array(probe.steps), loss=float64_array(loss), **labels)
    steps1, steps2 = float64_array(probe.steps1), float64_array(probe.steps2)
    return Surface(
        steps1=steps1, steps2=steps2, loss=float64_array(loss).reshape(len(steps1), len(steps2)), **labels
    )


def _on(objective: Objective, *vectors: Tensor, steps: tuple[Tensor, ...]) -> list[Tensor]:
    placed = [objective.point(vector, name="a probe's vector") for vector in vectors]
    for s in steps:
        if torch.as_tensor(s).ndim != 1 or torch.as_tensor(s).numel() == 0:
            raise InputError(
                f"steps must be a vector of at least one number, got shape {tuple(torch.as_tensor(s).shape)}."
            )
    return placed + [torch.as_tensor(s).to(device=objective.device, dtype=objective.dtype) for s in steps]

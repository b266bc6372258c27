"""Where to look at a loss: lines and planes of points, and ``scan``, which evaluates objectives on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, overload

import numpy as np
import torch
from torch import Tensor

from .choosing import losses
from .errors import InputError
from .families import Family
from .frames import Frame
from .objective import Objective
from .parameters import float64_array
from .results import Profile, Surface

GRADIENT = "gradient norm"  # of the values that gradients give
IN_SPAN = "gradient norm in the probe"
SLOPES = ("slope along d1", "slope along d2")


def centered_steps(points: int = 25, reach: float = 1.0) -> Tensor:
    """Steps from −reach to reach, multiples of one number: the middle one is exactly 0. An even count is raised by one."""
    if points < 2 or not reach > 0:
        raise InputError(f"steps need at least 2 points and a reach above 0, got {points} and {reach}.")
    half = points // 2
    return torch.arange(-half, half + 1, dtype=torch.float64) * reach / half


@dataclass(frozen=True, eq=False)
class Line:
    """Points start + s·direction for s in steps. start, direction (P,); steps (n,), by default 51 with an exact 0.

    marks: points (P,) by name, on the line or off it, whose own losses a scan records. drawn: how it was drawn, in words.
    """

    start: Tensor
    direction: Tensor
    steps: Tensor = field(default_factory=lambda: centered_steps(51))
    marks: Mapping[str, Any] = field(default_factory=dict)
    drawn: str = ""

    @property
    def axes(self) -> tuple[Tensor, ...]:
        return (torch.as_tensor(self.steps),)

    @property
    def frame(self) -> Frame:
        """Its affine hull, where points have coordinates."""
        return Frame(self.start, self.direction)

    def family(self, objective: Objective) -> Family:
        start, direction, steps = _on(objective, self.start, self.direction, steps=self.axes)
        return Family(start, direction[None], steps[:, None])


@dataclass(frozen=True, eq=False)
class Plane:
    """Points center + s·d1 + t·d2 for s in steps1 (n1,), t in steps2 (n2,). center, d1, d2 (P,).

    By default 25 steps each with an exact 0. marks: points (P,) by name, on the plane or off it, whose own losses a scan
    records. drawn: how it was drawn, in words.
    """

    center: Tensor
    d1: Tensor
    d2: Tensor
    steps1: Tensor = field(default_factory=centered_steps)
    steps2: Tensor = field(default_factory=centered_steps)
    marks: Mapping[str, Any] = field(default_factory=dict)
    drawn: str = ""

    @property
    def axes(self) -> tuple[Tensor, ...]:
        return torch.as_tensor(self.steps1), torch.as_tensor(self.steps2)

    @property
    def frame(self) -> Frame:
        """Its affine hull, where points have coordinates."""
        return Frame(self.center, self.d1, self.d2)

    def family(self, objective: Objective) -> Family:
        """All points, row after row."""
        center, d1, d2, steps1, steps2 = _on(objective, self.center, self.d1, self.d2, steps=self.axes)
        return Family(center, torch.stack([d1, d2]), torch.cartesian_prod(steps1, steps2))


@overload
def scan(
    objective: Objective,
    probe: Line,
    *,
    also: Mapping[str, Objective] | None = ...,
    gradient: bool = ...,
    engine: str = ...,
    bfloat16: bool = ...,
    **labels: Any,
) -> Profile: ...
@overload
def scan(
    objective: Objective,
    probe: Plane,
    *,
    also: Mapping[str, Objective] | None = ...,
    gradient: bool = ...,
    engine: str = ...,
    bfloat16: bool = ...,
    **labels: Any,
) -> Surface: ...
def scan(
    objective: Objective,
    probe: Line | Plane,
    *,
    also: Mapping[str, Objective] | None = None,
    gradient: bool = False,
    engine: str = "auto",
    bfloat16: bool = False,
    about: Mapping[str, Any] | None = None,
    **labels: Any,
) -> Profile | Surface:
    """The loss at every point of a probe, as a record; labels (direction, label, about) go into it, and how it was evaluated.

    The probe's marks are evaluated at the points themselves, and stand in the record with coordinates and distances. With
    BatchNorm, an objective with the fixed buffers of one solution gives the points of another one, marks too, another loss than
    their own: between solutions use statistics of the data at every point, ``problem.objective(batchnorm="batch")``.

    Cost: one loss evaluation a point, or less where points share work (engines.py), for each objective; one loss a mark.
    Memory: the few points that are evaluated at once. A point with step 0 is exactly the center.

    Args:
        also: other objectives by the names that their values get: {"test loss": …, "test accuracy": …}.
        gradient: record the gradient of the loss as well, in ``values``: "gradient norm" ‖g‖; "slope along d1" gᵀd₁ (and d2), by
            the step; and "gradient norm in the probe", that of g's part in the line or plane: the rest no picture of
            it shows. One gradient more a point.
        engine: a name, such as "loop", the reference, or "shared x16"; "auto" measures which is fastest. All agree to
            rounding, but the last bits of a record by "auto" may differ from run to run.
        bfloat16: allow matrix products in bfloat16, with the deviation from the loop in the record.

    Raises:
        InputError: steps that are no vector, vectors of another size, or a name in ``also`` that is taken.
    """
    shape = tuple(len(axis) for axis in _checked(probe.axes))
    values, said = {}, {}
    for name, measured in {"loss": objective, **_other(also)}.items():
        found, choice = losses(measured, probe.family(measured), engine=engine, bfloat16=bfloat16)
        values[name], said[name] = float64_array(found).reshape(shape), choice.said()
    if gradient:
        values |= {name: column.reshape(shape) for name, column in _gradients(objective, probe).items()}
    about = {**(about or {}), "engine": said.pop("loss")} | ({"engines": said} if said else {})
    everything = {"direction": probe.drawn, **labels, **_marks(objective, probe), "about": about}
    loss = values.pop("loss")
    if isinstance(probe, Line):
        return Profile(steps=float64_array(probe.steps), loss=loss, values=values, **everything)
    steps = {"steps1": float64_array(probe.steps1), "steps2": float64_array(probe.steps2)}
    return Surface(**steps, loss=loss, values=values, **everything)


def _other(also: Mapping[str, Objective] | None) -> Mapping[str, Objective]:
    for name in also or {}:
        if name in ("loss", GRADIENT, IN_SPAN, *SLOPES):
            raise InputError(f"also must not be called {name!r}, which scan records itself; choose another.")
    return also or {}


def _gradients(objective: Objective, probe: Line | Plane) -> dict[str, np.ndarray]:
    """‖g‖, that of its part in the probe and slopes (n,) at all points, one gradient at a time."""
    family = probe.family(objective)
    norms, slopes = [], []
    for coordinates in family.coordinates:
        gradient = objective.grad(family.points(coordinates[None])[0])
        norms.append(gradient.norm())
        slopes.append(family.directions @ gradient)
    along = float64_array(torch.stack(slopes))
    columns = [float64_array(torch.stack(norms)), probe.frame.norm_within(along), *along.T]
    return dict(zip((GRADIENT, IN_SPAN, *SLOPES[: len(columns) - 2]), columns, strict=True))


def _marks(objective: Objective, probe: Line | Plane) -> dict[str, Any]:
    if not probe.marks:
        return {}
    frame = probe.frame
    places = [frame.place(theta) for theta in probe.marks.values()]
    return {
        "mark_labels": tuple(probe.marks),
        "mark_coordinates": np.stack([coordinates for coordinates, _, _ in places]),
        "mark_distance": np.array([distance for _, distance, _ in places]),
        "mark_loss": np.array([float(objective(theta)) for theta in probe.marks.values()]),
    }


def _on(objective: Objective, *vectors: Tensor, steps: tuple[Tensor, ...]) -> list[Tensor]:
    placed = [objective.point(vector, name="a probe's vector") for vector in vectors]
    return placed + [s.to(device=objective.device, dtype=objective.dtype) for s in _checked(steps)]


def _checked(steps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    for s in steps:
        if s.ndim != 1 or s.numel() == 0:
            raise InputError(f"steps must be a vector of at least one number, got shape {tuple(s.shape)}.")
    return steps

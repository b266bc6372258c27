"""Where corridors could be: pointwise measures of L, g = ∇L and Hg at points, along paths and on planes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from landscape import InputError, Objective, Plane
from landscape.combinations import Path
from landscape.parameters import float64_array
from landscape.progress import progress
from landscape.results import Array, CorridorMap, CorridorPath, CorridorPoints, PathRecord

from .expansion import expand
from .following import Points

Extra = Callable[[int, Tensor], dict[str, Tensor]]


def corridor_points(
    objective: Objective,
    thetas: Any,
    *,
    show_progress: bool = False,
    label: str = "",
    about: Mapping[str, Any] | None = None,
) -> CorridorPoints:
    """Loss, ‖g‖, ‖Hg‖ and gᵀHg at K points, from which those corridor measures follow that need no step.

        bend            ‖Hg‖/‖g‖, so that κ = h·bend; 0 in a corridor
        corridor_rate   ‖g‖/‖Hg‖, the learning rate at which κ is 1
        kappa_polyak    L‖Hg‖/‖g‖³, κ at the corridor learning rate L/‖g‖² (Dherin, Rosca, arXiv 2402.08818)

    Points one by one. NaN at stationary points, where no direction is steepest. Cost: a gradient and a product a point.

    Args:
        thetas: (K, P), a Trajectory, or a probe (Line, Plane), whose points are taken row after row.
        label, about: as for corridor.

    Raises:
        InputError: thetas are no points of this objective.
    """
    family = thetas.family(objective) if hasattr(thetas, "family") else None
    if family is not None:
        rows, count = (family.points(c[None])[0] for c in family.coordinates), len(family)
    else:
        rows = Points.of(objective, thetas, least=1)
        count, label = len(rows), label or rows.label
    found = _measured(objective, rows, count=count, show_progress=show_progress)
    return CorridorPoints(**found, label=label, about=dict(about or {}))


def corridor_along(
    objective: Objective,
    path: Path | PathRecord,
    *,
    points: int = 51,
    show_progress: bool = False,
    label: str = "",
    about: Mapping[str, Any] | None = None,
) -> CorridorPath:
    """The measures of corridor_points at even t along a path γ, with γ′·g: is it a line of steepest descent, and a corridor?

    Cost: a gradient and a product a point.

    Args:
        path: γ, or the record of one.
        points: how many, at least 2, ends among them.

    Raises:
        InputError: fewer than two points, or a path in another space.
    """
    if points < 2:
        raise InputError(f"points must be at least 2, the path's ends, got {points}.")
    if isinstance(path, PathRecord):
        label = label or f"{path.start} – {path.end}"
    curve: Path = path.path if isinstance(path, PathRecord) else path
    t = torch.linspace(0, 1, points, dtype=torch.float64)
    rows = (objective.point(curve(s), name="the path's points") for s in t)

    def extra(index: int, gradient: Tensor) -> dict[str, Tensor]:
        direction = objective.point(curve.derivative(t[index]), name="the path's derivative")
        return {"speed": direction.norm(), "descent": -(direction @ gradient)}

    found = _measured(objective, rows, extra, count=points, show_progress=show_progress)
    return CorridorPath(t=float64_array(t), **found, label=label, about=dict(about or {}))


def corridor_map(
    objective: Objective,
    plane: Plane,
    *,
    show_progress: bool = False,
    label: str = "",
    about: Mapping[str, Any] | None = None,
) -> CorridorMap:
    """The measures of corridor_points on a plane, with the gradient's slopes along its directions.

    g and Hg are those in all of R^P; CorridorMap.share_in_plane says how much of g the plane shows. Slopes are taken in float64,
    since directions that are nearly parallel magnify their errors. Cost: a gradient and a product a point. Memory: one point.

    Raises:
        InputError: the plane is in another space, or its directions are parallel.
    """
    family, frame = plane.family(objective), plane.frame
    rows = (family.points(c[None])[0] for c in family.coordinates)

    def extra(index: int, gradient: Tensor) -> dict[str, Tensor]:
        return {"slopes": frame.directions @ gradient.cpu().double()}

    found = _measured(objective, rows, extra, count=len(family), show_progress=show_progress)
    steps1, steps2 = float64_array(plane.steps1), float64_array(plane.steps2)
    shape = len(steps1), len(steps2)
    return CorridorMap(
        steps1=steps1,
        steps2=steps2,
        norm_within=frame.norm_within(found["slopes"]).reshape(shape),
        **{name: values.reshape(*shape, *values.shape[1:]) for name, values in found.items()},
        label=label,
        about=dict(about or {}),
    )


def _measured(
    objective: Objective,
    thetas: Iterable[Tensor],
    extra: Extra = lambda index, gradient: {},
    *,
    count: int,
    show_progress: bool,
) -> dict[str, Array]:
    """By name, the numbers of every point (K, …), and what is made of its gradient beside them."""
    rows: list[dict[str, Tensor]] = []
    with progress("corridor", count, shown=show_progress) as advance:
        for theta in thetas:
            loss, gradient, product = expand(objective, theta)
            (image,) = product(gradient[None])
            del product  # with its graph, before the next one is made
            norms = {"gradient_norm": gradient.norm(), "image_norm": image.norm()}
            rows.append({"loss": loss, **norms, "curvature": gradient @ image, **extra(len(rows), gradient)})
            advance()
    return {name: float64_array(torch.stack([row[name] for row in rows])) for name in rows[0]}

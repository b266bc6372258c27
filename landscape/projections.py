"""Where points along training lie on a plane or line, and how far off it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from .choosing import losses
from .errors import InputError
from .families import Family
from .frames import points_of
from .objective import Objective
from .parameters import float64_array
from .probes import Line, Plane
from .results import NAN, Projection


def project(
    probe: Line | Plane,
    thetas: Any,
    *,
    objective: Objective | None = None,
    label: str | None = None,
    steps: Sequence[float] | np.ndarray | None = None,
    about: Mapping[str, Any] | None = None,
) -> Projection:
    """Points θ_t in the coordinates of a plane or line, by orthogonal projection onto its affine hull.

    c_t = argmin_c ‖θ_t − center − c₁d₁ − c₂d₂‖, of which the minimum is the distance: d₁ and d₂ need not be orthogonal. A picture
    shows the projections, and under them the loss of the *plane*, ``loss_on_plane``; the points' own losses are ``loss``. Where
    the distance is not small these have nothing to do with one another, so both are recorded. With BatchNorm, an objective with
    the fixed buffers of one solution gives other points than this one another loss than their own: use statistics of the data at
    every point, ``problem.objective(batchnorm="batch")``.

    Cost: three products with the directions a point; with an objective, two loss evaluations a point. Memory: one point.

    Args:
        thetas: an array or tensor (T, P), a trajectory, solutions, or the names of their files, read one at a time.
        objective: of the losses, NaN without one.
        label: what the points are called; by default what they call themselves ("sgd/0").
        steps: (T,) of training; by default the points' own, or 0, 1, ….
        about: provenance for the record's header.

    Raises:
        InputError: no points, points of another size, or directions that span no plane.
    """
    frame = probe.frame
    rows, loss, own = [], [], []
    for step, point in points_of(thetas):
        theta = getattr(point, "theta", point)
        if np.shape(theta) != tuple(frame.origin.shape):
            raise InputError(
                f"thetas must be points of the probe's size {tuple(frame.origin.shape)}, got {tuple(np.shape(theta))}."
            )
        rows.append(frame.place(theta))
        loss.append(NAN if objective is None else float(objective(theta)))
        own.append(step)
    if not rows:
        raise InputError("thetas must hold at least one point, got none.")
    if steps is not None and len(steps) != len(rows):
        raise InputError(f"steps must hold one number for each of the {len(rows)} points, got {len(steps)}.")
    coordinates = np.stack([row[0] for row in rows])
    return Projection(
        label=str(getattr(thetas, "label", "")) if label is None else label,
        steps=np.array(own if steps is None else steps, dtype=float),
        coordinates=coordinates,
        distance=np.array([row[1] for row in rows]),
        reach=np.array([row[2] for row in rows]),
        loss=np.array(loss),
        loss_on_plane=np.full(len(rows), NAN) if objective is None else _under(objective, probe, coordinates),
        about=dict(about or {}),
    )


def _under(objective: Objective, probe: Line | Plane, coordinates: np.ndarray) -> np.ndarray:
    family = probe.family(objective)
    where = torch.from_numpy(coordinates).to(family.coordinates)
    found, _ = losses(objective, Family(family.origin, family.directions, where))
    return float64_array(found)

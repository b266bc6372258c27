"""What connects two solutions of a study: paths between them by several methods (a roof module, as stages is)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch

from analysis import find_path, linear_path, network_of

from .choosing import losses
from .errors import InputError
from .measures import PathSettings
from .networks import BatchNormPolicy
from .objective import Objective
from .parameters import float64_array
from .results import MinimaNetwork, PathRecord, Solution
from .stages import Workplace

_RUNNING = ("running_mean", "running_var", "num_batches_tracked")


def connect(
    place: Workplace,
    a: Solution,
    b: Solution,
    *,
    generator: torch.Generator,
    method: str,
    batchnorm: BatchNormPolicy,
    engine: str,
    **settings: Any,
) -> PathRecord:
    place.load().check(b)
    theirs = {name for name, b1 in a.buffers.items() if not np.array_equal(b1, b.buffers.get(name, np.nan))}
    if batchnorm == "batch":
        theirs = {name for name in theirs if name.rpartition(".")[2] not in _RUNNING}
    if theirs:
        raise InputError(
            f"{a.label} and {b.label} differ in the constant {min(theirs)!r}, and what it should be on a path between them is "
            "not defined; only running statistics of normalization layers are recomputed there."
        )
    objective = place.objective(a, batchnorm)
    ends = {"start": a.label, "end": b.label, "engine": engine, "about": place.about(objective)}
    if method == "linear":
        found = linear_path(objective, a.theta, b.theta, **ends, **settings)
    else:
        found = find_path(objective, a.theta, b.theta, method=method, generator=generator, **ends, **settings)
    problem = place.load()
    if problem.metric is None:
        return found
    return with_metric(found, place.objective(a, batchnorm, measure=problem.metric), engine)


def with_metric(path: PathRecord, measured: Objective, engine: str = "loop") -> PathRecord:
    """The path, with another measure than the loss at its samples."""
    metric, _ = losses(measured, path.path.family(torch.from_numpy(path.t)), engine=engine)
    return replace(path, metric=float64_array(metric))


def network(place: Workplace, *paths: PathRecord, generator: torch.Generator) -> MinimaNetwork:
    """What joins all solutions at which height, by the paths of a study."""
    return network_of(paths)


def path_methods(
    settings: PathSettings, methods: Sequence[str] = ("fourier",), *, minima: bool = False
) -> dict[str, dict[str, Any]]:
    """The settings of ``connect`` for the straight line and each method of path that a pair is connected by.

    minima: refuse ends that are none, which a study of many solutions had better not.
    """
    given = asdict(settings) | {"minima": minima}
    straight = {name: given[name] for name in ("engine", "hold_norm")}
    return {"linear": {"method": "linear", **straight}} | {
        name: {"method": name, **given, "modes": given["modes"] if name.startswith("fourier") else None}
        for name in methods
    }

"""The losses of an objective on a family of points, by the engine that measuring chooses."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from .engines import MEMORY, Engine, Workshop, evaluate
from .families import Family
from .measuring import Choice, Measurement
from .objective import Objective

SHARED = 32  # directions at most for which what they share is held for each
# Points at once: what is tried first, what where that is slower, and what where it is faster.
_SOME, _FEW, _MORE = 16, 4, (64, 128)


def losses(
    objective: Objective, family: Family, *, engine: str = "auto", bfloat16: bool = False, count: int = 0
) -> tuple[Tensor, Choice]:
    """The objective at all points of a family, (n,), and how: by the engine named, or the one that measuring chooses.

    Chosen once for an objective and a number of directions, and remembered with it. Measuring stops at a tenth of what the
    loop is predicted to take, unless compiling is still worth its time; short scans are done by the loop at once. count says
    how many points are to come, if more than these. bfloat16 prefers engines that are not exact; their deviation is in the
    choice. Cost: one loss evaluation a point, or less.
    """
    workshop = _workshop(objective)
    if engine != "auto":
        choice = Choice(Engine.named(engine))
        return evaluate(workshop, choice.engine, family), choice
    choice = choose(objective, family, bfloat16=bfloat16, count=count)
    try:
        return evaluate(workshop, choice.engine, family), choice
    except RuntimeError as error:  # one term was measured, and another one cannot be evaluated so
        if choice.engine == Engine():
            raise
        choice = choice.refused(Engine(), error)
        objective.engines[_key(family, bfloat16)] = max(count, len(family)), choice
        return evaluate(workshop, choice.engine, family), choice


def choose(objective: Objective, family: Family, *, bfloat16: bool = False, count: int = 0) -> Choice:
    """The engine for a family: what was chosen before for this objective and so many directions, or what measuring chooses now.

    A choice for fewer than a quarter of the points is not taken over: what pays for many may not have paid for few.
    """
    if objective.streamed:
        return Choice(Engine())
    key = _key(family, bfloat16)
    points, choice = objective.engines.get(key, (0, Choice(Engine())))
    count = max(count, len(family))
    if count > 4 * points:
        choice = _measured(_workshop(objective), family, bfloat16, count)
        objective.engines[key] = count, choice
    return choice


def _key(family: Family, bfloat16: bool) -> tuple[str, int, bool]:
    return "losses", len(family.directions), bfloat16


def _workshop(objective: Objective) -> Workshop:
    return objective.engines.setdefault("workshop", Workshop(objective))


def _measured(workshop: Workshop, family: Family, bfloat16: bool, count: int) -> Choice:
    term = workshop.objective.terms[0]
    three = torch.linspace(0, len(family) - 1, 3).round().long()
    with torch.no_grad():
        measurement = Measurement(
            lambda engine: workshop.losses(engine, term, family),
            sample=family.coordinates[three],
            inputs=lambda wanted: family.coordinates[torch.arange(wanted) % len(family)],
            reference=Engine(),
            count=count * len(workshop.objective.terms),
        )
        candidates = _candidates(measurement, workshop, family, bfloat16)
        return measurement.run(candidates, lambda engine: engine.bfloat16 == bfloat16)


def _candidates(
    measurement: Measurement, workshop: Workshop, family: Family, bfloat16: bool
) -> Iterator[tuple[Engine, int]]:
    """Kinds first, then points at once, then layout and compilation of what was best so far."""

    def best() -> Engine | None:
        found = measurement.best(lambda engine: engine.kind != "loop" and engine.bfloat16 == bfloat16)
        return found and found.engine

    for kind in ("shared", "replay") if len(family.directions) <= SHARED else ("replay",):
        yield Engine(kind, bfloat16=bfloat16), 1
    first = best()
    if first is None:
        return
    rest = workshop.residual(first, workshop.objective.terms[0], family)
    most = min(len(family), MEMORY // max(rest.origin.nbytes, 1))
    if most >= _SOME:
        yield replace(first, points=_SOME), _SOME
    for points in (_FEW,) if best() == first else _MORE:
        if points <= most and (best() == first or measurement.trials[-1].engine == best()):
            yield replace(first, points=points), points
    if any(c.ndim == 4 and c.is_floating_point() for c in rest.constants):
        yield replace(best() or first, channels_last=True), (best() or first).points
    if measurement.pays():
        start = best() or first
        for points in dict.fromkeys((start.points, 1, _SOME if most >= _SOME else 1)):
            yield replace(start, points=points, compiled=True), points

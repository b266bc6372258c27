"""Engines: ways to evaluate an objective at all points of an affine family. All give the same losses, to rounding.

Which one is fastest hangs on model, data and machine, so ``choosing.py`` measures. An engine is named by its parts:

    loop                     one evaluation of the objective a point: the reference, and what works always
    replay                   the operators of one evaluation, captured once (graphs.py), without Python's part of it
    shared                   replay of what differs between the points of the family only
    … x16                    16 points at once, by torch.vmap
    … compiled               by torch.compile
    … channels-last          images and their responses with the channel last in memory
    … bfloat16               matrix products in bfloat16 (autocast): not exact, and chosen only where asked for

for example ``shared x16`` or ``replay compiled channels-last``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.attention import SDPBackend, sdpa_kernel

from .capturing import Captured, capture_loss
from .errors import InputError
from .families import Family
from .graphs import Residual, cut
from .objective import Objective, Term, scalar

Losses = Callable[[Tensor], Tensor]  # coordinates (c, k) -> (c,)
MEMORY = 2**30  # bytes of states at a time


@dataclass(frozen=True)
class Engine:
    """The parts of a name. points: how many at once, 1 for one after another."""

    kind: str = "loop"
    points: int = 1
    compiled: bool = False
    channels_last: bool = False
    bfloat16: bool = False

    @classmethod
    def named(cls, name: str) -> Engine:
        """The engine of a name; InputError if there is none of that name."""
        kind, *parts = name.split() or [""]
        settings: dict[str, Any] = {}
        for part in parts:
            if part in ("compiled", "channels-last", "bfloat16"):
                settings[part.replace("-", "_")] = True
            elif part[0] == "x" and part[1:].isdecimal() and int(part[1:]) > 0:
                settings["points"] = int(part[1:])
            else:
                settings, kind = {}, ""
                break
        if kind not in ("loop", "replay", "shared") or (kind == "loop" and settings):
            raise InputError(
                f"engine must be auto, loop, replay or shared, the last two with any of x16 (points at once), compiled, "
                f"channels-last and bfloat16, got {name!r}."
            )
        return cls(kind, **settings)

    @property
    def exact(self) -> bool:
        return not self.bfloat16

    @property
    def name(self) -> str:
        parts = [self.kind]
        parts += [f"x{self.points}"] if self.points > 1 else []
        parts += ["compiled"] if self.compiled else []
        parts += ["channels-last"] if self.channels_last else []
        return " ".join(parts + (["bfloat16"] if self.bfloat16 else []))


class Workshop:
    """What engines make once and use again for one objective: graphs of its terms and compiled code."""

    def __init__(self, objective: Objective) -> None:
        self.objective = objective
        self._graphs: dict[tuple[int, bool, bool], Captured] = {}

    def losses(self, engine: Engine, term: Term, family: Family) -> Losses:
        """One term's losses at coordinates (c, k) of the family, by an engine."""
        if engine.kind == "loop":
            return lambda coordinates: torch.stack([scalar(term(row)) for row in family.points(coordinates)])
        rest = self.residual(engine, term, family)
        run = runnable(rest, engine.points, compiled=engine.compiled, kept=self.objective.engines)
        if engine.points == 1:
            return lambda coordinates: torch.stack([run(s).reshape(()) for s in rest.states(coordinates)])

        room = max(1, MEMORY // max(rest.origin.nbytes, 1))

        def together(coordinates: Tensor) -> Tensor:
            count = len(coordinates)
            missing = engine.points - count  # compiled code is of one shape
            if engine.compiled and missing:
                coordinates = torch.cat([coordinates, coordinates[-1:].expand(missing, -1)])
            parts = coordinates.split(engine.points if engine.compiled else room)
            return torch.cat([run(rest.states(part)).reshape(-1) for part in parts])[:count]

        return together

    def residual(self, engine: Engine, term: Term, family: Family) -> Residual:
        rest = cut(
            self._graph(engine, term, family.origin),
            family.origin,
            family.directions,
            share=engine.kind == "shared",
        )
        if not engine.channels_last:
            return rest
        constants = tuple(
            c.contiguous(memory_format=torch.channels_last) if c.ndim == 4 and c.is_floating_point() else c
            for c in rest.constants
        )
        return Residual(rest.graph, constants, rest.origin, rest.directions)

    def _graph(self, engine: Engine, term: Term, theta: Tensor) -> Captured:
        # PyTorch's fused attention on a CPU has no rule for many points at once.
        plain_attention = engine.points > 1 and theta.device.type == "cpu"
        key = self.objective.terms.index(term), engine.bfloat16, plain_attention
        if self.objective.streamed:  # a graph holds its data
            self._graphs.clear()
        if key not in self._graphs:
            with (
                sdpa_kernel(SDPBackend.MATH) if plain_attention else nullcontext(),
                torch.autocast(theta.device.type, torch.bfloat16, enabled=engine.bfloat16),
            ):
                self._graphs[key] = capture_loss(term, theta)
        return self._graphs[key]


def runnable(
    rest: Residual, at_once: int, *, compiled: bool, kept: dict[Any, Any]
) -> Callable[[Tensor], Tensor]:
    """The rest as a function of one state (S,), or of so many at once (at_once, S). kept holds compiled code."""
    graph: Callable[..., Tensor] = rest.graph
    if at_once > 1:
        graph = torch.func.vmap(graph, in_dims=(0, *(None,) * len(rest.constants)))
    if compiled:
        # Sizes are part of what is compiled: a batch of another size may have the same operators.
        shapes = tuple(tuple(t.shape) for t in (rest.origin, *rest.constants))
        key = "compiled", rest.graph.code, at_once, shapes
        if key not in kept:
            if (
                at_once > 1
            ):  # as a graph of its own: what vmap makes shares one function's code, and its few variants
                graph = make_fx(graph)(rest.origin.expand(at_once, -1).contiguous(), *rest.constants)
            kept[key] = torch.compile(graph, dynamic=False)
        graph = kept[key]
    return lambda state: graph(state, *rest.constants)


def evaluate(workshop: Workshop, engine: Engine, family: Family) -> Tensor:
    """The objective at all points of a family, (n,), by an engine.

    Memory: the states of so many points at a time as the engine takes at once. Where a device runs out of it, half as many are
    taken from there on.
    """
    total = torch.zeros(len(family), dtype=family.origin.dtype, device=family.origin.device)
    with torch.no_grad():
        for term in workshop.objective.terms:
            losses, start, points = workshop.losses(engine, term, family), 0, engine.points
            while start < len(family):
                part = family.coordinates[start : start + points]
                try:
                    found = losses(part)
                except torch.OutOfMemoryError:
                    if points == 1:
                        raise
                    found = None  # the exception holds what filled the memory, so it goes first
                if found is None:
                    points = math.ceil(points / 2)
                    engine = replace(engine, points=points, compiled=False)
                    losses = workshop.losses(engine, term, family)
                    continue
                total[start : start + len(part)] += found
                start += len(part)
    return total

"""What rules of operators (axis_rules.py, view_rules.py) are made of: the indices of axes, and what is done to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from torch import Tensor

from .indices import Indices


class Axes(tuple[int, ...]):
    """The index of each axis of a tensor."""


class Tracing(Protocol):
    """What rules write to."""

    indices: Indices

    def couples(self, mixed: Sequence[int], kept: Sequence[int]) -> None: ...
    def selected(self, axes: Axes, dim: int, at: int) -> Axes: ...
    def stacked(self, parts: Sequence[Axes], dim: int) -> Axes: ...


Arguments = dict[str, Any]  # by their names in the operator's schema, tensors as Axes
Found = Axes | list[Axes]
Rule = Callable[[Tracing, Arguments, Any], Found]


def tensors(value: Any) -> list[Axes]:
    """All tensors in arguments."""
    if isinstance(value, Axes):
        return [value]
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list | tuple) else ()
    return [axes for item in items for axes in tensors(item)]


def broadcast(trace: Tracing, given: Sequence[Axes], shape: Sequence[int]) -> Axes:
    """Tensors broadcast to a shape: axes at the same place are the same, but those of length 1."""
    found = []
    for back in range(len(shape), 0, -1):
        here = [axes[-back] for axes in given if back <= len(axes)]
        here = [axis for axis in here if trace.indices.size(axis) == shape[-back]]
        for other in here[1:]:
            trace.indices.unify(here[0], other)
        found.append(here[0] if here else trace.indices.new(shape[-back]))
    return Axes(found)


def taken(trace: Tracing, axes: Axes, dim: int, shape: Sequence[int]) -> Axes:
    """Some entries along an axis, as axes of another shape."""
    pin(trace, axes[dim : dim + 1])
    return Axes((*axes[:dim], *fresh(trace, shape, pinned=True), *axes[dim + 1 :]))


def fresh(trace: Tracing, shape: Sequence[int], *, pinned: bool) -> Axes:
    return Axes(trace.indices.new(n, pinned=pinned) for n in shape)


def pin(trace: Tracing, axes: Sequence[int]) -> None:
    for axis in axes:
        trace.indices.pin(axis)


def replaced(axes: Axes, dim: int, index: int) -> Axes:
    return Axes((*axes[:dim], index, *axes[dim + 1 :]))


def pinned(trace: Tracing, a: Arguments, value: Any) -> Found:
    """The rule of operators without one: all that they touch is pinned."""
    for axes in tensors(a):
        pin(trace, axes)
    if isinstance(value, Tensor):
        return fresh(trace, value.shape, pinned=True)
    return [
        fresh(trace, v.shape, pinned=True) if isinstance(v, Tensor) else Axes()
        for v in (value if isinstance(value, list | tuple) else ())
    ]

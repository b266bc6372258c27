"""How operators that rearrange entries, or take some of them, pass indices on (see axis_rules.py)."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

from .axes import (
    Arguments,
    Axes,
    Found,
    Rule,
    Tracing,
    broadcast,
    pin,
    pinned,
    replaced,
    taken,
)


def _view(trace: Tracing, a: Arguments, value: Any) -> Found:
    return Axes(trace.indices.regroup(a["self"], value.shape))


def _permute(trace: Tracing, a: Arguments, value: Any) -> Found:
    return Axes(a["self"][dim] for dim in a["dims"])


def _transpose(trace: Tracing, a: Arguments, value: Any) -> Found:
    axes = list(a["self"])
    one, other = a.get("dim0", 0), a.get("dim1", -1)
    if axes:
        axes[one], axes[other] = axes[other], axes[one]
    return Axes(axes)


def _expand(trace: Tracing, a: Arguments, value: Any) -> Found:
    return broadcast(trace, [a["self"]], value.shape)


def _split(trace: Tracing, a: Arguments, value: Any) -> Found:
    x = a["self"]
    dim = a.get("dim", 0) % len(x)
    ends = list(accumulate(part.shape[dim] for part in value))
    return [
        replaced(x, dim, trace.indices.part(x[dim], end - part.shape[dim], end))
        for part, end in zip(value, ends, strict=True)
    ]


def _slice(trace: Tracing, a: Arguments, value: Any) -> Found:
    x = a["self"]
    dim = a["dim"] % len(x)
    start, stop, _ = slice(a["start"], a["end"]).indices(trace.indices.size(x[dim]))
    if a["step"] != 1:
        return taken(trace, x, dim, value.shape[dim : dim + 1])
    return replaced(x, dim, trace.indices.part(x[dim], start, max(start, stop)))


def _select(trace: Tracing, a: Arguments, value: Any) -> Found:
    x = a["self"]
    dim = a["dim"] % len(x)
    return trace.selected(x, dim, a["index"] % trace.indices.size(x[dim]))


def _unbind(trace: Tracing, a: Arguments, value: Any) -> Found:
    x = a["self"]
    dim = a.get("dim", 0) % len(x)
    return [trace.selected(x, dim, i) for i in range(len(value))]


def _cat(trace: Tracing, a: Arguments, value: Any) -> Found:
    parts = [x for x in a["tensors"] if len(x) == value.ndim]  # PyTorch takes empty ones of any shape
    dim = a.get("dim", 0) % value.ndim
    for other in parts[1:]:
        for i, axis in enumerate(other):
            if i != dim:
                trace.indices.unify(parts[0][i], axis)
    return replaced(parts[0], dim, trace.indices.sum([x[dim] for x in parts]))


def _stack(trace: Tracing, a: Arguments, value: Any) -> Found:
    return trace.stacked(a["tensors"], a.get("dim", 0) % value.ndim)


def _pad(trace: Tracing, a: Arguments, value: Any) -> Found:
    x, pad = list(a["self"]), a["pad"]
    for i in range(len(pad) // 2):
        dim, (before, after) = -1 - i, pad[2 * i : 2 * i + 2]
        if min(before, after) < 0:
            return pinned(trace, a, value)
        ends = [trace.indices.new(n) for n in (before, after)]
        x[dim] = trace.indices.sum([ends[0], x[dim], ends[1]])
    return Axes(x)


def _repeat(trace: Tracing, a: Arguments, value: Any) -> Found:
    times = a["repeats"]
    ones = [trace.indices.new(1) for _ in range(len(times) - len(a["self"]))]
    counts = [trace.indices.new(n, pinned=True) for n in times]
    pairs = zip(counts, (*ones, *a["self"]), strict=True)
    return Axes(trace.indices.product(pair) for pair in pairs)


# Entries chosen by number: these axes are told apart.


def _embedding(trace: Tracing, a: Arguments, value: Any) -> Found:
    pin(trace, a["weight"][:1])
    return Axes((*a["indices"], *a["weight"][1:]))


def _index_select(trace: Tracing, a: Arguments, value: Any) -> Found:
    dim = a["dim"] % len(a["self"])
    return taken(trace, a["self"], dim, value.shape[dim : dim + 1])


def _index(trace: Tracing, a: Arguments, value: Any) -> Found:
    x, given = a["self"], a["indices"]
    places = [dim for dim, index in enumerate(given) if index is not None]
    if len(places) > 1:
        return pinned(trace, a, value)
    (dim,) = places
    return taken(trace, x, dim, value.shape[dim : dim + value.ndim - len(x) + 1])


def _moved(trace: Tracing, a: Arguments, value: Any) -> Found:
    """Entries change places along these axes, or are summed up to each."""
    dims: Any = a.get("dims", a.get("dim"))
    pin(trace, [a["self"][dim] for dim in ([dims] if isinstance(dims, int) else dims)])
    return a["self"]


VIEW_RULES: dict[str, Rule] = {
    **dict.fromkeys(("view", "_unsafe_view", "reshape", "squeeze", "unsqueeze", "_reshape_alias"), _view),
    **{"permute": _permute, "t": _transpose, "transpose": _transpose, "expand": _expand},
    **dict.fromkeys(("split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes"), _split),
    **{"slice": _slice, "select": _select, "unbind": _unbind, "cat": _cat, "stack": _stack},
    **{"constant_pad_nd": _pad, "repeat": _repeat, "embedding": _embedding},
    **{"index_select": _index_select, "index": _index},
    **dict.fromkeys(("flip", "roll", "cumsum"), _moved),
}

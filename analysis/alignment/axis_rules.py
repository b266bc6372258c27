"""How operators pass the indices of axes on: which axes of arguments and results run over the same index (indices.py).

A rule is given the indices of an operator's arguments by name and its result, and returns the result's indices. What it
promises is this: permute the positions of any index in the arguments, and the result is permuted along the axes that run over
it, and else the same. ``couples`` notes axes along which entries are mixed and kept, as a softmax does: there, what is permuted
along another axis must be permuted alike for all of them. An operator without a rule pins all that it touches.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .axes import Arguments, Axes, Found, Rule, Tracing, broadcast, fresh, pin, pinned, tensors
from .view_rules import VIEW_RULES


def passed_on(trace: Tracing, func: Any, arguments: Arguments, value: Any) -> Found:
    """The indices of an operator's result, a tensor or several."""
    name = func._schema.name.removeprefix("aten::").rstrip("_")
    rule = RULES.get(name)
    if rule is None and torch.Tag.pointwise in func.tags:
        rule = _pointwise
    return (rule or pinned)(trace, arguments, value)


def _pointwise(trace: Tracing, a: Arguments, value: Any) -> Found:
    return broadcast(trace, tensors(a), value.shape)


def _same(trace: Tracing, a: Arguments, value: Any) -> Found:
    return tensors(a)[0]


def _filled(trace: Tracing, a: Arguments, value: Any) -> Found:
    return fresh(trace, value.shape, pinned=False)


# Products of matrices, and convolutions.


def _product(first: str, second: str, addend: str = "", *, batch: int = 0) -> Rule:
    """The last axis of the first factor is contracted with the first of the second, after those that count a batch."""

    def rule(trace: Tracing, a: Arguments, value: Any) -> Found:
        x, y = a[first], a[second]
        trace.indices.unify(x[-1], y[batch])
        for i in range(batch):
            trace.indices.unify(x[i], y[i])
        found = Axes((*x[:-1], *y[batch + 1 :]))
        return broadcast(trace, [found, a[addend]], value.shape) if addend else found

    return rule


def _linear(trace: Tracing, a: Arguments, value: Any) -> Found:
    x, weight = a["input"], a["weight"]
    trace.indices.unify(x[-1], weight[-1])
    bias = [] if a["bias"] is None else [a["bias"]]
    return broadcast(trace, [Axes((*x[:-1], *weight[:-1])), *bias], value.shape)


def _convolution(trace: Tracing, a: Arguments, value: Any) -> Found:
    (batch, inputs, *places), (first, second, *kernel) = a["input"], a["weight"]
    pin(trace, (*places, *kernel))
    groups, size = a["groups"], trace.indices.size
    # weight is (outputs, inputs/groups, …), or where transposed (inputs, outputs/groups, …)
    by_group, shared = trace.indices.regroup([first], (groups, size(first) // groups))
    if a["transposed"]:
        in_group = trace.indices.product([by_group, shared])
        outputs = trace.indices.product([by_group, second])
    else:
        in_group = trace.indices.product([by_group, second])
        outputs = first
    trace.indices.unify(inputs, in_group)
    if a["bias"] is not None:
        trace.indices.unify(outputs, a["bias"][0])
    return Axes((batch, outputs, *fresh(trace, value.shape[2:], pinned=True)))


# Sums, norms, pools.


def _reduction(trace: Tracing, a: Arguments, value: Any) -> Found:
    (x,) = tensors(a)[:1]
    dims = a.get("dim")
    over = range(len(x)) if dims is None or dims == [] else [dims] if isinstance(dims, int) else dims
    gone = {dim % len(x) for dim in over} if len(x) else set()
    if a.get("keepdim"):
        found = Axes(trace.indices.new(1) if i in gone else axis for i, axis in enumerate(x))
    else:
        found = Axes(axis for i, axis in enumerate(x) if i not in gone)
    return found if isinstance(value, Tensor) else [found for _ in value]


def _softmax(trace: Tracing, a: Arguments, value: Any) -> Found:
    x = a["self"]
    dim = a["dim"] % len(x)
    trace.couples(x[dim : dim + 1], x[:dim] + x[dim + 1 :])
    return x


def _layer_norm(trace: Tracing, a: Arguments, value: Any) -> Found:
    x, last = a["input"], len(a["normalized_shape"])
    for given in (a.get("weight"), a.get("bias")):
        if given is not None:
            broadcast(trace, [x, given], value[0].shape)
    # The mean comes without these axes; so none of them is the host of one that is kept.
    ones = [trace.indices.new(1) for _ in range(last)]
    return [x, *(Axes((*x[:-last], *ones)) for _ in value[1:])]


def _batch_norm(trace: Tracing, a: Arguments, value: Any) -> Found:
    x = a["input"]
    for name in ("weight", "bias", "running_mean", "running_var"):
        if a.get(name) is not None:
            trace.indices.unify(x[1], a[name][0])
    if a.get("training", False):
        trace.couples((x[0], *x[2:]), x[1:2])
    return [x, *(fresh(trace, v.shape, pinned=True) for v in value[1:])]


def _group_norm(trace: Tracing, a: Arguments, value: Any) -> Found:
    x, groups = a["input"], a["group"]
    for given in (a["weight"], a["bias"]):
        if given is not None:
            trace.indices.unify(x[1], given[0])
    # As above, of the channels in a group: the mean comes without them.
    group, _ = trace.indices.regroup([x[1]], (groups, trace.indices.size(x[1]) // groups))
    return [x, *(Axes((x[0], group)) for _ in value[1:])]


def _pool(places: int) -> Rule:
    def rule(trace: Tracing, a: Arguments, value: Any) -> Found:
        (x,) = tensors(a)[:1]
        pin(trace, x[-places:])
        shape = (value if isinstance(value, Tensor) else value[0]).shape
        found = Axes((*x[:-places], *fresh(trace, shape[-places:], pinned=True)))
        return found if isinstance(value, Tensor) else [found for _ in value]

    return rule


RULES: dict[str, Rule] = {
    **dict.fromkeys(("clone", "alias", "detach", "_to_copy", "lift_fresh", "contiguous"), _same),
    **dict.fromkeys(("zeros_like", "ones_like", "full_like", "empty_like", "fill", "zero"), _same),
    **dict.fromkeys(("new_zeros", "new_ones", "new_full", "new_empty"), _filled),
    **dict.fromkeys(("copy", "masked_fill", "where", "_prelu_kernel"), _pointwise),
    **{"mm": _product("self", "mat2"), "mv": _product("self", "vec"), "dot": _product("self", "tensor")},
    **{"addmm": _product("mat1", "mat2", "self"), "addmv": _product("mat", "vec", "self")},
    **{
        "bmm": _product("self", "mat2", batch=1),
        "baddbmm": _product("batch1", "batch2", "self", batch=1),
    },
    **{"linear": _linear, "convolution": _convolution},
    **dict.fromkeys(
        ("sum", "mean", "amax", "amin", "prod", "var", "std", "var_mean", "std_mean"), _reduction
    ),
    **dict.fromkeys(("logsumexp", "linalg_vector_norm", "norm", "any", "all"), _reduction),
    **dict.fromkeys(("_softmax", "_log_softmax", "_safe_softmax"), _softmax),
    **dict.fromkeys(("native_layer_norm", "_fused_rms_norm"), _layer_norm),
    **dict.fromkeys(("native_batch_norm", "_native_batch_norm_legit_no_training"), _batch_norm),
    **{"_native_batch_norm_legit": _batch_norm, "native_group_norm": _group_norm},
    **dict.fromkeys(("avg_pool1d", "adaptive_avg_pool1d", "upsample_nearest1d"), _pool(1)),
    **dict.fromkeys(("max_pool2d_with_indices", "avg_pool2d", "_adaptive_avg_pool2d"), _pool(2)),
    **dict.fromkeys(("adaptive_max_pool2d", "upsample_nearest2d", "upsample_bilinear2d"), _pool(2)),
    **dict.fromkeys(("reflection_pad2d", "replication_pad2d"), _pool(2)),
    **dict.fromkeys(("max_pool3d_with_indices", "avg_pool3d", "_adaptive_avg_pool3d"), _pool(3)),
    **VIEW_RULES,
}

"""Which PyTorch operators keep a family affine: their values at θ₀ and along each direction give them everywhere.

An ``Affine`` is a family x(a) = x₀ + Σ aᵢ xᵢ. ``affine`` applies an operator to such families and constants at once: to the
x₀ as it is, and to the xᵢ with every constant addend left out.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.fx.node import map_aggregate

_aten = torch.ops.aten

# Linear in their first argument; the others are settings or constants.
LINEAR = {
    operator.getitem,
    *(_aten.view, _aten._unsafe_view, _aten.reshape, _aten.t, _aten.transpose, _aten.permute, _aten.expand),
    *(
        _aten.squeeze,
        _aten.unsqueeze,
        _aten.alias,
        _aten.clone,
        _aten.detach,
        _aten.contiguous,
        _aten._to_copy,
    ),
    *(_aten.split, _aten.split_with_sizes, _aten.unbind, _aten.slice, _aten.select, _aten.index_select),
    *(_aten.sum, _aten.mean, _aten.neg, _aten.div, _aten.flip, _aten.repeat, _aten.embedding),
    *(_aten.avg_pool2d, _aten._adaptive_avg_pool2d),
}
# Sums of their tensors.
SUMS = {_aten.add, _aten.sub, _aten.cat, _aten.stack}
# Positions of two factors, linear in each, and of what is added to their product.
PRODUCTS: dict[Any, tuple[int, int, int | None]] = {
    _aten.mul: (0, 1, None),
    _aten.mm: (0, 1, None),
    _aten.bmm: (0, 1, None),
    _aten.mv: (0, 1, None),
    _aten.dot: (0, 1, None),
    _aten.addmm: (1, 2, 0),
    _aten.baddbmm: (1, 2, 0),
    _aten.addmv: (1, 2, 0),
    _aten.linear: (0, 1, 2),
    _aten.convolution: (0, 1, 2),
}
# Parts of a tensor, along which a direction may be zero although it is not on the whole.
_PARTS = {operator.getitem, _aten.slice, _aten.select}


class NotAffine(Exception):
    """An operator that is not affine in the families given to it."""


@dataclass(frozen=True, eq=False)
class Affine:
    """x(a) = parts[0] + Σ aᵢ parts[i]; a part that is None is zero. Parts are tensors, or tuples of them, all shaped alike."""

    parts: tuple[Any, ...]

    @property
    def is_constant(self) -> bool:
        return all(part is None for part in self.parts[1:])


def affine(target: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Affine:
    """target(*args, **kwargs) of arguments that hold at least one Affine, as an Affine; NotAffine if it is none.

    Cost: the operator once for θ₀ and once for every direction along which any of the arguments changes.
    """
    operation = getattr(target, "overloadpacket", target)
    for_direction = _along(operation, args, kwargs)
    families = _families((args, kwargs))
    parts = [target(*_at(0, args), **_at(0, kwargs))]
    for i in range(1, len(families[0].parts)):
        if all(family.parts[i] is None for family in families):
            parts.append(None)
            continue
        part = target(*_at(i, for_direction), **_at(i, kwargs))
        zero = operation in _PARTS and isinstance(part, Tensor) and not part.any()
        parts.append(None if zero else part)
    if isinstance(parts[0], Tensor) and parts[0].dtype != _tensor(families[0].parts[0]).dtype:
        raise NotAffine  # a conversion rounds
    return Affine(tuple(parts))


def _along(operation: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
    """The arguments that give the part along a direction: constant addends are zero."""
    if _families(kwargs):
        raise NotAffine
    if operation in LINEAR:
        if _families(args[1:]) or kwargs.get("rounding_mode"):
            raise NotAffine
        return args
    if operation in SUMS:
        addends = 2 if operation in (_aten.add, _aten.sub) else 1
        return tuple(map_aggregate(args[:addends], _without_constant)) + args[addends:]  # type: ignore[arg-type]
    if operation in PRODUCTS:
        first, second, addend = PRODUCTS[operation]
        changed = list(args)
        in_first, in_second = bool(_families(args[first])), bool(_families(args[second]))
        if in_first and in_second:
            raise NotAffine
        if not in_first and not in_second:  # it is the addend that changes
            changed[first] = _without_constant(args[first])
        if addend is not None and addend < len(args):
            changed[addend] = _without_constant(args[addend])
        return tuple(changed)
    raise NotAffine


def _at(index: int, arguments: Any) -> Any:
    """Arguments with every family at its base (0) or along a direction."""

    def part(value: Any) -> Any:
        if not isinstance(value, Affine):
            return value
        found = value.parts[index]
        return torch.zeros_like(value.parts[0]) if found is None else found

    return map_aggregate(arguments, part)


def _without_constant(value: Any) -> Any:
    if isinstance(value, Tensor):
        return torch.zeros_like(value)
    return 0 if isinstance(value, int | float) else value


def _families(arguments: Any) -> list[Affine]:
    found: list[Affine] = []
    map_aggregate(arguments, lambda leaf: found.append(leaf) if isinstance(leaf, Affine) else None)
    return found


def _tensor(value: Any) -> Tensor:
    return value if isinstance(value, Tensor) else value[0]

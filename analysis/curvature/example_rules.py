"""For each operator and each of its arguments that may be a parameter: the gradients of single examples by it.

A rule takes the operator's arguments and its answer y, and gives a Gradient, or None where it does not apply. The first
dimension of y, and of what the operator was applied to, holds the examples one after another, r rows each;
g = ∂⟨z, s⟩/∂y comes later, from the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

_aten: Any = torch.ops.aten


@dataclass(frozen=True, eq=False)
class Gradient:
    """One operator's gradients by one argument, shaped ``shape``, from g and the inputs that it depends on.

    of: g (n, r, …) and inputs (n, r, …) of n examples -> (n, *shape). outer: where r = 1 it is the outer product of the rows
    of inputs and g, so that squares need no gradient of a single example.
    """

    shape: tuple[int, ...]
    of: Callable[[Tensor, Tensor], Tensor]
    inputs: Tensor | None = None
    outer: bool = False

    def rows(self, slope: Tensor, count: int, part: slice) -> Tensor:
        """(n, *shape) of some of the examples, g = slope being that of all ``count``."""
        g = _by_example(slope, count)[part]
        inputs = g if self.inputs is None else _by_example(self.inputs.detach(), count)[part]
        return self.of(g, inputs).reshape(len(g), *self.shape)

    def squares(self, slope: Tensor, count: int, chunk: int) -> Tensor:
        """Σ_n of the squared gradients, of this shape; chunk: numbers held at a time."""
        if self.outer and self.inputs is not None and len(self.inputs) == count:
            return self.inputs.detach().square().T @ slope.square()
        size = max(1, chunk // max(1, prod(self.shape)))
        parts = (slice(start, start + size) for start in range(0, count, size))
        return torch.stack([self.rows(slope, count, part).square().sum(0) for part in parts]).sum(0)


Rule = Callable[[tuple[Any, ...], Any], Gradient | None]


def _by_example(rows: Tensor, count: int) -> Tensor:
    return rows.reshape(count, -1, *rows.shape[1:])


def _product(inputs: int, matrix: int) -> Rule:
    """y = x B, x (N r, i) and B (i, o) at these positions."""

    def rule(args: tuple[Any, ...], answer: Any) -> Gradient:
        return Gradient(tuple(args[matrix].shape), lambda g, x: x.mT @ g, args[inputs], outer=True)

    return rule


def _addend(position: int, sign: int = 1) -> Rule:
    """y = … ± p, p broadcast."""

    def rule(args: tuple[Any, ...], answer: Any) -> Gradient | None:
        shape = tuple(args[position].shape)
        return Gradient(shape, lambda g, _: sign * _summed(g, shape)) if _fits(shape, answer) else None

    return rule


def _factor(position: int) -> Rule:
    """y = x p, elementwise, p broadcast."""

    def rule(args: tuple[Any, ...], answer: Any) -> Gradient | None:
        shape = tuple(args[position].shape)
        if not _fits(shape, answer):
            return None
        other = torch.as_tensor(args[1 - position]).to(answer).expand_as(answer)
        return Gradient(shape, lambda g, x: _summed(g * x, shape), other)

    return rule


def _kernel(args: tuple[Any, ...], answer: Any) -> Gradient:
    """The kernel of a convolution, by PyTorch's backward pass for each example: on a CPU faster than patches of images."""
    x, kernel, _, *places = args

    def of_example(g: Tensor, x: Tensor) -> Tensor:
        return _aten.convolution_backward(g, x, kernel, None, *places, [False, True, False])[1]

    def of(g: Tensor, x: Tensor) -> Tensor:
        return torch.stack([of_example(*one) for one in zip(g, x, strict=True)])

    return Gradient(tuple(kernel.shape), of, x)


def _channels(args: tuple[Any, ...], answer: Any) -> Gradient:
    """The bias of a convolution."""
    return Gradient(tuple(args[2].shape), lambda g, _: _of_channels(g))


def _normalized(operation: Any, scale: int, *, along: str) -> tuple[Rule, Rule]:
    """Scale and shift of a normalization, at positions scale and scale + 1; along: which dimensions they have."""

    def reduced(g: Tensor, shape: tuple[int, ...]) -> Tensor:  # g (n, r, …)
        return _summed(g, shape) if along == "last" else _of_channels(g)

    def scale_rule(args: tuple[Any, ...], answer: Any) -> Gradient:
        shape = tuple(args[scale].shape)
        plain = operation(*args[:scale], None, None, *args[scale + 2 :])[0]
        return Gradient(shape, lambda g, x: reduced(g * x, shape), plain)

    def shift_rule(args: tuple[Any, ...], answer: Any) -> Gradient:
        shape = tuple(args[scale + 1].shape)
        return Gradient(shape, lambda g, _: reduced(g, shape))

    return scale_rule, shift_rule


def _of_running_statistics(rule: Rule) -> Rule:
    return lambda args, answer: None if args[5] else rule(args, answer)


def _row_of(args: tuple[Any, ...], answer: Any) -> Gradient:
    """An embedding's table."""
    table, tokens = args[0], args[1]
    padding = args[2] if len(args) > 2 else -1

    def of(g: Tensor, tokens: Tensor) -> Tensor:
        g, tokens = g.reshape(len(g), -1, g.shape[-1]), tokens.reshape(len(g), -1)
        g = g * (tokens != padding)[..., None]
        rows = g.new_zeros(len(g), *table.shape)
        return rows.scatter_add_(1, tokens[..., None].expand_as(g), g)

    return Gradient(tuple(table.shape), of, tokens)


def _of_channels(g: Tensor) -> Tensor:
    """g (n, r, channels, …) summed over all but examples and channels."""
    return g.reshape(*g.shape[:3], -1).sum((1, 3))


def _fits(shape: tuple[int, ...], answer: Tensor) -> bool:
    """Whether an argument of this shape is the same for all examples."""
    return len(shape) < answer.ndim or (len(shape) == answer.ndim and shape[0] == 1)


def _summed(g: Tensor, shape: tuple[int, ...]) -> Tensor:
    """g (n, r, …) summed over rows and over what an argument of this shape was broadcast along, as (n, numbers)."""
    g = g.sum(1)
    shape = shape[len(shape) - g.ndim + 1 :] if len(shape) >= g.ndim else shape
    extra = g.ndim - 1 - len(shape)
    g = g.flatten(1, extra).sum(1) if extra else g
    ones = [i + 1 for i, size in enumerate(shape) if size == 1]
    return (g.sum(ones) if ones else g).reshape(len(g), -1)


_layer_norm = _normalized(_aten.native_layer_norm, 2, along="last")
_batch_norm = _normalized(_aten.native_batch_norm, 1, along="channels")
_group_norm = _normalized(_aten.native_group_norm, 1, along="channels")

RULES: dict[Any, dict[int, Rule]] = {
    _aten.mm: {1: _product(0, 1)},
    _aten.addmm: {0: _addend(0), 2: _product(1, 2)},
    _aten.convolution: {1: _kernel, 2: _channels},
    _aten.add: {0: _addend(0), 1: _addend(1)},
    _aten.sub: {0: _addend(0), 1: _addend(1, -1)},
    _aten.mul: {0: _factor(0), 1: _factor(1)},
    _aten.native_layer_norm: {2: _layer_norm[0], 3: _layer_norm[1]},
    _aten.native_batch_norm: {i + 1: _of_running_statistics(_batch_norm[i]) for i in range(2)},
    _aten.native_group_norm: {1: _group_norm[0], 2: _group_norm[1]},
    _aten.embedding: {0: _row_of},
}

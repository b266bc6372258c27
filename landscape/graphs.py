"""A function on R^P as a graph of PyTorch operators, and what of it is left to do at every point of an affine family.

On θ(a) = θ₀ + Σ aᵢ dᵢ many operators need not run once a point. Those that do not read θ give the same everywhere. Those that
are affine in θ are known everywhere from their values at θ₀ and along the k directions: the first linear or convolutional layer,
W(a)x = W₀x + Σ aᵢ (Dᵢx), an embedding, a view. Where the directions leave θ as it is the same holds of what comes
after. ``cut`` runs all these at once, and keeps a graph of the rest. What that graph reads of them is a new vector, the
state, and on the family it is affine in a as θ was.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_aggregate

from .affine import Affine, NotAffine, affine
from .capturing import Captured

_aten: Any = torch.ops.aten
_FEW = 16  # classes


@dataclass(frozen=True, eq=False)
class Residual:
    """The rest of a function on a family: graph(state, *constants) at the state origin + a @ directions.

    origin (S,), directions (k, S).
    """

    graph: fx.GraphModule
    constants: tuple[Tensor, ...]
    origin: Tensor
    directions: Tensor

    def states(self, coordinates: Tensor) -> Tensor:
        """(c, S) at coordinates (c, k); exactly the origin where they are 0."""
        return torch.addmm(self.origin, coordinates, self.directions)


def cut(captured: Captured, origin: Tensor, directions: Tensor, *, share: bool = True) -> Residual:
    """The rest of a captured function on the family origin (P,) + a @ directions (k, P). Exact to rounding.

    Without share it is the whole function, of θ itself. Cost: k + 1 evaluations at most of what is shared; memory: k + 1
    times what the rest reads of it.
    """
    made = _Cut(captured, Affine((origin, *(d if d.any() else None for d in directions))) if share else None)
    rest = fx.GraphModule({}, made.rest)
    if not share:
        return Residual(rest, made.constants, origin, directions)
    rows = [origin.new_zeros(0)] * (len(directions) + 1)
    if made.border:
        rows = [torch.cat([_flat(value, i) for value in made.border]) for i in range(len(directions) + 1)]
    along = torch.stack(rows[1:]) if len(directions) else origin.new_zeros(0, len(rows[0]))
    return Residual(rest, made.constants, rows[0], along)


class _Cut:
    """One pass over a graph: every node is a constant, a family, or a node of the rest."""

    def __init__(self, captured: Captured, theta: Affine | None) -> None:
        self.rest = fx.Graph()
        self.border: list[Affine] = []
        self._state = self._last_input = self.rest.placeholder("state")
        self._size = 0
        self._values: dict[fx.Node, Any] = {}
        self._constants: dict[int, tuple[Tensor, fx.Node]] = {}
        self._border: dict[int, fx.Node] = {}
        for node in captured.graph.nodes:
            if node.op == "placeholder":
                self._values[node] = self._state if theta is None else _plain(theta)
            elif node.op == "get_attr":
                self._values[node] = captured.constants[str(node.target)]
            elif node.op == "output":
                self.rest.output(map_aggregate(self._read(node.args[0]), self._in_rest))
            else:
                self._values[node] = self._result(node)
        self.rest.eliminate_dead_code()

    @property
    def constants(self) -> tuple[Tensor, ...]:
        return tuple(tensor for tensor, _ in self._constants.values())

    def _read(self, argument: Any) -> Any:
        return map_aggregate(argument, lambda leaf: self._values[leaf] if isinstance(leaf, fx.Node) else leaf)

    def _result(self, node: fx.Node) -> Any:
        args, kwargs = self._read(node.args), self._read(node.kwargs)
        kinds: set[type] = set()
        map_aggregate((args, kwargs), lambda leaf: kinds.add(type(leaf)))
        target: Any = _INSTEAD.get(node.target, node.target)
        if fx.Node not in kinds:
            if Affine not in kinds:
                return target(*args, **kwargs)
            try:
                return _plain(affine(target, args, kwargs))
            except NotAffine:
                pass
        args, kwargs = map_aggregate((args, kwargs), self._in_rest)  # type: ignore[misc]
        return self.rest.call_function(target, args, kwargs)

    def _in_rest(self, value: Any) -> Any:
        """A value as an argument in the rest."""
        if isinstance(value, Affine):
            return self._border_node(value)
        return self._constant_node(value) if isinstance(value, Tensor) else value

    def _border_node(self, family: Affine) -> fx.Node:
        if id(family) not in self._border:
            base = family.parts[0]
            piece = self.rest.call_function(
                _aten.slice.Tensor, (self._state, 0, self._size, self._size + base.numel())
            )
            self._border[id(family)] = self.rest.call_function(
                _aten.reshape.default, (piece, list(base.shape))
            )
            self._size += base.numel()
            self.border.append(family)
        return self._border[id(family)]

    def _constant_node(self, tensor: Tensor) -> fx.Node:
        if id(tensor) not in self._constants:
            with self.rest.inserting_after(self._last_input):
                self._last_input = self.rest.placeholder(f"constant_{len(self._constants)}")
            self._constants[id(tensor)] = tensor, self._last_input
        return self._constants[id(tensor)][1]


def _plain(family: Affine) -> Any:
    return family.parts[0] if family.is_constant else family


def _flat(family: Affine, index: int) -> Tensor:
    part = family.parts[index]
    return torch.zeros_like(family.parts[0]).flatten() if part is None else part.flatten()


def _log_softmax(x: Tensor, dim: int, half_to_float: bool) -> Tensor:
    """The same numbers: along a last dimension of few classes PyTorch's CPU kernel is nine times slower than across it."""
    if x.device.type == "cpu" and x.ndim > 1 and dim in (-1, x.ndim - 1) and x.shape[-1] <= _FEW:
        x, dim = x.movedim(-1, -2).contiguous(), -2
        return _aten._log_softmax.default(x, dim, half_to_float).movedim(-2, -1)
    return _aten._log_softmax.default(x, dim, half_to_float)


# What the rest runs in place of an operator that was captured: views need not fit the memory of another layout.
_INSTEAD: dict[Any, Any] = {
    _aten.view.default: _aten.reshape.default,
    _aten._unsafe_view.default: _aten.reshape.default,
    _aten._log_softmax.default: _log_softmax,
}

"""Parameters in which a network's outputs are piecewise affine: there the residual part of the Hessian has no diagonal.

If z is affine in a tensor of parameters, all others held, then ∂²z/∂θ_p² = 0 for its entries, and so is R_pp, the mean of
∂²z_i/∂θ_p² with weights ∂ℓ/∂z_i. That is where a tensor is used once, by a linear layer or a convolution or as a scale or shift,
and what follows is made of such layers and of ReLU, maximum pooling and the like, whose kinks autograd does not see. The
captured operators tell (landscape/capturing.py).
"""

from __future__ import annotations

import operator
from bisect import bisect_right
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, fx

from landscape.affine import LINEAR, PRODUCTS, SUMS
from landscape.capturing import Captured
from landscape.parameters import Parameters

from .examples import VIEWS, read

_aten: Any = torch.ops.aten
# Piecewise linear in all their tensors together.
_PIECEWISE = {
    *(_aten.relu, _aten.threshold, _aten.leaky_relu, _aten.hardtanh, _aten.clamp, _aten.clamp_min, _aten.abs),
    *(_aten.max_pool2d_with_indices, _aten.max_pool3d_with_indices, _aten._adaptive_avg_pool3d),
    *(
        _aten.max,
        _aten.amax,
        _aten.maximum,
        _aten.minimum,
        _aten.where,
        _aten.constant_pad_nd,
        _aten.masked_fill,
    ),
    *(_aten.reflection_pad2d, _aten.replication_pad2d, _aten.gather, _aten.index, _aten.roll, _aten.cumsum),
}
_Names = frozenset[int]  # numbers of tensors of parameters


def affine_parameters(captured: Captured, theta: Tensor, parameters: Parameters) -> Tensor:
    """Of every parameter whether outputs are piecewise affine in its tensor, (P,). Cost: one forward pass."""
    run = _Dependence(captured, theta, parameters)
    bent = torch.tensor([i in run.bent for i in range(len(parameters.names))])
    return ~bent.repeat_interleave(torch.tensor(parameters.sizes)).to(theta.device)


class _Dependence:
    """On which tensors of parameters every value hangs, and those (bent) in which some value is not piecewise affine."""

    def __init__(self, captured: Captured, theta: Tensor, parameters: Parameters) -> None:
        self.bent: set[int] = set()
        self._ends = list(accumulate(parameters.sizes))
        self._values: dict[fx.Node, Any] = {}
        self._places: dict[fx.Node, Any] = {}  # of what is a part of θ itself
        self._on: dict[fx.Node, _Names] = {}
        with torch.no_grad():
            for node in captured.graph.nodes:
                if node.op == "placeholder":
                    self._values[node] = theta
                    self._places[node] = torch.arange(len(theta), device=theta.device)
                    self._on[node] = frozenset(range(len(parameters.names)))
                elif node.op == "get_attr":
                    self._values[node], self._on[node] = captured.constants[str(node.target)], frozenset()
                elif node.op != "output":
                    self._step(node)

    def _step(self, node: fx.Node) -> None:
        target: Any = node.target
        operation = getattr(target, "overloadpacket", target)
        args, kwargs = read(node.args, self._values), read(node.kwargs, self._values)
        self._values[node] = value = target(*args, **kwargs)
        inputs = node.all_input_nodes
        if operation in VIEWS and inputs == [node.args[0]] and inputs[0] in self._places:
            self._places[node] = target(*read(node.args, {**self._values, **self._places}), **kwargs)
            self._on[node] = self._named(self._places[node])
            return
        if isinstance(value, Tensor) and not value.is_floating_point():
            self._on[node] = frozenset()  # a choice, which has no derivative
            return
        self._on[node] = self._joined(inputs)
        self.bent |= self._bent(operation, args, node)

    def _bent(self, operation: Any, args: tuple[Any, ...], node: fx.Node) -> _Names:
        """Tensors of parameters in which this operator is not affine piece by piece."""

        def on(*positions: int) -> _Names:
            given = [node.args[i] for i in positions if i < len(node.args)]
            return self._joined([n for n in given if isinstance(n, fx.Node)])

        if operation in SUMS or operation in _PIECEWISE or operation is operator.getitem:
            return frozenset()
        if operation in PRODUCTS or operation == _aten._prelu_kernel:
            first, second, _ = PRODUCTS.get(operation, (0, 1, None))
            return on(first) & on(second)
        if operation == _aten.native_batch_norm and not args[5]:
            return (on(0) & on(1)) | on(3, 4)
        if operation in LINEAR:
            return self._joined([n for n in node.all_input_nodes if n is not node.args[0]])
        return self._joined(node.all_input_nodes)

    def _joined(self, nodes: list[fx.Node]) -> _Names:
        return frozenset().union(*(self._on[n] for n in nodes))

    def _named(self, places: Any) -> _Names:
        """The tensors that a part of θ lies in; places: where its numbers are, or several parts' places."""
        parts = [places] if isinstance(places, Tensor) else list(places)
        spans = [(int(p.min()), int(p.max())) for p in parts if p.numel()]
        return frozenset(
            i for a, b in spans for i in range(bisect_right(self._ends, a), bisect_right(self._ends, b) + 1)
        )

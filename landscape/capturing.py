"""What a function runs on its argument, written down: the operators of one evaluation as a graph."""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.func import functionalize
from torch.fx.node import map_aggregate
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_aten: Any = torch.ops.aten
_READING = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
_OPAQUE = {Tensor.numpy, Tensor.tolist, Tensor.__array__, Tensor.__dlpack__, Tensor.data_ptr, torch.tensor}


@dataclass(frozen=True, eq=False)
class Captured:
    """The operators that one evaluation of a function ran: a graph, and the tensors that it reads besides the argument."""

    graph: fx.Graph
    constants: dict[str, Tensor]
    mutates: bool  # some operator writes to what another one gave


def capture(function: Callable[[Tensor], Tensor], x: Tensor) -> Captured:
    """The operators that function(x) runs on what hangs on x.

    Anything else is taken as it was then. RuntimeError where operators do not tell the function at another x: it reads a number
    off such a tensor (control flow, NumPy) or its layout in memory, writes to one that it has read as a constant, or makes one
    without an operator (nn.Parameter). Cost: one evaluation.
    """
    recorder = _Recorder(x)
    captured = recorder.run(function)
    recorder.refuse_hidden_changes()
    return captured


def capture_loss(term: Callable[[Tensor], Tensor], theta: Tensor) -> Captured:
    """A loss, or outputs, without gradients, and without operators that write to what another one gave."""
    with torch.no_grad():
        recorder = _Recorder(theta)
        captured = recorder.run(term)
        if captured.mutates:
            return capture(functionalize(term), theta)
        recorder.refuse_hidden_changes()
        return captured


class _Recorder(TorchDispatchMode):
    """Writes down every operator that takes part in getting from x to the result."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Nothing is compiled meanwhile, and to skip it PyTorch would import its compiler: a second.
        return False

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.graph, self.constants, self.mutates = fx.Graph(), dict[str, Tensor](), False
        # A copy: the function may hold x itself as a constant, or write to what it is given.
        self._x = x.detach().clone()
        self._nodes = {id(self._x): self.graph.placeholder("x")}
        self._kept: list[Any] = []  # so that no id is given twice
        self._names: dict[int, fx.Node] = {}
        self._versions: list[int] = []  # of the constants, when they were first read
        self._storages = {_storage(self._x)}  # of what hangs on x
        self._hidden = False  # something else shares memory with that

    def run(self, function: Callable[[Tensor], Tensor]) -> Captured:
        with self, _Opaque(self._nodes):
            self.graph.output(self._argument(function(self._x)))
        return Captured(self.graph, self.constants, self.mutates)

    def refuse_hidden_changes(self) -> None:
        if self._hidden:
            raise RuntimeError(
                "a tensor hangs on the argument although no operator made it, or wrote to all of it"
            )
        if [_version(tensor) for tensor in self.constants.values()] != self._versions:
            raise RuntimeError("a tensor is written to that was read as a constant")

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        others = [tensor for tensor in tensors if id(tensor) not in self._nodes]
        self._hidden |= any(tensor.numel() and _storage(tensor) in self._storages for tensor in others)
        # PyTorch's zeros without memory are refused by operators that write, and crash those that a mode like this one runs.
        func = _aten.zeros.default if func == _aten._efficientzerotensor.default else func
        found = func(*args, **kwargs)
        if len(others) < len(tensors):
            self._refuse_reading(func, args)
            self.mutates |= func._schema.is_mutable
            if not any(isinstance(leaf, Tensor) for leaf in tree_leaves(found)):
                return found  # of shapes and the like
            func, args, kwargs = _plainer(func, args, kwargs)
            args, kwargs = map_aggregate((args, kwargs), self._argument)  # type: ignore[misc]
            self._note(self.graph.call_function(func, args, kwargs), found)
        return found

    def _refuse_reading(self, func: Any, args: tuple[Any, ...]) -> None:
        reads = not _READING.isdisjoint(func.tags)
        if func == _aten.index.Tensor:  # its result is of one shape, unless a mask is among the indices
            masks = [i for i in args[1] if i is not None and i.dtype in (torch.bool, torch.uint8)]
            reads = any(id(mask) in self._nodes for mask in masks)
        if reads:
            raise RuntimeError(f"{func} reads a number that hangs on the argument")
        if func == _aten.as_strided.default:
            raise RuntimeError(f"{func} reads the layout in memory of what hangs on the argument")

    def _note(self, node: fx.Node, found: Any) -> None:
        if isinstance(found, Tensor):
            self._nodes[id(found)] = node
            self._kept.append(found)
            self._storages.add(_storage(found))
        elif isinstance(found, list | tuple):
            for i, one in enumerate(found):
                if isinstance(one, Tensor):
                    self._note(self.graph.call_function(operator.getitem, (node, i)), one)

    def _argument(self, value: Any) -> Any:
        if not isinstance(value, Tensor):
            return value
        if id(value) in self._nodes:
            return self._nodes[id(value)]
        if id(value) not in self._names:
            name = f"constant_{len(self.constants)}"
            self.constants[name] = value
            self._versions.append(_version(value))
            self._names[id(value)] = self.graph.get_attr(name)
        return self._names[id(value)]


def _plainer(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, tuple[Any, ...], Any]:
    """The same operator in words for which vmap has a rule: those of assignments to a part."""
    if func == _aten.slice_scatter.default:  # sys.maxsize is to the end, and to vmap too long
        return func, (*args[:2], *(None if a == sys.maxsize else a for a in args[2:])), kwargs
    if func == _aten.copy.default and args[0].dtype == args[1].dtype and args[0].device == args[1].device:
        return _aten.expand.default, (args[1], list(args[0].shape)), {}
    return func, args, kwargs


class _Opaque(TorchFunctionMode):
    """Refuses to hand out the numbers of what hangs on x to what is not PyTorch."""

    def __init__(self, hanging: dict[int, fx.Node]) -> None:
        super().__init__()
        self._hanging = hanging

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _OPAQUE and any(id(leaf) in self._hanging for leaf in tree_leaves(args)):
            raise RuntimeError(f"{func.__name__} reads numbers that hang on the argument")
        return func(*args, **(kwargs or {}))


def _storage(tensor: Tensor) -> int:
    """What is the same for tensors that share memory."""
    return tensor.untyped_storage()._cdata if torch._C._has_storage(tensor) else id(tensor)


def _version(tensor: Tensor) -> int:
    """How many times a tensor has been written to, as far as PyTorch counts."""
    return 0 if tensor.is_inference() else tensor._version

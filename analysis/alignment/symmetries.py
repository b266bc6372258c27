"""Which permutations of hidden units leave a network the function that it is, found from the operators that it runs.

A model's parameters and floating-point buffers are one vector; its outputs are captured as operators on it
(landscape/capturing.py). Every axis of every value runs over an index, and operators tell which are the same (axis_rules.py),
from the views of the vector to the outputs. Indices that the data or the outputs name are pinned; each of the others may be
permuted wherever it occurs, and the outputs stay as they are: nothing is assumed of layers or their names.

An index that never occurs without another one may be permuted differently for each position of that one: the numbers inside of
an attention head for each head, the channels inside of a group for each group. That one is called its host.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from landscape import InputError, Parameters
from landscape.capturing import Captured, capture_loss
from landscape.errors import told
from landscape.networks import batch_output
from landscape.objective import PlainWeightNorm

from .indices import Block
from .tracing import Evaluation, Trace


@dataclass(frozen=True)
class Group:
    """Units that may be permuted: how many, the host whose positions each have their own, and where they first occur.

    A group with free=False is a host that stays as it is. ``host`` is a number of a group, or −1.
    """

    size: int
    host: int
    free: bool
    label: str


@dataclass(frozen=True)
class Piece:
    """A strided part of a vector, one axis a group (its number, −1 for axes that stay as they are)."""

    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    groups: tuple[int, ...]

    def of(self, vector: Tensor) -> Tensor:
        return vector.as_strided(self.shape, self.strides, self.offset)


@dataclass(frozen=True, eq=False)
class Symmetries:
    """The groups of a network's units, and where they act.

    layout: names and shapes of what the state, one vector (S,), is made of: all parameters, then the floating-point buffers.
    pieces: the parts of the state in which free groups occur; values: those of what layers read.
    """

    layout: Parameters
    groups: tuple[Group, ...]
    pieces: tuple[Piece, ...]
    values: tuple[tuple[fx.Node, tuple[Piece, ...]], ...]
    captured: Captured

    def identity(self) -> list[Tensor]:
        """For each group positions (n,), or for one with a host (n_host, n), that change nothing."""
        return [
            torch.arange(g.size) if g.host < 0 else torch.arange(g.size).repeat(self.groups[g.host].size, 1)
            for g in self.groups
        ]

    def apply(self, permutations: Sequence[Tensor], state: Tensor) -> Tensor:
        """The state (S,) in which unit i of each group is what unit permutations[i] was; with a host, unit (h, i) was
        (permutations_host[h], permutations[h, i])."""
        found = state.clone()
        for piece in self.pieces:
            piece.of(found).copy_(self.permuted(permutations, piece, piece.of(state)))
        return found

    def permuted(
        self, permutations: Sequence[Tensor], piece: Piece, tensor: Tensor, *, but: Sequence[int] = ()
    ) -> Tensor:
        """A piece's tensor under permutations of the groups of all its axes, but some of them."""
        hosts: dict[int, int] = {group: axis for axis, group in enumerate(piece.groups)}
        for axis, group in enumerate(piece.groups):
            if group >= 0 and self.groups[group].host < 0 and axis not in but:
                tensor = tensor.index_select(axis, permutations[group])
        for axis, group in enumerate(piece.groups):
            if group >= 0 and self.groups[group].host >= 0 and axis not in but:
                shape = [1] * tensor.ndim
                host = hosts[self.groups[group].host]
                shape[host], shape[axis] = permutations[group].shape
                order = permutations[group] if host < axis else permutations[group].T
                tensor = tensor.take_along_dim(order.reshape(shape), axis)
        return tensor

    def activations(self, state: Tensor) -> list[Tensor]:
        """The ``values`` at a state, flat."""
        wanted = {node for node, _ in self.values}
        steps = Evaluation(self.captured, state).values()
        kept = {node: value.reshape(-1).clone() for node, value in steps if node in wanted}
        return [kept[node] for node, _ in self.values]


def symmetries(model: nn.Module, batch: Any, *, names: Sequence[str] | None = None) -> Symmetries:
    """The permutation symmetries of a model's outputs, the model being in eval mode. Cost: two forward passes.

    Args:
        names: the tensors that may be permuted; by default all parameters and floating-point buffers.
        batch: (inputs, targets) or a mapping, in the precision of the state. What it holds is not looked at, but for tensors
            that are of one number throughout, as an initial state of zeros is.

    Raises:
        InputError: the operators that the model runs do not tell its outputs at another θ.
    """
    layout = state_layout(model, names)
    state = layout.pack(state_of(model))
    try:
        captured = capture_loss(lambda x: outputs(model, layout.unpack(x), batch), state)
    except RuntimeError as error:
        raise InputError(
            f"the model's operators cannot be captured ({told(error)}); write its forward pass with tensors only."
        ) from error
    return _symmetries(Trace(captured, state), layout, captured)


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """All parameters and floating-point buffers by name."""
    return {
        **dict(model.named_parameters()),
        **{name: b for name, b in model.named_buffers() if b.is_floating_point()},
    }


def state_layout(model: nn.Module, names: Sequence[str] | None = None) -> Parameters:
    tensors = state_of(model)
    kept = tuple(tensors if names is None else names)
    return Parameters(kept, tuple(tuple(tensors[name].shape) for name in kept))


def outputs(model: nn.Module, tensors: dict[str, Tensor], batch: Any) -> Tensor:
    """All floating-point numbers that the model puts out with these tensors, by name, in place of its own; (m,)."""
    with PlainWeightNorm(), sdpa_kernel(SDPBackend.MATH):
        found = batch_output(lambda *x, **named: functional_call(model, tensors, x, named), batch)
    return torch.cat([tensor.reshape(-1) for tensor in _tensors(found) if tensor.is_floating_point()])


def _tensors(output: Any) -> list[Tensor]:
    if isinstance(output, Tensor):
        return [output]
    if isinstance(output, list | tuple):
        return [tensor for item in output for tensor in _tensors(item)]
    held = output if isinstance(output, Mapping) else getattr(output, "__dict__", {})
    return [tensor for item in held.values() for tensor in _tensors(item)]


def _symmetries(trace: Trace, layout: Parameters, captured: Captured) -> Symmetries:
    state, *_ = trace.axes.values()
    blocks = trace.blocks(state)
    free = sorted({run.leaf for _, runs in blocks for run in runs if not trace.indices.is_pinned(run.leaf)})
    hosts = trace.hosts(free)
    leaves = [*free, *sorted(set(hosts.values()) - set(free))]
    groups = tuple(
        Group(
            size=trace.indices.size(leaf),
            host=leaves.index(hosts[leaf]) if leaf in hosts else -1,
            free=i < len(free),
            label=_label(leaf, blocks, layout),
        )
        for i, leaf in enumerate(leaves)
    )

    def pieces(blocks: Sequence[Block]) -> tuple[Piece, ...]:
        """Those in which there is something to permute."""
        order = {leaf: i for i, leaf in enumerate(leaves)}
        return tuple(
            Piece(
                offset,
                tuple(run.size for run in runs),
                tuple(run.stride for run in runs),
                tuple(order.get(run.leaf, -1) for run in runs),
            )
            for offset, runs in blocks
            if not set(free).isdisjoint(run.leaf for run in runs)
        )

    values = [(node, pieces(trace.blocks(trace.axes[node]))) for node in dict.fromkeys(trace.read)]
    return Symmetries(layout, groups, pieces(blocks), tuple(v for v in values if v[1]), captured)


def _label(leaf: int, blocks: Sequence[Block], layout: Parameters) -> str:
    """The tensor and axis where a leaf first occurs."""
    at, stride = next((at, r.stride) for at, runs in blocks for r in runs if r.leaf == leaf)
    i = int(np.searchsorted(np.cumsum(layout.sizes), at, side="right"))
    shape = layout.shapes[i]
    axis = next(k for k in range(len(shape)) if prod(shape[k + 1 :]) <= stride)
    return f"{layout.names[i]}[{axis}]"

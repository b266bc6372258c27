"""Over which index every axis of every value of a captured graph runs, and which of these indices go together."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_aggregate

from landscape.capturing import Captured

from .axes import Axes, tensors
from .axis_rules import passed_on
from .indices import Block, Indices

_CONTRACTIONS = {"mm", "addmm", "bmm", "baddbmm", "mv", "addmv", "linear", "convolution"}


class Evaluation:
    """A captured graph evaluated operator by operator; values are forgotten after their last use."""

    def __init__(self, captured: Captured, x: Tensor) -> None:
        self._captured, self._x = captured, x

    def values(self) -> Iterator[tuple[fx.Node, Any]]:
        held: dict[fx.Node, Any] = {}
        uses = {node: len(node.users) for node in self._captured.graph.nodes}
        with torch.no_grad():
            for node in self._captured.graph.nodes:
                if node.op == "output":
                    return
                if node.op == "placeholder":
                    held[node] = self._x.clone()
                elif node.op == "get_attr":
                    held[node] = self._captured.constants[str(node.target)]
                else:
                    args, kwargs = map_aggregate((node.args, node.kwargs), lambda a: held.get(a, a))  # type: ignore[misc, arg-type]
                    held[node] = node.target(*args, **kwargs)  # type: ignore[operator, misc]
                yield node, held[node]
                for used in node.all_input_nodes:
                    uses[used] -= 1
                    if not uses[used]:
                        del held[used]


class Trace:
    """The indices of every value of a captured graph; what rules write to.

    axes: of the values, the first of which is the argument; read: the values about data that products of matrices and
    convolutions read.
    """

    def __init__(self, captured: Captured, state: Tensor) -> None:
        self.indices = Indices()
        self._captured = captured
        self.axes: dict[fx.Node, Any] = {}
        self._couplings: list[tuple[Axes, Axes]] = []
        self._copies: dict[tuple[int, int], dict[int, int]] = {}  # (leaf, selected leaf) -> position -> leaf
        self._about_data: set[fx.Node] = set()
        self.read: list[fx.Node] = []
        live = _live(captured.graph)
        for node, value in Evaluation(captured, state).values():
            if node in live:
                self.axes[node] = self._step(node, value)
        self._pin_ends()
        self._settle_copies()

    def couples(self, mixed: Sequence[int], kept: Sequence[int]) -> None:
        self._couplings.append((Axes(mixed), Axes(kept)))

    def selected(self, axes: Axes, dim: int, at: int) -> Axes:
        """A tensor at one position along an axis, which is pinned for it. Its other indices may be others at every position."""
        self.indices.pin(axes[dim])
        (host,) = self.indices.leaves(axes[dim]) or [-1]
        rest = axes[:dim] + axes[dim + 1 :]
        return Axes(self._copied(axis, host, at) for axis in rest)

    def stacked(self, parts: Sequence[Axes], dim: int) -> Axes:
        """Tensors along a new axis: the reverse of ``selected``, with indices that may be others at every position."""
        host = self.indices.new(len(parts), pinned=True)
        found = []
        for axes in zip(*parts, strict=True):
            leaf = self.indices.new(self.indices.size(axes[0]))
            self._copies[leaf, host] = dict(enumerate(axes))
            found.append(leaf)
        return Axes((*found[:dim], host, *found[dim:]))

    def blocks(self, axes: Sequence[int]) -> list[Block]:
        """A tensor's entries as blocks, in which no leaf is left that has copies."""
        todo, done = self.indices.blocks(self.indices.product(axes)), []
        while todo:
            offset, runs = todo.pop()
            pairs = [(r, h) for r in runs for h in runs if (r.leaf, h.leaf) in self._copies]
            if not pairs:
                done.append((offset, runs))
                continue
            _, host = pairs[0]
            for at in range(host.size):
                found: list[Block] = [(offset + at * host.stride, ())]
                for run in runs:
                    if run is host:
                        continue
                    copies = self._copies.get((run.leaf, host.leaf))
                    inner = [(0, (run,))] if copies is None else self.indices.blocks(copies[at], run.stride)
                    found = [(a + b, r + s) for a, r in found for b, s in inner]
                todo += found
        return sorted(done)

    def hosts(self, leaves: Sequence[int]) -> dict[int, int]:
        """For leaves that have one the host: a free one rather than a pinned one, and itself without a host."""
        company = self._company()
        hosts: dict[int, int] = {}
        for leaf in leaves:
            candidates = [h for h in company[leaf] if not self._coupled(leaf, h) and h not in hosts]
            if candidates and leaf not in hosts.values():
                hosts[leaf] = max(candidates, key=lambda h: (h in leaves, self.indices.size(h), -h))
        return hosts

    def _pin_ends(self) -> None:
        """The outputs' indices, and those of tensors in the state that the outputs do not hang on."""
        (result,) = next(node for node in self._captured.graph.nodes if node.op == "output").args
        ends = tensors(self.axes[result])  # type: ignore[index]
        state = next(iter(self.axes))
        for split in state.users:
            read = [part.args[1] for part in split.users if part in self.axes]
            ends += [axes for i, axes in enumerate(tensors(self.axes[split])) if i not in read]
        for axis in (i for axes in ends for i in axes):
            self.indices.pin(axis)

    def _copied(self, axis: int, host: int, at: int) -> int:
        free = [leaf for leaf in self.indices.leaves(axis) if not self.indices.is_pinned(leaf)]
        if host < 0 or not free:
            return axis
        copies = {}
        for leaf in free:
            known = self._copies.setdefault((leaf, host), {})
            if at not in known:
                known[at] = self.indices.new(self.indices.size(leaf))
            copies[leaf] = known[at]
        return self.indices.copied(axis, copies)

    def _step(self, node: fx.Node, value: Any) -> Any:
        if node.op == "placeholder":
            return Axes([self.indices.new(len(value))])
        if node.op == "get_attr":
            return self._constant(node, value)
        if not self._about_data.isdisjoint(node.all_input_nodes):
            self._about_data.add(node)
        given = map_aggregate(node.args, self._given)
        if node.target is operator.getitem:
            return given[0][given[1]]  # type: ignore[index]
        func: Any = node.target
        arguments = {
            a.name: a.default_value if a.has_default_value() else None for a in func._schema.arguments
        }
        arguments |= dict(zip(arguments, given, strict=False))  # type: ignore[arg-type]
        arguments |= {name: self._given(a) for name, a in node.kwargs.items()}
        if func.overloadpacket.__name__ in _CONTRACTIONS:
            self.read += [n for n in node.all_input_nodes if n in self._about_data and n.op != "get_attr"]
        return passed_on(self, func, arguments, value)

    def _given(self, argument: Any) -> Any:
        """An operator's argument, tensors as indices: of a constant with free ones, others at every use of it."""
        if not isinstance(argument, fx.Node):
            return argument
        found = self.axes[argument]
        if argument.op != "get_attr":
            return found
        return Axes(i if self.indices.is_pinned(i) else self.indices.new(self.indices.size(i)) for i in found)

    def _constant(self, node: fx.Node, value: Tensor) -> Axes:
        """Data: positions are told apart, except where the numbers are all the same."""
        uniform = value.numel() > 0 and bool((value == value.reshape(-1)[0]).all())
        if not uniform:
            self._about_data.add(node)
        return Axes(
            self.indices.new(n, pinned=not uniform and bool(stride))
            for n, stride in zip(value.shape, value.stride(), strict=True)
        )

    def _settle_copies(self) -> None:
        """Keeps the copies of leaves that never occur without the selected axis; the other copies are the leaf itself."""
        settled = False
        while not settled:
            settled = True
            roots: dict[tuple[int, int], dict[int, int]] = {}
            for (leaf, host), copies in self._copies.items():
                known = roots.setdefault((self.indices.find(leaf), self.indices.find(host)), {})
                for at, copy in copies.items():
                    if at in known:
                        self.indices.unify(known[at], copy)
                    known.setdefault(at, copy)
            self._copies = roots
            for (leaf, host), copies in list(roots.items()):
                if not self._separable(leaf, host):
                    for copy in copies.values():
                        self.indices.unify(leaf, copy)
                    del self._copies[leaf, host]
                    settled = False
        for (leaf, host), copies in self._copies.items():
            for at in range(self.indices.size(host)):
                copies.setdefault(at, self.indices.new(self.indices.size(leaf)))

    def _separable(self, leaf: int, host: int) -> bool:
        if (
            self.indices.leaves(leaf) != [leaf]
            or self.indices.is_pinned(leaf)
            or self.indices.leaves(host) != [host]
        ):
            return False
        if sum(leaf == other for other, _ in self._copies) > 1:
            return False
        for axes in self._all_axes():
            for _, runs in self.indices.blocks(self.indices.product(axes)):
                leaves = [run.leaf for run in runs]
                if leaf in leaves and leaves.count(host) != 1:
                    return False
        return not self._coupled(leaf, host)

    def _all_axes(self) -> list[Axes]:
        return [axes for found in self.axes.values() for axes in tensors(found)]

    def _coupled(self, leaf: int, host: int) -> bool:
        """Whether an operator mixes the host's entries at each of the leaf's."""

        def within(axes: Axes) -> set[int]:
            found = {leaf for axis in axes for leaf in self.indices.leaves(axis)}
            copies = [
                copy for (leaf, _), known in self._copies.items() if leaf in found for copy in known.values()
            ]
            return found | {leaf for copy in copies for leaf in self.indices.leaves(copy)}

        return any(
            host in within(mixed) and leaf in within(kept) - within(mixed) for mixed, kept in self._couplings
        )

    def _company(self) -> dict[int, set[int]]:
        """For every free leaf those that occur, once, wherever it does."""
        company: dict[int, set[int]] = {}
        for axes in self._all_axes():
            for _, runs in self.blocks(axes):
                leaves = [run.leaf for run in runs]
                single = {leaf for leaf in leaves if leaves.count(leaf) == 1}
                for leaf in leaves:
                    if not self.indices.is_pinned(leaf):
                        company[leaf] = company.get(leaf, single) & single - {leaf}
        return company


def _live(graph: fx.Graph) -> set[fx.Node]:
    """The nodes that the output hangs on, or what it hangs on may be written to by."""
    todo = [node for node in graph.nodes if node.op in ("placeholder", "output") or _writes(node)]
    live = set[fx.Node]()
    while todo:
        node = todo.pop()
        if node not in live:
            live.add(node)
            todo += node.all_input_nodes
    return live


def _writes(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable

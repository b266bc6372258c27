"""Squared gradients of single examples, without a pass for each: what the Gauss–Newton diagonal is made of.

With outputs z (N, …), one row an example, and seeds s like z, wanted is for every parameter p

    q_p = Σ_n (∂⟨z_n, s_n⟩ / ∂θ_p)²

A layer that takes a parameter W to an answer y = W a gives example n the gradient Σ_t g_nt a_ntᵀ, with g = ∂⟨z, s⟩/∂y from one
backward pass for all examples (Goodfellow 2015, arXiv 1510.01799, for norms; Dangel et al. 2020, arXiv 1912.10985). The layers
are found among the operators that one forward pass runs (landscape/capturing.py), whatever modules they come from.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_aggregate
from torch.nn.attention import SDPBackend, sdpa_kernel

from landscape.capturing import Captured, capture_loss

from .example_rules import RULES, Gradient

CHUNK = 2**24  # numbers of gradients of single examples held at a time

_aten: Any = torch.ops.aten
VIEWS = {
    operator.getitem,
    *(_aten.view, _aten._unsafe_view, _aten.reshape, _aten.t, _aten.transpose, _aten.permute, _aten.expand),
    *(_aten.squeeze, _aten.unsqueeze, _aten.alias, _aten.clone, _aten.contiguous, _aten.select),
    *(_aten.split, _aten.split_with_sizes, _aten.unbind, _aten.slice, _aten.lift_fresh),
}


@dataclass(frozen=True, eq=False)
class _Use:
    """One operator that takes parameters θ[index] to an answer, of which it knows every example's gradient."""

    answer: Tensor
    index: Tensor  # (m,), the place in θ of each number of the argument
    gradient: Gradient

    @cached_property
    def repeats(self) -> bool:
        first, last = int(self.index.min()), int(self.index.max())
        found = torch.zeros(last + 1 - first, dtype=torch.bool, device=self.index.device)
        found[self.index - first] = True
        return int(found.sum()) < len(self.index)


class ExampleSquares:
    """s -> q (P,) for seeds s like z (N, …); z is the attribute ``z``, ``captured`` its operators, or None if they cannot be.

    ``known`` (P,) says for which parameters q is what the formula says. For the others it is (∂⟨z, s⟩/∂θ_p)²: of the
    examples together, so that over seeds with a random sign for each example its mean is q. These are the parameters of
    operators without a rule (example_rules.py), or of which an example's answers are not rows of their own: BatchNorm by
    batch, or the time before the example in an array.

    Cost: one forward pass and two backward ones to make, each q about one backward pass. Memory: that of a gradient, and CHUNK.

    Args:
        output: θ (P,) -> z, whose first dimension counts examples.
    """

    def __init__(self, output: Callable[[Tensor], Tensor], theta: Tensor) -> None:
        self._leaf = theta.detach().clone().requires_grad_()
        self.captured: Captured | None = None
        uses: list[_Use] = []
        unknown = torch.zeros(len(theta), dtype=torch.bool, device=theta.device)
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            try:
                self.captured = capture_loss(output, theta)
                run = _Run(self.captured, self._leaf)
                self.z, uses, unknown = run.result, run.uses, run.unknown
            except RuntimeError:  # it cannot be captured
                self.z = output(self._leaf)
                unknown = ~unknown
        self.examples = len(self.z)
        for use in self._mixed(uses):
            unknown[use.index] = True
        self.known = ~unknown
        self._uses = [use for use in uses if self.known[use.index].all()]
        self._groups = _sharing(self._uses, len(theta))

    def __call__(self, seeds: Tensor) -> Tensor:
        """q (P,)."""
        rest = [] if self.known.all() else [self._leaf]
        inputs = [use.answer for use in self._uses] + rest
        if not self.z.requires_grad or not inputs:
            return torch.zeros_like(self._leaf)
        found = torch.autograd.grad(self.z, inputs, seeds, retain_graph=True, materialize_grads=True)
        squares = found[-1].square() * ~self.known if rest else torch.zeros_like(self._leaf)
        for group in self._groups:
            together = [(self._uses[i], found[i]) for i in group]
            use, slope = together[0]
            if len(group) == 1 and not use.repeats:
                found_squares = use.gradient.squares(slope, self.examples, CHUNK)
                squares[use.index] = found_squares.reshape(-1).to(squares.dtype)  # autocast has others
            else:
                self._add_shared(squares, together)
        return squares.detach()

    def _add_shared(self, squares: Tensor, uses: list[tuple[_Use, Tensor]]) -> None:
        """Of parameters that several operators use, or one of them several times: gradients are summed, then squared."""
        index = torch.cat([use.index for use, _ in uses]).unique()
        places = [torch.searchsorted(index, use.index) for use, _ in uses]
        size = max(1, CHUNK // len(index))
        for start in range(0, self.examples, size):
            part = slice(start, min(start + size, self.examples))
            total = squares.new_zeros(part.stop - part.start, len(index))
            for (use, slope), place in zip(uses, places, strict=True):
                rows = use.gradient.rows(slope, self.examples, part).flatten(1)
                total.index_add_(1, place, rows.to(total.dtype))
            squares[index] += total.square().sum(0)

    def _mixed(self, uses: list[_Use]) -> list[_Use]:
        """Uses of which an example's seeds reach other rows of the answer than its own, found by trying two examples."""
        mixed = [use for use in uses if not use.answer.ndim or len(use.answer) % self.examples]
        rest = [use for use in uses if use not in mixed]
        for n in {0, self.examples - 1} if rest else ():
            seeds = torch.zeros_like(self.z)
            seeds[n] = torch.linspace(1, 2, seeds[n].numel(), dtype=seeds.dtype).view_as(seeds[n])
            answers = [use.answer for use in rest]
            slopes = torch.autograd.grad(self.z, answers, seeds, retain_graph=True, materialize_grads=True)
            for use, slope in zip(rest, slopes, strict=True):
                reached = slope.reshape(self.examples, -1).any(1)
                reached[n] = False
                mixed += [use] if reached.any() else []
        return mixed


class _Run:
    """The captured operators run once with autograd: uses of parameters that have a rule, and parameters with others (P,)."""

    def __init__(self, captured: Captured, theta: Tensor) -> None:
        self.uses: list[_Use] = []
        self.unknown = torch.zeros(len(theta), dtype=torch.bool, device=theta.device)
        self._values: dict[fx.Node, Any] = {}
        self._places: dict[fx.Node, Any] = {}  # of what is nothing but a part of θ: where in θ each number is
        for node in captured.graph.nodes:
            if node.op == "placeholder":
                self._values[node] = theta
                self._places[node] = torch.arange(len(theta), device=theta.device)
            elif node.op == "get_attr":
                self._values[node] = captured.constants[str(node.target)]
            elif node.op == "output":
                self.result: Tensor = read(node.args[0], self._values)
            else:
                self._step(node)

    def _step(self, node: fx.Node) -> None:
        target: Any = node.target
        operation = getattr(target, "overloadpacket", target)
        args, kwargs = read(node.args, self._values), read(node.kwargs, self._values)
        self._values[node] = value = target(*args, **kwargs)
        parts = [n for n in node.all_input_nodes if n in self._places]
        if not parts or operation == _aten.detach:
            return
        if operation in VIEWS and parts == [node.args[0]]:
            self._places[node] = target(*read(node.args, {**self._values, **self._places}), **kwargs)
            return
        rules = {} if kwargs else RULES.get(operation, {})
        for position, argument in enumerate(node.args):
            if argument in parts and position in rules:
                gradient = rules[position](args, value)
                if gradient is not None:
                    answer = value if isinstance(value, Tensor) else value[0]
                    self.uses.append(_Use(answer, self._places[argument].reshape(-1), gradient))
                    continue
            for part in _nodes(argument) & set(parts):
                self._place_unknown(part)
        for part in _nodes(tuple(node.kwargs.values())) & set(parts):
            self._place_unknown(part)

    def _place_unknown(self, part: fx.Node) -> None:
        places = self._places[part]
        for place in [places] if isinstance(places, Tensor) else places:
            self.unknown[place.reshape(-1)] = True


def _sharing(uses: list[_Use], dim: int) -> list[list[int]]:
    """Uses in groups, such that no parameter is used in two."""
    group = list(range(len(uses)))
    owner = torch.full((dim,), -1)
    for i, use in enumerate(uses):
        place = use.index.cpu()
        met = owner[place]
        for other in met[met >= 0].unique().tolist():
            group = [group[i] if g == group[other] else g for g in group]
        owner[place] = i
    return [[i for i, g in enumerate(group) if g == one] for one in dict.fromkeys(group)]


def read(argument: Any, values: Any) -> Any:
    """An operator's arguments, with every node in them replaced by its value."""
    return map_aggregate(argument, lambda leaf: values[leaf] if isinstance(leaf, fx.Node) else leaf)


def _nodes(argument: Any) -> set[fx.Node]:
    found: set[fx.Node] = set()
    map_aggregate(argument, lambda leaf: found.add(leaf) if isinstance(leaf, fx.Node) else None)
    return found

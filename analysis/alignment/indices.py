"""What the axes of tensors run over: indices that are the same, sums of indices end to end, products of them.

An index is a number that stands for a set of positions 0 … n − 1. Several axes may turn out to run over one index (``unify``),
an axis may turn out to be several lists end to end (a sum: the gates of an LSTM, concatenated features) or to run over pairs
(a product: heads times their widths, channels times pixels); one index then becomes the other everywhere. A pinned index is
one whose positions are told apart, so that nothing about its structure matters any more. Where structures do not fit
together both are pinned: that is always safe.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Literal, NamedTuple


class Run(NamedTuple):
    """One leaf of an index as a strided run through it."""

    leaf: int
    size: int
    stride: int


Block = tuple[int, tuple[Run, ...]]  # an offset, and the runs that reach every position of the block from it


class Indices:
    """A union of indices: leaves, sums and products."""

    def __init__(self) -> None:
        self._parent: list[int] = []
        self._size: list[int] = []
        self._kind: list[Literal["leaf", "sum", "product"]] = []
        self._parts: list[tuple[int, ...]] = []
        self._pinned: list[bool] = []

    def new(self, size: int, *, pinned: bool = False) -> int:
        return self._made(size, "leaf", (), pinned)

    def size(self, index: int) -> int:
        return self._size[index]

    def is_pinned(self, index: int) -> bool:
        return self._pinned[self.find(index)]

    def find(self, index: int) -> int:
        while self._parent[index] != index:
            self._parent[index] = index = self._parent[self._parent[index]]
        return index

    def pin(self, index: int) -> None:
        """Its positions are told apart, and so are those of its parts."""
        root = self.find(index)
        parts, self._parts[root], self._kind[root] = self._parts[root], (), "leaf"
        self._pinned[root] = True
        for part in parts:
            self.pin(part)

    def sum(self, indices: Sequence[int]) -> int:
        """The positions of all, end to end."""
        kept = tuple(i for i in indices if self._size[i])
        return kept[0] if len(kept) == 1 else self._made(sum(self._size[i] for i in kept), "sum", kept)

    def product(self, indices: Sequence[int]) -> int:
        """Tuples of positions, the last one running fastest."""
        kept = tuple(i for i in indices if self._size[i] != 1)
        size = prod(self._size[i] for i in kept)
        if len(kept) < 2:
            return kept[0] if kept else self.new(1)
        return self._made(size, "product", kept)

    def unify(self, one: int, other: int) -> None:
        """Both are the same index, of one size."""
        a, b = self.find(one), self.find(other)
        if a == b:
            return
        if self._pinned[a] or self._pinned[b]:
            self.pin(a)
            self.pin(b)
        elif self._kind[a] == self._kind[b] == "product":
            for x, y in zip(self._factors(a), self.regroup([b], self._factor_sizes(a)), strict=True):
                self.unify(x, y)
        elif "leaf" not in (self._kind[a], self._kind[b]):
            self._unify_sums(a, b)
        a, b = self.find(a), self.find(b)
        leaf, kept = (a, b) if self._kind[a] == "leaf" else (b, a)
        self._parent[leaf] = kept

    def part(self, index: int, start: int, stop: int) -> int:
        """The positions start … stop − 1 of it."""
        self._split(index, start)
        self._split(index, stop)
        found, offset = [], 0
        for term in self._terms(index):
            if start <= offset < stop:
                found.append(term)
            offset += self._size[term]
        return self.sum(found) if found else self.new(0)

    def regroup(self, indices: Sequence[int], sizes: Sequence[int]) -> list[int]:
        """The product of indices written as a product of others, of these sizes."""
        left = [factor for index in indices for factor in self._factors(index)]
        found = []
        for size in sizes:
            taken: list[int] = []
            need = size
            while need > 1:
                factor = left.pop(0)
                n = self._size[factor]
                if need % n and not n % need:
                    taken_part, rest = self._factored(factor, need)
                    taken.append(taken_part)
                    left.insert(0, rest)
                    need = 1
                elif need % n:
                    return self._pinned_anew(indices, sizes)
                else:
                    taken.append(factor)
                    need //= n
            found.append(self.product(taken))
        return found

    def blocks(self, index: int, stride: int = 1) -> list[Block]:
        """The index as runs over leaves: one block, or several where there are sums in it."""
        root = self.find(index)
        if self._size[root] == 1:
            return [(0, ())]
        if self._kind[root] == "leaf":
            return [(0, (Run(root, self._size[root], stride),))]
        if self._kind[root] == "sum":
            found, offset = [], 0
            for part in self._parts[root]:
                found += [(offset * stride + at, runs) for at, runs in self.blocks(part, stride)]
                offset += self._size[part]
            return found
        found = [(0, ())]
        for part in reversed(self._parts[root]):
            inner = self.blocks(part, stride)
            found = [(at + more, runs + ends) for at, runs in inner for more, ends in found]
            stride *= self._size[part]
        return found

    def leaves(self, index: int) -> list[int]:
        return sorted({run.leaf for _, runs in self.blocks(index) for run in runs})

    def copied(self, index: int, copies: dict[int, int]) -> int:
        """An index of the same structure, over the leaves that ``copies`` has for its own."""
        root = self.find(index)
        if self._kind[root] == "leaf":
            return copies.get(root, root)
        parts = tuple(self.copied(part, copies) for part in self._parts[root])
        return self._made(self._size[root], self._kind[root], parts)

    def _made(
        self, size: int, kind: Literal["leaf", "sum", "product"], parts: tuple[int, ...], pinned: bool = False
    ) -> int:
        self._parent.append(len(self._parent))
        self._size.append(size)
        self._kind.append(kind)
        self._parts.append(parts)
        self._pinned.append(pinned)
        return len(self._parent) - 1

    def _terms(self, index: int) -> list[int]:
        root = self.find(index)
        if self._kind[root] != "sum":
            return [root]
        return [term for part in self._parts[root] for term in self._terms(part)]

    def _factors(self, index: int) -> list[int]:
        root = self.find(index)
        if self._kind[root] != "product":
            return [root] if self._size[root] != 1 else []
        return [factor for part in self._parts[root] for factor in self._factors(part)]

    def _factor_sizes(self, index: int) -> list[int]:
        return [self._size[factor] for factor in self._factors(index)]

    def _split(self, index: int, offset: int) -> None:
        """Makes it a sum with a boundary at the offset."""
        root = self.find(index)
        if offset in (0, self._size[root]):
            return
        if self._kind[root] == "sum":
            for part in self._parts[root]:
                if 0 < offset < self._size[part]:
                    self._split(part, offset)
                offset -= self._size[part]
            return
        if self._kind[root] == "product":
            first, *rest = self._factors(root)
            tail = prod(self._size[i] for i in rest)
            if offset % tail == 0:
                self._split(first, offset // tail)
                self._become(root, "sum", [self.product([t, *rest]) for t in self._terms(first)])
                return
            self.pin(root)
        pinned = self._pinned[root]
        sizes = offset, self._size[root] - offset
        self._become(root, "sum", [self.new(size, pinned=pinned) for size in sizes])

    def _factored(self, index: int, size: int) -> tuple[int, int]:
        """A leaf, or a sum that is pinned for it, as a product whose first factor has this size."""
        root = self.find(index)
        if self._kind[root] != "leaf":
            self.pin(root)
        pinned = self._pinned[root]
        first, second = (self.new(n, pinned=pinned) for n in (size, self._size[root] // size))
        if not pinned:
            self._become(root, "product", [first, second])
        return first, second

    def _unify_sums(self, a: int, b: int) -> None:
        for one, other in ((a, b), (b, a)):
            offset = 0
            for term in self._terms(one):
                offset += self._size[term]
                self._split(other, offset)
        terms = self._terms(a), self._terms(b)
        if self._sizes(terms[0]) != self._sizes(terms[1]):  # splitting one has split the other
            self.pin(a)
            self.pin(b)
            return
        for x, y in zip(*terms, strict=True):
            self.unify(x, y)

    def _sizes(self, indices: Sequence[int]) -> list[int]:
        return [self._size[i] for i in indices]

    def _become(self, root: int, kind: Literal["sum", "product"], parts: Sequence[int]) -> None:
        self._kind[root], self._parts[root], self._pinned[root] = kind, tuple(parts), False

    def _pinned_anew(self, indices: Sequence[int], sizes: Sequence[int]) -> list[int]:
        for index in indices:
            self.pin(index)
        return [self.new(size, pinned=True) for size in sizes]

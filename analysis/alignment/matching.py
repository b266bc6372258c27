"""Permutations of a network's units that bring its tensors nearest to another network's.

Sought are permutations π that maximise Σ ⟨A, πB⟩ over pairs of tensors: parameters (then ‖A − πB‖² is least), or standardized
activations (then the sum of correlations is largest). With all groups but one held, the sum is linear in that one's permutation,
where it occurs along one axis of a tensor, and the best is a linear assignment: Algorithm 1 of Ainsworth, Hayase and Srinivasa,
"Git Re-Basin" (arXiv 2209.04836). Where a group occurs along two axes (recurrent weights, residual streams) the other one is held
too, and the step is taken only if the sum rises. A host and what it hosts are matched together: the gain of host p taking the
place of q is the best assignment inside of them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from .symmetries import Piece, Symmetries

SWEEPS = 100
_RISE = 1e-12  # of Σ ‖A‖‖B‖: a smaller gain is rounding


@dataclass(frozen=True, eq=False)
class Pair:
    """The tensors A and B of a piece."""

    piece: Piece
    a: Tensor
    b: Tensor


@dataclass(frozen=True, eq=False)
class Matched:
    """One permutation a group, Σ ⟨A, πB⟩, how many sweeps it took, and whether the last one changed nothing."""

    permutations: list[Tensor]
    similarity: float
    sweeps: int
    converged: bool


def weight_pairs(found: Symmetries, names: Collection[str], a: Tensor, b: Tensor) -> list[Pair]:
    """The tensors of these names in two states; running statistics, for one, are not on the scale of weights."""
    sizes = zip(found.layout.names, found.layout.sizes, strict=True)
    kept = torch.cat([torch.full((n,), name in names) for name, n in sizes])
    return [Pair(piece, piece.of(a), piece.of(b)) for piece in found.pieces if bool(piece.of(kept).all())]


def activation_pairs(found: Symmetries, a: Tensor, b: Tensor) -> list[Pair]:
    """What layers read at two states, standardized, so that ⟨A, B⟩ is a sum of correlations."""
    sides = zip(found.values, found.activations(a), found.activations(b), strict=True)
    return [
        Pair(piece, *(_standardized(piece.of(side), piece.groups) for side in (one, other)))
        for (_, pieces), one, other in sides
        for piece in pieces
    ]


def matched(
    symmetries: Symmetries, pairs: Sequence[Pair], *, restarts: int, generator: torch.Generator
) -> Matched:
    """The best of several ascents from the identity, the first over groups in order, the others in random orders.

    Cost: for every group and sweep a product of matrices (n, m)(m, n) for tensors of nm entries, and an assignment, O(n³).
    """
    matching = _Matching(symmetries, pairs)
    found = [matching.ascent(None)]
    found += [matching.ascent(generator) for _ in range(restarts - 1)]
    return max(found, key=lambda one: one.similarity)


class _Matching:
    def __init__(self, symmetries: Symmetries, pairs: Sequence[Pair]) -> None:
        self._symmetries, self._groups = symmetries, symmetries.groups
        self._pairs = [[pair for pair in pairs if g in pair.piece.groups] for g in range(len(self._groups))]
        self._all = list(pairs)
        # What a tensor gains along an axis, for the permutations along its others: sweeps near the end change few of them.
        self._known: dict[tuple[int, int], tuple[list[Tensor], Tensor]] = {}
        self._least = _RISE * float(sum(pair.a.norm() * pair.b.norm() for pair in pairs))

    def ascent(self, generator: torch.Generator | None) -> Matched:
        permutations = self._symmetries.identity()
        moves = [g for g, group in enumerate(self._groups) if group.free]
        sweeps, settled = 0, False
        while sweeps < SWEEPS and not settled:
            order = torch.arange(len(moves))
            if generator is not None:
                order = torch.randperm(len(moves), generator=generator)
            changed = [self._improve(moves[i], permutations) for i in order]
            sweeps, settled = sweeps + 1, not any(changed)
        return Matched(permutations, self._similarity(self._all, permutations), sweeps, settled)

    def _improve(self, g: int, permutations: list[Tensor]) -> bool:
        """Takes the best permutation of a group, the others held, if that is better; says whether it did."""
        guests = [c for c, group in enumerate(self._groups) if group.host == g]
        proposed = list(permutations)
        if guests:
            self._assign_with_guests(g, guests, proposed)
        elif self._groups[g].host >= 0:
            gains = self._gains(g, permutations)
            proposed[g] = torch.stack([_assignment(gain) for gain in gains])
        else:
            proposed[g] = _assignment(self._gains(g, permutations)[0])
        touched = [pair for i in dict.fromkeys([g, *guests]) for pair in self._pairs[i]]
        touched = list({id(pair): pair for pair in touched}.values())
        rise = self._similarity(touched, proposed) - self._similarity(touched, permutations)
        if not rise > self._least:
            return False
        permutations[:] = proposed
        return True

    def _gains(self, g: int, permutations: list[Tensor]) -> Tensor:
        """What it adds if unit i of A meets unit j of B, (1, n, n), or (n_host, n, n) for each position of the host."""
        size, host = self._groups[g].size, self._groups[g].host
        total = torch.zeros(1 if host < 0 else self._groups[host].size, size, size, dtype=torch.float64)
        for pair in self._pairs[g]:
            for axis in (k for k, group in enumerate(pair.piece.groups) if group == g):
                others = [permutations[i] for k, i in enumerate(pair.piece.groups) if i >= 0 and k != axis]
                before, gain = self._known.get((id(pair), axis), (None, total))
                if before is None or any(p is not q for p, q in zip(before, others, strict=True)):
                    b = self._symmetries.permuted(permutations, pair.piece, pair.b, but=[axis])
                    along = [axis] if host < 0 else [pair.piece.groups.index(host), axis]
                    a, b = (_leading(x, along).reshape(len(total), size, -1) for x in (pair.a, b))
                    gain = a @ b.mT
                    self._known[id(pair), axis] = others, gain
                total += gain
        return total

    def _assign_with_guests(self, g: int, guests: Sequence[int], permutations: list[Tensor]) -> None:
        """The best permutation of a host together with those of its guests; tensors with two of these do not count."""
        size = self._groups[g].size
        gain = torch.zeros(size, size, dtype=torch.float64)
        for pair in self._pairs[g]:
            axes = [k for k, group in enumerate(pair.piece.groups) if group == g]
            if not set(guests) & set(pair.piece.groups):
                for axis in axes:
                    b = self._symmetries.permuted(permutations, pair.piece, pair.b, but=[axis])
                    gain += (
                        _leading(pair.a, [axis]).reshape(size, -1) @ _leading(b, [axis]).reshape(size, -1).T
                    )
        inner = {}
        for guest in guests:
            inner[guest], best = self._inner(g, guest, set(guests), permutations)
            gain += best
        permutations[g] = _assignment(gain)
        for guest, chosen in inner.items():
            permutations[guest] = torch.stack([chosen[p][int(q)] for p, q in enumerate(permutations[g])])

    def _inner(
        self, g: int, guest: int, guests: set[int], permutations: list[Tensor]
    ) -> tuple[list[list[Tensor]], Tensor]:
        """For hosts p of A and q of B the guest's best permutation, and what it gains (n_host, n_host)."""
        hosts, size = self._groups[g].size, self._groups[guest].size
        total = torch.zeros(hosts, hosts, size, size, dtype=torch.float64)
        for pair in self._pairs[guest]:
            groups = pair.piece.groups
            if sum(group in guests for group in groups) > 1:
                continue
            along = [groups.index(g), groups.index(guest)]
            b = self._symmetries.permuted(permutations, pair.piece, pair.b, but=along)
            a, b = (_leading(x, along).reshape(hosts, size, -1) for x in (pair.a, b))
            total += torch.einsum("pir,qjr->pqij", a, b)
        chosen = [[_assignment(total[p, q]) for q in range(hosts)] for p in range(hosts)]
        each = torch.arange(size)
        best = [[total[p, q, each, chosen[p][q]].sum() for q in range(hosts)] for p in range(hosts)]
        return chosen, torch.stack([torch.stack(row) for row in best])

    def _similarity(self, pairs: Sequence[Pair], permutations: list[Tensor]) -> float:
        found = 0.0
        for pair in pairs:
            b = self._symmetries.permuted(permutations, pair.piece, pair.b)
            found += float(torch.sum(pair.a * b))
        return found


def _leading(tensor: Tensor, axes: Sequence[int]) -> Tensor:
    return tensor.movedim(tuple(axes), tuple(range(len(axes))))


def _assignment(gain: Tensor) -> Tensor:
    """π that maximises Σ gain[i, π(i)]."""
    _, columns = linear_sum_assignment(np.asarray(gain), maximize=True)
    return torch.from_numpy(columns)


def _standardized(values: Tensor, groups: Sequence[int]) -> Tensor:
    """Of mean 0 and length 1 over all that is no unit; units that do not change are 0."""
    over = [axis for axis, group in enumerate(groups) if group < 0]
    if not over:
        return torch.zeros_like(values)
    centred = values - values.mean(over, keepdim=True)
    length = centred.square().sum(over, keepdim=True).sqrt()
    changes = length > 1e-12 * values.abs().amax(over, keepdim=True)
    return torch.where(changes, centred / length, 0.0)

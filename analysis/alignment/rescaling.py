"""Scales of hidden units that a network's outputs do not see, and the one choice of them that makes its parameters smallest.

What leads to a ReLU may be multiplied by s > 0 for a unit if what it leads to is divided by s. Here such scales are found by
differentiating: let e_k be exponents for the places k where a group of units occurs in the parameters. Under θ → θ exp(e_k t_u)
for the entries of unit u at place k, the outputs z change by Σ_k e_k Σ θ_i ∂z/∂θ_i t_u, the second sum over those entries.
Exponents for which that is 0 for every unit and output are scales that the outputs do not see, whatever the layers are:
(1, 1, −1) for weights, bias and the weights that follow a ReLU; none for GELU; (1, 1, −1, −1) for queries and keys of attention.

Among networks that differ by scales one has the smallest Σ θ²: there what enters a unit is as large as what leaves it (Stock et
al. 2019, "Equi-normalization of neural networks", arXiv 1902.10416, whose alternating updates are for one exponent of each sign).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .symmetries import Piece, Symmetries

_NEGLIGIBLE = 1e-8  # a singular value below this share of the largest is rounding
_ROUNDING = 1e-11  # a change of outputs below this share of the largest
PROBES = 16  # random sums of outputs, each of which gives an equation a unit
SWEEPS = 1000
_SETTLED = 1e-13  # of the logarithm of a scale


@dataclass(frozen=True, eq=False)
class Scaling:
    """A group's places (piece, axis) and their exponents (places, k) for k independent scales of every unit."""

    group: int
    places: tuple[tuple[Piece, int], ...]
    exponents: Tensor


@dataclass(frozen=True, eq=False)
class Balanced:
    """A state (S,), its logarithmic factors against the one given, and whether the sweeps settled."""

    state: Tensor
    factors: Tensor
    converged: bool


def scalings(
    symmetries: Symmetries, outputs: Callable[[Tensor], Tensor], state: Tensor, *, generator: torch.Generator
) -> list[Scaling]:
    """The scales of each group that outputs (S,) -> (m,) do not see. Cost: PROBES backward passes, and two
    forward passes for every group that has any.

    Exponents are found at one state; where they are whole numbers to rounding they are made so.
    """
    leaf = state.detach().clone().requires_grad_()
    with torch.enable_grad():
        z = outputs(leaf)
        signs = torch.randn(PROBES, len(z), generator=generator, dtype=z.dtype)
        slopes = [torch.autograd.grad(z, leaf, sign, retain_graph=True)[0] * state for sign in signs]
    found = []
    hosts = {group.host for group in symmetries.groups}
    for g, group in enumerate(symmetries.groups):
        places = tuple((p, k) for p in symmetries.pieces for k, other in enumerate(p.groups) if other == g)
        if not group.free or g in hosts:
            continue
        by_unit = [
            torch.stack([_by_unit(symmetries, p, g, s).reshape(-1) for p in places], -1) for s in slopes
        ]
        scaling = Scaling(g, places, _kernel(torch.cat(by_unit)))
        if scaling.exponents.shape[1] and _holds(symmetries, scaling, outputs, state, generator):
            found.append(scaling)
    return found


def balanced(symmetries: Symmetries, found: list[Scaling], state: Tensor) -> Balanced:
    """The state whose scales make Σ θ² smallest. Units that have nothing on one side are left as they are.

    Newton steps on each unit's convex Σ_k n_k exp(2 e_k·α), with n_k the sum of squares of the unit at place k.
    """
    factors = torch.zeros_like(state)
    for _ in range(SWEEPS):
        largest = 0.0
        for scaling in found:
            step = _step(symmetries, scaling, (state * factors.exp()).square())
            for k, place in enumerate(scaling.places):
                _add(symmetries, place, scaling.group, step @ scaling.exponents[k], factors)
            largest = max(largest, float(step.abs().max()))
        if largest < _SETTLED:
            return Balanced(state * factors.exp(), factors, True)
    return Balanced(state * factors.exp(), factors, not found)


def _holds(
    symmetries: Symmetries,
    scaling: Scaling,
    outputs: Callable[[Tensor], Tensor],
    state: Tensor,
    generator: torch.Generator,
) -> bool:
    """Whether outputs stay under scales that are not small: a normalization's ε is seen only then."""
    factors = torch.zeros_like(state)
    for exponents in scaling.exponents.T:
        t = torch.randn(_shape(symmetries, scaling.group), generator=generator, dtype=state.dtype)
        for e, place in zip(exponents, scaling.places, strict=True):
            _add(symmetries, place, scaling.group, e * t, factors)
    with torch.no_grad():
        was, now = outputs(state), outputs(state * factors.exp())
    return bool((was - now).abs().max() <= _ROUNDING * was.abs().max())


def _step(symmetries: Symmetries, scaling: Scaling, squares: Tensor) -> Tensor:
    """Newton steps (units…, k), half of them where a group meets itself in a tensor, so that they do not overshoot."""
    e = scaling.exponents
    sums = [_by_unit(symmetries, place, scaling.group, squares) for place in scaling.places]
    n = torch.stack(sums, dim=-1)
    gradient, hessian = n @ e, 2 * torch.einsum("...p,pk,pl->...kl", n, e, e)
    least = torch.minimum((n @ e.clamp(min=0)).amin(-1), (n @ (-e).clamp(min=0)).amin(-1))
    alive = least > torch.finfo(squares.dtype).tiny
    hessian = hessian.where(alive[..., None, None], torch.eye(e.shape[1], dtype=e.dtype))
    gradient = gradient * alive[..., None]
    meets = any(piece.groups.count(scaling.group) > 1 for piece, _ in scaling.places)
    return -torch.linalg.solve(hessian, gradient[..., None])[..., 0] * (0.5 if meets else 1.0)


def _shape(symmetries: Symmetries, g: int) -> tuple[int, ...]:
    group = symmetries.groups[g]
    return (group.size,) if group.host < 0 else (symmetries.groups[group.host].size, group.size)


def _axes(symmetries: Symmetries, place: tuple[Piece, int], g: int) -> list[int]:
    """The axes of a piece that a unit is counted along: the host's, if there is one, and its own."""
    piece, axis = place
    host = symmetries.groups[g].host
    return [axis] if host < 0 else [piece.groups.index(host), axis]


def _add(symmetries: Symmetries, place: tuple[Piece, int], g: int, values: Tensor, vector: Tensor) -> None:
    """Adds a number for each unit to all of its entries."""
    axes, piece = _axes(symmetries, place, g), place[0]
    shape = [n if k in axes else 1 for k, n in enumerate(piece.shape)]
    ordered = values if axes == sorted(axes) else values.mT
    piece.of(vector).add_(ordered.reshape(shape))


def _by_unit(symmetries: Symmetries, place: tuple[Piece, int], g: int, vector: Tensor) -> Tensor:
    """Sums over each unit's entries."""
    axes, piece = _axes(symmetries, place, g), place[0]
    others = [k for k in range(len(piece.shape)) if k not in axes]
    total = piece.of(vector).sum(others) if others else piece.of(vector)
    return total if axes == sorted(axes) else total.mT


def _kernel(slopes: Tensor) -> Tensor:
    """A basis (places, k) of the exponents e with slopes e = 0, in reduced echelon form; places of no slope are left out."""
    norms = slopes.norm(dim=0)
    seen = (norms > _NEGLIGIBLE * norms.max()).nonzero()[:, 0]
    if not len(seen):
        return slopes.new_zeros(len(norms), 0)
    _, triangle = torch.linalg.qr(slopes[:, seen] / norms[seen], mode="r")
    _, values, rows = torch.linalg.svd(triangle, full_matrices=True)
    rank = int((values > _NEGLIGIBLE * values.max()).sum())
    basis = _echelon(rows[rank:] / norms[seen])
    exponents = slopes.new_zeros(len(norms), len(basis))
    exponents[seen] = basis.T
    return exponents


def _echelon(rows: Tensor) -> Tensor:
    """The reduced echelon form of independent rows, whole numbers made exact."""
    rows = rows.clone()
    for i in range(len(rows)):
        row, column = divmod(int(rows[i:].abs().argmax()), rows.shape[1])
        rows[[i, i + row]] = rows[[i + row, i]]
        rows[i] /= rows[i, column].clone()
        others = [k for k in range(len(rows)) if k != i]
        rows[others] -= rows[others, column : column + 1] * rows[i]
    whole = rows.round()
    return torch.where((rows - whole).abs() < 1e-6, whole, rows)

"""The traces of the diagonal blocks of curvature: of layers, of single tensors, of filters, or of any groups of parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from landscape import InputError, Objective
from landscape.parameters import float64_array
from landscape.results import BlockTraces

from ..points import NOT_FINITE, draw_normal, one_point
from .estimators import Normals, Products, signs, small
from .matrices import Of, products_of
from .partition import Groups, Partition, partition_of

Probes = Literal["joint", "exact"]
_AT_ONCE = 16  # vectors


def block_traces(
    objective: Objective,
    theta: Any,
    *,
    by: Groups = "layer",
    of: Of = "hessian",
    probes: Probes = "joint",
    matvecs: int = 60,
    generator: torch.Generator | None = None,
    about: Mapping[str, Any] | None = None,
) -> BlockTraces:
    """Estimates of tr H_bb for every diagonal block b of H = ∇²L(θ), θ (P,), with their standard errors.

    By Rademacher v = (v_1, v_2, …) a block has independent samples (Hutchinson 1990), and their mean the error std/√n:

        "joint"   v_bᵀ(Hv)_b, all blocks from the same v:     variance 2(‖H_bb‖_F² − Σ h_ii²) + Σ ‖H_bc‖_F² over c ≠ b
        "exact"   v_bᵀH_bb v_b with v zero outside of b:      variance 2(‖H_bb‖_F² − Σ h_ii²), at B times the products

    So joint probes tell more for the same products unless a block is tied to the B − 1 others much more than to itself.
    Joint estimates of two blocks are correlated; their sum over all is Hutchinson's estimate of the trace.

    Cost: matvecs products with vectors ("joint"), or matvecs for every block ("exact"), where blocks of no more entries
    than that are taken entry by entry, without error; P products, all without error, where that is no more. Memory: some
    vectors (P,), and matvecs · B numbers.

    Args:
        by: "layer", the parameters of one module; "parameter", each tensor; "filter", each slice along the first dimension of
            a weight with its bias; or parameter names by the name of their group (see partition_of).
        of: the matrix: the Hessian, its Gauss–Newton or residual part, or the Fisher matrix.
        matvecs: samples of every block.
        generator: of the probes; torch's default one if None.
        about: provenance for the record's header.

    Raises:
        InputError: ``by`` is unknown, names unknown parameters or one in two groups; unknown ``probes``; fewer than two samples.
    """
    theta = one_point(objective, theta)
    if probes not in get_args(Probes):
        raise InputError(f"probes must be 'joint' or 'exact', got {probes!r}.")
    if matvecs < 2:
        raise InputError(f"matvecs must be at least 2 for an error bar, got {matvecs}.")
    blocks = partition_of(objective.parameters, by)
    count = min(objective.dim, matvecs * (1 if probes == "joint" else len(blocks.names)))
    products = products_of(objective, theta, of, count=count)

    def normals(count: int) -> Tensor:
        return draw_normal(objective, count, generator)

    sample = _joint if probes == "joint" and objective.dim > matvecs else _alone
    samples, values, spent = sample(products, normals, blocks, matvecs)
    taken_exactly = samples.isnan().all(0) & values.isfinite()
    stderr = (samples.std(0) / matvecs**0.5).masked_fill(taken_exactly, 0.0)
    return BlockTraces(
        names=blocks.names,
        values=float64_array(values),
        stderr=float64_array(stderr),
        sizes=float64_array(blocks.sizes),
        samples=float64_array(samples),
        by=by if isinstance(by, str) else "groups",
        probes=probes,
        matvecs=spent,
        dim=objective.dim,
        of=of,
        message="" if values.isfinite().all() else NOT_FINITE,
        about=dict(about or {}),
    )


def in_parts(total: int) -> Iterator[int]:
    """How many vectors to take at a time, so that memory does not grow with their number."""
    for start in range(0, total, _AT_ONCE):
        yield min(_AT_ONCE, total - start)


def exact_diagonal(products: Products, none: Tensor, entries: Tensor) -> Tensor:
    """These entries (n,) of the diagonal of A; none is (0, P)."""
    values = []
    for some in entries.split(_AT_ONCE):
        units = none.new_zeros(len(some), none.shape[1])
        units[torch.arange(len(some), device=some.device), some] = 1
        values.append(_forms(products, units))
    return torch.cat(values)


Sampled = tuple[Tensor, Tensor, int]  # samples (n, B), values (B,), products spent


def _joint(products: Products, normals: Normals, blocks: Partition, count: int) -> Sampled:
    rows = []
    for part in in_parts(count):
        v = signs(normals(part))
        rows.append(blocks.sums(v * products(v)))
    samples = torch.cat(rows)
    return samples, samples.mean(0), count


def _alone(products: Products, normals: Normals, blocks: Partition, count: int) -> Sampled:
    """Block after block, those of at most count entries exactly."""
    index = blocks.index.to(normals(0).device)
    samples = torch.full((count, len(blocks.names)), float("nan"), dtype=torch.float64)
    values, spent = torch.zeros(len(blocks.names), dtype=torch.float64), 0
    for b in range(len(blocks.names)):
        inside = index == b
        entries = inside.nonzero()[:, 0]
        if len(entries) <= count:
            values[b] = exact_diagonal(products, normals(0), entries).sum()
        else:
            samples[:, b] = torch.cat([_forms(products, signs(normals(k)) * inside) for k in in_parts(count)])
            values[b] = samples[:, b].mean()
        spent += min(count, len(entries))
    return samples, values, spent


def _forms(products: Products, v: Tensor) -> Tensor:
    """vᵀAv for rows v."""
    return small((v * products(v)).sum(1))

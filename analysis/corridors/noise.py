"""How much of the turning of mini-batch gradients is noise, and how much curvature."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from landscape import InputError, Objective
from landscape.parameters import float64_array
from landscape.progress import progress
from landscape.results import Array, CorridorNoise

from .following import Points

_LEAST = 3  # draws: a jackknife leaves one out, and a pair must be left


def corridor_noise(
    objective: Objective,
    thetas: Any,
    *,
    draws: int = 8,
    steps: Any = None,
    generator: torch.Generator | None = None,
    show_progress: bool = False,
    label: str = "",
    about: Mapping[str, Any] | None = None,
) -> CorridorNoise:
    """Mean cosines of mini-batch gradients g_i along θ_0 … θ_T, with standard errors: one number a row (T,) of each.

        same_point   cos(g_i(θ_t), g_j(θ_t)), i ≠ j        noise alone: 1 where batches agree
        same_batch   cos(g_i(θ_t), g_i(θ_{t+1}))           curvature alone, the noise held fixed: 1 in a corridor of each batch
        both         cos(g_i(θ_t), g_j(θ_{t+1})), i ≠ j    what the optimizer sees from step to step
        spread       tr Σ_B = mean ‖g_i − g‖², and signal ‖g‖², both at θ_t and unbiased; noise_to_signal is their ratio

    The batches are the objective's terms, N fixed ones, each with the gradient of its own mean loss; g is the mean over
    them, and that of the data where they are equally large. In each row ``draws`` of them are drawn without replacement, the
    same at both points, anew for every row, so that the errors of rows are independent. Means are over all pairs i ≠ j of
    these; errors are the jackknife's, one batch left out, times √(1 − draws/N): 0 where all are drawn. They are estimates
    too, and too small where a few rare batches differ from all others; below about 8 draws they are rough.

    noise_to_signal of one row is for rows where ‖g‖² is well known: there it is too high by about the square of the relative
    error of ‖g‖². Where noise dominates, ‖g‖² is estimated at 0 or below now and then, and the ratio is NaN: NaN rows are the
    noisiest, and of those left beside them most are too low and a few huge. CorridorNoise.pooled_noise_to_signal leaves no row
    out.

    A row with a gradient of 0 has NaN cosines. A corridor of every batch is one of the full batch only if the batches' gradients
    are constant in direction together; analysis.corridor asks that.

    Cost: 2·draws gradients of a batch a row. Memory: 2·draws vectors (P,).

    Args:
        objective: of at least 3 terms: model_objective(model, loss_fn, mini_batches).
        thetas, steps: as for corridor.
        draws: from 3 to the number of terms.
        generator: on the CPU, of the draws.

    Raises:
        InputError: draws outside that, or thetas of fewer than two points.
    """
    count = len(objective.terms)
    if not _LEAST <= draws <= count:
        raise InputError(
            f"draws must be from {_LEAST} to {count}, the objective's terms, got {draws}; a term is a mini-batch here, so "
            "build the objective with more of them if need be."
        )
    points = Points.of(objective, thetas, steps=steps)
    batches = [_batch(objective, i) for i in range(count)]
    rows, before = [], None
    with progress("noise", len(points), shown=show_progress) as advance:
        for theta in points:
            if before is not None:
                drawn = torch.randperm(count, generator=generator)[:draws].tolist()
                here, there = (torch.stack([batches[i].grad(x) for i in drawn]) for x in (before, theta))
                rows.append(_row(here, there, count))
            before = theta
            advance()
    return CorridorNoise(
        **{name: np.array([row[name] for row in rows]) for name in rows[0]},
        steps=points.steps,
        draws=draws,
        count=count,
        basis=_basis(objective),
        label=label or points.label,
        about=dict(about or {}),
    )


def _batch(objective: Objective, index: int) -> Objective:
    """The mean loss of one batch: its term over its share."""
    term, share = objective.terms[index], objective.shares[index]
    return Objective(
        [lambda theta: term(theta) / share], objective.dim, dtype=objective.dtype, device=objective.device
    )


def _basis(objective: Objective) -> str:
    """ "fixed batches of n", where the objective says how many examples it has."""
    examples, count = objective.settings.get("examples"), len(objective.terms)
    if examples is None:
        return f"{count} fixed batches"
    sizes = {round(float(examples) * share) for share in objective.shares}
    return f"fixed batches of {max(sizes)}" + (f", the smallest of {min(sizes)}" if len(sizes) > 1 else "")


def _row(here: Tensor, there: Tensor, count: int) -> dict[str, float]:
    """The numbers of one row, of gradients (m, P) at its two ends."""
    products, crossed = float64_array(here @ here.T), float64_array(here @ there.T)
    norms, norms_there = np.sqrt(np.diag(products)), float64_array(there.norm(dim=1))
    with np.errstate(divide="ignore", invalid="ignore"):
        cosines, crossed = products / np.outer(norms, norms), crossed / np.outer(norms, norms_there)
    finite = 1 - len(here) / count

    def noise_to_signal(kept: Array) -> float:
        return spread(kept) / signal(kept) if signal(kept) > 0 else np.nan

    def told(name: str, statistic: Callable[[Array], float]) -> dict[str, float]:
        value, stderr = _jackknife(statistic, len(here))
        return {name: value, f"{name}_stderr": stderr * np.sqrt(finite)}

    def spread(kept: Array) -> float:
        squares, pairs = _diagonal(products, kept), _pairs(products, kept)
        return (1 - 1 / count) * (squares - pairs)

    def signal(kept: Array) -> float:
        squares, pairs = _diagonal(products, kept), _pairs(products, kept)
        return squares / count + (1 - 1 / count) * pairs

    return {
        **told("same_point", lambda kept: _pairs(cosines, kept)),
        **told("same_batch", lambda kept: _diagonal(crossed, kept)),
        **told("both", lambda kept: _pairs(crossed, kept)),
        **told("spread", spread),
        **told("signal", signal),
        "noise_stderr": told("ratio", noise_to_signal)["ratio_stderr"],
    }


def _jackknife(statistic: Callable[[Array], float], m: int) -> tuple[float, float]:
    """A statistic of the indices of m draws, and its standard error by leaving each out in turn."""
    every = np.arange(m)
    without = np.array([statistic(np.delete(every, i)) for i in every])
    return statistic(every), float(np.sqrt((m - 1) / m * np.square(without - without.mean()).sum()))


def _diagonal(matrix: Array, kept: Array) -> float:
    return float(np.diag(matrix)[kept].mean())


def _pairs(matrix: Array, kept: Array) -> float:
    """The mean over different i and j."""
    part = matrix[np.ix_(kept, kept)]
    return float((part.sum() - np.trace(part)) / (len(kept) * (len(kept) - 1)))

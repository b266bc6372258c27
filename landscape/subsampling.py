"""Losses from a random part of the data, the same at every point, with error bars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from .choosing import choose, losses
from .engines import Engine
from .errors import InputError
from .families import Family
from .measuring import Choice
from .objective import Objective, Term
from .parameters import float64_array
from .records import Record
from .results import Array


@dataclass(frozen=True, kw_only=True, eq=False)
class SampledLosses(Record):
    """What m of an objective's ``count`` terms, drawn at random without replacement, say of its loss at n points.

    coordinates (n, k) of the points; drawn (m,) which terms; shares (m,) of all data that these hold; terms (m, n) those terms
    at the points; reference (m,) at the family's origin. The estimates are ratios, L = Σ terms / Σ shares, with the standard
    error √((1 − m/count) s²/m) / mean(shares), s² the variance of terms − L · shares over those drawn (Cochran, Sampling
    Techniques, chapter 6). Their bias is of order 1/m, and 0 for equal shares. Count · mean(terms), unbiased for any shares,
    is far noisier where one batch is smaller, and an error bar does not see it unless that batch is drawn.
    """

    coordinates: Array
    drawn: Array
    shares: Array
    terms: Array
    reference: Array
    count: int

    @property
    def loss(self) -> Array:
        """(n,) the estimated losses."""
        return self._ratio(self.terms)

    @property
    def stderr(self) -> Array:
        """(n,) their standard errors. All points share the data, so that much of this error is common to them."""
        return self._stderr(self.terms)

    @property
    def difference(self) -> Array:
        """(n,) the estimated losses minus that at the origin, from the same data."""
        return self._ratio(self.terms - self.reference[:, None])

    @property
    def difference_stderr(self) -> Array:
        """(n,) their standard errors, from paired differences: small near the origin."""
        return self._stderr(self.terms - self.reference[:, None])

    def _ratio(self, values: Array) -> Array:
        return values.sum(axis=0) / self.shares.sum()

    def _stderr(self, values: Array) -> Array:
        m = len(values)
        rest = values - self._ratio(values) * self.shares[:, None]
        return np.sqrt((1 - m / self.count) * rest.var(axis=0, ddof=1) / m) / self.shares.mean()


def sampled_losses(
    objective: Objective,
    family: Family,
    *,
    terms: int,
    shares: Sequence[float] | None = None,
    generator: torch.Generator | None = None,
    engine: str = "auto",
) -> SampledLosses:
    """The losses of a family of points and their differences from its origin, with standard errors, from a part of the terms.

    For a network a term is a batch, so batches are what is drawn: with batches of one example, the examples. All points are
    evaluated on the same ones. Many small batches say more than few large ones of as many examples.

    The standard errors are estimates themselves, off by about 1/√(2·terms) of their size. They are too small where few examples
    carry the loss, as at a minimum that fits the data: a sample without those examples looks sure. Draw 20 terms or more.
    With batchnorm="batch" a batch's loss depends on its size.

    Cost: terms / len(objective.terms) of a loss evaluation a point, and at the origin.

    Args:
        terms: how many to draw, from 2 to all (which gives the loss itself, and standard errors of 0).
        shares: of each of the objective's terms in the data, up to a factor; by default what the objective says, which for
            a network is the number of examples in each batch.
        generator: on the CPU; the same state of it draws the same terms.
        engine: as for ``losses``.

    Raises:
        InputError: an objective of one term, a number of terms that it cannot give, or shares that do not fit it.
    """
    count = len(objective.terms)
    if count < 2:
        raise InputError(
            "the objective must have at least 2 terms to draw from, got 1; build it with smaller batches, each a term."
        )
    if not 2 <= terms <= count:
        raise InputError(
            f"terms must be from 2 to {count}, the number of terms of the objective, got {terms}."
        )
    parts = _shares(objective, shares)
    drawn = torch.randperm(count, generator=generator)[:terms].sort().values.tolist()
    origin = family.coordinates.new_zeros(1, len(family.directions))
    points = Family(family.origin, family.directions, torch.cat([family.coordinates, origin]))
    values, said = _term_losses(objective, [objective.terms[i] for i in drawn], points, engine)
    return SampledLosses(
        coordinates=float64_array(family.coordinates),
        drawn=np.array(drawn),
        shares=parts[drawn],
        terms=values[:, :-1],
        reference=values[:, -1],
        count=count,
        about={**objective.settings, "engine": said},
    )


def _term_losses(
    objective: Objective, terms: list[Term], family: Family, engine: str
) -> tuple[Array, dict[str, Any]]:
    """(m, n) each term at each point, all by one engine; and what a record says of it."""

    def of(some: list[Term]) -> Objective:
        return Objective(some, objective.dim, dtype=objective.dtype, device=objective.device)

    choice = choose(of(terms), family) if engine == "auto" else Choice(Engine.named(engine))
    rows = [float64_array(losses(of([term]), family, engine=choice.engine.name)[0]) for term in terms]
    return np.stack(rows), choice.said()


def _shares(objective: Objective, shares: Sequence[float] | None) -> Array:
    """(N,) the share of each term in the data, together 1."""
    count = len(objective.terms)
    parts = np.asarray(objective.shares if shares is None else shares, dtype=np.float64)
    if parts.shape != (count,) or not (np.isfinite(parts) & (parts > 0)).all():
        raise InputError(f"shares must be {count} positive numbers, one for each term, got {shares}.")
    return parts / parts.sum()

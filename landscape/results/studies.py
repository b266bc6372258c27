"""Tables over many solutions.

Shapes: as said in each. Missing numbers are NaN.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..records import Array, Record


@dataclass(frozen=True, kw_only=True, eq=False)
class Summary(Record):
    """One row a metric, one column a group: center, low and high (metrics, groups) of the stated interval.

    ``scales`` says per metric how groups are averaged: "mean", or "geometric mean" for what spans orders of
    magnitude. Intervals are bootstraps over solutions at ``confidence``; counts (metrics, groups) is how many
    solutions (or pairs) went in.
    """

    metrics: tuple[str, ...]
    groups: tuple[str, ...]
    scales: tuple[str, ...]
    center: Array
    low: Array
    high: Array
    counts: Array
    confidence: float

"""How straight the valley is along points: corridor measures.

Shapes: P parameters, T steps. Missing numbers are NaN.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..records import Array, Record


@dataclass(frozen=True, kw_only=True, eq=False)
class Corridor(Record):
    """Corridor measures along consecutive points: loss (T+1,), and one number a step (T,) of each measure.

    kappa = h‖Hg‖/‖g‖ and kappa_weak = h gᵀHg/‖g‖² are 0 in a corridor; linearity (the loss decrease over its
    first-order prediction), cosine and norm_ratio (of successive gradients) are 1. h is the learning rate where it was
    given, otherwise the
    length of the step over ‖g‖. chord is net displacement over length travelled.
    """

    loss: Array
    gradient_norm: Array
    step: Array
    kappa: Array
    kappa_weak: Array
    linearity: Array
    cosine: Array
    norm_ratio: Array
    chord: float
    label: str = ""
    gradients: int = 0
    matvecs: int = 0

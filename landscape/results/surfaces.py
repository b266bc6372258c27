"""The loss along lines and on planes.

Shapes: n points along an axis. Missing numbers are NaN.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..records import NAN, Array, Record


@dataclass(frozen=True, kw_only=True, eq=False)
class Profile(Record):
    """The loss along a line: loss (n,) at center + steps·direction, steps (n,). ``direction`` says how it was drawn."""

    steps: Array
    loss: Array
    direction: str = ""
    label: str = ""

    @property
    def center_loss(self) -> float:
        """The loss where the step is 0 (NaN if no step is)."""
        return float(self.loss[self.steps == 0][0]) if (self.steps == 0).any() else NAN


@dataclass(frozen=True, kw_only=True, eq=False)
class Surface(Record):
    """The loss on a plane: loss (n1, n2) at center + steps1[i]·d1 + steps2[j]·d2. ``direction`` says how they were drawn."""

    steps1: Array
    steps2: Array
    loss: Array
    direction: str = ""
    label: str = ""

    @property
    def center_loss(self) -> float:
        """The loss where both steps are 0 (NaN if none are)."""
        middle = self.loss[np.ix_(self.steps1 == 0, self.steps2 == 0)]
        return float(middle[0, 0]) if middle.size else NAN

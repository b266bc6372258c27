"""The loss along lines and on planes, and trajectories as they are seen there.

Shapes: n points along an axis, m marks, T points of a trajectory. Missing numbers are NaN.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from ..errors import InputError
from ..records import NAN, Array, Record


@dataclass(frozen=True, kw_only=True, eq=False)
class Scanned(Record):
    """What a profile and a surface share: the loss and other ``values``, each of the shape of the grid, by name.

    ``direction`` says how the directions were drawn. mark_labels (m,): points that the probe goes through or past, with
    mark_coordinates (m, k), mark_distance (m,) from the line or plane, and mark_loss (m,), the loss of the points themselves.
    """

    loss: Array
    values: dict[str, Array] = field(default_factory=dict)
    direction: str = ""
    label: str = ""
    mark_labels: tuple[str, ...] = ()
    mark_coordinates: Array = field(default_factory=lambda: np.zeros((0, 0)))
    mark_distance: Array = field(default_factory=lambda: np.zeros(0))
    mark_loss: Array = field(default_factory=lambda: np.zeros(0))

    def value(self, name: str = "loss") -> Array:
        """The loss, or another of the values by its name; InputError if there is none."""
        if name != "loss" and name not in self.values:
            known = ", ".join(["loss", *self.values])
            raise InputError(f"value must be one of those recorded ({known}), got {name!r}.")
        return self.loss if name == "loss" else self.values[name]


@dataclass(frozen=True, kw_only=True, eq=False)
class Profile(Scanned):
    """The loss along a line: loss (n,) at center + steps·direction, steps (n,). ``direction`` says how it was drawn."""

    steps: Array

    @property
    def center_loss(self) -> float:
        """The loss where the step is 0 (NaN if no step is)."""
        return float(self.loss[self.steps == 0][0]) if (self.steps == 0).any() else NAN


@dataclass(frozen=True, kw_only=True, eq=False)
class Surface(Scanned):
    """The loss on a plane: loss (n1, n2) at center + steps1[i]·d1 + steps2[j]·d2. ``direction`` says how they were drawn."""

    steps1: Array
    steps2: Array

    @property
    def center_loss(self) -> float:
        """The loss where both steps are 0 (NaN if none are)."""
        middle = self.loss[np.ix_(self.steps1 == 0, self.steps2 == 0)]
        return float(middle[0, 0]) if middle.size else NAN


@dataclass(frozen=True, kw_only=True, eq=False)
class Projection(Record):
    """Points as a plane (k = 2) or line (k = 1) shows them: coordinates (T, k) of their orthogonal projections.

    steps (T,) of training; distance (T,) from the plane, reach (T,) from its center; loss (T,) of the points themselves, and
    loss_on_plane (T,) at their projections: the height of the surface under the drawn point, which is not their loss.
    """

    label: str
    steps: Array
    coordinates: Array
    distance: Array
    reach: Array
    loss: Array
    loss_on_plane: Array

    @property
    def gap(self) -> Array:
        """(T,) loss of the points minus that of the plane where they are drawn: what the picture leaves out."""
        return self.loss - self.loss_on_plane

    @property
    def hidden(self) -> Array:
        """(T,) in [0, 1]: the share of ‖θ − center‖ that is off the plane (0 at the center itself)."""
        return np.divide(self.distance, self.reach, out=np.zeros_like(self.reach), where=self.reach > 0)

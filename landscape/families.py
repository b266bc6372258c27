"""Affine families of points: what planes, lines, paths and clouds of noise have in common."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import InputError


@dataclass(frozen=True, eq=False)
class Family:
    """n points origin + coordinates @ directions in R^P: origin (P,), directions (k, P), coordinates (n, k).

    A point whose coordinates are 0 is exactly the origin.
    """

    origin: Tensor
    directions: Tensor
    coordinates: Tensor

    def __post_init__(self) -> None:
        dim = self.origin.shape[-1:]
        k = self.directions.shape[:1]
        shapes = tuple(self.directions.shape), tuple(self.coordinates.shape)
        if self.origin.ndim != 1 or shapes != ((*k, *dim), (*self.coordinates.shape[:1], *k)):
            raise InputError(
                "a family needs origin (P,), directions (k, P) and coordinates (n, k), got "
                f"{tuple(self.origin.shape)}, {shapes[0]} and {shapes[1]}."
            )

    def __len__(self) -> int:
        return len(self.coordinates)

    def points(self, coordinates: Tensor) -> Tensor:
        """(c, P) at coordinates (c, k)."""
        return torch.addmm(self.origin, coordinates, self.directions)

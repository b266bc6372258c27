"""Paths held to the norms of their ends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .combinations import Combination, Path, integral, like
from .families import Family


@dataclass(frozen=True, eq=False)
class Held(Path):
    """γ̂(t) = r(t) γ(t)/‖γ(t)‖, a path held to the norms of its ends: r(t) = (1 − t)‖γ(0)‖ + t‖γ(1)‖.

    A loss such as cross-entropy falls when weights grow, so a free path can get lower by moving outwards. This one cannot.
    """

    path: Combination

    @property
    def kind(self) -> str:
        return f"held {self.path.kind}"

    def radius(self, t: Any) -> Tensor:
        """r, shaped like t."""
        first, last = self._ends
        return torch.lerp(first, last, like(first, t))

    def __call__(self, t: Any) -> Tensor:
        return self.path(t) * self.scale(t)[..., None]

    def scale(self, t: Any) -> Tensor:
        """r/‖γ‖, shaped like t; exactly 1 at the ends."""
        t, w = like(self.path.rows, t), self.path.weights(t)
        size = ((w @ (self.path.rows @ self.path.rows.T)) * w).sum(dim=-1).sqrt()
        return torch.where((t == 0) | (t == 1), 1.0, self.radius(t) / size)

    def derivative(self, t: Any) -> Tensor:
        theta, scale = self(t), self.scale(t)[..., None]
        first, last = self._ends
        unit = theta / theta.norm(dim=-1, keepdim=True)
        inner = self.path.derivative(t)
        return (last - first) * unit + scale * (inner - unit * (unit * inner).sum(-1, keepdim=True))

    def speed(self, t: Any) -> Tensor:
        rows, d = self.path.rows, self.path.differences
        w, s = self.path.weights(t), self.path.slopes(t)
        along = ((w @ (rows @ d.T)) * s).sum(-1).square() / ((w @ (rows @ rows.T)) * w).sum(-1)
        across = ((s @ (d @ d.T)) * s).sum(-1) - along
        first, last = self._ends
        return ((last - first) ** 2 + self.scale(t) ** 2 * across.clamp(min=0)).sqrt()

    @property
    def length(self) -> float:
        return integral(self.speed, self.path.rows)

    def family(self, t: Tensor) -> Family:
        family = self.path.family(t)
        return Family(family.origin, family.directions, family.coordinates * self.scale(t)[..., None])

    def stored(self) -> tuple[np.ndarray, np.ndarray]:
        return self.path.stored()

    @property
    def _ends(self) -> tuple[Tensor, Tensor]:
        return self.path(0.0).norm(), self.path(1.0).norm()

"""What a path between two points of R^P is: γ(t) for t in [0, 1], its derivative, speed and length."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .families import Family

# Nodes of Gauss and Legendre in each of as many pieces, for speeds that are smooth there.
_NODES, _PIECES = 16, 64


class Path(ABC):
    """γ: [0, 1] → R^P. Scalar t gives one point (P,), t (N,) gives N points (N, P), in the path's dtype and device."""

    @property
    @abstractmethod
    def kind(self) -> str:
        """What ``restore`` knows it by."""

    @abstractmethod
    def __call__(self, t: Any) -> Tensor:
        """γ(t): exactly the ends at t = 0 and t = 1."""

    @abstractmethod
    def derivative(self, t: Any) -> Tensor:
        """γ′(t), shaped like γ(t)."""

    @abstractmethod
    def speed(self, t: Any) -> Tensor:
        """‖γ′(t)‖, shaped like t; made without a vector of length P for every t."""

    @property
    @abstractmethod
    def length(self) -> float:
        """∫₀¹ ‖γ′(t)‖ dt."""

    @abstractmethod
    def family(self, t: Tensor) -> Family:
        """The points γ(t), t (N,), to rounding, as an affine family, which engines evaluate; exactly the ends at t = 0 and 1."""

    @abstractmethod
    def stored(self) -> tuple[np.ndarray, np.ndarray]:
        """points (M, P) and coefficients (n, P), of which ``restore`` makes the path again."""


class Combination(Path):
    """γ(t) = Σ_i w_i(t) r_i of a few rows r_i, and γ′(t) = Σ_j s_j(t) d_j of a few differences of them.

    The d_j stand on their own since the rows of a short path differ by less than they are known to.
    """

    @property
    @abstractmethod
    def rows(self) -> Tensor:
        """r (M, P); the first is γ(0)."""

    @property
    @abstractmethod
    def differences(self) -> Tensor:
        """d (D, P)."""

    @abstractmethod
    def weights(self, t: Any) -> Tensor:
        """w, shaped like t and (M,): exactly 0 and 1 at the ends."""

    @abstractmethod
    def slopes(self, t: Any) -> Tensor:
        """s, shaped like t and (D,)."""

    def __call__(self, t: Any) -> Tensor:
        return self.weights(t) @ self.rows

    def derivative(self, t: Any) -> Tensor:
        return self.slopes(t) @ self.differences

    def speed(self, t: Any) -> Tensor:
        d, s = self.differences, self.slopes(t)
        return ((s @ (d @ d.T)) * s).sum(dim=-1).clamp(min=0).sqrt()

    @property
    def length(self) -> float:
        return integral(self.speed, self.rows)

    def family(self, t: Tensor) -> Family:
        rows = self.rows  # not with the first as origin: a + (b − a) is not exactly b
        return Family(torch.zeros_like(rows[0]), rows, self.weights(like(rows, t)))


def integral(speed: Callable[[Tensor], Tensor], rows: Tensor) -> float:
    """∫₀¹ of the speed of a path of these rows (M, P), which may have kinks at multiples of 1/(M − 1)."""
    pieces = _PIECES * (len(rows) - 1)
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    t = (np.arange(pieces)[:, None] + (nodes + 1) / 2) / pieces
    values = speed(like(rows, t.ravel())).cpu().double().numpy()
    return float((values.reshape(pieces, _NODES) @ weights).sum() / (2 * pieces))


def like(row: Tensor, t: Any) -> Tensor:
    """t as a tensor of the dtype and device of a path's rows."""
    return torch.as_tensor(t, device=row.device, dtype=row.dtype)

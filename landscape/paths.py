"""Paths between two points of R^P: γ(t) for t in [0, 1], its derivative, speed and length.

A record keeps a path as its kind and a few rows of numbers, points (M, P) and coefficients (n, P), and
``restore`` makes the path of them again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from .errors import InputError
from .families import Family


class Path(ABC):
    """γ: [0, 1] → R^P. Scalar t gives one point (P,), t (N,) gives N points (N, P), in the path's dtype and device."""

    kind: ClassVar[str]

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


@dataclass(frozen=True, eq=False)
class Segment(Path):
    """The straight line γ(t) = (1 − t) a + t b. a, b (P,)."""

    a: Tensor
    b: Tensor

    kind: ClassVar[str] = "segment"

    def __post_init__(self) -> None:
        _check_ends(self.a, self.b)

    def __call__(self, t: Any) -> Tensor:
        # lerp is exact at both ends, and constant where a = b.
        return torch.lerp(self.a, self.b, _like(self.a, t)[..., None])

    def derivative(self, t: Any) -> Tensor:
        return (self.b - self.a).expand(*_like(self.a, t).shape, -1)

    def speed(self, t: Any) -> Tensor:
        return (self.b - self.a).norm().expand(_like(self.a, t).shape)

    @property
    def length(self) -> float:
        return float((self.b - self.a).norm())

    def family(self, t: Tensor) -> Family:
        # Not a and b − a: a + (b − a) is not exactly b.
        t = _like(self.a, t)
        ends = torch.stack([self.a, self.b])
        return Family(torch.zeros_like(self.a), ends, torch.stack([1 - t, t], dim=1))

    def stored(self) -> tuple[np.ndarray, np.ndarray]:
        return _numpy(torch.stack([self.a, self.b])), _numpy(self.a.new_zeros(0, len(self.a)))


@dataclass(frozen=True, eq=False)
class FourierPath(Path):
    """A bent line γ(t) = (1 − t) a + t b + Σ_n b_n sin(nπt), n = 1, 2, …

    Yu and Morozov (arXiv 2602.21276). a, b (P,); coefficients (n, P) are the b_n. Every choice of them leaves the ends where
    they are.
    """

    a: Tensor
    b: Tensor
    coefficients: Tensor

    kind: ClassVar[str] = "fourier"

    def __post_init__(self) -> None:
        _check_ends(self.a, self.b)
        if self.coefficients.ndim != 2 or self.coefficients.shape[1] != len(self.a):
            raise InputError(
                f"coefficients must have shape (n, {len(self.a)}) as the ends have {len(self.a)} entries, "
                f"got {tuple(self.coefficients.shape)}."
            )

    @property
    def modes(self) -> Tensor:
        """n = 1, 2, …, as many as there are coefficients."""
        return torch.arange(1, len(self.coefficients) + 1, dtype=self.a.dtype, device=self.a.device)

    def basis(self, t: Any) -> Tensor:
        """sin(nπt), (n,) or (N, n): how far γ(t) moves with each coefficient; exactly 0 at the ends."""
        t = _like(self.a, t)[..., None]
        n = self.modes
        mirrored = torch.where(
            n % 2 == 1, 1.0, -1.0
        )  # sin(nπt) = ±sin(nπ(1−t)), but sin(nπ) is not 0 in floating point
        return torch.where(t > 0.5, mirrored, 1.0) * torch.sin(n * torch.pi * torch.minimum(t, 1 - t))

    def __call__(self, t: Any) -> Tensor:
        return torch.lerp(self.a, self.b, _like(self.a, t)[..., None]) + self.basis(t) @ self.coefficients

    def derivative(self, t: Any) -> Tensor:
        return (self.b - self.a) + self._waves(t) @ self.coefficients

    def speed(self, t: Any) -> Tensor:
        # ‖γ′‖² is a quadratic form in (1, nπ cos nπt): its matrix, of the inner products, is small.
        rows = torch.cat([(self.b - self.a)[None], self.coefficients])
        waves = self._waves(t)
        factors = torch.cat([torch.ones_like(waves[..., :1]), waves], dim=-1)
        return ((factors @ (rows @ rows.T)) * factors).sum(dim=-1).clamp(min=0).sqrt()

    @property
    def length(self) -> float:
        # The speed is even and periodic (cosines), for which the trapezoidal rule converges faster than any power.
        intervals = _INTERVALS_A_MODE * (len(self.coefficients) + 1)
        t = torch.linspace(0, 1, intervals + 1, dtype=self.a.dtype, device=self.a.device)
        return float(torch.trapezoid(self.speed(t), t))

    def family(self, t: Tensor) -> Family:
        t = _like(self.a, t)
        directions = torch.cat([torch.stack([self.a, self.b]), self.coefficients])
        coordinates = torch.cat([torch.stack([1 - t, t], dim=1), self.basis(t)], dim=1)
        return Family(torch.zeros_like(self.a), directions, coordinates)

    def stored(self) -> tuple[np.ndarray, np.ndarray]:
        return _numpy(torch.stack([self.a, self.b])), _numpy(self.coefficients)

    def _waves(self, t: Any) -> Tensor:
        n = self.modes
        return n * torch.pi * torch.cos(n * torch.pi * _like(self.a, t)[..., None])


def restore(path_kind: str, points: np.ndarray, coefficients: np.ndarray) -> Path:
    """The path that a record keeps as a kind, points (M, P) and coefficients (n, P)."""
    if path_kind not in _RESTORED:
        raise InputError(f"there is no path of kind {path_kind!r}; known are {', '.join(_RESTORED)}.")
    return _RESTORED[path_kind](torch.from_numpy(points), torch.from_numpy(coefficients))


_RESTORED: dict[str, Callable[[Tensor, Tensor], Path]] = {
    Segment.kind: lambda points, _: Segment(points[0], points[1]),
    FourierPath.kind: lambda points, coefficients: FourierPath(points[0], points[1], coefficients),
}

# The speed of a path with n modes has waves up to about n; where it comes close to 0 it has a kink in all but name.
_INTERVALS_A_MODE = 128


def _check_ends(a: Tensor, b: Tensor) -> None:
    if a.ndim != 1 or a.shape != b.shape:
        raise InputError(
            f"the ends of a path must be two vectors of one shape (P,), got {tuple(a.shape)} and {tuple(b.shape)}."
        )


def _like(a: Tensor, t: Any) -> Tensor:
    return torch.as_tensor(t, device=a.device, dtype=a.dtype)


def _numpy(rows: Tensor) -> np.ndarray:
    return rows.detach().cpu().numpy()

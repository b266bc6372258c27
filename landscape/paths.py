"""Paths between two points of R^P: γ(t) for t in [0, 1], its derivative, speed and length.

A record keeps a path as its kind and a few rows of numbers, points (M, P) and coefficients (n, P), and
``restore`` makes the path of them again.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .combinations import Combination, Path, like
from .errors import InputError
from .held import Held


@dataclass(frozen=True, eq=False)
class Segment(Combination):
    """The straight line γ(t) = (1 − t) a + t b. a, b (P,)."""

    a: Tensor
    b: Tensor

    def __post_init__(self) -> None:
        _check_ends(self.a, self.b)

    @property
    def kind(self) -> str:
        return "segment"

    @property
    def rows(self) -> Tensor:
        return torch.stack([self.a, self.b])

    @property
    def differences(self) -> Tensor:
        return (self.b - self.a)[None]

    def weights(self, t: Any) -> Tensor:
        t = like(self.a, t)
        return torch.stack([1 - t, t], dim=-1)

    def slopes(self, t: Any) -> Tensor:
        return torch.ones_like(like(self.a, t))[..., None]

    @property
    def length(self) -> float:
        return float((self.b - self.a).norm())

    def stored(self) -> tuple[np.ndarray, np.ndarray]:
        return _numpy(self.rows), _numpy(self.rows[:0])


@dataclass(frozen=True, eq=False)
class FourierPath(Combination):
    """A bent line γ(t) = (1 − t) a + t b + Σ_n b_n sin(nπt), n = 1, 2, …

    Yu and Morozov (arXiv 2602.21276). a, b (P,); coefficients (n, P) are the b_n. Every choice of them leaves the ends where
    they are.
    """

    a: Tensor
    b: Tensor
    coefficients: Tensor

    def __post_init__(self) -> None:
        _check_ends(self.a, self.b)
        if self.coefficients.ndim != 2 or self.coefficients.shape[1] != len(self.a):
            raise InputError(
                f"coefficients must have shape (n, {len(self.a)}) as the ends have {len(self.a)} entries, "
                f"got {tuple(self.coefficients.shape)}."
            )

    @classmethod
    def through(cls, points: Tensor) -> FourierPath:
        """The path with as many sines as there are inner points (M, P), ends among them, that passes them at even times."""
        n = len(points) - 2
        t = torch.linspace(0, 1, n + 2, dtype=points.dtype, device=points.device)[1:-1, None]
        away = points[1:-1] - ((1 - t) * points[0] + t * points[-1])
        path = cls(points[0], points[-1], torch.zeros_like(away))
        return replace(
            path, coefficients=2 / (n + 1) * path.basis(t[:, 0]).T @ away
        )  # the sines are orthogonal there

    @property
    def kind(self) -> str:
        return "fourier"

    @property
    def modes(self) -> Tensor:
        """n = 1, 2, …, as many as there are coefficients."""
        return torch.arange(1, len(self.coefficients) + 1, dtype=self.a.dtype, device=self.a.device)

    @property
    def rows(self) -> Tensor:
        return torch.cat([torch.stack([self.a, self.b]), self.coefficients])

    @property
    def differences(self) -> Tensor:
        return torch.cat([(self.b - self.a)[None], self.coefficients])

    def basis(self, t: Any) -> Tensor:
        """sin(nπt), (n,) or (N, n): how far γ(t) moves with each coefficient; exactly 0 at the ends."""
        t = like(self.a, t)[..., None]
        n = self.modes
        mirrored = torch.where(
            n % 2 == 1, 1.0, -1.0
        )  # sin(nπt) = ±sin(nπ(1−t)), but sin(nπ) is not 0 in floating point
        return torch.where(t > 0.5, mirrored, 1.0) * torch.sin(n * torch.pi * torch.minimum(t, 1 - t))

    def weights(self, t: Any) -> Tensor:
        t = like(self.a, t)
        return torch.cat([torch.stack([1 - t, t], dim=-1), self.basis(t)], dim=-1)

    def slopes(self, t: Any) -> Tensor:
        t, n = like(self.a, t)[..., None], self.modes
        return torch.cat([torch.ones_like(t), n * torch.pi * torch.cos(n * torch.pi * t)], dim=-1)

    @property
    def length(self) -> float:
        # The speed is even and periodic (cosines), for which the trapezoidal rule converges faster than any power.
        intervals = _INTERVALS_A_MODE * (len(self.coefficients) + 1)
        t = torch.linspace(0, 1, intervals + 1, dtype=self.a.dtype, device=self.a.device)
        return float(torch.trapezoid(self.speed(t), t))

    def stored(self) -> tuple[np.ndarray, np.ndarray]:
        return _numpy(torch.stack([self.a, self.b])), _numpy(self.coefficients)


@dataclass(frozen=True, eq=False)
class _ThroughPoints(Combination):
    """A path that is made of its points (M, P), the ends among them, and stored as these."""

    points: Tensor

    def __post_init__(self) -> None:
        if self.points.ndim != 2 or len(self.points) < 2:
            raise InputError(
                f"points must be at least two vectors (M, P), the ends among them, got {tuple(self.points.shape)}."
            )

    @property
    def rows(self) -> Tensor:
        return self.points

    @property
    def differences(self) -> Tensor:
        return self.points.diff(dim=0)

    def stored(self) -> tuple[np.ndarray, np.ndarray]:
        return _numpy(self.points), _numpy(self.points[:0])


@dataclass(frozen=True, eq=False)
class BezierPath(_ThroughPoints):
    """The Bézier curve γ(t) = Σ_i C(d, i) tⁱ (1 − t)^(d−i) p_i of degree d = M − 1: points (M, P), the ends and bends between."""

    @property
    def kind(self) -> str:
        return "bezier"

    def weights(self, t: Any) -> Tensor:
        return _bernstein(like(self.points, t), len(self.points) - 1)

    def slopes(self, t: Any) -> Tensor:
        degree = len(self.points) - 1
        return degree * _bernstein(like(self.points, t), degree - 1)


@dataclass(frozen=True, eq=False)
class Polyline(_ThroughPoints):
    """Straight pieces between points (M, P), each of which takes t the same time."""

    @property
    def kind(self) -> str:
        return "polyline"

    def weights(self, t: Any) -> Tensor:
        t = like(self.points, t)[..., None] * (len(self.points) - 1)
        return (1 - (t - _count(self.points)).abs()).clamp(min=0)

    def slopes(self, t: Any) -> Tensor:
        pieces = len(self.points) - 1
        piece = (like(self.points, t) * pieces).long().clamp(max=pieces - 1)
        return pieces * torch.nn.functional.one_hot(piece, pieces).to(self.points)

    @property
    def length(self) -> float:
        return float(self.differences.norm(dim=1).sum())


def restore(kind: str, points: np.ndarray, coefficients: np.ndarray) -> Path:
    """The path that a record keeps as a kind, points (M, P) and coefficients (n, P)."""
    plain = kind.removeprefix("held ")
    if plain not in _RESTORED:
        raise InputError(f"there is no path of kind {kind!r}; known are {', '.join(_RESTORED)}.")
    path = _RESTORED[plain](torch.from_numpy(points), torch.from_numpy(coefficients))
    return path if plain == kind else Held(path)


_RESTORED: dict[str, Callable[[Tensor, Tensor], Combination]] = {
    "segment": lambda points, _: Segment(points[0], points[1]),
    "fourier": lambda points, coefficients: FourierPath(points[0], points[1], coefficients),
    "bezier": lambda points, _: BezierPath(points),
    "polyline": lambda points, _: Polyline(points),
}

# The speed of a path with n modes has waves up to about n; where it comes close to 0 it has a kink in all but name.
_INTERVALS_A_MODE = 128


def _bernstein(t: Tensor, degree: int) -> Tensor:
    """(…, degree + 1)."""
    i = torch.arange(degree + 1, dtype=t.dtype, device=t.device)
    binomial = torch.tensor([math.comb(degree, k) for k in range(degree + 1)], dtype=t.dtype, device=t.device)
    return binomial * t[..., None] ** i * (1 - t[..., None]) ** (degree - i)


def _count(points: Tensor) -> Tensor:
    return torch.arange(len(points), dtype=points.dtype, device=points.device)


def _check_ends(a: Tensor, b: Tensor) -> None:
    if a.ndim != 1 or a.shape != b.shape:
        raise InputError(
            f"the ends of a path must be two vectors of one shape (P,), got {tuple(a.shape)} and {tuple(b.shape)}."
        )


def _numpy(rows: Tensor) -> np.ndarray:
    return rows.detach().cpu().numpy()

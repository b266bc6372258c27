"""Coordinates of points with respect to a line or plane in R^P, and how far off it they lie."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .errors import InputError

_SPAN = 1e-10  # least sine of the angle between two directions that span a plane


class Frame:
    """The affine hull origin + span(directions): orthogonal projection onto it, in float64 in main memory.

    With D = QR, a point has coordinates R⁻¹Qᵀ(θ − origin), the least-squares ones: directions need not be orthogonal.
    """

    def __init__(self, origin: Any, *directions: Any) -> None:
        self.origin = vector(origin)
        self.directions = torch.stack([vector(d) for d in directions])
        if self.origin.shape != self.directions.shape[1:]:
            raise InputError(
                f"directions must have shape {tuple(self.origin.shape)} as the center, "
                f"got {tuple(self.directions.shape[1:])}."
            )
        self._q, self._r = torch.linalg.qr(self.directions.T)
        lengths, heights = self.directions.norm(dim=1), self._r.diagonal().abs()
        if not (heights > _SPAN * lengths).all():
            raise InputError(
                f"the {len(directions)} directions must be linearly independent, but they span less; choose others."
            )

    def place(self, theta: Any) -> tuple[np.ndarray, float, float]:
        """Coordinates (k,) of a point (P,), its distance from the hull, and that from the origin."""
        offset = vector(theta) - self.origin
        left, coordinates = offset, torch.zeros(len(self.directions), dtype=torch.float64)
        for _ in range(2):  # the second time removes what rounding left
            along = self._q.T @ left
            step = torch.linalg.solve_triangular(self._r, along[:, None], upper=True)[:, 0]
            coordinates = coordinates + step
            left = left - step @ self.directions
        return coordinates.numpy(), float(left.norm()), float(offset.norm())

    def norm_within(self, slopes: np.ndarray) -> np.ndarray:
        """(n,) norms of the parts of vectors g in the span of the directions, of which only slopes Dᵀg (n, k) are known.

        ‖Qᵀg‖ with Qᵀg = R⁻ᵀDᵀg.
        """
        along = torch.linalg.solve_triangular(self._r.T, torch.from_numpy(slopes).T, upper=False)
        return along.norm(dim=0).numpy()


def vector(theta: Any) -> Tensor:
    """θ (P,) in float64 in main memory, of a tensor, array, list or solution."""
    theta = getattr(theta, "theta", theta)
    given = theta if isinstance(theta, Tensor) else torch.from_numpy(np.array(theta, dtype=np.float64))
    if given.ndim != 1:
        raise InputError(f"a point must be a vector (P,), got shape {tuple(given.shape)}.")
    return given.detach().to(device="cpu", dtype=torch.float64)


def spacing(values: Any) -> float:
    """The relative spacing of the numbers that values are rounded to: float32's where all are such, whatever holds them."""
    given = np.asarray(values, dtype=np.float64)
    finite = given[np.isfinite(given)]
    with np.errstate(over="ignore"):
        single = (finite.astype(np.float32) == finite).all()
    return float(np.finfo(np.float32 if single else np.float64).eps)


def points_of(thetas: Any) -> Iterator[tuple[float, Any]]:
    """Each point with its step, one at a time: of an array (T, P), a trajectory, solutions, or names of their files."""
    from .results import Solution

    if isinstance(thetas, str | os.PathLike):
        raise InputError(
            f"thetas must be points, got the name {thetas!s}; give Trajectory(name), or a list of files."
        )
    for i, item in enumerate(thetas):
        point = Solution.load(item) if isinstance(item, str | os.PathLike) else item
        yield float(getattr(point, "step", i)), point

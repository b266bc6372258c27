"""How far a plane is from one convex, quadratic bowl, in a few numbers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from landscape import InputError
from landscape.frames import spacing
from landscape.results import NAN, Roughness, Surface

from .topology import topology

Array = np.ndarray
_ROUNDINGS = 16  # spacings of numbers at the largest value: a second difference is known to about so much
_EVEN = 1e-6  # of a step: so far spacings may differ


def roughness(
    surface: Surface,
    *,
    value: str = "loss",
    persistence: float | None = None,
    about: Mapping[str, Any] | None = None,
) -> Roughness:
    """How rough a surface is: its minima, their persistence, where it is not convex, how badly a quadratic fits.

    - minima: how many have a persistence above ``persistence``, by default above their own sampling error, see ``topology``. One
      of a bowl. Only those inside of the grid: edge_minima are those on its edge, beyond which the function may go on falling. A
      slope has none and one.
    - total_persistence: Σ (death − birth) of all minima that die and all loops, over the range of the values: the degree-1
      total persistence of Cohen-Steiner et al. (2010, Found. Comput. Math. 10, 127). 0 of a bowl; noise adds up.
    - nonconvex: the share of inner samples whose Hessian by central differences has an eigenvalue below −ε, where ε is the
      rounding of those differences: of float32 where the record says that the objective was, or where all values are float32
      numbers. Rougher arithmetic (bfloat16) looks like roughness. Whether a Hessian is positive semidefinite does not depend on
      how the directions are scaled. Where a plane's Hessian is indefinite, so is the full one; the converse is false (Li et al.
      2018, section 6).
    - misfit: 1 − R² = Σ(f − q)² / Σ(f − f̄)² of the quadratic q fitted by least squares, all finite samples weighing the same. Our
      own definition. 0 of a quadratic, and of a constant.

    All depend on how much of the plane is looked at: compare surfaces of equal grids.

    Cost: no evaluation. It needs GUDHI, as ``topology`` does, and steps that are evenly spaced.

    Raises:
        InputError: as topology; fewer than 3 × 3 samples; uneven steps; no inner sample with finite neighbours.
    """
    values = surface.value(value).astype(float)
    if min(values.shape) < 3:
        raise InputError(f"roughness needs a surface of at least 3 × 3 samples, got {values.shape}.")
    for name, steps in (("steps1", surface.steps1), ("steps2", surface.steps2)):
        spacing = np.diff(steps)
        if np.ptp(spacing) > _EVEN * np.abs(spacing).max():
            raise InputError(
                f"{name} must be evenly spaced for differences; interpolate the surface to even steps."
            )
    found = topology(surface, value=value)
    dying = found.persistence[np.isfinite(found.deaths)]
    total = float(dying.sum() + found.loop_persistence[np.isfinite(found.loop_deaths)].sum())
    extent = found.highest - found.lowest
    on_edge = found.significant(persistence).on_edge
    return Roughness(
        value=value,
        label=surface.label,
        threshold=NAN if persistence is None else persistence,
        minima=int((~on_edge).sum()),
        edge_minima=int(on_edge.sum()),
        total_persistence=total / extent if extent else 0.0,
        nonconvex=_nonconvex(values, _ROUNDINGS * _spacing(surface, values)),
        misfit=_misfit(values),
        about=dict(about or {}),
    )


def _spacing(surface: Surface, values: Array) -> float:
    """That of the numbers that values were computed in; values between float32 samples are as rough as these are."""
    single = str(surface.about.get("objective", {}).get("dtype", "")).endswith("float32")
    return max(spacing(values), float(np.finfo(np.float32 if single else float).eps))


def _nonconvex(values: Array, error: float) -> float:
    """The share of Hessians with a negative eigenvalue, in units of the grid's steps; error: of the largest value."""
    with np.errstate(invalid="ignore"):
        first = np.diff(values, 2, axis=0)[:, 1:-1]
        second = np.diff(values, 2, axis=1)[1:-1]
        corners = values[2:, 2:] - values[2:, :-2] - values[:-2, 2:] + values[:-2, :-2]
        lowest = (first + second) / 2 - np.hypot((first - second) / 2, corners / 4)
    lowest = lowest[np.isfinite(lowest)]
    if not lowest.size:
        raise InputError("no inner sample of the surface has finite neighbours; choose a smaller reach.")
    rounding = error * np.abs(values[np.isfinite(values)]).max()
    return float((lowest < -rounding).mean())


def _misfit(values: Array) -> float:
    """1 − R² of the best quadratic through the finite samples."""
    x, y = (
        np.linspace(-1, 1, n) for n in values.shape
    )  # evenly spaced: the fit is the same in any affine coordinates
    x, y = np.meshgrid(x, y, indexing="ij")
    finite = np.isfinite(values)
    columns = [term[finite] for term in (np.ones_like(x), x, y, x * x, x * y, y * y)]
    f = values[finite]
    spread = float(np.sum((f - f.mean()) ** 2))
    if not spread:
        return 0.0
    weights = np.linalg.lstsq(np.stack(columns, axis=1), f, rcond=None)[0]
    return float(np.sum((f - np.stack(columns, axis=1) @ weights) ** 2)) / spread

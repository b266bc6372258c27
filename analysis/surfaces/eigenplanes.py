"""Planes along eigenvectors of the Hessian, where curvature is largest."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from landscape import InputError, Objective, Plane
from landscape.probes import centered_steps

from ..curvature.lanczos import End
from ..curvature.spectrum import top_eigenpairs
from ..points import one_point

_ROUNDINGS = 10  # spacings of numbers at the largest eigenvalue: what is nearer to 0 is 0


def eigenvector_plane(
    objective: Objective,
    theta: Any,
    *,
    pair: tuple[int, int] = (0, 1),
    which: End = "LA",
    rise: float | None = None,
    reach: float | None = None,
    points: int = 25,
    generator: torch.Generator | None = None,
    **options: Any,
) -> Plane:
    """A plane about θ along two eigenvectors v₁, v₂ of ∇²L(θ), with the eigenvalues in ``drawn``.

    Directions are dᵢ = √(2·rise/|λᵢ|)·vᵢ, so that at a minimum L(θ + s d₁ + t d₂) = L(θ) + rise·(±s² ± t²) as far as L is
    quadratic, with the signs of the λᵢ: at step 1 the loss has risen by ``rise``, contours are circles (both λ > 0), and what
    differs from circles is not quadratic, or no minimum. Steps go from −1 to 1. How long one is differs between the axes, and
    stands in ``drawn``.

    Cost: that of top_eigenpairs.

    Args:
        pair: which two, counted from 0 in the order of top_eigenpairs (largest first).
        which: "LA", "SA", "LM" or "BE", as in top_eigenpairs.
        rise: of the quadratic model at a step of 1; by default |L(θ)|: there the model's loss has doubled.
        reach: a distance instead: vectors are unit ones and steps go from −reach to reach along both.
        points: along each axis; an even number is raised by one, so that θ itself is on the grid.
        generator, options: as top_eigenpairs takes them.

    Raises:
        InputError: a pair that is none; both rise and reach; a search that found no vectors; a loss of 0 without rise or reach;
            without reach, an eigenvalue that may be 0, as |λ| is within its residual or the rounding of the largest one found.
    """
    theta = one_point(objective, theta)
    if len(set(pair)) != 2 or min(pair) < 0:
        raise InputError(f"pair must be two different numbers from 0, got {pair}.")
    if rise is not None and reach is not None:
        raise InputError("give rise or reach, not both: each of them says how far the plane goes.")
    found = top_eigenpairs(objective, theta, max(pair) + 1, which=which, generator=generator, **options)
    values, vectors, residuals = (
        array[list(pair)] for array in (found.values, found.vectors, found.residuals)
    )
    if not np.isfinite(vectors).all():
        raise InputError(f"eigenpairs {pair} were not found ({found.message}); raise max_matvecs.")
    lengths = np.ones(2)
    if reach is None:
        height = _height(objective, theta, rise)
        rounding = _ROUNDINGS * torch.finfo(objective.dtype).eps * float(np.nanmax(np.abs(found.values)))
        _refuse_flat(values, np.maximum(residuals, rounding))
        lengths = np.sqrt(2 * height / np.abs(values))
    d1, d2 = (torch.from_numpy(v * n).to(theta) for v, n in zip(vectors, lengths, strict=True))
    steps = centered_steps(points, 1.0 if reach is None else reach)
    said = " and ".join(
        f"λ{i + 1} = {v:.6g} ± {r:.1g}" for i, v, r in zip(pair, values, residuals, strict=True)
    )
    how = (
        "steps are distances"
        if reach is not None
        else f"a step is {lengths[0]:.3g} and {lengths[1]:.3g} long"
    )
    drawn = f"eigenvectors of the Hessian, {said}; {how}"
    return Plane(theta, d1, d2, steps, steps, drawn=drawn if found.converged else f"{drawn}; not converged")


def _height(objective: Objective, theta: torch.Tensor, rise: float | None) -> float:
    height = abs(float(objective(theta))) if rise is None else rise
    if not height > 0:
        raise InputError(f"rise must be greater than 0, got {height}; give rise or reach.")
    return height


def _refuse_flat(values: np.ndarray, errors: np.ndarray) -> None:
    if not (np.abs(values) > errors).all():
        said = ", ".join(f"{v:.3g} ± {e:.1g}" for v, e in zip(values, errors, strict=True))
        raise InputError(
            f"an eigenvalue is 0 but for its error ({said}), along which nothing rises; give reach."
        )

"""From the top of a path to the pass beside it: a stationary point found by eigenvector following, and its Morse index."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from landscape import InputError, Objective
from landscape.parameters import float64_array
from landscape.results import Pass

from ..curvature.spectrum import top_eigenpairs
from ..flatness.sharpness import finite_point
from .following import Climb, Place
from .modes import Modes


def refine_pass(
    objective: Objective,
    theta: Any,
    *,
    tangent: Any | None = None,
    tolerance: float | None = None,
    size: float | None = None,
    max_steps: int = 200,
    dense: int = 500,
    basis: int = 100,
    eigenvalues: int = 4,
    generator: torch.Generator | None = None,
    about: Mapping[str, Any] | None = None,
) -> Pass:
    """The stationary point near θ (P,) that is a maximum along one direction and a minimum across it, with its index.

    Eigenvector following (Cerjan and Miller 1981; Banerjee et al. 1985, J. Phys. Chem. 89, 52): Newton steps on the quadratic
    model of the loss, their sign turned along one mode of the Hessian, so that the loss rises along it and falls along all
    others (analysis/modes.py). The mode is the one from which the tangent, later the mode of the last step, has most
    of its negative curvature. A step is taken back where the gradient after it misses its prediction ∇L + Hs by more than ∇L, in
    the norm of |H|⁻¹; the radius within which steps are trusted follows that too. Up to ``dense`` parameters the model is of
    all modes, beyond in a Krylov space of the gradient and the last mode, as in hybrid eigenvector following (Munro and
    Wales 1999, Phys. Rev. B 59, 3969).

    It ends where ‖∇L‖ ≤ tolerance·max|λ|·size. The index is the number of eigenvalues there that are negative beyond their
    errors (see Pass), so that the zeros of symmetries do not count: along one that is linear in θ, such as a turn of
    all atoms or a rescaling of layers, |λ| is at most about ‖∇L‖/‖θ‖, which is in the errors. ``message`` says what was found,
    which may be no pass: a start that is stationary stays, one with a minimum in reach (no negative mode, and Newton's
    step within the first radius) goes there, and a direction in which the gradient is 0 by symmetry is not left. ``moved`` says
    how far it is from the start: a pass far away need not be that of the path.

    Cost: a gradient and P products a step, beyond ``dense`` up to ``basis`` products a step and those of top_eigenpairs for
    the lowest eigenvalues; 3 to 40 steps on potentials, 12 to 93 from path tops of small classifiers with weight decay (at
    P = 2,410: 43 steps, 4,500 products). Memory: 3 P² numbers; beyond, as top_eigenpairs or 2·basis vectors (P,).

    When it is wrong: networks have many passes, so that two starts, or both models from one start, may end at different
    ones. On ReLU networks, whose gradient jumps, steps may shrink to nothing before it is stationary, which is said.

    Args:
        theta: the start, usually ``record.path(record.top)`` of a PathRecord.
        tangent: a first guess of the direction uphill (P,), usually ``record.path.derivative(record.top)``; the lowest mode
            without it.
        tolerance: by default the precision's epsilon to the power 3/4, 2e-12 in double precision.
        size: a length for which landscapes of this kind change, by default ‖θ‖, or 1 where that is 0. The first radius is a
            tenth of it.
        max_steps: steps at most.
        dense: the most parameters for which the Hessian is made.
        basis: the most vectors of a Krylov space.
        eigenvalues: how many of the lowest are found; up to ``dense`` parameters one more than are not clearly positive, if
            that is more.
        generator: of Lanczos' starts, beyond ``dense``.
        about: provenance for the record's header.

    Raises:
        InputError: theta is not one finite point, tangent is not one finite direction, or a setting is out of range.
    """
    theta = finite_point(objective, theta)
    near = torch.finfo(theta.dtype).eps ** (3 / 4) if tolerance is None else tolerance
    size = (float(theta.norm()) or 1.0) if size is None else size
    _check(near, size, max_steps=max_steps, dense=dense, basis=basis, eigenvalues=eigenvalues)
    direction = None if tangent is None else _unit(objective, tangent)
    climb = Climb(objective, size, dense=dense, basis=basis, generator=generator)
    end, modes, message = climb.run(theta, direction, near, max_steps)
    count = min(eigenvalues, objective.dim)
    if modes is None:
        floor, spent = np.nan, 0
        values, residuals, mode = (np.full(n, np.nan) for n in (count, count, objective.dim))
    else:
        rounding = _ROUNDING * torch.finfo(theta.dtype).eps * modes.largest
        floor = rounding + _SLOPE * end.norm / size
        values, residuals, mode, spent = _lowest(climb, end, modes, floor, count)
    found = Pass(
        theta=float64_array(end.theta),
        loss=float(end.loss),
        gradient_norms=np.array(climb.norms),
        eigenvalues=values,
        residuals=residuals,
        floor=floor,
        direction=mode,
        moved=float((end.theta - theta).norm()),
        gradients=climb.gradients,
        matvecs=climb.matvecs + spent,
        converged=not message,
        message=message,
        about=dict(about or {}),
    )
    return found if message else replace(found, message=_said(found))


Array = np.ndarray
# Rounding of eigenvalues, in eps·max|λ|, and what a gradient can do to one that is 0, in ‖∇L‖/size.
_ROUNDING, _SLOPE = 100, 10
# What the lowest eigenvalues are asked for beyond ``dense``: a sign needs no more.
_TOLERANCE = 1e-5


def _lowest(
    climb: Climb, place: Place, modes: Modes, floor: float, count: int
) -> tuple[Array, Array, Array, int]:
    """The lowest eigenvalues (k,), residuals (k,), the eigenvector (P,) of the first, NaN if not found, and products spent."""
    if climb.dense:
        told = int((modes.values <= floor).sum()) + 1
        count = min(max(count, told), len(modes.values))
        values, columns = modes.values[:count], modes.columns[:, :count].T
        vectors = columns @ modes.basis
        residuals = (columns @ modes.images - values[:, None] * vectors).norm(dim=1)
        return float64_array(values), float64_array(residuals), float64_array(vectors[0]), 0
    pairs = top_eigenpairs(
        climb.objective, place.theta, count, which="SA", tolerance=_TOLERANCE, generator=climb.generator
    )
    order = np.argsort(pairs.values)  # NaN last
    return pairs.values[order], pairs.residuals[order], pairs.vectors[order[0]], pairs.matvecs


def _unit(objective: Objective, tangent: Any) -> Tensor:
    """The tangent (P,), of length 1."""
    direction = objective.point(tangent, name="tangent")
    norm = direction.norm()
    if direction.ndim != 1 or not (norm.isfinite() and norm > 0):
        raise InputError(
            f"tangent must be one finite direction ({objective.dim},) that is not 0, got shape {tuple(direction.shape)} "
            f"and norm {float(norm):.3g}; leave it out to follow the lowest mode."
        )
    return direction / norm


def _said(found: Pass) -> str:
    """What a stationary point is."""
    kind = {
        -1: "stationary, of unknown index: there may be more negative eigenvalues than were found",
        0: "no pass: no eigenvalue is negative beyond its error"
        if found.undecided
        else "no pass but a minimum",
        1: "a pass: one eigenvalue is negative beyond its error",
    }.get(found.index, f"no pass: {found.index} eigenvalues are negative beyond their errors")
    if not found.undecided:
        return f"{kind}."
    last = len(found.eigenvalues) < len(found.theta) and found.eigenvalues[-1] <= found.errors[-1]
    return f"{kind}; {found.undecided}{' or more' if last else ''} too close to 0 to tell."


def _check(tolerance: float, size: float, **counts: int) -> None:
    if not tolerance > 0:
        raise InputError(f"tolerance must be a positive share of max|λ|·size, got {tolerance}.")
    if not 0 < size < np.inf:
        raise InputError(f"size must be a positive length, got {size}.")
    least = {"max_steps": 0, "dense": 0, "basis": 3, "eigenvalues": 1}
    for name, count in counts.items():
        if count < least[name]:
            raise InputError(f"{name} must be at least {least[name]}, got {count}.")

"""How near a point is to a flat minimum, as (ε, ε′): the way down to the valley floor, and the slope of the trace along it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from landscape import InputError, Objective
from landscape.parameters import float64_array
from landscape.results import Certificate

from ..curvature.estimators import signs
from ..curvature.spectrum import top_eigenpairs
from ..points import draw_normal
from .sharpness import finite_point
from .thirds import third_derivatives

TAUS = (0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3)
# Eigenvalues asked for at first, and by how much more in each further round.
_FIRST, _GROWTH = 8, 2


def flat_minimum_certificate(
    objective: Objective,
    theta: Any,
    *,
    taus: Sequence[float] = TAUS,
    step: float = 1.0,
    max_steps: int = 1000,
    tolerance: float | None = None,
    eigenvalues: int = 32,
    probes: int = 50,
    generator: torch.Generator | None = None,
    about: Mapping[str, Any] | None = None,
) -> Certificate:
    """(ε, ε′) of θ as an approximate flat minimum, ε′ with its standard error and for several thresholds τ.

    Ahn, Jadbabaie, Sra 2024 (arXiv 2305.15659, Definition 2): with x* the limit of gradient flow from θ, ε = ‖θ − x*‖ and
    ε′ = ‖P ∇t̄r(x*)‖, t̄r = tr ∇²L/P the mean curvature and P the projector onto the valley floor. Where ε′ is small, no
    way along the floor lowers the trace. It is found in three parts.

    x* by gradient descent with step 1/λ₁, λ₁ the eigenvalue of largest magnitude at θ, times ``step``; where a step would
    raise the loss, steps are halved from there on. Gradient flow is the limit of small steps. Descent ends where a step
    1/λ₁ would move θ by less than tolerance·‖θ‖.

    P = 1 − QQᵀ, Q the eigenvectors of ∇²L(x*) with λ > τ. In a network there is no gap between the eigenvalues across the
    valley and those along it: hence the sweep over τ.

    ∇tr ∇²L = Σ_k D³L[q_k, q_k, ·] + E D³L[w, w, ·] for the eigenvectors q_k found and w = (1 − Σ q_k q_kᵀ)v, v random
    signs: as in Hutch++, probes are left with what is not sharp. Each probe gives a sample t_i of ∇t̄r. The norm of a noisy
    mean is too large, so ε′² is the mean of t_iᵀ P t_j over all i ≠ j, which is unbiased, with the unbiased estimate of
    its variance.

    Cost: a gradient a step, some hundred Hessian-vector products, and probes + eigenvectors third derivatives, each of a few
    Hessian-vector products. Memory: probes + eigenvalues vectors (P,), a few times.

    When it is wrong: a loss that falls forever (cross-entropy of separable data) has no minimum, then ``converged`` is False.
    The kinks of ReLU networks are not seen by derivatives at a point. The error bar is for given x* and Q, and somewhat
    too small: on small networks errors over it had a standard deviation of 1.1 with 50 probes (mean −.2) and of 1.2 with 24.

    Args:
        taus: thresholds as shares of the largest eigenvalue at x*.
        tolerance: by default the square root of the dtype's rounding.
        eigenvalues: how many of the largest are found at most. Of a τ below the last of them not all directions across the valley
            are taken out: there ``complete`` is 0, and ε′ is too large, if anything.

    Raises:
        InputError: theta is not one finite point, or a setting is out of range.
    """
    theta = finite_point(objective, theta)
    near = torch.finfo(objective.dtype).eps ** 0.5 if tolerance is None else tolerance
    _check(taus, step, max_steps, near, eigenvalues, probes)
    x, spent, message = _descend(
        objective, theta, step=step, max_steps=max_steps, tolerance=near, generator=generator
    )
    loss, gradient = objective.value_and_grad(x)
    top, matvecs = _normal(objective, x, min(taus), min(eigenvalues, objective.dim), generator)
    largest = float(top.values[0])
    thresholds = largest * np.asarray(taus, dtype=np.float64)
    vectors = torch.from_numpy(top.vectors[np.isfinite(top.values)]).to(x)
    samples = _slopes(objective, x, vectors, draw_normal(objective, probes, generator))
    normal = (top.values[None] > thresholds[:, None]).sum(1)  # NaN is not
    gram, parts = samples @ samples.T, samples @ vectors.T  # (m, m), (m, k)
    estimates = [_square(float64_array(gram - parts[:, :n] @ parts[:, :n].T)) for n in normal]
    square, stderr = np.array(estimates).T
    return Certificate(
        epsilon=float((theta - x).norm()),
        minimum=float64_array(x),
        loss=float(loss),
        gradient_norm=float(gradient.norm()),
        eigenvalues=top.values,
        residuals=top.residuals,
        thresholds=thresholds,
        normal=normal.astype(np.float64),
        complete=np.array([n < len(top.values) or n == objective.dim for n in normal], dtype=np.float64),
        square=square,
        square_stderr=stderr,
        probes=probes,
        gradients=spent["gradients"] + 1,
        matvecs=spent["matvecs"] + matvecs,
        thirds=len(vectors) + probes,
        converged=not message and top.converged,
        message=message or top.message,
        about=dict(about or {}),
    )


def _descend(
    objective: Objective,
    theta: Tensor,
    *,
    step: float,
    max_steps: int,
    tolerance: float,
    generator: torch.Generator | None,
) -> tuple[Tensor, dict[str, int], str]:
    """Where gradient descent ends, what it cost, and why it is not stationary, if it is not."""
    edge = top_eigenpairs(objective, theta, 1, which="LM", generator=generator)
    spent = {"gradients": 1, "matvecs": edge.matvecs}
    x = theta
    loss, gradient = objective.value_and_grad(x)
    curvature = abs(float(edge.values[0]))
    if not curvature > 0:
        unknown = "the Hessian at theta is 0 or not finite, so no step of descent is known."
        return x, spent, unknown if float(gradient.norm()) != 0 else ""
    rate, reach = step / curvature, tolerance * max(float(theta.norm()), torch.finfo(theta.dtype).tiny)
    # A step may not raise the loss by more than rounding does.
    slack = 10 * torch.finfo(theta.dtype).eps
    for _ in range(max_steps):
        if float(gradient.norm()) / curvature <= reach:
            return x, spent, ""
        trial = x - rate * gradient
        value, slope = objective.value_and_grad(trial)
        spent["gradients"] += 1
        if float(value - loss) <= slack * abs(float(loss)):
            x, loss, gradient = trial, value, slope
        else:
            rate /= 2
    if float(gradient.norm()) / curvature <= reach:
        return x, spent, ""
    return (
        x,
        spent,
        (
            f"descent was not stationary after {max_steps} steps: the gradient norm is {float(gradient.norm()):.3g}; "
            "raise max_steps or tolerance."
        ),
    )


def _normal(
    objective: Objective, x: Tensor, share: float, most: int, generator: torch.Generator | None
) -> tuple[Any, int]:
    """The largest eigenpairs, so many that the last is below a share of the first, but at most ``most``; and products spent."""
    k, spent = min(_FIRST, most), 0
    while True:
        top = top_eigenpairs(objective, x, k, generator=generator)
        spent += top.matvecs
        if k == most or not top.values[-1] > share * top.values[0]:
            return top, spent
        k = min(_GROWTH * k, most)


def _slopes(objective: Objective, x: Tensor, basis: Tensor, normal: Tensor) -> Tensor:
    """Samples (m, P) of ∇t̄r: exact in the orthonormal basis (k, P), by random signs, those of ``normal`` (m, P), beside it."""
    v = signs(normal)
    v = v - (v @ basis.T) @ basis
    slopes = third_derivatives(objective, x, torch.cat([basis, v]))
    return (slopes[: len(basis)].sum(0) + slopes[len(basis) :]) / objective.dim


def _square(gram: np.ndarray) -> tuple[float, float]:
    """‖E t‖² without bias, and its standard error, from the products t_iᵀt_j (m, m) of independent samples.

    The estimate U is the mean over i ≠ j. E U² − (E U)² is estimated by U² minus the mean of g_ij g_kl over all different
    i, j, k, l, without bias; that may be negative by chance, and is not let below 2 Var(g_ij)/m(m − 1), what is left where
    E t = 0.
    """
    m = len(gram)
    g = gram - np.diag(np.diag(gram))
    pairs = m * (m - 1)
    mean, squares, rows = g.sum() / pairs, (g**2).sum(), g.sum(1)
    apart = (g.sum() ** 2 - 4 * (rows**2).sum() + 2 * squares) / (pairs * (m - 2) * (m - 3))
    least = 2 * (squares / pairs - mean**2) / pairs
    return float(mean), float(np.sqrt(max(mean**2 - apart, least, 0.0)))


def _check(
    taus: Sequence[float],
    step: float,
    max_steps: int,
    tolerance: float,
    eigenvalues: int,
    probes: int,
) -> None:
    if not len(taus) or not all(0 < tau < 1 for tau in taus):
        raise InputError(f"taus must be shares of the largest eigenvalue between 0 and 1, got {tuple(taus)}.")
    if not 0 < step < 2:
        raise InputError(f"step must be between 0 and 2, where descent is stable, got {step}.")
    if max_steps < 0:
        raise InputError(f"max_steps must be at least 0, got {max_steps}.")
    if not tolerance > 0:
        raise InputError(f"tolerance must be a positive share of the norm of theta, got {tolerance}.")
    if eigenvalues < 1:
        raise InputError(f"eigenvalues must be at least 1, got {eigenvalues}.")
    if probes < 4:
        raise InputError(f"probes must be at least 4, of which an error bar can be made, got {probes}.")

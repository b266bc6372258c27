"""The trace of the Hessian from a few Hessian-vector products, with an error bar that can be believed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from landscape import InputError, Objective
from landscape.results import Trace

TraceMethod = Literal["xtrace", "hutchinson"]


def hessian_trace(
    objective: Objective,
    theta: Any,
    *,
    method: TraceMethod = "xtrace",
    matvecs: int = 60,
    generator: torch.Generator | None = None,
    about: Mapping[str, Any] | None = None,
) -> Trace:
    """An estimate of tr ∇²L(θ), θ (P,), with its standard error; exact where P ≤ matvecs.

    "xtrace" (Epperly, Tropp, Webber 2024, arXiv 2301.07825, with the residual normalized): q = matvecs/2 probes ω_i on the
    sphere of radius √P, and for each the basis Q_(i) of the other q − 1 columns of HΩ:

        t_i = tr(Q_(i)ᵀ H Q_(i)) + (P − q + 1) μᵀHμ/‖μ‖²,   μ = (I − Q_(i)Q_(i)ᵀ) ω_i;   the estimate is their mean.

    The t_i share probes, so they are correlated, and the paper's error std/√q is too small: over 200 repeats on
    Hessians of small networks the true error was 1.1 to 1.6 times it (60 matvecs). With δ_ij = t_i − (t_i with the
    column j left out too),

        E δ_ij δ_ji = cov(t_i, t_j),   so that   stderr² = var(t)/q + max(0, mean over i ≠ j of δ_ij δ_ji)

    is unbiased before it is cut at 0 (derived here: given the other probes, E[δ_ji | ω_i] = 0), and costs no
    product. The true error is then 0.9 to 1.15 times stderr. It can still be 1.5 times stderr where q is about the number
    of outliers and nothing decays after them, and up to 2.7 times with fewer than about 20 matvecs.

    "hutchinson": samples vᵀHv over Rademacher v, which are independent: stderr is std/√matvecs.

    Cost: one call of hvp with matvecs vectors ("xtrace": two with half of them), or P vectors if that is no more.
    Memory: 2 matvecs · P numbers. NaN where the Hessian-vector products are not finite. On ReLU networks this is
    the curvature of the linear pieces, which scales that can be plotted do not show.

    Args:
        generator: of the probes; torch's default one if None.
        about: provenance for the record's header.

    Raises:
        InputError: an unknown method, or too few matvecs for an error bar (4 for "xtrace", 2 for "hutchinson").
    """
    return trace_and_square(
        objective, theta, method=method, matvecs=matvecs, generator=generator, about=about
    )[0]


def trace_and_square(
    objective: Objective,
    theta: Any,
    *,
    method: TraceMethod = "xtrace",
    matvecs: int = 60,
    generator: torch.Generator | None = None,
    about: Mapping[str, Any] | None = None,
) -> tuple[Trace, Trace]:
    """Estimates of tr H and of tr H² = ‖H‖_F² for H = ∇²L(θ), from the same products: see hessian_trace.

    The products Hω and HQ say as much about H² as about H (ωᵀH²ω = ‖Hω‖²), so XTrace and its error bar apply to
    both; by "hutchinson", ‖H‖_F² = E‖Hv‖².
    """
    theta = one_point(objective, theta)
    fewest = {"xtrace": 4, "hutchinson": 2}
    if method not in fewest:
        raise InputError(f"method must be 'xtrace' or 'hutchinson', got {method!r}.")
    if matvecs < fewest[method]:
        raise InputError(
            f"matvecs must be at least {fewest[method]} for {method}, which needs them for an error bar, got {matvecs}."
        )
    if objective.dim <= matvecs:
        used, name, estimates = objective.dim, "exact", _exact(objective, theta)
    elif method == "hutchinson":
        used, name, estimates = matvecs, method, _hutchinson(objective, theta, matvecs, generator)
    else:
        used, name, estimates = 2 * (matvecs // 2), method, _xtrace(objective, theta, matvecs // 2, generator)

    def record(samples: Tensor, stderr: Tensor) -> Trace:
        return Trace(
            value=float(samples.mean()),
            stderr=float(stderr),
            samples=samples.cpu().numpy(),
            method=name,
            matvecs=used,
            dim=objective.dim,
            about=dict(about or {}),
        )

    first, second = estimates
    return record(*first), record(*second)


def one_point(objective: Objective, theta: Any) -> Tensor:
    """θ (P,) on the objective's device and in its dtype; InputError if it is several points."""
    theta = objective.point(theta)
    if theta.ndim != 1:
        raise InputError(f"theta must be one point ({objective.dim},), got shape {tuple(theta.shape)}.")
    return theta


def draw_normal(objective: Objective, count: int, generator: torch.Generator | None) -> Tensor:
    """Standard normal vectors (count, P) on the objective's device."""
    device = generator.device if generator is not None else objective.device
    vectors = torch.randn(count, objective.dim, generator=generator, device=device, dtype=objective.dtype)
    return vectors.to(objective.device)


Estimate = tuple[Tensor, Tensor]  # samples (n,), and the standard error of their mean ()


def _exact(objective: Objective, theta: Tensor) -> tuple[Estimate, Estimate]:
    hessian = objective.hvp(theta, torch.eye(objective.dim, dtype=objective.dtype, device=objective.device))
    trace, square, no_error = hessian.trace(), hessian.square().sum(), theta.new_zeros(())
    return (trace[None].double(), no_error), (square[None].double(), no_error)


def _hutchinson(
    objective: Objective, theta: Tensor, matvecs: int, generator: torch.Generator | None
) -> tuple[Estimate, Estimate]:
    v = draw_normal(objective, matvecs, generator)
    v = torch.ones_like(v).copysign(v)  # Rademacher
    products = objective.hvp(theta, v)

    def independent(samples: Tensor) -> Estimate:
        samples = samples.double()
        return samples, samples.std() / len(samples) ** 0.5

    return independent((v * products).sum(1)), independent(products.square().sum(1))


def _xtrace(
    objective: Objective, theta: Tensor, q: int, generator: torch.Generator | None
) -> tuple[Estimate, Estimate]:
    dim = objective.dim
    omega = draw_normal(objective, q, generator)
    omega *= dim**0.5 / omega.norm(dim=1, keepdim=True)
    image = objective.hvp(theta, omega)  # rows Hω_i
    basis, triangle = torch.linalg.qr(image.T)  # (P, q), (q, q)
    of_basis = objective.hvp(theta, basis.T)  # rows Hq_k
    if not (image.isfinite().all() and of_basis.isfinite().all()):
        nothing = torch.full((q,), float("nan"), dtype=torch.float64)
        return (nothing, nothing[0]), (nothing, nothing[0])

    def small(matrix: Tensor) -> Tensor:  # from here on all is q × q: double precision costs nothing
        return matrix.cpu().double()

    lost = _lost_directions(small(triangle), torch.finfo(objective.dtype).eps)
    coordinates = small(omega @ basis).T  # of ω_i in the basis, columns
    first = _leave_out(
        inner=small(of_basis @ basis),
        cross=small(triangle),  # QᵀHΩ
        square=small((omega * image).sum(1)),
        coordinates=coordinates,
        lost=lost,
        dim=dim,
    )
    second = _leave_out(
        inner=small(of_basis @ of_basis.T),
        cross=small(of_basis @ image.T),
        square=small(image.square().sum(1)),
        coordinates=coordinates,
        lost=lost,
        dim=dim,
    )
    return first, second


def _lost_directions(triangle: Tensor, eps: float) -> Tensor:
    """Columns s_i (q, q): the unit direction, in coordinates of Q, that the basis loses without column i of HΩ = QR.

    They are the columns of R⁻ᵀ, normalized. Singular values below the rounding of the products are raised to
    it, so that a Hessian of low rank loses directions in which there is nothing.
    """
    u, s, vt = torch.linalg.svd(triangle)
    floor = (10 * len(s) * eps * s[0]).clamp_min(torch.finfo(s.dtype).tiny)
    directions = (u / s.clamp_min(floor)) @ vt
    return directions / directions.norm(dim=0)


def _leave_out(
    *, inner: Tensor, cross: Tensor, square: Tensor, coordinates: Tensor, lost: Tensor, dim: int
) -> Estimate:
    """The leave-one-out estimates (q,) of tr A and the standard error of their mean.

    inner QᵀAQ, cross QᵀAΩ, square ω_iᵀAω_i, coordinates QᵀΩ, lost the directions without each column.
    """
    q = len(square)

    def without(probe: Tensor, directions: Tensor) -> Tensor:
        """t of the probes with these indices (...), their basis short of orthonormal directions (..., q, d)."""
        left = coordinates.T[probe]
        left = left - (directions @ (directions.mT @ left[..., None]))[..., 0]
        captured = inner.trace() - (directions.mT @ inner @ directions).diagonal(dim1=-2, dim2=-1).sum(-1)
        residual = square[probe] - 2 * (left * cross.T[probe]).sum(-1) + (left @ inner * left).sum(-1)  # μᵀAμ
        length = dim - left.square().sum(-1)  # ‖μ‖²
        return captured + (dim - q + directions.shape[-1]) * residual / length

    every = torch.arange(q)
    samples = without(every, lost.T[..., None])
    delta = torch.zeros_like(inner)
    for i in range(q):
        others = every[every != i]
        pairs = torch.stack([lost.T[i].expand(q - 1, q), lost.T[others]], dim=-1)
        delta[i, others] = samples[i] - without(every[i], torch.linalg.qr(pairs)[0])
    covariance = (delta * delta.T).sum() / (q * (q - 1))
    return samples, (samples.var() / q + covariance.clamp_min(0)).sqrt()

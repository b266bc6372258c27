"""How deep and how flat a solution is: every number of a Flatness record in one call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from landscape import InputError, Objective
from landscape.results import Flatness

from ..curvature.spectrum import top_eigenpairs
from ..curvature.trace import trace_and_square
from .certificate import flat_minimum_certificate
from .invariant import default_layer, fisher_rao, has_fisher, relative_flatness
from .noise import lpf, pac_bayes_sigma
from .sharpness import average_sharpness, finite_point, worst_case_sharpness


def flatness(
    objective: Objective,
    theta: Any,
    *,
    matvecs: int = 60,
    eigenvalues: int = 5,
    sam_rho: float = 0.05,
    adaptive_rho: float = 0.5,
    linf_rho: float = 0.005,
    ascent_steps: int = 20,
    linf_directions: int = 1,
    lpf_sigma: float = 0.01,
    pac_bayes_tolerance: float = 0.1,
    pairs: int = 16,
    layer: str | None = None,
    probes: int = 30,
    descent_steps: int = 0,
    tau: float = 0.01,
    generator: torch.Generator | None = None,
    optimizer: str = "",
    seed: int = 0,
    about: Mapping[str, Any] | None = None,
) -> Flatness:
    """Depth and flatness of one solution θ (P,): every measure of the table below, with standard errors where it is estimated.

    trace, frobenius: by XTrace (see hessian_trace), ‖H‖_F = √tr H² from the same products;
        its error is that of tr H² over 2‖H‖_F.
    eigenvalues: the largest ones (all P if there are fewer), with true residuals (see top_eigenpairs).
    sam_step: L(θ + ρ g/‖g‖) − L(θ), the single ascent step of SAM (Foret et al. 2021, eq. 2); 0 where g = 0.
    sam_sharpness, adaptive_sharpness, adaptive_linf_sharpness: the largest rise that an ascent finds in a ball of radius
        ρ: plain in ℓ2, and in units of |θ| in ℓ2 and ℓ∞; lower bounds of the maxima (see worst_case_sharpness).
    adaptive_average: the mean rise under noise of that size (see average_sharpness).
    lpf, pac_bayes_sigma: the loss under noise, and the noise that raises it so far (see lpf, pac_bayes_sigma).
    relative_flatness: of a layer (see relative_flatness). NaN where no parameter has two axes.
    fisher_rao: NaN where the objective is not a network's, or its loss has no Fisher matrix.
    epsilon, epsilon_prime: see flat_minimum_certificate. NaN unless descent_steps is positive.

    Flatness.invariant says which of them a rescaling of layers leaves as they are. Read one of these beside the trace. The
    defaults of ρ in ℓ2 are those of the two papers for CIFAR-10; that in ℓ∞ gives a ball of about the same size at P = 10⁴.

    Cost: ascent_steps·(4·eigenvalues + 2·linf_directions + 3) + 4 gradients, about matvecs + probes + 80 Hessian-vector products,
    and about 40·pairs losses, most of them for pac_bayes_sigma: by default 504 gradients, 170 products and 600 losses. The
    certificate, if asked for: up to descent_steps gradients, some hundred products, and 58 to 82 third derivatives.

    Args:
        linf_directions: eigenvectors (of the adaptive ball) along whose signs the ascent in ℓ∞ starts.
        pairs: of opposite draws for the measures under noise.
        layer, probes: for relative_flatness; by default the last weight with two axes.
        descent_steps: how far the certificate may descend; 0 leaves it out.
        tau: its threshold, as a share of the largest eigenvalue.

    Raises:
        InputError: theta is not one point or not finite, ρ or σ is not positive, or fewer than one eigenvalue or step is
            asked for.
    """
    theta = finite_point(objective, theta)
    radii = {"sam_rho": sam_rho, "adaptive_rho": adaptive_rho, "linf_rho": linf_rho, "lpf_sigma": lpf_sigma}
    _check({"eigenvalues": eigenvalues, "ascent_steps": ascent_steps}, radii)
    loss, gradient = objective.value_and_grad(theta)
    trace, square = trace_and_square(objective, theta, matvecs=matvecs, generator=generator)
    k = min(eigenvalues, objective.dim)
    top = top_eigenpairs(objective, theta, k, generator=generator)
    ascent: dict[str, Any] = {"steps": ascent_steps, "generator": generator}
    sam = worst_case_sharpness(objective, theta, sam_rho, ball="plain", along=top.vectors, **ascent)
    adaptive = worst_case_sharpness(objective, theta, adaptive_rho, along=k, **ascent)
    linf = worst_case_sharpness(
        objective, theta, linf_rho, norm="linf", along=min(linf_directions, k), **ascent
    )
    noise: dict[str, Any] = {"pairs": pairs, "generator": generator}
    average = average_sharpness(objective, theta, adaptive_rho, **noise)
    filtered = lpf(objective, theta, sigma=lpf_sigma, **noise)
    allowed = pac_bayes_sigma(objective, theta, tolerance=pac_bayes_tolerance, **noise)
    parts = [
        _relative(objective, theta, layer, probes, generator),
        _fisher_rao(objective, theta),
        _certified(objective, theta, descent_steps, tau, generator),
    ]
    spent = {name: sum(int(part.pop(name, 0)) for part in parts) for name in ("gradients", "matvecs")}
    messages = [allowed.message, *(part.pop("message", "") for part in parts)]
    return Flatness(
        optimizer=optimizer,
        seed=seed,
        loss=float(loss),
        gradient_norm=float(gradient.norm()),
        theta_norm=float(theta.norm()),
        dim=objective.dim,
        trace=trace.value,
        trace_stderr=trace.stderr,
        trace_method=trace.method,
        frobenius=square.value**0.5,
        frobenius_stderr=0.5 * square.stderr / square.value**0.5 if square.stderr else 0.0,
        eigenvalues=top.values,
        residuals=top.residuals,
        sam_step=sam.step,
        sam_sharpness=sam.value,
        sam_rho=sam_rho,
        adaptive_sharpness=adaptive.value,
        adaptive_rho=adaptive_rho,
        adaptive_linf_sharpness=linf.value,
        linf_rho=linf_rho,
        adaptive_average=average.value,
        adaptive_average_stderr=average.stderr,
        lpf=filtered.value,
        lpf_stderr=filtered.stderr,
        lpf_sigma=lpf_sigma,
        pac_bayes_sigma=allowed.sigma,
        pac_bayes_stderr=allowed.stderr,
        pac_bayes_tolerance=pac_bayes_tolerance,
        gradients=1 + sam.gradients + adaptive.gradients + linf.gradients + spent["gradients"],
        matvecs=trace.matvecs + top.matvecs + adaptive.matvecs + linf.matvecs + spent["matvecs"],
        losses=average.losses + filtered.losses + allowed.losses,
        message=" ".join(message for message in messages if message),
        about=dict(about or {}),
        **{name: value for part in parts for name, value in part.items()},
    )


def _relative(
    objective: Objective, theta: Tensor, layer: str | None, probes: int, generator: torch.Generator | None
) -> dict[str, Any]:
    layer = layer or default_layer(objective)
    if layer is None:
        return {}
    found = relative_flatness(objective, theta, layer=layer, probes=probes, generator=generator)
    return {
        "relative_flatness": found.value,
        "relative_flatness_stderr": found.stderr,
        "relative_layer": layer,
        "matvecs": found.matvecs,
    }


def _fisher_rao(objective: Objective, theta: Tensor) -> dict[str, Any]:
    return {"fisher_rao": fisher_rao(objective, theta)} if has_fisher(objective) else {}


def _certified(
    objective: Objective, theta: Tensor, steps: int, tau: float, generator: torch.Generator | None
) -> dict[str, Any]:
    if not steps:
        return {}
    found = flat_minimum_certificate(objective, theta, taus=(tau,), max_steps=steps, generator=generator)
    return {
        "epsilon": found.epsilon,
        "epsilon_prime": float(found.epsilon_prime[0]),
        "epsilon_prime_stderr": float(found.epsilon_prime_stderr[0]),
        "gradients": found.gradients,
        "matvecs": found.matvecs,
        "message": found.message,
    }


def _check(counts: Mapping[str, int], radii: Mapping[str, float]) -> None:
    for name, count in counts.items():
        if count < 1:
            raise InputError(f"{name} must be at least 1, got {count}.")
    for name, rho in radii.items():
        if not 0 < rho < float("inf"):
            raise InputError(f"{name} must be a positive radius, got {rho}.")

"""The trace of the Hessian and its Frobenius norm from a few products with vectors, with error bars that can be believed."""

from __future__ import annotations

from collections.abc import Mapping
from math import ceil, isfinite
from typing import Any, Literal

import torch
from torch import Tensor

from landscape import InputError, Objective
from landscape.parameters import float64_array
from landscape.results import Frobenius, Trace

from ..points import NOT_FINITE, draw_normal, one_point
from .estimators import Estimate, Estimator, Exact, Hutchinson, HutchPlusPlus
from .matrices import Of, products_of
from .xnystrace import XNysTrace
from .xtrace import XTrace

TraceMethod = Literal["xtrace", "hutchinson", "hutch++", "xnystrace", "split"]
_USUAL = 60  # products
_GROWTH = 1.25  # times the products so far: the least that is added before the error is looked at again
_BELIEVED = 30  # products below which error bars are too uncertain to stop on
_ESTIMATORS: dict[str, type[Estimator]] = {
    "xtrace": XTrace,
    "hutchinson": Hutchinson,
    "hutch++": HutchPlusPlus,
    "xnystrace": XNysTrace,
}


def hessian_trace(
    objective: Objective,
    theta: Any,
    *,
    of: Of = "hessian",
    method: TraceMethod = "xtrace",
    matvecs: int | None = None,
    rtol: float | None = None,
    max_matvecs: int = 2000,
    generator: torch.Generator | None = None,
    about: Mapping[str, Any] | None = None,
) -> Trace:
    """An estimate of tr ∇²L(θ), θ (P,), with its standard error; exact where P ≤ matvecs.

    "xtrace" (Epperly, Tropp, Webber 2024, arXiv 2301.07825): a basis of images HΩ, and every probe both for the basis and
        against it (see xtrace.XTrace). Best unless H has no decay. The paper's error bar std/√q leaves out that estimates
        share probes: the true error was 1.1 to 1.6 times it (60 matvecs, Hessians of small networks). Ours counts their
        covariance, and the true error is 0.9 to 1.15 times it. It can still be 1.5 times where q = matvecs/2 is
        about the number of outliers and nothing decays after them, and up to 2.7 times with fewer than about 20 matvecs.
    "hutch++" (Meyer et al. 2021): a basis, and independent samples on the rest (see estimators.HutchPlusPlus). The error bar is
        std/√n of n = matvecs/3 samples: the true error is 1 to 1.15 times it at 60 matvecs, up to twice that below 20.
    "hutchinson": samples vᵀHv over signs v, which are independent: the error bar is std/√matvecs.
    "split": tr G + tr R, of networks: see split.split_trace, which also has the traces of layers. matvecs are those with R, 4 or
    10 unless given; what G takes, mostly less, is in the record. By far the cheapest at a minimum that fits its data.

    "xnystrace" (Epperly, Tropp, Webber 2024), for positive semidefinite matrices only: one product a probe, where XTrace takes
        two (see xnystrace.XNysTrace). The true error was 0.84 to 1.2 times the error bar at 12 to 60 matvecs.

    With rtol, products are added until stderr ≤ rtol·|value|, those of before staying in use: as many as would suffice if the
    error fell as their square root, and at most as many again. To stop when the error bar is small prefers error bars that are
    too small: over 100 repeats the true error was 0.93 to 1.25 times it from 30 and 60 matvecs, and up to 3.4 times from 12,
    where a few samples say little. So none is believed before 30 products.

    Cost: matvecs products with vectors ("xtrace": in two halves), or P if that is no more; with rtol up to max_matvecs.
    Memory: about 2 matvecs · P numbers. NaN, with a message, where the products are not finite. On ReLU networks this is the
    curvature of the linear pieces, which scales that can be plotted do not show.

    Args:
        of: the matrix: the Hessian, its Gauss–Newton or residual part, or the Fisher matrix.
        matvecs: products to spend, 60 unless given; with rtol, before the error is first looked at, 30 unless more are given.
        rtol: the standard error to reach, relative to the value.
        max_matvecs: where they do not suffice for rtol, ``converged`` is False and ``message`` says so.
        generator: of the probes; torch's default one if None.
        about: provenance for the record's header.

    Raises:
        InputError: an unknown method or one that the matrix is not fit for, too few matvecs for an error bar, or an rtol not in
            (0, 1).
    """
    theta = one_point(objective, theta)
    if method == "split" and of == "hessian":
        from .split import split_trace  # which is made of these estimators

        return split_trace(
            objective,
            theta,
            matvecs=matvecs,
            rtol=rtol,
            max_matvecs=max_matvecs,
            generator=generator,
            about=about,
        )
    matvecs = (_USUAL if rtol is None else _BELIEVED) if matvecs is None else matvecs
    _check(of, method, matvecs)
    if rtol is not None and not 0 < rtol < 1:
        raise InputError(
            f"rtol must lie between 0 and 1, or be None for a fixed number of products, got {rtol}."
        )
    if rtol is not None and max_matvecs < matvecs:
        raise InputError(f"max_matvecs must be at least matvecs, {matvecs}, got {max_matvecs}.")
    first = matvecs if rtol is None else min(max(matvecs, _BELIEVED), max_matvecs)
    estimator = _started(objective, theta, of=of, method=method, matvecs=first, generator=generator)
    if rtol is not None and _grow(estimator, objective.dim, rtol=rtol, max_matvecs=max_matvecs):
        before = estimator.matvecs
        estimator = Exact(estimator.products, estimator.normals)
        estimator.spend(objective.dim)
        estimator.matvecs += before
    return _record(estimator, estimator.trace(), method, objective.dim, of=of, rtol=rtol, about=about)


def trace_and_square(
    objective: Objective,
    theta: Any,
    *,
    of: Of = "hessian",
    method: TraceMethod = "xtrace",
    matvecs: int = 60,
    generator: torch.Generator | None = None,
    about: Mapping[str, Any] | None = None,
) -> tuple[Trace, Trace]:
    """Estimates of tr H and of tr H² = ‖H‖_F² for H = ∇²L(θ), from the same products: see hessian_trace.

    The products Hω and HQ say as much about H² as about H (ωᵀH²ω = ‖Hω‖²), so XTrace, Hutch++ and their error bars apply
    to both; by "hutchinson" and "xnystrace", ‖H‖_F² = E‖Hv‖².
    """
    theta = one_point(objective, theta)
    _check(of, method, matvecs)
    estimator = _started(objective, theta, of=of, method=method, matvecs=matvecs, generator=generator)
    first, second = (
        _record(estimator, estimate, method, objective.dim, of=of, about=about)
        for estimate in (estimator.trace(), estimator.square())
    )
    return first, second


def frobenius(
    objective: Objective,
    theta: Any,
    *,
    of: Of = "hessian",
    method: TraceMethod = "xtrace",
    matvecs: int = 60,
    generator: torch.Generator | None = None,
    about: Mapping[str, Any] | None = None,
) -> Frobenius:
    """An estimate of ‖∇²L(θ)‖_F, θ (P,), with its standard error; exact where P ≤ matvecs.

    The root of an estimate of ‖H‖_F² = tr H² by the estimators of hessian_trace: XTrace and Hutch++ on H² with the products
    of H, where plain sampling has only E‖Hv‖² = ‖H‖_F². The estimate of the square is unbiased, its root is biased by about
    −stderr²/(2·value), which is small against stderr. Squares are skewed: when the estimate is low, so is its error bar.

    Cost, memory, arguments and errors: as of hessian_trace.
    """
    square = trace_and_square(
        objective, theta, of=of, method=method, matvecs=matvecs, generator=generator, about=about
    )[1]
    return Frobenius(
        square=square.value,
        square_stderr=square.stderr,
        method=square.method,
        matvecs=square.matvecs,
        dim=square.dim,
        of=square.of,
        about=square.about,
    )


def _check(of: Of, method: TraceMethod, matvecs: int) -> None:
    if method == "split":
        raise InputError(
            "method split is for hessian_trace of 'hessian' alone; use another method, such as xtrace."
        )
    if method not in _ESTIMATORS:
        raise InputError(f"method must be one of {', '.join(_ESTIMATORS)}, split, got {method!r}.")
    fewest = _ESTIMATORS[method].fewest
    if matvecs < fewest:
        raise InputError(
            f"matvecs must be at least {fewest} for {method}, which needs them for an error bar, got {matvecs}."
        )
    if method == "xnystrace" and of not in ("gauss-newton", "fisher"):
        raise InputError(
            "method xnystrace is for positive semidefinite matrices, of 'gauss-newton' or 'fisher'; "
            f"got of={of!r}, for which xtrace is right."
        )


def _started(
    objective: Objective,
    theta: Tensor,
    *,
    of: Of,
    method: TraceMethod,
    matvecs: int,
    generator: torch.Generator | None,
) -> Estimator:
    """The method's estimator after its first products, or the exact one where these are P or more."""

    def normals(count: int) -> Tensor:
        return draw_normal(objective, count, generator)

    kind = Exact if objective.dim <= matvecs else _ESTIMATORS[method]
    estimator = kind(products_of(objective, theta, of, count=min(matvecs, objective.dim)), normals)
    estimator.spend(matvecs)
    return estimator


def _grow(estimator: Estimator, dim: int, *, rtol: float, max_matvecs: int) -> bool:
    """Spends until the error is within rtol or nothing is left to spend; True if taking all P columns is worth more."""
    while (error := _relative(*estimator.trace())) > rtol:
        spent = estimator.matvecs
        needed = ceil(spent * min(2.0, max(_GROWTH, (error / rtol) ** 2)))
        if needed >= dim and spent + dim <= max_matvecs:
            return True
        more = min(needed, max_matvecs, dim - 1) - spent
        if more < 2:  # of which no method has a sample
            return False
        estimator.spend(more)
    return False


def _relative(samples: Tensor, stderr: Tensor) -> float:
    """The standard error over the size of the mean; 0 where both are 0."""
    return float(stderr / samples.mean().abs()) if stderr else 0.0


def _record(
    estimator: Estimator,
    estimate: Estimate,
    method: str,
    dim: int,
    *,
    of: str,
    rtol: float | None = None,
    about: Mapping[str, Any] | None = None,
) -> Trace:
    samples, stderr = estimate
    error, message = _relative(samples, stderr), ""
    if not isfinite(samples.mean()):
        message = NOT_FINITE
    elif rtol is not None and error > rtol:
        message = (
            f"the standard error is {error:.2g} of the value after {estimator.matvecs} products, above rtol={rtol:g}; "
            "raise max_matvecs or rtol."
        )
    return Trace(
        value=float(samples.mean()),
        stderr=float(stderr),
        samples=float64_array(samples),
        method="exact" if isinstance(estimator, Exact) else method,
        matvecs=estimator.matvecs,
        dim=dim,
        of=of,
        converged=not message,
        message=message,
        about=dict(about or {}),
    )

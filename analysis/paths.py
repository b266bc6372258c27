"""The barrier between two points: how high the loss climbs along the straight line, and along paths bent to go lower.

The height of a path is an upper bound on what the landscape demands (the lowest height of all paths), provided that
the path's own maximum was found: so it is bracketed, whatever points the path was fitted on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from landscape import InputError, Objective
from landscape.paths import FourierPath, Segment
from landscape.results import PathRecord

from .heights import INTERVALS, Array, Sampled, Survey


def linear_path(
    objective: Objective,
    a: Any,
    b: Any,
    *,
    tolerance: float = 1e-6,
    engine: str = "loop",
    start: str = "",
    end: str = "",
    about: Mapping[str, Any] | None = None,
) -> PathRecord:
    """The loss along the straight line (1 − t) a + t b, with its maximum bracketed.

    The line is sampled at 65 points; then the intervals beside every local maximum that may be the highest are halved
    until the top exceeds both its neighbours by no more than ``tolerance`` of the range of the loss along the line (or
    by rounding, 100 eps). A spike that lies between two of the 65 is missed.

    Cost: about 80 loss evaluations.

    Args:
        a, b: the ends (P,), tensors or arrays.
        engine: how losses are evaluated: a name, such as "shared x16", or "auto" to measure what is fastest.
        start, end: what the ends are called in tables and pictures.
        about: provenance for the record's header.

    Raises:
        InputError: a or b is not one finite point (P,), tolerance is not positive, or there is no such engine.
    """
    survey = Survey(objective, tolerance=tolerance, engine=engine)
    found = survey.sample(Segment(*_ends(objective, a, b)))
    finite = math.isfinite(found.height)
    message = "the top is bracketed" if finite else "the loss is not finite everywhere on the line"
    return _record(found, survey, "linear", finite, message, start=start, end=end, about=about)


def find_path(
    objective: Objective,
    a: Any,
    b: Any,
    *,
    method: str = "fourier",
    modes: int = 10,
    steps: int | None = None,
    negligible: float = 1e-5,
    tolerance: float = 1e-6,
    engine: str = "loop",
    generator: torch.Generator | None = None,
    start: str = "",
    end: str = "",
    about: Mapping[str, Any] | None = None,
) -> PathRecord:
    """A low path γ(t) = (1 − t) a + t b + Σ_n b_n sin(nπt), with its maximum bracketed as in linear_path.

    "fourier" makes the highest point of the path as low as it can, one gradient a step. The points are drawn by arc
    length and exp(β (L − max L)/range L), with L as last sampled along the path and β growing from 0 to 20. The
    gradient's part along the path is left out, since it only moves points along. Adam with cosine decay moves
    b_n by about ‖b − a‖/100n at most: long waves first, so that short ones need no penalty.
    "fourier-published" is what this grew from (Yu and Morozov, arXiv 2602.21276): minimise
    Σ_m L(γ(t_m)) + λ Σ_m ‖γ(t_{m+1}) − γ(t_m)‖² over 51 fixed t_m with Adam, and keep the step of lowest Σ_m L.

    The search ends early where the barrier is gone, or the top is settled: moving it along the force off the path
    would lower it, as the curvature has it, by no more than is negligible. ``message`` says which, or how far from
    settled it is. The path is the lowest one sampled, the straight line among them. Where there are several ways
    round it is one of them: another generator may find another.

    Cost: up to ``steps`` gradients ("fourier-published": 51 times that); every 50 steps about 85 losses and 2 gradients.

    Args:
        a, b: the ends (P,), tensors or arrays.
        modes: how many b_n.
        steps: at most; by default 1000 ("fourier-published": 100, as published). The decay ends with them.
        negligible: what does not matter, as a share of the straight line's barrier.
        tolerance: how closely maxima are bracketed, as a share of the range of the loss along the path.
        engine: how losses along the path are evaluated, as in linear_path; gradients are taken one by one.
        generator: for the first bend, ‖b − a‖/1000 in a random direction, and for where the draws begin.
        start, end: what the ends are called in tables and pictures.
        about: provenance for the record's header.

    Raises:
        InputError: a or b is not one finite point (P,), the method is unknown, or a setting is out of range.
    """
    a, b = _ends(objective, a, b)
    if method not in _METHODS:
        raise InputError(f"there is no path method {method!r}; choose one of {', '.join(_METHODS)}.")
    if modes < 1 or (steps is not None and steps < 1) or not negligible >= 0:
        raise InputError(
            "modes and steps must be at least 1, and negligible at least 0, "
            f"got modes={modes}, steps={steps}, negligible={negligible}."
        )
    survey = Survey(
        objective,
        tolerance=tolerance,
        intervals=max(INTERVALS, _SAMPLES_A_MODE * modes),
        engine=engine,
        samplings=1 + (steps or 1000) // _CHECK,
    )
    line = FourierPath(a, b, a.new_zeros(modes, len(a)))
    found, converged, message = _lowest(
        survey, survey.sample(line), _METHODS[method](survey, line, steps, generator), negligible
    )
    return _record(found, survey, method, converged, message, start=start, end=end, about=about)


# Six samples for half a wave of the highest mode.
_SAMPLES_A_MODE = 6
# Adam's step for n b_n, and its start: lengths in R^P in units of ‖b − a‖. Half the step takes twice as long in the
# plane; twice the step, or ten times the start, leaves the choice of side to chance and not to the gradients.
_STEP = 1e-2
_KICK = 1e-3
# The last β: draws get rarer by e for each 1/20 of the range below the top. Half of it and twice it do as well.
_SHARPNESS = 20.0
# The share of draws that ignores the loss, so that what is low now may not rise unseen.
_EXPLORE = 0.1
# Steps between two samplings of the whole path.
_CHECK = 50
# Its multiples modulo 1 cover [0, 1] more evenly than random numbers do, however many are taken.
_GOLDEN = (math.sqrt(5) - 1) / 2
# The published method: points, penalty on their distances, learning rate.
_POINTS, _PENALTY, _RATE = 51, 1e-4, 1e-3


def _lowest(
    survey: Survey, line: Sampled, candidates: Iterator[Sampled], negligible: float
) -> tuple[Sampled, bool, str]:
    """The lowest path, whether it is as low as such paths get, and why the search ended."""
    enough = max(negligible * line.barrier, line.resolution)
    if not math.isfinite(line.height):
        return line, False, "the loss is not finite everywhere on the straight line, so no path was searched"
    if line.barrier <= enough:
        return line, True, "the straight line has no barrier"
    best, fall = line, math.inf
    for candidate in candidates:
        best = min(best, candidate, key=lambda sampled: sampled.height)
        if best.barrier <= enough:
            return best, True, f"the barrier is gone: {best.barrier:.2g} is left of {line.barrier:.3g}"
        if candidate.height <= best.height + enough:
            fall = survey.fall(candidate)
            if fall <= enough:
                return best, True, f"the top is settled: moving it off the path lowers it by about {fall:.1g}"
    if best is line:
        return best, False, "no path lower than the straight line was found; give more steps or modes"
    beside = (
        f"moving it off the path lowers it by about {fall:.1g}"
        if fall < math.inf
        else "the loss curves down beside it"
    )
    return best, False, f"the top is not settled: {beside}; give more steps or modes"


def _fourier(
    survey: Survey, line: FourierPath, steps: int | None, generator: torch.Generator | None
) -> Iterator[Sampled]:
    """Ever lower paths, sampled every _CHECK steps; ends where the loss is no longer finite."""
    steps = steps or 1000
    a, b, n = line.a, line.b, line.modes[:, None]
    scale = float((b - a).norm()) / math.sqrt(len(a))  # a vector of such entries is as long as b − a
    kick, draw = _random(line.coefficients, generator)
    waves = _KICK * scale * kick  # n b_n, which for every n bends the path as steeply
    adam = torch.optim.Adam([waves], lr=_STEP * scale)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(adam, steps)
    for check in range(0, steps, _CHECK):
        found = survey.sample(FourierPath(a, b, waves / n))
        if not math.isfinite(found.height):
            return
        if check > 0:  # the first is the line, hardly bent: where that is a ridge, its top seems settled
            yield found
        share = _shares(found, _SHARPNESS * check / steps)
        for _ in range(check, min(check + _CHECK, steps)):
            path = FourierPath(a, b, waves / n)
            draw = (draw + _GOLDEN) % 1
            t = float(np.interp(draw, share, found.t))
            waves.grad = path.basis(t)[:, None] / n * survey.force(path, t)
            adam.step()
            decay.step()
    yield survey.sample(FourierPath(a, b, waves / n))


def _shares(found: Sampled, sharpness: float) -> Array:
    """The share (N,) of draws that falls before each sample, by arc length and e^(−sharpness · depth)."""
    arc, loss = found.arc(), (found.loss[1:] + found.loss[:-1]) / 2
    weight = arc * np.exp(sharpness * (loss - found.loss.max()) / np.ptp(found.loss))
    share = (1 - _EXPLORE) * weight / weight.sum() + _EXPLORE * arc / arc.sum()
    return np.append(0.0, share.cumsum())


def _published(
    survey: Survey, line: FourierPath, steps: int | None, generator: torch.Generator | None
) -> Iterator[Sampled]:
    """The one path that the published method keeps; it draws nothing."""
    coefficients = line.coefficients.clone()
    adam = torch.optim.Adam([coefficients], lr=_RATE)
    t = torch.linspace(0, 1, _POINTS, dtype=coefficients.dtype, device=coefficients.device)
    basis = line.basis(t)
    lowest, kept = math.inf, line
    for _ in range(steps or 100):
        path = FourierPath(line.a, line.b, coefficients.clone())
        theta = path(t)
        loss, gradient = survey.value_and_grad(theta)
        total = float(loss.sum())
        if total < lowest:
            lowest, kept = total, path
        coefficients.grad = basis.T @ gradient + 2 * _PENALTY * basis.diff(dim=0).T @ theta.diff(dim=0)
        adam.step()
    yield survey.sample(kept)


_Method = Callable[[Survey, FourierPath, int | None, torch.Generator | None], Iterator[Sampled]]
_METHODS: dict[str, _Method] = {"fourier": _fourier, "fourier-published": _published}


def _random(like: Tensor, generator: torch.Generator | None) -> tuple[Tensor, float]:
    """Normal numbers shaped like a tensor, and one from [0, 1)."""
    device = generator.device if generator is not None else torch.device("cpu")
    normal = torch.randn(like.shape, generator=generator, dtype=like.dtype, device=device)
    return normal.to(like.device), float(torch.rand((), generator=generator, device=device))


def _ends(objective: Objective, a: Any, b: Any) -> tuple[Tensor, Tensor]:
    ends = objective.point(a, name="a"), objective.point(b, name="b")
    for name, theta in zip("ab", ends, strict=True):
        if theta.ndim != 1:
            raise InputError(
                f"{name} must be one point ({objective.dim},), got shape {tuple(theta.shape)}; pass one row of it."
            )
        if not theta.isfinite().all():
            bad = int((~theta.isfinite()).sum())
            raise InputError(f"{name} holds {bad} values that are NaN or infinite; a path needs finite ends.")
    return ends


def _record(
    found: Sampled,
    survey: Survey,
    method: str,
    converged: bool,
    message: str,
    *,
    start: str,
    end: str,
    about: Mapping[str, Any] | None,
) -> PathRecord:
    points, coefficients = found.path.stored()
    return PathRecord(
        method=method,
        start=start,
        end=end,
        t=found.t,
        loss=found.loss,
        norm=found.norm,
        path_kind=found.path.kind,
        points=points,
        coefficients=coefficients,
        length=found.path.length,
        gradients=survey.gradients,
        losses=survey.losses,
        converged=converged,
        message=message,
        about={**(about or {}), "engine": survey.choice.said()},
    )

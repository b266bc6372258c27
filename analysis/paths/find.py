"""The barrier between two points: how high the loss climbs along the straight line, and along paths bent to go lower.

The height of a path is an upper bound on what the landscape demands (the lowest height of all paths), provided that
the path's own maximum was found: so it is bracketed, whatever points the path was fitted on.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor

from landscape import InputError, Objective
from landscape.paths import Segment
from landscape.results import PathRecord

from .chains import NEB, AutoNEB, StringMethod
from .curves import SHORTEST, Bezier, Polychain
from .fourier import Fourier, PublishedFourier
from .heights import INTERVALS, Sampled, Survey


def linear_path(
    objective: Objective,
    a: Any,
    b: Any,
    *,
    tolerance: float = 1e-6,
    hold_norm: bool = False,
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
        hold_norm: bend the line so that its norm goes straight from ‖a‖ to ‖b‖ (landscape/held.py).
        engine: how losses are evaluated: a name, such as "shared x16", or "auto" to measure what is fastest.
        start, end: what the ends are called in tables and pictures.
        about: provenance for the record's header.

    Raises:
        InputError: a or b is not one finite point (P,), they are equal, tolerance is not positive, or there is no such engine.
    """
    survey = Survey(objective, tolerance=tolerance, engine=engine, held=hold_norm)
    found = survey.sample(Segment(*_ends(objective, a, b)))
    finite = math.isfinite(found.height)
    message = "the top is bracketed" if finite else "the loss is not finite everywhere on the line"
    return _record(found, survey, "linear", finite, message, start=start, end=end, about=about)


def find_path(
    objective: Objective,
    a: Any,
    b: Any,
    *,
    method: str | Method = "fourier",
    modes: int | None = None,
    steps: int | None = None,
    negligible: float = 1e-5,
    tolerance: float = 1e-6,
    hold_norm: bool = False,
    batches: int | None = None,
    minima: bool = True,
    engine: str = "loop",
    generator: torch.Generator | None = None,
    start: str = "",
    end: str = "",
    about: Mapping[str, Any] | None = None,
) -> PathRecord:
    """A low path γ(t) from a to b, with its maximum bracketed as in linear_path.

    method, by name or with settings of its own:
        "fourier"           Fourier(modes=15), a string of sums of sines: the search to use (fourier.py).
        "fourier-published" PublishedFourier(…), what it grew from, with all the options of the paper.
        "bezier"            Bezier(bends=1), a curve whose mean loss is small (curves.py).
        "polychain"         Polychain(bends=1), straight pieces whose mean loss is small (curves.py).
        "neb"               NEB(images=15, climbing=True), a nudged elastic band, its highest image climbs (chains.py).
        "autoneb"           AutoNEB(images=7, …), a band that gets images where the loss exceeds its interpolation (chains.py).
        "string"            StringMethod(images=15), images kept at even distances (chains.py).

    The search ends early where the barrier is gone, or the top is settled: moving it along the force off the path
    would lower it, as the curvature has it, by no more than is negligible. ``message`` says which, or how far from
    settled it is. The path is the lowest one sampled, the straight line among them. Where there are several ways
    round it is one of them: another generator may find another.

    Cost: up to ``steps`` times the gradients of a step, which is one but for "fourier-published": where images move together each
    counts. To look at a path about 85 losses and 2 gradients.

    Args:
        a, b: the ends (P,), tensors or arrays.
        modes: of the sines, for methods given by name that have them.
        steps: at most; the method's own number by default, 3000 for chains of images, 1000 for "fourier". Decays end with them.
        negligible: what does not matter, as a share of the straight line's barrier.
        tolerance: how closely maxima are bracketed, as a share of the range of the loss along the path.
        hold_norm: hold ‖γ(t)‖ to (1 − t)‖a‖ + t‖b‖, for losses such as cross-entropy, which fall when weights grow.
        batches: the gradients of the search are of so many of the objective's batches, drawn anew for each; heights are of all.
        minima: refuse ends from which one step down the slope, as the curvature has it, would lower the loss by a tenth of what
            the straight line climbs or more; False takes any two points.
        engine: how losses along the path are evaluated, as in linear_path; gradients are taken one by one.
        generator: for all that the search draws.
        start, end: what the ends are called in tables and pictures.
        about: provenance for the record's header.

    Raises:
        InputError: a or b is not one finite point (P,), they are equal or no minima, the method is unknown, or a setting wrong.
    """
    a, b = _ends(objective, a, b)
    search = _method(method, modes)
    if (steps is not None and steps < 1) or not negligible >= 0:
        raise InputError(
            f"steps must be at least 1, and negligible at least 0, got steps={steps}, negligible={negligible}."
        )
    steps = steps or search.usual_steps
    survey = Survey(
        objective,
        tolerance=tolerance,
        intervals=max(INTERVALS, search.intervals),
        engine=engine,
        samplings=1 + steps // SHORTEST,
        held=hold_norm,
        batches=batches,
        generator=generator,
    )
    line = survey.sample(Segment(a, b))
    if minima:
        _refuse_slopes(survey, line)
    candidates = search.search(survey, a, b, steps=steps, generator=generator)
    found, converged, message = _lowest(survey, line, candidates, negligible)
    return _record(found, survey, search.name, converged, message, start=start, end=end, about=about)


class Method(Protocol):
    """A way of searching. name: what records call it; usual_steps: where none are asked for."""

    name: ClassVar[str]
    usual_steps: ClassVar[int]

    @property
    def intervals(self) -> int:
        """In how many a path of this kind has to be sampled, at least."""
        ...

    def search(
        self, survey: Survey, a: Tensor, b: Tensor, *, steps: int, generator: torch.Generator | None
    ) -> Iterator[Sampled]:
        """Paths worth looking at, the last one included, within so many steps."""
        ...


METHODS: dict[str, Callable[..., Method]] = {
    method.name: method
    for method in (Fourier, PublishedFourier, Bezier, Polychain, NEB, AutoNEB, StringMethod)
}
_SLOPE = 0.1  # of what the straight line climbs: what a step down from an end may gain


def _method(method: str | Method, modes: int | None) -> Method:
    if not isinstance(method, str):
        if modes is not None:
            raise InputError(f"modes belong to the method where it is given with settings, {method!r}.")
        return method
    if method not in METHODS:
        raise InputError(f"there is no path method {method!r}; choose one of {', '.join(METHODS)}.")
    if modes is None:
        return METHODS[method]()
    if not hasattr(METHODS[method], "modes"):
        raise InputError(f"modes must be left out for {method!r}, which has none, got {modes}.")
    return METHODS[method](modes=modes)


def _lowest(
    survey: Survey, line: Sampled, candidates: Iterator[Sampled], negligible: float
) -> tuple[Sampled, bool, str]:
    """The lowest path, whether it is as low as such paths get, and why the search ended."""

    def enough(found: Sampled) -> float:
        return max(negligible * line.barrier, found.resolution)

    if not math.isfinite(line.height):
        return line, False, "the loss is not finite everywhere on the straight line, so no path was searched"
    if line.barrier <= enough(line):
        return line, True, "the straight line has no barrier"
    best, fall = line, math.inf
    for candidate in candidates:
        best = min(best, candidate, key=lambda sampled: sampled.height)
        if best.barrier <= enough(best):
            return best, True, f"the barrier is gone: {best.barrier:.2g} is left of {line.barrier:.3g}"
        if candidate.height <= best.height + enough(candidate):
            fall = survey.fall(candidate)
            if fall <= enough(candidate):
                return best, True, f"the top is settled: moving it off the path lowers it by about {fall:.1g}"
    if best is line:
        return best, False, "no path lower than the straight line was found; give more steps or modes"
    beside = (
        f"moving it off the path lowers it by about {fall:.1g}"
        if fall < math.inf
        else "the loss curves down beside it"
    )
    return best, False, f"the top is not settled: {beside}; give more steps or modes"


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
    if ends[0].equal(ends[1]):
        raise InputError("a and b are the same point; a path needs two.")
    return ends


def _refuse_slopes(survey: Survey, line: Sampled) -> None:
    """InputError for an end that is not near a minimum. Cost: four gradients."""
    climb = line.height - float(min(line.loss[0], line.loss[-1]))
    if not math.isfinite(climb):
        return
    for name, t in (("a", 0.0), ("b", 1.0)):
        drop = survey.drop(line.path, t)
        if drop > max(_SLOPE * climb, line.resolution):
            raise InputError(
                f"{name} must be near a minimum, but one step down the slope there lowers the loss by about {drop:.2g}, of the "
                f"{climb:.2g} that the straight line climbs; train it on, or pass minima=False."
            )


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
        gradients=math.ceil(survey.gradients),
        losses=survey.losses,
        converged=converged,
        message=message,
        about={**(about or {}), "engine": survey.choice.said()},
    )

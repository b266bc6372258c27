"""A choice by measuring: engines that should all give the same are tried on a little of the work, and the fastest is taken."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

SHARE = 0.1  # of what the reference is predicted to take: what measuring may take
COMPILING = 20.0  # seconds: what compiling is taken to cost until it has been done
_FINALISTS, _ROUNDS = 3, 7  # of the run-off, of which the fastest counts
LOADING = (
    0.3  # seconds of work below which several inputs at once are not tried: PyTorch loads what that needs
)
EQUAL = 1.05  # times the fastest's seconds: what counts as just as fast
ROUNDING = 100  # times the precision's epsilon: how far an exact engine may be from the reference


class Named(Protocol):
    """An engine: some way of doing the work."""

    @property
    def name(self) -> str: ...
    @property
    def compiled(self) -> bool: ...
    @property
    def exact(self) -> bool: ...


@dataclass(frozen=True)
class Trial:
    """One engine on a little work: seconds a unit, seconds that the trial took, largest relative deviation from the reference.

    at_once: how many inputs it takes together. A note says why it cannot be used.
    """

    engine: Any
    seconds: float = math.nan
    setup: float = math.nan
    deviation: float = math.nan
    at_once: int = 1
    note: str = ""


@dataclass(frozen=True)
class Choice:
    """The engine taken, all trials, the seconds they took together, and those that the reference would take for all the work."""

    engine: Any
    trials: tuple[Trial, ...] = ()
    spent: float = 0.0
    reference: float = math.nan

    def refused(self, instead: Any, error: Exception) -> Choice:
        """The choice of another engine, with a note on why it is not this one."""
        others = tuple(trial for trial in self.trials if trial.engine != self.engine)
        return replace(self, engine=instead, trials=(*others, Trial(self.engine, note=_note(error))))

    def said(self) -> dict[str, Any]:
        """What a record keeps, as plain numbers and names. ``repaid`` is whether measuring gained more than it took."""
        if not self.trials:
            return {"engine": self.engine.name}
        chosen = next(t for t in self.trials if t.engine == self.engine)
        gain = self.reference * (1 - chosen.seconds / self.trials[0].seconds)
        return {
            "engine": self.engine.name,
            "deviation": chosen.deviation,
            "seconds_measuring": self.spent,
            "seconds_by_reference": self.reference,
            "repaid": bool(gain > self.spent),
            "trials": {t.engine.name: t.note or t.seconds for t in self.trials},
        }


class Measurement:
    """Trials of engines on one kind of work, of which there are ``count`` units to do.

    Args:
        make: engine -> work, a function of inputs (c, …) that gives one row for each.
        sample: three inputs: what deviations are taken on.
        inputs: n -> n inputs, to time an engine that takes n at once.
        reference: the engine that the others must agree with.
    """

    def __init__(
        self,
        make: Callable[[Any], Callable[[Tensor], Tensor]],
        *,
        sample: Tensor,
        inputs: Callable[[int], Tensor],
        reference: Any,
        count: int,
    ) -> None:
        self.make, self.sample, self.inputs, self.count = make, sample, inputs, count
        self._started = time.perf_counter()
        self._expected: Tensor | None = None
        self._works: dict[Any, tuple[Callable[[Tensor], Tensor], Tensor]] = {}
        self.trials = [self._measured(reference, 1)]
        self.predicted = self.trials[0].seconds * count

    @property
    def spent(self) -> float:
        return time.perf_counter() - self._started

    def best(self, among: Callable[[Any], bool] = lambda engine: True) -> Trial | None:
        """The fastest usable trial of the engines that a condition allows."""
        usable = [t for t in self.trials if not t.note and among(t.engine)]
        return min(usable, key=lambda t: t.seconds, default=None)

    def pays(self) -> bool:
        """Whether compiling may be repaid: all work by the best so far would take three times as long."""
        best = self.best()
        compiling = max([t.setup for t in self.trials if t.engine.compiled and not t.note], default=COMPILING)
        return best is not None and best.seconds * self.count > 3 * compiling

    def run(self, candidates: Iterator[tuple[Any, int]], among: Callable[[Any], bool]) -> Choice:
        """Tries candidates (engine, inputs at once) while they are worth their time; they may look at earlier trials."""
        for engine, at_once in candidates:
            best = self.best() or self.trials[0]
            cost = max(2 * at_once, len(self.sample)) * min(self.trials[0].seconds, 2 * best.seconds)
            if self.spent + cost > SHARE * self.predicted and not (engine.compiled and self.pays()):
                continue
            if at_once > 1:
                if self.predicted < LOADING:
                    continue
                self._started += _load_vmap()
            try:
                self.trials.append(self._measured(engine, at_once))
                self._works = self._finalists(among)  # the others' memory is let go
            except (RuntimeError, NotImplementedError, TypeError, ValueError, IndexError, KeyError) as error:
                self.trials.append(Trial(engine, note=_note(error)))
        self._run_off(among)
        return Choice(self._chosen(among).engine, tuple(self.trials), self.spent, self.predicted)

    def _chosen(self, among: Callable[[Any], bool]) -> Trial:
        """The fastest, or one as fast with fewer inputs at once: it takes less memory, and slows less where that is short."""
        fastest = self.best(among)
        if fastest is None:
            return self.best() or self.trials[0]
        equals = [
            t for t in self.trials if not t.note and among(t.engine) and t.seconds <= EQUAL * fastest.seconds
        ]
        return min(equals, key=lambda t: (t.at_once, t.seconds))

    def _run_off(self, among: Callable[[Any], bool]) -> None:
        """Times the fastest few again, in turns and on as many inputs each, while that costs no more than it may.

        The fastest turn counts; engines of fewer inputs at once would have more turns, and so luck, if inputs were not as many.
        """
        again = self._finalists(among)
        most = max((len(inputs) for _, inputs in again.values()), default=1)
        turns: dict[Any, list[float]] = {engine: [] for engine in again}
        for _ in range(_ROUNDS):
            cost = most * sum(t.seconds for t in self.trials if t.engine in again)
            if len(again) < 2 or self.spent + cost > SHARE * self.predicted:
                break
            for engine, (work, inputs) in again.items():
                seconds = sum(_timed(work, inputs)[1] for _ in range(most // len(inputs)))
                turns[engine].append(seconds / (len(inputs) * (most // len(inputs))))
        self.trials = [replace(t, seconds=min(turns.get(t.engine) or [t.seconds])) for t in self.trials]

    def _finalists(
        self, among: Callable[[Any], bool]
    ) -> dict[Any, tuple[Callable[[Tensor], Tensor], Tensor]]:
        """Work and inputs of the fastest few."""
        ranked = sorted((t for t in self.trials if not t.note and among(t.engine)), key=lambda t: t.seconds)
        return {t.engine: self._works[t.engine] for t in ranked[:_FINALISTS] if t.engine in self._works}

    def _measured(self, engine: Any, at_once: int) -> Trial:
        start = time.perf_counter()
        work = self.make(engine)
        if at_once == 1:
            timed = [_timed(work, row[None]) for row in self.sample]
            found, seconds = torch.cat([rows for rows, _ in timed]), min(s for _, s in timed)
        else:
            inputs = torch.cat([self.sample, self.inputs(at_once - len(self.sample))])
            found = work(inputs)[: len(self.sample)]
            seconds = _timed(work, inputs)[1] / at_once
        self._works[engine] = work, self.inputs(at_once)
        setup = time.perf_counter() - start
        deviation = self._deviation(found)
        trial = Trial(engine, seconds, setup, deviation, at_once)
        bound = ROUNDING * torch.finfo(found.dtype).eps
        if engine.exact and not deviation <= bound:
            return replace(trial, note=f"off by {deviation:.1e}, more than {bound:.1e}")
        return trial

    def _deviation(self, found: Tensor) -> float:
        """The largest distance of a row from the reference's, relative to its length."""
        if self._expected is None:
            self._expected = found
        expected = self._expected
        if not (found.isfinite() == expected.isfinite()).all():
            return math.inf
        off = torch.where(expected.isfinite(), found - expected, 0.0).reshape(len(found), -1).norm(dim=1)
        size = torch.where(expected.isfinite(), expected, 0.0).reshape(len(found), -1).norm(dim=1)
        return float((off / size.clamp(min=torch.finfo(size.dtype).tiny)).max())


def _load_vmap() -> float:
    """The seconds it took PyTorch to load what vmap takes operators apart with: once a process, so no engine's cost."""
    start, target = time.perf_counter(), torch.zeros(1, dtype=torch.long)
    torch.func.vmap(lambda x: torch.nn.functional.nll_loss(x, target))(torch.zeros(1, 1, 1))
    return time.perf_counter() - start


def _note(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:120]}"


def _timed(work: Callable[[Tensor], Tensor], inputs: Tensor) -> tuple[Tensor, float]:
    _wait(inputs.device)
    start = time.perf_counter()
    found = work(inputs)
    _wait(inputs.device)
    return found, time.perf_counter() - start


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)

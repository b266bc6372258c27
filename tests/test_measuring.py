"""The choice by measuring, on a clock that only the works turn: what is taken, what is tried, and what that may cost."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from landscape import measuring
from landscape.measuring import EQUAL, SHARE, Measurement


@dataclass(frozen=True)
class Way:
    """An engine whose work takes so many seconds a unit, and is off by so much."""

    name: str
    seconds: float
    at_once: int = 1
    off: float = 0.0
    exact: bool = True
    compiled: bool = False


class Clock:
    def __init__(self) -> None:
        self.now = 0.0
        self.units: dict[str, int] = {}

    def __call__(self) -> float:
        return self.now

    def work(self, way: Way):
        def run(inputs: Tensor) -> Tensor:
            self.now += way.seconds * len(inputs)
            self.units[way.name] = self.units.get(way.name, 0) + len(inputs)
            return inputs * (1 + way.off)

        return run


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(measuring.time, "perf_counter", clock)
    return clock


def measure(clock: Clock, *ways: Way, count: int = 10_000):
    inputs = torch.ones(64, 2, dtype=torch.float64)
    measurement = Measurement(
        clock.work,
        sample=inputs[:3],
        inputs=lambda n: inputs[:n],
        reference=Way("reference", 1.0),
        count=count,
    )
    return measurement.run(iter((way, way.at_once) for way in ways), lambda way: True)


def test_the_fastest_is_taken(clock: Clock) -> None:
    assert measure(clock, Way("slow", 0.9), Way("fast", 0.5), Way("between", 0.7)).engine.name == "fast"


def test_of_two_as_fast_the_one_with_fewer_inputs_at_once_is_taken(clock: Clock) -> None:
    few, many = Way("few", 0.5, at_once=4), Way("many", 0.5 / (EQUAL - 0.01), at_once=16)
    assert measure(clock, few, many).engine == few
    assert measure(clock, many, few).engine == few


def test_many_inputs_at_once_are_taken_where_they_are_faster(clock: Clock) -> None:
    few, many = Way("few", 0.5, at_once=4), Way("many", 0.4, at_once=16)
    assert measure(clock, few, many).engine == many


def test_the_run_off_gives_all_as_many_inputs(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    few, many = Way("few", 0.5, at_once=4), Way("many", 0.4, at_once=16)
    monkeypatch.setattr(measuring, "_ROUNDS", 0)
    measure(clock, few, many)
    before = dict(clock.units)
    clock.units.clear()
    monkeypatch.setattr(measuring, "_ROUNDS", 5)
    measure(clock, few, many)
    assert {name: clock.units[name] - before[name] for name in clock.units} == {
        "reference": 5 * 16,
        "few": 5 * 16,
        "many": 5 * 16,
    }


@pytest.mark.parametrize("count", [30, 300, 3000])
def test_measuring_takes_no_more_than_its_share(clock: Clock, count: int) -> None:
    ways = [Way(f"way {i}", 0.5 + 0.1 * i, at_once=4**i) for i in range(4)]
    choice = measure(clock, *ways, count=count)
    assert choice.spent <= max(SHARE * count, 3)  # the reference on the sample is taken in any case


def test_what_is_off_is_not_taken_and_the_note_says_so(clock: Clock) -> None:
    choice = measure(clock, Way("wrong", 0.1, off=1e-3), Way("right", 0.5))
    assert choice.engine.name == "right"
    assert choice.said()["trials"]["wrong"] == "off by 1.0e-03, more than 2.2e-14"


def test_what_cannot_work_is_not_taken(clock: Clock) -> None:
    def broken(way: Way):
        if way.name == "broken":
            raise RuntimeError("no rule\nfor this")
        return clock.work(way)

    inputs = torch.ones(3, 2)
    measurement = Measurement(
        broken, sample=inputs, inputs=lambda n: inputs[:n], reference=Way("reference", 1.0), count=1000
    )
    choice = measurement.run(iter([(Way("broken", 0.1), 1)]), lambda way: True)
    assert choice.engine.name == "reference"
    assert choice.said()["trials"]["broken"] == "RuntimeError: no rule"
    assert not choice.said()["repaid"]

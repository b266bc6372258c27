"""What every optimizer here keeps to, so that it can stand where any torch optimizer does. A new one is one line in CASES."""

from __future__ import annotations

import copy
import inspect
import io
import math
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_
from torch.optim import SGD, Adafactor, AdamW, Optimizer, RMSprop
from torch.optim.lr_scheduler import ExponentialLR

from landscape import InputError
from optimizers import ALTO, CLR, LBFGS, NSO, QHM, SAM, E, Lamb, scaled_closure
from optimizers import SharpnessAwarePerturbation as SA
from optimizers import SmoothedPerturbation as RS

F32, F64, BF16 = torch.float32, torch.float64, torch.bfloat16


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@dataclass(frozen=True)
class Case:
    """An optimizer as make(params, maximize=…) builds it, and in what it differs from most."""

    make: Callable[..., Optimizer]
    evaluations: int | None = 1  # of the closure, a step; None where it depends
    returns: str = "first"  # which of their losses step returns, or "mean"
    groups: bool = True  # takes several
    linear: bool = True  # in lr, a step is
    skips: bool = True  # a step that is not finite, with a warning; LBFGS raises


def lbfgs(**settings: Any) -> Case:
    return Case(lambda p, **k: LBFGS(p, **settings, **k), None, groups=False, linear=False, skips=False)


CASES = {
    "E(SGD)": Case(lambda p, **k: E(SGD(p, lr=0.05, momentum=0.9, **k), -3.0, 0.9)),
    "E(AdamW)": Case(lambda p, **k: E(AdamW(p, lr=0.01, **k))),
    "E(RMSprop)": Case(lambda p, **k: E(RMSprop(p, lr=0.01, **k))),
    "E(Adafactor)": Case(lambda p, **k: E(Adafactor(p, lr=0.05, **k), init="first")),
    "QHM": Case(lambda p, **k: QHM(p, lr=0.1, **k)),
    "ALTO": Case(lambda p, **k: ALTO(p, lr=0.02, **k)),
    "ALTO Vanilla": Case(lambda p, **k: ALTO(p, lr=0.02, bias_correction=False, **k)),
    "Lamb": Case(lambda p, **k: Lamb(p, lr=0.02, **k)),
    "LBFGS, golden section": lbfgs(),
    "LBFGS, strong Wolfe": lbfgs(line_search="strong-wolfe"),
    "RS": Case(lambda p, **k: RS(p, 0.05, 0.1, generator=seeded(), **k), 2),
    "RS, random iterate": Case(lambda p, **k: RS(p, 0.05, 0.1, iterate="random", generator=seeded(), **k), 2),
    "SA": Case(lambda p, **k: SA(p, 0.05, 0.1, generator=seeded(), **k), 3),
    "SA, whole batch": Case(lambda p, **k: SA(p, 0.05, 0.1, batch_size=None, generator=seeded(), **k), 2),
    "SAM(SGD)": Case(lambda p, **k: SAM(SGD(p, lr=0.05, momentum=0.9, **k), 0.1), 2),
    "SAM(AdamW), adaptive": Case(lambda p, **k: SAM(AdamW(p, lr=0.01, **k), 0.5, adaptive=True), 2),
    "SAM(E(SGD))": Case(lambda p, **k: SAM(E(SGD(p, lr=0.05, **k)), 0.1), 2),
    "NSO(SGD)": Case(lambda p, **k: NSO(SGD(p, lr=0.05, momentum=0.9, **k), 0.05, generator=seeded()), 2, "mean"),
    "NSO(AdamW), two pairs": Case(lambda p, **k: NSO(AdamW(p, lr=0.01, **k), samples=2, generator=seeded()), 4, "mean"),
    "CLR": Case(lambda p, **k: CLR(p, max_lr=0.1, **k)),
    "CLR(SGD)": Case(lambda p, **k: CLR(SGD(p, lr=1.0, momentum=0.9, **k), max_lr=0.1)),
    "CLR(E(SGD))": Case(lambda p, **k: CLR(E(SGD(p, lr=0.5, **k)), max_lr=0.1)),
}  # fmt: skip


def those(**wanted: bool) -> list[str]:
    return [name for name, case in CASES.items() if all(getattr(case, k) == v for k, v in wanted.items())]


every = pytest.mark.parametrize("name", CASES)
with_groups = pytest.mark.parametrize("name", those(groups=True))
on_devices = pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
        ),
    ],
)


# A small problem, and a closure that notes what is done with it


def network(dtype: torch.dtype = F64, device: str = "cpu") -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))
    generator = seeded()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=F64))
    return model.to(device=device, dtype=dtype)


@dataclass
class Closure:
    """The mean squared error on eight examples, times sign, and its gradient. At every evaluation ``event`` is given its
    number and the loss, and what it returns is the loss."""

    model: Callable[[Tensor], Tensor]
    parameters: Sequence[Tensor]
    sign: float = 1.0
    event: Callable[[int, Tensor], Any] = lambda number, loss: loss
    rows: Tensor = field(default_factory=lambda: torch.arange(8))
    numbers: Iterator[int] = field(default_factory=lambda: count(1))
    losses: list[Tensor] = field(default_factory=list)
    modes: list[bool] = field(default_factory=list)

    def __call__(self) -> Any:
        self.modes.append(torch.is_grad_enabled())
        for p in self.parameters:
            p.grad = None
        loss = self.value()
        loss.backward()
        self.losses.append(loss.detach())
        return self.event(next(self.numbers), loss.detach())

    def loss(self) -> Any:
        with torch.no_grad():
            return self.event(next(self.numbers), self.value())

    def sample(self, count: int, generator: torch.Generator) -> Closure:
        rows = torch.randperm(8, generator=generator)[:count]
        kept = ("model", "parameters", "sign", "event", "numbers", "losses", "modes")
        return Closure(rows=rows, **{name: getattr(self, name) for name in kept})

    def value(self) -> Tensor:
        like = self.parameters[0]
        generator = seeded()
        x, y = (torch.randn(8, n, generator=generator, dtype=F64)[self.rows] for n in (4, 2))
        output = self.model(x.to(like))
        return self.sign * (output.to(like.dtype) - y.to(like)).square().mean()


@dataclass
class Run:
    """A model with its optimizer and closure."""

    model: nn.Module
    optimizer: Optimizer
    closure: Closure

    @classmethod
    def of(
        cls, name: str, dtype: torch.dtype = F64, device: str = "cpu", *, sign: float = 1.0, **settings: Any
    ) -> Run:
        return cls.with_model(name, network(dtype, device), sign=sign, **settings)

    @classmethod
    def with_model(cls, name: str, model: nn.Module, *, sign: float = 1.0, **settings: Any) -> Run:
        parameters = list(model.parameters())
        return cls(model, CASES[name].make(parameters, **settings), Closure(model, parameters, sign))

    def steps(self, n: int, closure: Callable[[], Any] | None = None) -> Run:
        for _ in range(n):
            self.optimizer.step(closure or self.closure)
        return self

    @property
    def theta(self) -> list[Tensor]:
        return [p.detach().clone() for p in self.model.parameters()]

    @property
    def needs_closure(self) -> bool:
        closure = inspect.signature(self.optimizer.step).parameters["closure"]
        return closure.default is inspect.Parameter.empty or getattr(
            self.optimizer, "evaluates_closure", False
        )

    @property
    def state(self) -> Any:
        """The state dict, without what a step that is skipped may use up: noise."""
        state = copy.deepcopy(self.optimizer.state_dict())
        return {key: value for key, value in state.items() if key != "generator"}


def same(a: Any, b: Any) -> bool:
    """Whether two nests of tensors and settings are bitwise the same, NaN being NaN."""
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, Tensor):
        return a.dtype == b.dtype and torch.equal(a.nan_to_num(nan=1e30), b.nan_to_num(nan=1e30))
    return a == b or (a != a and b != b)


def moves(before: list[Tensor], after: list[Tensor]) -> list[Tensor]:
    return [b - a for a, b in zip(before, after, strict=True)]


# The closure


@every
@on_devices
def test_the_closure_is_called_with_gradients_and_its_loss_returned(name: str, device: str) -> None:
    case, run = CASES[name], Run.of(name, device=device)
    at_theta = run.closure.value().detach()
    with torch.no_grad():
        loss = run.optimizer.step(run.closure)
    assert all(run.closure.modes)
    if case.evaluations is not None:
        assert len(run.closure.losses) == case.evaluations
    losses = run.closure.losses
    assert losses[0].equal(at_theta) == (case.returns == "first")
    expected = torch.stack(losses).mean() if case.returns == "mean" else at_theta
    torch.testing.assert_close(torch.as_tensor(loss), expected)
    assert not same(run.theta, Run.of(name, device=device).theta)


@every
def test_a_loss_may_be_a_number(name: str) -> None:
    numbers = Run.of(name)
    numbers.closure.event = lambda _, loss: loss.item()
    assert same(numbers.steps(3).theta, Run.of(name).steps(3).theta)


@every
def test_a_closure_without_loss_is_refused(name: str) -> None:
    run = Run.of(name)
    run.closure.event = lambda number, loss: None
    with pytest.raises(InputError, match="closure must return the loss, got None"):
        run.steps(1)
    assert same(run.theta, Run.of(name).theta)


@every
def test_a_step_without_closure_uses_the_gradients_there_are_or_asks_for_one(name: str) -> None:
    run = Run.of(name)
    if run.needs_closure:
        with pytest.raises((InputError, TypeError), match="closure"):
            run.optimizer.step()  # type: ignore[call-arg]
        return
    for _ in range(3):
        step_on_gradients(run)
    assert same(run.theta, Run.of(name).steps(3).theta)


def step_on_gradients(run: Run, step: Callable[..., Any] | None = None, scale: float = 1.0) -> None:
    """A step after the gradients have been evaluated; CLR is told the loss."""
    run.optimizer.zero_grad()
    loss = run.closure.value()
    (loss * scale).backward()
    told: dict[str, Any] = {"loss": loss} if isinstance(run.optimizer, CLR) else {}
    (step or run.optimizer.step)(**told)


@every
def test_an_interrupt_leaves_the_parameters_where_they_were(name: str) -> None:
    for number in range(1, 1 + evaluations(name)):
        run = Run.of(name).steps(2)
        start, before = next(run.closure.numbers), run.theta

        def interrupt(n: int, loss: Tensor, at: int = start + number) -> Tensor:
            if n == at:
                raise KeyboardInterrupt
            return loss

        run.closure.event = interrupt
        with pytest.raises(KeyboardInterrupt):
            run.steps(1)
        assert same(run.theta, before)
        run.closure.event = lambda n, loss: loss
        assert not same(run.steps(1).theta, before)


def evaluations(name: str) -> int:
    """Of loss or gradient, in the third step."""
    run = Run.of(name).steps(2)
    start = next(run.closure.numbers)
    run.steps(1)
    return next(run.closure.numbers) - start - 1


# Groups, schedulers, hooks


@with_groups
def test_each_group_has_its_own_rate(name: str) -> None:
    """In the first step the second group moves a thousandth as far with a thousandth of the rate, and the first as before."""
    whole = Run.of(name)
    lr = whole.optimizer.param_groups[0]["lr"]
    slow = Run.of(name)
    parameters = list(slow.model.parameters())
    slow.optimizer = CASES[name].make(
        [{"params": parameters[:2]}, {"params": parameters[2:], "lr": lr / 1000}]
    )
    start = slow.theta
    far, near = (moves(start, run.steps(1).theta) for run in (whole, slow))
    torch.testing.assert_close(near[:2], far[:2], rtol=1e-12, atol=1e-15)
    torch.testing.assert_close(near[2:], [m / 1000 for m in far[2:]], rtol=1e-9, atol=1e-15)
    assert all(m.abs().max() > 1e-4 for m in far)


@with_groups
def test_groups_can_be_added(name: str) -> None:
    whole, run = Run.of(name), Run.of(name)
    parameters = list(run.model.parameters())
    run.optimizer = CASES[name].make(parameters[:2])
    run.optimizer.add_param_group({"params": parameters[2:]})
    assert [len(group["params"]) for group in run.optimizer.param_groups] == [2, 2]
    torch.testing.assert_close(run.steps(4).theta, whole.steps(4).theta, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", those(groups=False))
def test_or_a_second_group_is_refused(name: str) -> None:
    with pytest.raises(InputError, match="params must be one group"):
        Run.of(name).optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))]})


@every
def test_a_scheduler_changes_the_step(name: str) -> None:
    scheduled, constant = Run.of(name), Run.of(name)
    scheduler = ExponentialLR(scheduled.optimizer, 0.5)
    scheduled.steps(1)
    before = constant.steps(1).theta
    assert same(before, scheduled.theta)
    scheduler.step()
    half, full = (moves(before, run.steps(1).theta) for run in (scheduled, constant))
    if CASES[name].linear:
        torch.testing.assert_close(half, [m / 2 for m in full], rtol=1e-9, atol=1e-15)
    assert not same(half, full)


@every
def test_hooks_fire_once_a_step(name: str) -> None:
    run, fired = Run.of(name), []
    run.optimizer.register_step_pre_hook(lambda *_: fired.append("before"))
    run.optimizer.register_step_post_hook(lambda *_: fired.append("after"))
    run.steps(3)
    assert fired == ["before", "after"] * 3


@every
def test_zero_grad(name: str) -> None:
    run = Run.of(name)
    run.closure()
    run.optimizer.zero_grad()
    assert all(p.grad is None for p in run.model.parameters())


@every
def test_one_that_needs_more_than_gradients_is_no_base(name: str) -> None:
    run = Run.of(name)
    if getattr(run.optimizer, "needs_loss", False):
        with pytest.raises(InputError, match=r"needs the loss as well; put it outside"):
            SAM(run.optimizer)
    elif run.needs_closure:
        with pytest.raises(InputError, match="calls a closure several times a step"):
            SAM(run.optimizer)
    else:
        SAM(run.optimizer)


# Going on


@every
@on_devices
@pytest.mark.parametrize("way", ["file", "deepcopy", "pickle"])
def test_a_run_resumes_bit_for_bit(name: str, way: str, device: str) -> None:
    whole, stopped = Run.of(name, device=device).steps(10), Run.of(name, device=device).steps(5)
    pair = (stopped.model, stopped.optimizer)
    if way == "file":
        file = io.BytesIO()
        torch.save([stopped.model.state_dict(), stopped.optimizer.state_dict()], file)
        file.seek(0)
        resumed = Run.of(name, device=device)
        theta, state = torch.load(file, weights_only=True)
        resumed.model.load_state_dict(theta)
        resumed.optimizer.load_state_dict(state)
    else:
        model, optimizer = copy.deepcopy(pair) if way == "deepcopy" else pickle.loads(pickle.dumps(pair))
        resumed = Run(model, optimizer, Closure(model, list(model.parameters())))
    assert same(resumed.steps(5).theta, whole.theta)
    assert same(resumed.state, whole.state)
    assert same(stopped.steps(5).theta, whole.theta)  # the copy goes its own way


@every
def test_climbing_minus_the_loss_is_descending_it(name: str) -> None:
    down, up = Run.of(name).steps(5), Run.of(name, sign=-1.0, maximize=True).steps(5)
    assert same(down.theta, up.theta)


@every
def test_parameters_without_a_gradient_stay(name: str) -> None:
    model = network()
    model.register_parameter("unused", nn.Parameter(torch.tensor([1.1, -2.3], dtype=F64)))
    before = [p.detach().clone() for p in model.parameters()]
    after = Run.with_model(name, model).steps(5).theta
    assert [not same(a, b) for a, b in zip(before, after, strict=True)] == [False, *[True] * 4]


# What cannot be stepped on


@every
def test_sparse_gradients_are_refused_and_nothing_moves(name: str) -> None:
    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shift = nn.Parameter(torch.ones(2, dtype=F64))
            self.table = nn.Embedding(8, 2, sparse=True, dtype=F64)
            nn.init.ones_(self.table.weight)

        def forward(self, x: Tensor) -> Tensor:
            return self.table(torch.arange(len(x))) + self.shift

    run = Run.with_model(name, Table())
    with pytest.raises(InputError, match="gradients must be dense, got a sparse one"):
        run.steps(1)
    assert all(p.detach().equal(torch.ones_like(p)) for p in run.model.parameters())


@every
@on_devices
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_step_that_is_not_finite_changes_nothing(name: str, where: str, bad: float, device: str) -> None:
    run = Run.of(name, device=device).steps(2)
    numbers = range(1, 1 + (evaluations(name) if CASES[name].skips else 1))
    for number in numbers:
        start, theta, state = next(run.closure.numbers), run.theta, run.state

        def spoil(n: int, loss: Tensor, at: int = start + number) -> Tensor:
            if n == at and where == "gradient":
                run.closure.parameters[1].grad.view(-1)[1] = bad  # type: ignore[union-attr]
            return loss + bad if n == at and where == "loss" else loss

        run.closure.event = spoil
        if CASES[name].skips:
            with pytest.warns(
                RuntimeWarning, match="step skipped: (the loss is|a gradient is not finite)"
            ) as told:
                run.steps(1)
            assert [warning.filename for warning in told] == [__file__]
            assert same(run.state, state)
        else:
            with pytest.raises(InputError, match=r"the loss is|the gradient is not finite"):
                run.steps(1)
        assert same(run.theta, theta)
        run.closure.event = lambda n, loss: loss
        assert not same(run.steps(1).theta, theta)
        assert all(t.isfinite().all() for t in run.theta)


# Precision, devices, compiled models


@every
@on_devices
@pytest.mark.parametrize("dtype", [F32, BF16])
def test_lower_precision(name: str, dtype: torch.dtype, device: str) -> None:
    run = Run.of(name, dtype, device)
    first = run.closure.value().item()
    run.steps(6)
    assert run.closure.value().item() < first
    assert {p.dtype for p in run.model.parameters()} == {dtype}


@every
@on_devices
def test_autocast_in_the_closure(name: str, device: str) -> None:
    run = Run.of(name, F32, device)
    inside = run.model

    def cast(x: Tensor) -> Tensor:
        with torch.autocast(device, BF16):
            output = inside(x)
        assert output.dtype == BF16
        return output

    run.closure.model = cast
    first = run.closure.value().item()
    run.steps(6)
    assert run.closure.value().item() < first
    assert {p.dtype for p in run.model.parameters()} == {F32}


@pytest.fixture(scope="module")
def compiled() -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    model = network()
    return model, torch.compile(model, backend="aot_eager")


@every
def test_a_compiled_model(name: str, compiled: tuple[nn.Module, Callable[[Tensor], Tensor]]) -> None:
    model, fast = compiled
    model.load_state_dict(network().state_dict())
    run = Run.with_model(name, model)
    run.closure.model = fast
    torch.testing.assert_close(run.steps(3).theta, Run.of(name).steps(3).theta, rtol=1e-9, atol=1e-11)


@every
@on_devices
def test_a_loss_scaled_by_a_power_of_two(name: str, device: str) -> None:
    run, plain = Run.of(name, F32, device), Run.of(name, F32, device).steps(5)
    scaler = torch.amp.GradScaler(device, init_scale=2.0**12)
    for _ in range(5):
        scaled_step(run, scaler)
    torch.testing.assert_close(run.theta, plain.theta, rtol=1e-6, atol=1e-7)


@every
@on_devices
def test_a_scale_that_overflows_is_lowered_and_the_step_skipped(name: str, device: str) -> None:
    run = Run.of(name, F32, device, sign=100.0)
    scaler, before = torch.amp.GradScaler(device, init_scale=2.0**126), run.theta
    with expected_skip(run, CASES[name].skips):
        scaled_step(run, scaler, update=False)
    scaler.update()
    assert same(run.theta, before)
    assert scaler.get_scale() == 2.0**125
    scaler.update(2.0**10)
    scaled_step(run, scaler)
    assert not same(run.theta, before)


def scaled_step(run: Run, scaler: torch.amp.GradScaler, *, update: bool = True) -> None:
    def scaled(closure: Closure) -> Callable[[], Any]:
        return scaled_closure(closure.value, scaler, run.optimizer)

    if isinstance(run.optimizer, SA):
        run.optimizer.step(scaled(run.closure), lambda *some: scaled(run.closure.sample(*some)))
    elif run.needs_closure:
        run.optimizer.step(scaled(run.closure))
    else:
        step_on_gradients(
            run, lambda **k: scaler.step(run.optimizer, **k), scaler.scale(torch.ones(())).item()
        )
    if update:
        scaler.update()


@contextmanager
def expected_skip(run: Run, skips: bool) -> Iterator[None]:
    """What says that a step is skipped: the optimizer, where it evaluates the loss; else the scaler does not call it."""
    if not run.needs_closure:
        yield
    elif skips:
        with pytest.warns(RuntimeWarning, match="step skipped"):
            yield
    else:
        with pytest.raises(InputError, match="not finite"):
            yield


@every
def test_gradients_may_be_clipped_in_the_closure(name: str) -> None:
    """By a bound that is never reached nothing changes; by a small one every evaluation's gradient is that long."""
    wide, plain, tight = Run.of(name), Run.of(name), Run.of(name)
    wide.closure.event = lambda _, loss: (clip_grad_norm_(wide.closure.parameters, 1e6), loss)[1]
    assert same(wide.steps(5).theta, plain.steps(5).theta)

    lengths: list[float] = []

    def clip(_: int, loss: Tensor) -> Tensor:
        clip_grad_norm_(tight.closure.parameters, 0.01)
        lengths.append(math.hypot(*(float(torch.as_tensor(p.grad).norm()) for p in tight.closure.parameters)))
        return loss

    before, first = tight.theta, tight.closure.value().item()
    tight.closure.event = clip
    tight.steps(3)
    assert lengths == pytest.approx([0.01] * len(lengths), rel=1e-3)
    assert not same(tight.theta, before)
    assert tight.closure.value().item() < first

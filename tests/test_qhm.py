"""QHM against the paper's rule, SGD, and E; and the momentum that is as late as E is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import ExponentialLR
from training import going_on

from landscape import InputError
from optimizers.e import E
from optimizers.qhm import QHM, equal_momentum, nu_of

F64 = torch.float64
SHAPES = [(4, 3), (4,), ()]


def tensors(seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=F64) for shape in SHAPES]


def parameters() -> list[nn.Parameter]:
    return [nn.Parameter(tensor) for tensor in tensors(0)]


def run(optimizer: Optimizer, params: list[nn.Parameter], seeds: range) -> list[Tensor]:
    for seed in seeds:
        for p, g in zip(params, tensors(seed), strict=True):
            p.grad = g
        optimizer.step()
    return [p.detach() for p in params]


def paper_qhm(
    theta: Tensor, gradients: list[Tensor], *, lr: float, momentum: float, nu: float, weight_decay: float
) -> Tensor:
    buffer = torch.zeros_like(theta)
    for g in gradients:
        g = g + weight_decay * theta
        buffer = momentum * buffer + (1 - momentum) * g
        theta = theta - lr * ((1 - nu) * g + nu * buffer)
    return theta


# The rule


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize(
    ("momentum", "nu", "weight_decay"),
    [(0.9, 0.7, 0.0), (0.999, 0.7, 0.1), (0.5, -0.4, 0.0), (0.99, 1.005, 0.0)],
)
def test_the_papers_rule(momentum: float, nu: float, weight_decay: float, maximize: bool) -> None:
    params = parameters()
    # Climbing L is descending −L: the gradient turns round, the decay does too, as in torch's SGD.
    sign = -1.0 if maximize else 1.0
    settings = {"lr": 0.1, "momentum": momentum, "nu": nu, "weight_decay": weight_decay}
    found = run(QHM(params, **settings, maximize=maximize), params, range(1, 31))
    for i, (theta, start) in enumerate(zip(found, tensors(0), strict=True)):
        expected = paper_qhm(start, [sign * tensors(seed)[i] for seed in range(1, 31)], **settings)
        torch.testing.assert_close(theta, expected, rtol=1e-12, atol=1e-12)
    assert all(torch.as_tensor(p.grad).equal(g) for p, g in zip(params, tensors(30), strict=True))


@pytest.mark.parametrize("alpha", [-0.5, -5.0, -80.0, -99.5, 3.0])
def test_it_is_e_around_sgd_step_for_step(alpha: float) -> None:
    ours, theirs = parameters(), parameters()
    qhm = QHM(ours, lr=0.1, momentum=0.99, nu=nu_of(alpha, 0.99))
    adapted = E(SGD(theirs, lr=0.1), alpha, 0.99)
    for seed in range(1, 101):
        one, other = run(qhm, ours, range(seed, seed + 1)), run(adapted, theirs, range(seed, seed + 1))
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_nu_of_one_default_by_hand() -> None:
    assert nu_of(-5.0, 0.99) == pytest.approx(0.05 / 0.99, rel=1e-13)


def test_nu_zero_is_sgd_and_nu_one_is_momentum() -> None:
    for nu, momentum in ((0.0, 0.0), (1.0, 0.9)):
        ours, theirs = parameters(), parameters()
        base = SGD(theirs, lr=0.1, weight_decay=0.1, momentum=momentum, dampening=momentum)
        if nu:  # torch's starts its buffer from the first gradient, the paper's at zero
            for p in theirs:
                base.state[p]["momentum_buffer"] = torch.zeros_like(p)
        optimizer = QHM(ours, lr=0.1, momentum=0.9, nu=nu, weight_decay=0.1)
        torch.testing.assert_close(
            run(optimizer, ours, range(1, 21)), run(base, theirs, range(1, 21)), rtol=1e-12, atol=1e-12
        )


# The control


@pytest.mark.parametrize(
    ("alpha", "momentum", "expected"),
    [(-80, 0.95, 0.99), (-90, 0.9, 0.99), (-5, 0.9, 14 / 15), (9, 0.9, 0.0)],
)
def test_equal_momentum_of_known_settings(alpha: float, momentum: float, expected: float) -> None:
    assert equal_momentum(alpha, momentum) == pytest.approx(expected, abs=1e-14)


@pytest.mark.parametrize(("alpha", "beta", "momentum"), [(-4.0, 0.9, 0.5), (-8.0, 0.9, 0.0), (0.5, 0.5, 0.8)])
def test_the_control_is_as_late_on_a_ramp(alpha: float, beta: float, momentum: float) -> None:
    """On gradients 1, 2, 3, … both steps come to lie L behind, measured."""

    def last_step(make: Callable[[list[nn.Parameter]], Optimizer]) -> float:
        p = nn.Parameter(torch.zeros((), dtype=F64))
        optimizer, places = make([p]), []
        for k in range(1, 801):
            p.grad = torch.tensor(float(k), dtype=F64)
            optimizer.step()
            places.append(p.item())
        return places[-2] - places[-1]

    lag = -alpha + momentum / (1 - momentum)
    control = equal_momentum(alpha, momentum)
    adapted = last_step(lambda p: E(SGD(p, lr=1.0, momentum=momentum, dampening=momentum), alpha, beta))
    assert adapted == pytest.approx(800 - lag, abs=1e-8)
    assert last_step(lambda p: QHM(p, lr=1.0, momentum=control, nu=1.0)) == pytest.approx(800 - lag, abs=1e-8)


def test_what_no_momentum_can_match_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"alpha must be at most momentum/\(1 - momentum\) = 1 for momentum=0.5, got 2"
    ):
        equal_momentum(2.0, 0.5)
    with pytest.raises(InputError, match=r"alpha must be at most .* got nan"):
        equal_momentum(float("nan"), 0.5)
    with pytest.raises(InputError, match=r"momentum must be in \[0, 1\), got 1.0"):
        equal_momentum(-5.0, 1.0)
    with pytest.raises(
        InputError, match="beta must be positive, since QHM without momentum has no average; got 0"
    ):
        nu_of(-0.5, 0.0)
    with pytest.raises(InputError, match="alpha must satisfy"):
        nu_of(-5.0, 0.5)


# The contract of an optimizer


@pytest.mark.parametrize("copied", ["file", "deepcopy"])
def test_a_state_resumes_bit_for_bit(copied: str) -> None:
    whole, first = parameters(), parameters()
    run(QHM(whole, lr=0.1), whole, range(1, 12))
    stopped = QHM(first, lr=0.1)
    run(stopped, first, range(1, 6))
    # The state dict brings the settings.
    second, resumed = going_on(copied, first, stopped, lambda second: QHM(second, lr=7.0, nu=0.1))
    run(resumed, second, range(6, 12))
    assert all(p.equal(q) for p, q in zip(whole, second, strict=True))


def test_groups_schedulers_and_waiting_parameters() -> None:
    a, b, c = parameters()
    optimizer = QHM([{"params": [a]}, {"params": [b, c], "lr": 1.0, "nu": 0.0}], lr=0.1, momentum=0.5, nu=1.0)
    scheduler = ExponentialLR(optimizer, 0.1)
    ga, gb, _ = tensors(1)
    starts = tensors(0)
    a.grad, b.grad = ga.clone(), gb.clone()
    optimizer.step()
    torch.testing.assert_close(a.detach(), starts[0] - 0.1 * 0.5 * ga)
    torch.testing.assert_close(b.detach(), starts[1] - gb)
    assert c.equal(starts[2])
    assert c not in optimizer.state
    scheduler.step()
    b.grad = gb.clone()
    optimizer.step()
    torch.testing.assert_close(b.detach(), starts[1] - 1.1 * gb)


@pytest.mark.parametrize("where", ["gradient", "loss"])
def test_a_step_that_is_not_finite_is_skipped_and_said(where: str) -> None:
    params = parameters()
    optimizer = QHM(params, lr=0.1)
    run(optimizer, params, range(1, 3))
    before = repr((params, optimizer.state_dict()))
    if where == "gradient":
        torch.as_tensor(params[2].grad).fill_(float("inf"))
    loss = float("nan") if where == "loss" else 1.0
    with pytest.warns(RuntimeWarning, match="step skipped: "):
        assert optimizer.step(lambda: loss) is loss
    assert repr((params, optimizer.state_dict())) == before
    run(optimizer, params, range(3, 4))
    assert repr((params, optimizer.state_dict())) != before


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_descends(dtype: torch.dtype) -> None:
    p = nn.Parameter(torch.ones(8, dtype=dtype))
    optimizer = QHM([p], lr=0.1)
    for _ in range(100):
        p.grad = p.detach().clone()
        optimizer.step()
    assert p.dtype == dtype
    assert p.detach().abs().max() < 0.1


# Errors


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": -1.0}, "lr must be in [0, inf), got -1.0."),
        ({"momentum": 1.0}, "momentum must be in [0, 1), got 1.0."),
        ({"nu": float("nan")}, "nu must be a finite number, usually in [0, 1], got nan."),
        ({"weight_decay": -0.1}, "weight_decay must be in [0, inf), got -0.1."),
    ],
)
@pytest.mark.parametrize("place", ["constructor", "group"])
def test_settings_outside_their_range(settings: dict[str, Any], message: str, place: str) -> None:
    optimizer = QHM(parameters(), lr=0.1)
    make = {
        "constructor": lambda: QHM(parameters(), **{"lr": 0.1, **settings}),
        "group": lambda: optimizer.add_param_group({"params": parameters(), **settings}),
    }[place]
    with pytest.raises(InputError) as error:
        make()
    assert str(error.value) == message
    assert len(optimizer.param_groups) == 1


def test_sparse_gradients_are_refused_before_anything_moves() -> None:
    p, table = nn.Parameter(torch.ones(1)), nn.Embedding(4, 2, sparse=True)
    optimizer = QHM([p, table.weight], lr=0.1)
    (table(torch.tensor([1])).sum() + p.sum()).backward()
    with pytest.raises(InputError, match="gradients must be dense, got a sparse one"):
        optimizer.step()
    assert p.item() == 1


def test_one_closure_call_with_gradients_and_hooks_once() -> None:
    p = nn.Parameter(torch.ones(2, dtype=F64))
    optimizer, calls = QHM([p], lr=0.1), []
    optimizer.register_step_pre_hook(lambda *_: calls.append("pre"))
    optimizer.register_step_post_hook(lambda *_: calls.append("post"))

    def closure() -> Tensor:
        calls.append(str(torch.is_grad_enabled()))
        optimizer.zero_grad()
        loss = (p**2).sum()
        loss.backward()
        return loss

    with torch.no_grad():
        assert optimizer.step(closure).item() == 2
    assert calls == ["pre", "True", "post"]

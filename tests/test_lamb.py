"""Lamb against its formula written out naively and against ALTO without E; one tensor against many; half precision."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ExponentialLR
from training import going_on

from landscape import InputError
from optimizers.alto import ALTO
from optimizers.lamb import Lamb, LayerwiseAdam
from optimizers.lamb_rule import LambRule

F64 = torch.float64
SHAPES = [(4, 3), (4,), ()]
SETTINGS: list[dict[str, Any]] = [
    {},
    {"trust_ratio": "decayed", "weight_decay": 0.1},
    {"trust_ratio": "decayed", "weight_decay": 0.0},
    {"bias_correction": False, "betas": (0.5, 0.999)},
    {"eps": 1e-2, "weight_decay": 0.0, "betas": (0.0, 0.0)},
]


def tensors(seed: int, scale: float = 1.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [scale * torch.randn(shape, generator=generator, dtype=F64) for shape in SHAPES]


def parameters(seed: int = 0) -> list[nn.Parameter]:
    return [nn.Parameter(tensor) for tensor in tensors(seed)]


def run(optimizer: LayerwiseAdam, params: list[nn.Parameter], seeds: range) -> list[Tensor]:
    for seed in seeds:
        for p, g in zip(params, tensors(seed), strict=True):
            p.grad = g
        optimizer.step()
    return [p.detach() for p in params]


def naive_lamb(
    theta: Tensor,
    gradients: list[Tensor],
    *,
    lr: float = 0.01,
    betas: tuple[float, float] = (0.9, 0.99),
    eps: float = 1e-6,
    weight_decay: float = 1e-4,
    bias_correction: bool = True,
    trust_ratio: str = "all",
) -> Tensor:
    """The formula at the head of lamb.py, line by line; and the plain ratio ‖θ‖/‖r‖ where there is decay."""
    m = v = torch.zeros_like(theta)
    for k, g in enumerate(gradients, start=1):
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g**2
        m_hat, v_hat = (m / (1 - betas[0] ** k), v / (1 - betas[1] ** k)) if bias_correction else (m, v)
        r = m_hat / (v_hat.sqrt() + eps) + weight_decay * theta
        phi = theta.norm() + 1e-10
        ratio = phi / (r.norm() + eps * phi)
        if trust_ratio == "decayed":
            ratio = theta.norm() / r.norm() if weight_decay else 1.0
        theta = theta - lr * ratio * r
    return theta


# The rule


@pytest.mark.parametrize("settings", SETTINGS)
def test_the_formula(settings: dict[str, Any]) -> None:
    params = parameters()
    found = run(Lamb(params, lr=0.01, **settings), params, range(1, 31))
    for i, (theta, start) in enumerate(zip(found, tensors(0), strict=True)):
        expected = naive_lamb(start, [tensors(seed)[i] for seed in range(1, 31)], **settings)
        torch.testing.assert_close(theta, expected, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("extra", [{}, {"clip_norm": 0.5}, {"maximize": True}])
@pytest.mark.parametrize("settings", SETTINGS)
def test_alto_without_e_bitwise(settings: dict[str, Any], extra: dict[str, Any]) -> None:
    ours, theirs = parameters(), parameters()
    lamb = Lamb(ours, lr=0.01, **settings, **extra)
    three = {**settings, "betas": (0.99, *settings.get("betas", (0.9, 0.99)))}
    alto = ALTO(theirs, lr=0.01, alpha=0.0, **three, **extra)
    one, other = run(lamb, ours, range(1, 31)), run(alto, theirs, range(1, 31))
    assert all(p.equal(q) for p, q in zip(one, other, strict=True))


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("form", ["strided", "together"])
def test_every_form_of_the_step_is_the_same(
    settings: dict[str, Any], form: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the fused kernel where tensors are strided, and with norms that stay on the device."""
    given = {
        "eps": 1e-6,
        "weight_decay": 1e-4,
        "bias_correction": True,
        "trust_ratio": "all",
        "betas": (0.9, 0.99),
    }
    rule = LambRule(lr=0.1, **{**given, **settings})
    start = [*tensors(0), torch.zeros(3, dtype=F64)]
    plain, other = [t.clone() for t in start], [t.clone() for t in start]
    m1, v1, m2, v2 = ([torch.zeros_like(t) for t in start] for _ in range(4))
    if form == "strided":
        other = [t.mT.contiguous().mT if t.ndim == 2 else t for t in other]
        assert not all(t.is_contiguous() for t in other)
    for k in range(1, 9):
        gradients = [*tensors(k), torch.ones(3, dtype=F64)]
        steps = [k, k + 5, k, k]  # the second tensor has taken five steps more
        for theta, g, m, v, step in zip(plain, gradients, m1, v1, steps, strict=True):
            rule.step([theta], [g], [m], [v], [step])
        with monkeypatch.context() as patched:
            if form == "together":
                patched.setattr(LambRule, "move_each", LambRule.move_together)
            rule.step(other, gradients, m2, v2, steps)
        torch.testing.assert_close(other, plain, rtol=1e-13, atol=1e-13)
    assert all(not t.equal(s) for t, s in zip(other, start, strict=True))


def test_climbing_is_descending_on_the_negative_loss() -> None:
    ours, theirs = parameters(), parameters()
    up, down = Lamb(ours, lr=0.01, maximize=True), Lamb(theirs, lr=0.01)
    for seed in range(1, 11):
        for p, q, g in zip(ours, theirs, tensors(seed), strict=True):
            p.grad, q.grad = g, -g
        up.step()
        down.step()
    assert all(p.equal(q) for p, q in zip(ours, theirs, strict=True))
    assert all(torch.as_tensor(p.grad).equal(g) for p, g in zip(ours, tensors(10), strict=True))


def test_without_eps_and_decay_bias_correction_changes_nothing() -> None:
    """m̂/√v̂ is then a multiple of m/√v, and a trust ratio takes every multiple away."""
    ends = []
    for bias_correction in (True, False):
        params = parameters()
        optimizer = Lamb(params, lr=0.01, eps=0.0, weight_decay=0.0, bias_correction=bias_correction)
        ends.append(run(optimizer, params, range(1, 21)))
    torch.testing.assert_close(*ends, rtol=1e-12, atol=1e-12)


def test_a_step_is_as_long_as_the_tensor_says() -> None:
    params = parameters()
    found = run(Lamb(params, lr=0.01), params, range(1, 2))
    for theta, start in zip(found, tensors(0), strict=True):
        torch.testing.assert_close((theta - start).norm(), 0.01 * start.norm(), rtol=1e-5, atol=0)


def test_a_tensor_that_is_zero_grows_from_nearly_nothing() -> None:
    """φ(0) = ε₃ = 1e-10, and each step is η as long as the tensor: on a constant gradient ε₃((1+η)ᵏ − 1) after k steps."""
    zero = nn.Parameter(torch.zeros(3, dtype=F64))
    optimizer = Lamb([zero], lr=0.01, weight_decay=0.0)
    for k in range(1, 501):
        zero.grad = torch.tensor([1.0, -2.0, 3.0], dtype=F64)
        optimizer.step()
        if k in (1, 100, 500):
            assert zero.detach().norm().item() == pytest.approx(1e-10 * (1.01**k - 1), rel=1e-4)


# Half precision


@pytest.mark.parametrize("make", [Lamb, ALTO])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_steps_like_double(make: Callable[..., LayerwiseAdam], dtype: torch.dtype) -> None:
    starts = [t.to(dtype) for t in tensors(0)]
    short, whole = [nn.Parameter(t.clone()) for t in starts], [nn.Parameter(t.to(F64)) for t in starts]
    optimizers = [make(short, lr=0.05, clip_norm=1.0), make(whole, lr=0.05, clip_norm=1.0)]
    for seed in range(1, 21):
        for p, q, g in zip(short, whole, tensors(seed), strict=True):
            p.grad, q.grad = g.to(dtype), g.to(dtype).to(F64)
        for optimizer in optimizers:
            optimizer.step()
    for p, q, start in zip(short, whole, starts, strict=True):
        assert p.dtype == dtype
        moved = (q.detach() - start).norm()
        assert (p.detach().to(F64) - q.detach()).norm() < 30 * torch.finfo(dtype).eps * moved


@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("start", [0.0, 3.0])
@pytest.mark.parametrize("trust_ratio", ["all", "decayed"])
def test_a_unit_that_dies_in_half_precision_stays(
    trust_ratio: Any, start: float, together: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ε₃ is zero in float16, and the trust ratio of a vanishing r is infinite: neither may reach the parameters."""
    rule = LambRule(0.1, (0.9, 0.99), 1e-6, 1e-7, True, trust_ratio)
    if together:
        monkeypatch.setattr(LambRule, "move_each", LambRule.move_together)
    theta, m, v = torch.tensor([[start] * 3, [0] * 3, [0] * 3], dtype=torch.float16).unbind()
    for k in range(1, 401):
        g = torch.full_like(theta, 1e-3 * (start > 0 and k < 20))
        rule.step([theta], [g], [m], [v], [k])
    assert theta.isfinite().all()
    assert bool(start) or theta.tolist() == [0, 0, 0]


def test_norms_too_long_for_half_precision() -> None:
    p = nn.Parameter(torch.full((100_000,), 500.0, dtype=torch.float16))  # ‖p‖ = 158,114 > 65,504
    p.grad = torch.full_like(p, 500.0)
    Lamb([p], lr=0.1, weight_decay=0.0, clip_norm=1e5).step()
    torch.testing.assert_close(p.detach(), torch.full_like(p, 450.0), rtol=2e-3, atol=0)


# The contract of an optimizer


@pytest.mark.parametrize("copied", ["file", "deepcopy"])
@pytest.mark.parametrize("settings", SETTINGS[:2])
def test_a_state_resumes_bit_for_bit(settings: dict[str, Any], copied: str) -> None:
    whole, first = parameters(), parameters()
    run(Lamb(whole, lr=0.01, **settings), whole, range(1, 12))
    stopped = Lamb(first, lr=0.01, **settings)
    run(stopped, first, range(1, 6))
    # The state dict brings the settings.
    second, resumed = going_on(copied, first, stopped, lambda second: Lamb(second, lr=7.0))
    run(resumed, second, range(6, 12))
    assert all(p.equal(q) for p, q in zip(whole, second, strict=True))


@pytest.mark.parametrize("clip_norm", [None, 1.0])
@pytest.mark.parametrize("make", [Lamb, ALTO])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_step_that_is_not_finite_is_skipped_and_said(
    make: Callable[..., LayerwiseAdam], bad: float, clip_norm: float | None
) -> None:
    params = parameters()
    optimizer = make(params, lr=0.1, clip_norm=clip_norm)
    run(optimizer, params, range(1, 3))
    before = repr((params, optimizer.state_dict()))
    torch.as_tensor(params[2].grad).fill_(bad)
    with pytest.warns(RuntimeWarning, match="step skipped: a gradient is not finite"):
        optimizer.step()
    with pytest.warns(RuntimeWarning, match=f"step skipped: the loss is {bad}"):
        optimizer.step(lambda: bad)
    assert repr((params, optimizer.state_dict())) == before
    run(optimizer, params, range(3, 4))
    assert repr((params, optimizer.state_dict())) != before


def test_schedulers_and_learning_rates_that_are_tensors() -> None:
    ends = []
    for lr in (0.1, torch.tensor(0.1, dtype=F64)):
        params = parameters()
        optimizer = Lamb(params, lr=lr)  # type: ignore[arg-type]
        scheduler = ExponentialLR(optimizer, 0.5)
        run(optimizer, params, range(1, 2))
        scheduler.step()
        ends.append(run(optimizer, params, range(2, 3)))
    assert all(p.equal(q) for p, q in zip(*ends, strict=True))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": -1.0}, "lr must be in [0, inf), got -1.0."),
        ({"betas": (0.9,)}, "betas must be two numbers (first moment, second moment), got (0.9,)."),
        ({"betas": (0.9, 1.0)}, "betas[1] must be in [0, 1), got 1.0."),
        ({"eps": -1e-6}, "eps must be in [0, inf), got -1e-06."),
        ({"weight_decay": math.nan}, "weight_decay must be in [0, inf), got nan."),
        ({"trust_ratio": "some"}, "trust_ratio must be one of 'all', 'decayed', got 'some'."),
        ({"clip_norm": -1.0}, "clip_norm must be positive, or None for no clipping, got -1.0."),
    ],
)
def test_settings_outside_their_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        Lamb(parameters(), **{"lr": 0.1, **settings})
    assert str(error.value) == message

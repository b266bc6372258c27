"""ALTO against its algorithms written out naively, its authors' code, and the contract of a torch optimizer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ExponentialLR
from training import going_on

from landscape import InputError
from optimizers.alto import ALTO

F64 = torch.float64
SHAPES = [(4, 3), (4,), ()]


def tensors(seed: int, scale: float = 1.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [scale * torch.randn(shape, generator=generator, dtype=F64) for shape in SHAPES]


def parameters(seed: int = 0) -> list[nn.Parameter]:
    return [nn.Parameter(tensor) for tensor in tensors(seed)]


def step_with(optimizer: ALTO, params: list[nn.Parameter], gradients: list[Tensor]) -> None:
    for p, g in zip(params, gradients, strict=True):
        p.grad = g.clone()
    optimizer.step()


def paper_alto(
    theta: Tensor,
    gradients: list[Tensor],
    *,
    lr: float = 0.01,
    betas: tuple[float, float, float] = (0.99, 0.9, 0.99),
    alpha: float = -5.0,
    eps: float = 1e-6,
    weight_decay: float = 1e-4,
    bias_correction: bool = True,
) -> Tensor:
    """Algorithms 1 and 2 for one tensor, line by line, with the paper's average of differences."""
    beta1, beta2, beta3 = betas
    a = m = v = g_before = torch.zeros_like(theta)
    for k, g in enumerate(gradients, start=1):
        a = beta1 * a + (1 - beta1) * (g - g_before)
        m = beta2 * m + (1 - beta2) * (g + alpha * a)
        v = beta3 * v + (1 - beta3) * (g + alpha * a) ** 2
        m_hat, v_hat = (m / (1 - beta2**k), v / (1 - beta3**k)) if bias_correction else (m, v)
        r = m_hat / (v_hat.sqrt() + eps) + weight_decay * theta
        phi = theta.norm() + 1e-10
        theta = theta - lr * r * phi / (r.norm() + eps * phi)
        g_before = g
    return theta


def authors_alto(
    thetas: list[Tensor],
    steps: list[list[Tensor]],
    decays: list[float],
    *,
    lr: float = 0.01,
    alpha: float = -5.0,
    eps: float = 1e-6,
) -> list[Tensor]:
    """What e-optimizer-adaptor 0.1.0 does: the gradient clipped to norm 1, trust ratios where there is decay."""
    thetas = list(thetas)
    a, m, v, before = ([torch.zeros_like(t) for t in thetas] for _ in range(4))
    for k, gradients in enumerate(steps, start=1):
        length = torch.cat([g.reshape(-1) for g in gradients]).norm()
        for i, (g, decay) in enumerate(zip(gradients, decays, strict=True)):
            g = g * min(1.0, float(1 / (length + 1e-6)))
            a[i] = 0.99 * a[i] + 0.01 * (g - before[i])
            before[i] = g
            u = g + alpha * a[i]
            m[i] = 0.9 * m[i] + 0.1 * u
            v[i] = 0.99 * v[i] + 0.01 * u**2
            r = (m[i] / (1 - 0.9**k)) / ((v[i] / (1 - 0.99**k)).sqrt() + eps) + decay * thetas[i]
            w, s = float(thetas[i].norm()), float(r.norm())
            ratio = w / s if decay != 0 and w > 0 and s > 0 else 1.0
            thetas[i] = thetas[i] - lr * ratio * r
    return thetas


# The rule


@pytest.mark.parametrize("bias_correction", [True, False])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"alpha": -40.0, "lr": 0.1},
        {"alpha": 0.5, "betas": (0.01, 0.9, 0.999), "weight_decay": 0.0},
        {"alpha": 0.0, "betas": (0.0, 0.0, 0.5), "eps": 1e-3, "weight_decay": 0.1},
    ],
)
def test_the_papers_algorithms(settings: dict[str, Any], bias_correction: bool) -> None:
    params, steps = parameters(), [tensors(seed) for seed in range(1, 31)]
    optimizer = ALTO(params, **{"lr": 0.01, **settings}, bias_correction=bias_correction)
    for gradients in steps:
        step_with(optimizer, params, gradients)
    for i, (p, theta) in enumerate(zip(params, tensors(0), strict=True)):
        of_tensor = [gradients[i] for gradients in steps]
        expected = paper_alto(theta, of_tensor, **settings, bias_correction=bias_correction)
        torch.testing.assert_close(p.detach(), expected, rtol=1e-11, atol=1e-11)


def test_golden_value() -> None:
    p = nn.Parameter(torch.ones(2, dtype=F64))
    optimizer = ALTO([p], lr=0.01)
    for _ in range(10):
        optimizer.zero_grad()
        ((p[0] ** 2 + 10 * p[1] ** 2) / 2).backward()
        optimizer.step()
    expected = torch.tensor([0.904382208698, 0.904382116489], dtype=F64)
    torch.testing.assert_close(p.detach(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
def test_the_authors_code_is_reproduced(scale: float) -> None:
    start = [*tensors(0)[:2], torch.zeros((), dtype=F64)]
    params, steps = [nn.Parameter(t.clone()) for t in start], [tensors(seed, scale) for seed in range(1, 21)]
    groups = [{"params": params[:1]}, {"params": params[1:], "weight_decay": 0.0}]
    optimizer = ALTO(groups, lr=0.01, clip_norm=1.0, trust_ratio="decayed", weight_decay=0.05)
    for gradients in steps:
        step_with(optimizer, params, gradients)
    expected = authors_alto(start, steps, [0.05, 0.0, 0.0])
    for p, theta in zip(params, expected, strict=True):
        torch.testing.assert_close(p.detach(), theta, rtol=1e-11, atol=1e-11)


def test_a_decayed_tensor_that_is_zero_takes_a_plain_step() -> None:
    zero = nn.Parameter(torch.zeros(3, dtype=F64))
    g = torch.tensor([1.0, -2.0, 3.0], dtype=F64)
    step_with(ALTO([zero], lr=0.1, trust_ratio="decayed"), [zero], [g])
    torch.testing.assert_close(zero.detach(), -0.1 * g.sign(), rtol=1e-5, atol=0)


def test_starting_from_the_first_gradient_adds_no_impulse() -> None:
    constant = tensors(1)
    params, plain = parameters(), parameters()
    first, without = ALTO(params, lr=0.1, init="first"), ALTO(plain, lr=0.1, alpha=0.0)
    for _ in range(5):
        step_with(first, params, constant)
        step_with(without, plain, constant)
    for p, q in zip(params, plain, strict=True):
        torch.testing.assert_close(p.detach(), q.detach(), rtol=1e-14, atol=1e-14)


@pytest.mark.parametrize("scale", [0.01, 100.0])
def test_clipping_is_over_all_groups_and_leaves_the_gradients_whole(scale: float) -> None:
    gradients = tensors(1, scale)
    length = float(torch.cat([g.reshape(-1) for g in gradients]).norm())
    shorter = [g * min(1.0, 0.5 / (length + 1e-6)) for g in gradients]
    params, plain = parameters(), parameters()
    clipped = ALTO([{"params": params[:1]}, {"params": params[1:]}], lr=0.1, clip_norm=0.5)
    step_with(clipped, params, gradients)
    step_with(ALTO(plain, lr=0.1), plain, shorter)
    for p, q, g in zip(params, plain, gradients, strict=True):
        # m₁ = (1−β₂)(1−c) g with c = 0.05; the steps alone would not show a scale
        torch.testing.assert_close(clipped.state[p]["m"], 0.1 * 0.95 * g * min(1.0, 0.5 / (length + 1e-6)))
        torch.testing.assert_close(p.detach(), q.detach(), rtol=1e-12, atol=1e-12)
        assert torch.as_tensor(p.grad).equal(g)


# The contract of an optimizer


def test_closure_is_called_once_with_gradients_enabled() -> None:
    (p, *_) = params = parameters()
    optimizer, calls = ALTO(params, lr=0.1), []

    def closure() -> Tensor:
        calls.append(torch.is_grad_enabled())
        optimizer.zero_grad()
        loss = (p**2).sum()
        loss.backward()
        return loss

    with torch.no_grad():
        loss = optimizer.step(closure)
    assert calls == [True]
    torch.testing.assert_close(loss.detach(), (tensors(0)[0] ** 2).sum())
    assert not p.detach().equal(tensors(0)[0])
    assert params[1].detach().equal(tensors(0)[1])  # no gradient, no step


def test_each_tensor_counts_its_own_steps() -> None:
    params, steps = parameters(), [tensors(seed) for seed in range(1, 6)]
    optimizer = ALTO(params, lr=0.01)
    for k, gradients in enumerate(steps):
        for p, g in zip(params, gradients, strict=True):
            p.grad = g.clone()
        if k < 3:
            params[1].grad = None
        optimizer.step()
    expected = paper_alto(tensors(0)[1], [gradients[1] for gradients in steps[3:]])
    torch.testing.assert_close(params[1].detach(), expected)


def test_groups_and_schedulers() -> None:
    params = parameters()
    groups = [
        {"params": params[:1]},
        {"params": params[1:], "lr": 0.5, "alpha": 0.0, "betas": (0.5, 0.9, 0.9)},
    ]
    optimizer = ALTO(groups, lr=0.01)
    scheduler = ExponentialLR(optimizer, 0.1)
    for seed in (1, 2):
        step_with(optimizer, params, tensors(seed))
    first = paper_alto(tensors(0)[0], [tensors(1)[0], tensors(2)[0]])
    second = paper_alto(
        tensors(0)[1], [tensors(1)[1], tensors(2)[1]], lr=0.5, alpha=0.0, betas=(0.5, 0.9, 0.9)
    )
    torch.testing.assert_close(params[0].detach(), first)
    torch.testing.assert_close(params[1].detach(), second)
    scheduler.step()
    before = [p.detach().clone() for p in params]
    step_with(optimizer, params, tensors(3))
    for p, theta, lr in zip(params, before, (0.001, 0.05, 0.05), strict=True):
        # ‖Δθ‖ = η‖θ‖ up to ε: a trust ratio takes the length of r away
        torch.testing.assert_close((p.detach() - theta).norm(), lr * theta.norm(), rtol=1e-5, atol=0)


@pytest.mark.parametrize("copied", ["file", "deepcopy"])
@pytest.mark.parametrize("settings", [{}, {"clip_norm": 1.0, "trust_ratio": "decayed", "init": "first"}])
def test_a_state_resumes_bit_for_bit(settings: dict[str, Any], copied: str) -> None:
    def run(optimizer: ALTO, params: list[nn.Parameter], seeds: range) -> None:
        for seed in seeds:
            step_with(optimizer, params, tensors(seed))

    whole, first = parameters(), parameters()
    run(ALTO(whole, lr=0.01, **settings), whole, range(1, 12))
    stopped = ALTO(first, lr=0.01, **settings)
    run(stopped, first, range(1, 6))
    # The state dict brings the settings.
    second, resumed = going_on(copied, first, stopped, lambda second: ALTO(second, lr=7.0))
    run(resumed, second, range(6, 12))
    assert all(p.equal(q) for p, q in zip(whole, second, strict=True))


# Errors


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": -1.0}, "lr must be in [0, inf), got -1.0."),
        ({"eps": float("nan")}, "eps must be in [0, inf), got nan."),
        ({"weight_decay": -1e-4}, "weight_decay must be in [0, inf), got -0.0001."),
        (
            {"betas": (0.9, 0.99)},
            "betas must be three numbers (E, first moment, second moment), got (0.9, 0.99).",
        ),
        ({"betas": (0.9, 1.0, 0.9)}, "betas[1] must be in [0, 1), got 1.0."),
        (
            {"betas": (0.1, 0.9, 0.99)},
            "alpha must satisfy |alpha| < 1/(1 - beta) = 1.11111 for beta=0.1, got -5.0",
        ),
        ({"init": "warm"}, "init must be one of 'zero', 'first', got 'warm'."),
        ({"trust_ratio": "some"}, "trust_ratio must be one of 'all', 'decayed', got 'some'."),
        ({"clip_norm": 0.0}, "clip_norm must be positive, or None for no clipping, got 0.0."),
    ],
)
@pytest.mark.parametrize("place", ["constructor", "group"])
def test_settings_outside_their_range(settings: dict[str, Any], message: str, place: str) -> None:
    make: Callable[[], object] = lambda: ALTO(parameters(), **{"lr": 0.1, **settings})  # noqa: E731
    if place == "group":
        optimizer = ALTO(parameters(), lr=0.1)
        make = lambda: optimizer.add_param_group({"params": parameters(), **settings})  # noqa: E731
        with pytest.raises(InputError) as error:
            make()
        assert len(optimizer.param_groups) == 1
    else:
        with pytest.raises(InputError) as error:
            make()
    assert message in str(error.value)


def test_clip_norm_is_one_for_all_groups() -> None:
    a, b, _ = parameters()
    with pytest.raises(
        InputError, match="clip_norm is taken over all parameters and must be the same in every group"
    ):
        ALTO([{"params": [a], "clip_norm": 2.0}, {"params": [b]}], lr=0.1, clip_norm=1.0)


def test_sparse_gradients_are_refused_before_anything_moves() -> None:
    p, table = nn.Parameter(torch.ones(1)), nn.Embedding(4, 2, sparse=True)
    optimizer = ALTO([p, table.weight], lr=0.1)
    (table(torch.tensor([1])).sum() + p.sum()).backward()
    with pytest.raises(InputError, match="gradients must be dense, got a sparse one"):
        optimizer.step()
    assert p.item() == 1

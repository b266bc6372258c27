"""NSO against exact smoothed losses, the paper's step written naively, and what it does to the trace of the Hessian."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from training import BASES, F64, closure_of, parameter

from landscape import InputError
from optimizers.nso import NSO
from optimizers.sam import SAM


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def network() -> nn.Module:
    generator = seeded()
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)).to(F64)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=F64))
    return model


def loss_of(model: nn.Module) -> Callable[[], Tensor]:
    generator = seeded(1)
    x, y = (torch.randn(7, n, generator=generator, dtype=F64) for n in (4, 2))
    return lambda: ((model(x) - y) ** 2).mean()


def product(p: Tensor) -> Tensor:
    """(x₁x₂ − 1)², zero on a hyperbola; the trace of its Hessian is 2‖x‖². Smoothed by σ it is, exactly,
    (x₁² + σ²)(x₂² + σ²) − 2x₁x₂ + 1."""
    return (p[0] * p[1] - 1) ** 2


# The rule


@pytest.mark.parametrize("samples", [1, 3])
def test_on_a_quadratic_every_pair_gives_the_gradient_exactly(samples: int) -> None:
    half = torch.randn(4, 4, generator=seeded(), dtype=F64)
    a, theta = half @ half.T, torch.randn(4, generator=seeded(1), dtype=F64)
    p = nn.Parameter(theta.clone())
    optimizer = NSO(SGD([p], lr=0.1), sigma=2.0, samples=samples, generator=seeded(2))
    seen: list[Tensor] = []
    optimizer.step(closure_of(optimizer, lambda: p @ a @ p / 2, seen))
    torch.testing.assert_close(p.grad, a @ theta, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(p.detach(), theta - 0.1 * a @ theta, rtol=1e-12, atol=1e-12)
    assert len(seen) == 2 * samples
    for up, down in zip(seen[::2], seen[1::2], strict=True):
        torch.testing.assert_close(up + down, 2 * theta)
        assert (up - theta).norm() > 1


def test_its_gradient_and_loss_are_those_of_the_smoothed_loss_on_average() -> None:
    """∇f + (σ²/2)∇tr H, which is exact for this quartic; mean and standard error over 4000 steps of lr 0."""
    sigma, theta = 0.5, torch.tensor([1.5, -0.7], dtype=F64)
    x1, x2 = theta.tolist()
    p = nn.Parameter(theta.clone())
    optimizer = NSO(SGD([p], lr=0.0), sigma, generator=seeded())
    drawn = []
    for _ in range(4000):
        loss = optimizer.step(closure_of(optimizer, lambda: product(p)))
        assert p.grad is not None
        drawn.append(torch.cat([p.grad, loss[None]]))
    estimates = torch.stack(drawn)
    plain = torch.tensor([2 * (x1 * x2 - 1) * x2, 2 * (x1 * x2 - 1) * x1, (x1 * x2 - 1) ** 2], dtype=F64)
    push = torch.tensor([2 * sigma**2 * x1, 2 * sigma**2 * x2, sigma**2 * (x1**2 + x2**2) + sigma**4])
    error = estimates.std(dim=0) / 4000**0.5
    assert ((estimates.mean(dim=0) - plain - push).abs() < 4 * error).all()
    assert ((estimates.mean(dim=0) - plain).abs() > 10 * error).all()  # the test would see it missing
    assert p.detach().equal(theta)


@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize("base", BASES)
def test_the_papers_algorithm_around_any_base(base: str, samples: int) -> None:
    model, plain = network(), network()
    optimizer = NSO(BASES[base](model.parameters()), 0.2, samples=samples, generator=seeded(5))
    alone, draws, params = BASES[base](plain.parameters()), seeded(5), list(plain.parameters())
    for _ in range(15):
        loss = optimizer.step(closure_of(optimizer, loss_of(model)))
        kept, total, losses = [p.detach().clone() for p in params], [0.0 * p.detach() for p in params], []
        for _ in range(samples):
            noise = [0.2 * torch.randn(p.shape, generator=draws, dtype=F64) for p in params]
            for sign in (1, -1):
                for p, old, u in zip(params, kept, noise, strict=True):
                    p.data = old + sign * u
                losses.append(loss_of(plain)())
                found = torch.autograd.grad(losses[-1], params)
                total = [t + g / (2 * samples) for t, g in zip(total, found, strict=True)]
        for p, old, g in zip(params, kept, total, strict=True):
            p.data, p.grad = old, g
        alone.step()
        torch.testing.assert_close(loss, torch.stack(losses).mean().detach(), rtol=1e-9, atol=0)
    for p, q in zip(model.parameters(), params, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-10)


def test_sigma_zero_is_the_base() -> None:
    model, plain = network(), network()
    optimizer, alone = NSO(SGD(model.parameters(), lr=0.1), 0.0), SGD(plain.parameters(), lr=0.1)
    for _ in range(5):
        optimizer.step(closure_of(optimizer, loss_of(model)))
        alone.step(closure_of(alone, loss_of(plain)))
    assert all(p.equal(q) for p, q in zip(model.parameters(), plain.parameters(), strict=True))


# What it does


def test_it_goes_along_the_valley_to_the_smallest_trace() -> None:
    """From (4, ¼), where gradient descent stays, to the minimum of the smoothed loss, x₁² = x₂² = 1 − σ²."""
    sigma, ends = 0.3, []
    for seed in range(4):
        p = parameter(4.0, 0.25)
        optimizer = NSO(SGD([p], lr=0.02), sigma, generator=seeded(seed))
        tail = torch.zeros(2, dtype=F64)
        for k in range(1600):
            optimizer.step(closure_of(optimizer, lambda p=p: product(p)))
            tail += p.detach() / 800 if k >= 800 else 0
        ends.append(tail)
    mean, error = torch.stack(ends).mean(0), torch.stack(ends).std(0) / 4**0.5
    assert (
        (mean - (1 - sigma**2) ** 0.5).abs() < 4 * error + 0.01
    ).all()  # O(η) of the noise beside the error
    assert 2 * mean.square().sum() < 4.2 < 2 * 16.0625  # the trace


def test_it_lowers_the_trace_where_sam_lowers_the_largest_eigenvalue() -> None:
    """½(4−x)y² + ½(1+2x)z²: the trace is 5 + x. x moves by −ησ²/2 a step on average, and by +ηρ²/2 under SAM."""
    lr, size, steps = 0.01, 0.1, 2000

    def moved(wrap: Callable[[Optimizer], NSO | SAM]) -> float:
        p = parameter(0.0, 0.0, 0.0) if wrap is noise else parameter(0.0, 0.01, 0.0)
        optimizer = wrap(SGD([p], lr=lr))
        for _ in range(steps):
            optimizer.step(
                closure_of(optimizer, lambda: ((4 - p[0]) * p[1] ** 2 + (1 + 2 * p[0]) * p[2] ** 2) / 2)
            )
        return p[0].item()

    def noise(base: Optimizer) -> NSO:
        return NSO(base, size, generator=seeded())

    expected = -lr * size**2 / 2 * steps
    # One step moves x by −(η/2)(2u_z² − u_y²), of standard deviation ησ²√(5/2); the walk of y and z adds O(σ⁴).
    deviation = lr * size**2 * (2.5 * steps) ** 0.5
    assert moved(noise) == pytest.approx(expected, abs=4 * deviation)
    assert abs(expected) > 8 * deviation
    assert moved(lambda base: SAM(base, size)) == pytest.approx(-expected, rel=0.1)


# The contract of an optimizer that evaluates 2k times


def test_a_bad_evaluation_skips_the_step_and_spends_its_noise() -> None:
    p = parameter(1.0, 2.0)
    optimizer = NSO(AdamW([p], lr=0.1), 0.1, samples=2, generator=seeded())
    good = closure_of(optimizer, lambda: p.square().sum())
    optimizer.step(good)
    for evaluation in range(1, 5):
        calls = 0

        def closure(evaluation: int = evaluation) -> Tensor:
            nonlocal calls
            calls += 1
            loss = good()
            return loss * float("nan") if calls == evaluation else loss

        before, base = p.tolist(), repr(optimizer.base.state_dict())
        noise = optimizer.generator.get_state()
        with pytest.warns(RuntimeWarning, match="step skipped: the loss is nan"):
            optimizer.step(closure)
        assert (p.tolist(), repr(optimizer.base.state_dict())) == (before, base)
        assert not optimizer.generator.get_state().equal(noise)
        optimizer.step(good)
        assert p.tolist() != before


def test_gradients_that_come_in_some_evaluations_only_count_as_zero_in_the_others() -> None:
    p, q, r = parameter(1.0), parameter(1.0), parameter(1.0)
    optimizer = NSO(SGD([p, q, r], lr=1.0, weight_decay=0.5), 0.1, generator=seeded())
    losses = [lambda: (p + 2 * q).sum(), lambda: p.sum()]
    optimizer.step(closure_of(optimizer, lambda: losses.pop(0)()))
    assert (p.item(), q.item(), r.item()) == (-0.5, -0.5, 1.0)
    assert r.grad is None


def test_what_requires_no_gradient_gets_no_noise() -> None:
    p, frozen = parameter(1.0), nn.Parameter(torch.ones(1, dtype=F64), requires_grad=False)
    optimizer = NSO(SGD([p, frozen], lr=0.1), 0.1)
    seen: list[Tensor] = []
    optimizer.step(closure_of(optimizer, lambda: (p * frozen).sum(), seen))
    assert [point[1].item() for point in seen] == [1, 1]
    assert seen[0][0].item() != 1


def test_the_generator_is_ones_own_and_part_of_the_state() -> None:
    torch.manual_seed(0)
    first = NSO(SGD([parameter(1.0)], lr=0.1))
    torch.manual_seed(0)
    second = NSO(SGD([parameter(1.0)], lr=0.1))
    assert first.generator is not second.generator
    assert first.generator.get_state().equal(second.generator.get_state())
    state = torch.get_rng_state()
    first.step(closure_of(first, lambda: first.param_groups[0]["params"][0].sum()))
    assert torch.get_rng_state().equal(state)
    assert not first.generator.get_state().equal(second.generator.get_state())
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    assert first.generator.get_state().equal(second.generator.get_state())


# Errors


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sigma": -0.1}, "sigma must be in [0, inf), got -0.1."),
        ({"sigma": float("nan")}, "sigma must be in [0, inf), got nan."),
        ({"samples": 0}, "samples must be a whole number of at least 1, got 0."),
        ({"samples": 1.5}, "samples must be a whole number of at least 1, got 1.5."),
    ],
)
def test_settings_outside_their_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        NSO(SGD([parameter(1.0)], lr=0.1), **settings)
    assert str(error.value) == message


def test_a_step_without_a_closure() -> None:
    with pytest.raises(InputError, match="NSO evaluates the gradient itself: step must be given a closure"):
        NSO(SGD([parameter(1.0)], lr=0.1)).step()


def test_a_state_dict_without_the_generator_is_refused() -> None:
    base = SGD([parameter(1.0)], lr=0.1)
    with pytest.raises(InputError, match="state_dict must hold the state of NSO's 'generator'"):
        NSO(base).load_state_dict(SAM(base).state_dict())

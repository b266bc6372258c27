"""SAM against closed forms, the papers' steps written naively, and what it does to the Hessian on a toy valley."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from training import BASES, F64, closure_of, parameter

from landscape import InputError
from optimizers.sam import SAM


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def network() -> nn.Module:
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)).to(F64)
    with torch.no_grad():
        for seed, p in enumerate(model.parameters()):
            p.copy_(random(*p.shape, seed=seed))
    return model


def loss_of(model: nn.Module) -> Callable[[], Tensor]:
    x, y = random(7, 4, seed=11), random(7, 2, seed=12)
    return lambda: ((model(x) - y) ** 2).mean()


def papers_step(
    base: Optimizer, params: Sequence[Tensor], loss: Callable[[], Tensor], rho: float, adaptive: bool
) -> None:
    """Algorithm 1 of both papers, one tensor after another, with nothing kept from optimizers.sam."""
    gradients = torch.autograd.grad(loss(), params)
    with torch.no_grad():
        weights = [p.abs().clone() if adaptive else torch.ones_like(p) for p in params]
        length = sum(float((w * g).square().sum()) for w, g in zip(weights, gradients, strict=True)) ** 0.5
        kept = [p.clone() for p in params]
        for p, w, g in zip(params, weights, gradients, strict=True):
            p += rho * w**2 * g / length
    there = torch.autograd.grad(loss(), params)
    with torch.no_grad():
        for p, old, g in zip(params, kept, there, strict=True):
            p.copy_(old)
            p.grad = g
    base.step()


# The rule


@pytest.mark.parametrize("adaptive", [False, True])
def test_the_step_on_a_quadratic(adaptive: bool) -> None:
    """θ − η A (θ + ε) over two tensors in two groups, each with its own η, and one norm for both."""
    half = random(5, 5)
    a, theta, rho = half @ half.T, random(5, seed=1), 0.3
    p, q = nn.Parameter(theta[:2].clone()), nn.Parameter(theta[2:].clone())
    optimizer = SAM(SGD([{"params": [p]}, {"params": [q], "lr": 0.2}], lr=0.1), rho, adaptive=adaptive)
    seen: list[Tensor] = []

    def loss() -> Tensor:
        x = torch.cat([p, q])
        return x @ a @ x / 2

    returned = optimizer.step(closure_of(optimizer, loss, seen))
    g = a @ theta
    epsilon = rho * theta**2 * g / (theta * g).norm() if adaptive else rho * g / g.norm()
    torch.testing.assert_close(returned, theta @ a @ theta / 2)
    torch.testing.assert_close(seen, [theta, theta + epsilon], rtol=1e-13, atol=1e-13)
    size = (epsilon / theta).norm() if adaptive else epsilon.norm()
    assert float(size) == pytest.approx(rho, rel=1e-12)
    gradient = a @ (theta + epsilon)
    expected = theta - torch.tensor([0.1, 0.1, 0.2, 0.2, 0.2], dtype=F64) * gradient
    torch.testing.assert_close(torch.cat([p, q]).detach(), expected, rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(torch.cat([torch.as_tensor(x.grad) for x in (p, q)]), gradient)


@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize("base", BASES)
def test_the_papers_algorithms_around_any_base(base: str, adaptive: bool) -> None:
    model, plain = network(), network()
    optimizer, alone = (
        SAM(BASES[base](model.parameters()), 0.2, adaptive=adaptive),
        BASES[base](plain.parameters()),
    )
    start = [p.detach().clone() for p in model.parameters()]
    for _ in range(20):
        optimizer.step(closure_of(optimizer, loss_of(model)))
        papers_step(alone, list(plain.parameters()), loss_of(plain), 0.2, adaptive)
    for p, q, before in zip(model.parameters(), plain.parameters(), start, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-10)
        assert not torch.allclose(p, before, rtol=1e-2)


@pytest.mark.parametrize("base", BASES)
def test_rho_zero_is_the_base_bitwise(base: str) -> None:
    model, plain = network(), network()
    optimizer, alone = SAM(BASES[base](model.parameters()), 0.0), BASES[base](plain.parameters())
    for _ in range(10):
        optimizer.step(closure_of(optimizer, loss_of(model)))
        closure_of(alone, loss_of(plain))()
        alone.step()
    assert all(p.equal(q) for p, q in zip(model.parameters(), plain.parameters(), strict=True))


def test_the_adaptive_point_does_not_depend_on_how_layers_share_their_scale() -> None:
    """L(10 a, b/10) = L(a, b): ASAM looks at the same loss in both, SAM does not."""
    x, y = random(6, 3, seed=3), random(6, seed=4)

    def highest(scale: float, adaptive: bool) -> float:
        a, b = nn.Parameter(scale * random(4, 3, seed=1)), nn.Parameter(random(4, seed=2) / scale)
        optimizer = SAM(SGD([a, b], lr=0.0), 0.1, adaptive=adaptive)
        values: list[float] = []

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = ((torch.relu(x @ a.T) @ b - y) ** 2).mean()
            loss.backward()
            values.append(loss.item())
            return loss

        optimizer.step(closure)
        return values[1]

    assert highest(10.0, True) == pytest.approx(highest(1.0, True), rel=1e-12)
    assert highest(10.0, False) != pytest.approx(highest(1.0, False), rel=1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("slope", [0.0, 1e-42])
@pytest.mark.parametrize("adaptive", [False, True])
def test_no_gradient_to_speak_of_no_perturbation(adaptive: bool, slope: float, dtype: torch.dtype) -> None:
    p = nn.Parameter(torch.tensor([1.0, 0.0, 2.0], dtype=dtype))
    optimizer = SAM(SGD([p], lr=1.0), 0.5, adaptive=adaptive)
    seen: list[Tensor] = []
    optimizer.step(closure_of(optimizer, lambda: slope * p.sum(), seen))
    start = torch.tensor([1.0, 0.0, 2.0], dtype=dtype)
    torch.testing.assert_close(seen, [start, start], rtol=0, atol=0)
    torch.testing.assert_close(p.detach(), start, rtol=0, atol=1e-41)


def test_a_group_that_climbs_is_perturbed_downhill() -> None:
    """min over p, max over q of p²/2 − q²/2 is minimizing in both: ε = ρ (p, q)/‖(p, q)‖."""
    p, q = parameter(3.0), parameter(4.0)
    optimizer = SAM(SGD([{"params": [p]}, {"params": [q], "maximize": True}], lr=0.1), 0.5)
    seen: list[Tensor] = []
    optimizer.step(closure_of(optimizer, lambda: (p**2 - q**2).sum() / 2, seen))
    torch.testing.assert_close(seen[1], torch.tensor([3.3, 4.4], dtype=F64))
    torch.testing.assert_close((p.item(), q.item()), (3 - 0.33, 4 - 0.44))


def test_a_closure_that_forgets_to_zero_the_gradients_does_not_add_the_two() -> None:
    p = parameter(1.0, 2.0)
    optimizer = SAM(SGD([p], lr=0.1), 0.5)

    def closure() -> Tensor:
        loss = p.square().sum() / 2
        loss.backward()
        return loss

    optimizer.step(closure)
    theta = torch.tensor([1.0, 2.0], dtype=F64)
    torch.testing.assert_close(p.detach(), theta - 0.1 * (theta + 0.5 * theta / theta.norm()))


# What it does


def valley(x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Two examples, whose mean is zero along x; the Hessian's eigenvalues there are 4 − x and 1 + 2x, their sum 5 + x."""
    return (4 - x) * y**2, (1 + 2 * x) * z**2


@pytest.mark.parametrize("rho", [0.1, 0.02])
def test_full_batch_lowers_the_largest_eigenvalue(rho: float) -> None:
    """y ends in the cycle ±ηλρ/(2−ηλ) with λ = 4 − x the larger one, so x moves by (η/2)(|y| + ρ)² a step."""
    lr, p = 0.01, parameter(0.0, 0.03, 0.02)
    optimizer = SAM(SGD([p], lr=lr), rho)
    closure = closure_of(optimizer, lambda: sum(valley(*p), torch.zeros((), dtype=F64)) / 2)
    for _ in range(200):
        optimizer.step(closure)
    x = start = p[0].item()
    for _ in range(1000):
        optimizer.step(closure)
        x += lr / 2 * (rho + lr * (4 - x) * rho / (2 - lr * (4 - x))) ** 2
    assert p[0].item() - start == pytest.approx(x - start, rel=1e-5)
    assert abs(p[2].item()) < 1e-20  # the other eigenvector is never looked along


@pytest.mark.parametrize("rho", [0.1, 0.02])
def test_one_example_a_step_lowers_the_trace(rho: float) -> None:
    """Each example cycles along its own eigenvector: two steps move x by −η Σ λ′ (|·| + ρ)² = −ηρ² + O(η²)."""
    lr, p = 0.01, parameter(0.0, 0.03, 0.02)
    optimizer = SAM(SGD([p], lr=lr), rho)
    for k in range(400):
        optimizer.step(closure_of(optimizer, lambda k=k: valley(*p)[k % 2]))
    x = start = p[0].item()
    for k in range(1000):
        optimizer.step(closure_of(optimizer, lambda k=k: valley(*p)[k % 2]))
        eigenvalue, slope = (4 - x, -1) if k % 2 == 0 else (1 + 2 * x, 2)
        x -= lr * slope * (rho + 2 * lr * eigenvalue * rho / (2 - 2 * lr * eigenvalue)) ** 2
    assert x < start
    assert p[0].item() - start == pytest.approx(x - start, rel=0.01)


# The contract of an optimizer that evaluates twice


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["loss", "gradient"])
@pytest.mark.parametrize("evaluation", [1, 2])
def test_a_bad_evaluation_skips_the_step(evaluation: int, where: str, bad: float) -> None:
    p = parameter(1.0, 2.0)
    optimizer = SAM(AdamW([p], lr=0.1), 0.5)
    good = closure_of(optimizer, lambda: p.square().sum())
    optimizer.step(good)
    calls = 0

    def closure() -> Tensor:
        nonlocal calls
        calls += 1
        loss = good()
        if calls == evaluation and where == "gradient":
            assert p.grad is not None
            p.grad[1] = bad
        return loss + bad if calls == evaluation and where == "loss" else loss

    before = repr((p.tolist(), optimizer.state_dict()))
    reason = "a gradient is not finite" if where == "gradient" else f"the loss is {bad}"
    with pytest.warns(RuntimeWarning, match=f"step skipped: {reason}"):
        optimizer.step(closure)
    assert calls == evaluation  # nothing is evaluated at θ + NaN
    assert repr((p.tolist(), optimizer.state_dict())) == before
    optimizer.step(good)
    assert repr((p.tolist(), optimizer.state_dict())) != before


def test_what_has_no_gradient_is_not_the_bases_business() -> None:
    p, q = parameter(1.0), parameter(2.0)
    optimizer = SAM(AdamW([p, q], lr=0.1, weight_decay=0.5), 0.5)
    optimizer.step(closure_of(optimizer, lambda: p.square().sum()))
    assert q.item() == 2
    assert q not in optimizer.base.state
    assert p.item() != 1


def test_repr_names_the_settings_and_the_base() -> None:
    text = repr(SAM(SGD([parameter(1.0)], lr=0.1), adaptive=True))
    assert text.startswith("SAM(rho=0.05, adaptive=True, base=SGD (")


# Errors


@pytest.mark.parametrize("rho", [-0.1, float("nan"), float("inf")])
def test_rho_outside_its_range(rho: float) -> None:
    with pytest.raises(InputError) as error:
        SAM(SGD([parameter(1.0)], lr=0.1), rho)
    assert str(error.value) == f"rho must be in [0, inf), got {rho}."


def test_a_step_without_a_closure() -> None:
    with pytest.raises(InputError, match="SAM evaluates the gradient itself: step must be given a closure"):
        SAM(SGD([parameter(1.0)], lr=0.1)).step()


@pytest.mark.parametrize(
    "make", [lambda p: torch.optim.LBFGS([p]), lambda p: SAM(SGD([p], lr=0.1))], ids=["lbfgs", "sam"]
)
def test_a_base_that_evaluates_its_closure_itself_is_refused(make: Callable[[Any], Optimizer]) -> None:
    with pytest.raises(InputError, match=r"(LBFGS|SAM) calls a closure several times a step"):
        SAM(make(parameter(1.0)))

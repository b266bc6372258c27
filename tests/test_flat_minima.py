"""What RS and SA do to the trace of the Hessian, against exact facts ("How to Escape Sharp Minima", arXiv 2305.15659)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD

from landscape import InputError
from optimizers.flat_settings import sharpness_aware_settings, smoothed_settings
from optimizers.perturbation import sphere
from optimizers.sharpness_aware import SharpnessAwarePerturbation
from optimizers.smoothed import SmoothedPerturbation

F64 = torch.float64
Gradient = Callable[[Tensor], tuple[Tensor, Tensor]]  # x -> f, ∇f


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def closure_of(x: nn.Parameter, gradient: Gradient) -> Callable[[], Tensor]:
    """Written out by hand, since autograd would take most of the time."""

    def closure() -> Tensor:
        loss, x.grad = gradient(x.detach())
        return loss

    return closure


def hyperbola(x: Tensor) -> tuple[Tensor, Tensor]:
    """(x₁x₂ − 1)², whose minima x₁x₂ = 1 have a trace per parameter of x₁² + x₂²."""
    residual = x[0] * x[1] - 1
    return residual**2, 2 * residual * x.flip(0)


def bilinear(x: Tensor) -> tuple[Tensor, Tensor]:
    """½(yᵀz − 1)² of x = (y, z)."""
    y, z = x.chunk(2)
    residual = y @ z - 1
    return residual**2 / 2, residual * torch.cat([z, y])


def limit_trace(x: Tensor) -> Tensor:
    """t̄r∘Φ of bilinear: the flow scales y + z by s and y − z by 1/s until yᵀz = 1, where the trace is ‖x‖²."""
    y, z = x.chunk(2)
    return (4 + (y + z).square().sum() * (y - z).square().sum()).sqrt() / len(x)


# The valley x₁x₂ = 1


def walk(optimizer: Callable[[nn.Parameter], Any], steps: int, tail: int = 1000) -> tuple[float, float]:
    """(t̄r, mean of f over the last steps) from (4, ¼)."""
    x = nn.Parameter(torch.tensor([4.0, 0.25], dtype=F64))
    made, closure = optimizer(x), closure_of(x, hyperbola)
    losses = [made.step(closure) for _ in range(steps)]
    return float(x.detach().square().sum()), float(torch.stack(losses[-tail:]).mean())


def test_gradient_descent_stays_at_a_sharp_minimum() -> None:
    trace, loss = walk(lambda x: SGD([x], lr=0.05), 100)
    assert (trace, loss) == (16.0625, 0)


def test_rs_reaches_the_flattest_minimum_and_stays_on_the_floor() -> None:
    trace, loss = walk(lambda x: SmoothedPerturbation([x], lr=0.05, rho=0.1, generator=generator()), 20_000)
    assert abs(trace - 2) < 2e-3
    assert loss < 1e-12


def test_without_the_projection_rs_leaves_the_floor() -> None:
    _, loss = walk(
        lambda x: SmoothedPerturbation([x], lr=0.05, rho=0.1, project=False, generator=generator()), 4000
    )
    assert loss > 1e-5


def test_sa_reaches_the_flattest_minimum_too() -> None:
    trace, _ = walk(
        lambda x: SharpnessAwarePerturbation([x], lr=0.05, rho=0.1, batch_size=None, generator=generator()),
        6000,
    )
    assert abs(trace - 2) < 2e-3


# One step


@pytest.mark.parametrize("algorithm", ["RS", "SA"])
def test_the_mean_change_of_the_trace_in_one_step(algorithm: str) -> None:
    """−(ηρ²/2)‖P∇t̄r‖² for RS, d times that for SA, on the floor of the valley."""
    lr, rho, draws = 1e-4, 1e-2, 8000
    start = torch.tensor([2.0, 0.0, 1.0, 0.5, 3.0, 0.0], dtype=F64)
    dim, (y, z) = len(start), start.chunk(2)
    assert float(bilinear(start)[0]) == 0
    normal = torch.cat([z, y])
    along = 2 / dim * (start - normal * (normal @ start) / (normal @ normal))  # P∇t̄r
    expected = -lr * rho**2 / 2 * along @ along * (dim if algorithm == "SA" else 1)

    x = nn.Parameter(start.clone())
    closure = closure_of(x, bilinear)
    if algorithm == "RS":
        optimizer = SmoothedPerturbation([x], lr=lr, rho=rho, generator=generator())
    else:
        optimizer = SharpnessAwarePerturbation([x], lr=lr, rho=rho, batch_size=None, generator=generator())
    changes = []
    for _ in range(draws):
        with torch.no_grad():
            x.copy_(start)
        optimizer.step(closure)
        changes.append(limit_trace(x.detach()) - limit_trace(start))
    change = torch.stack(changes)
    error = change.std() / draws**0.5
    assert error < 0.05 * expected.abs()
    # beside the standard error, what is left out: terms of order η and ρ
    assert (change.mean() - expected).abs() < 3.5 * error + 0.02 * expected.abs()


def test_the_mean_gradient_nearby_is_that_of_the_smoothed_loss() -> None:
    """E_u ∇f(x + ρu) = ∇f + (ρ²/2)∇t̄r, here exactly, since f is of degree four."""
    lr, rho, draws = 1.0, 0.5, 8000
    start = torch.tensor([1.0, -0.5, 0.3, 0.7], dtype=F64)
    x = nn.Parameter(start.clone())
    optimizer = SmoothedPerturbation([x], lr=lr, rho=rho, project=False, generator=generator())
    closure = closure_of(x, bilinear)
    g = bilinear(start)[1]
    found = []
    for _ in range(draws):
        with torch.no_grad():
            x.copy_(start)
        optimizer.step(closure)
        found.append(start - x.detach() - g)
    sample = torch.stack(found)
    error = sample.std(dim=0) / draws**0.5
    lifted = rho**2 / 2 * 2 * start / len(start)
    assert ((sample.mean(dim=0) - g - lifted) / error).abs().max() < 3.5
    assert (lifted / error).abs().max() > 10  # so that its absence would show


def test_the_perturbation_is_uniform_on_the_sphere_of_all_parameters() -> None:
    shapes = [nn.Parameter(torch.zeros(2, 3, dtype=F64)), nn.Parameter(torch.zeros(2, dtype=F64))]
    g = generator()
    u = torch.stack([torch.cat([part.flatten() for part in sphere(shapes, g)]) for _ in range(4000)])
    torch.testing.assert_close(u.norm(dim=1), torch.ones(4000, dtype=F64))
    second = u.T @ u / len(u)  # E uuᵀ = I/8, and var u_i² = 3/(8·10) − 1/64
    assert (second - torch.eye(8, dtype=F64) / 8).abs().max() < 4 * (3 / 80 - 1 / 64) ** 0.5 / 4000**0.5


# Many examples


class Diagonal:
    """A diagonal linear network: the mean of ½(aᵢᵀ(u² − v²) − bᵢ)² of x = (u, v), with sample as closures have it."""

    def __init__(self, x: nn.Parameter, a: Tensor, b: Tensor) -> None:
        self.x, self.a, self.b = x, a, b

    def __call__(self) -> Tensor:
        u, v = self.x.detach().chunk(2)
        residual = self.a @ (u**2 - v**2) - self.b
        mean = self.a.T @ residual / len(residual)
        self.x.grad = torch.cat([2 * u * mean, -2 * v * mean])
        return residual.square().mean() / 2

    def sample(self, count: int, generator: torch.Generator) -> Diagonal:
        chosen = torch.randperm(len(self.b), generator=generator)[:count]
        return Diagonal(self.x, self.a[chosen], self.b[chosen])

    @property
    def trace(self) -> float:
        """Where the loss is zero: the mean of ‖(2aᵢu, −2aᵢv)‖²."""
        u, v = self.x.detach().chunk(2)
        return float((4 * self.a**2 @ (u**2 + v**2)).mean())


def test_single_examples_flatten_faster_than_the_full_batch_and_that_faster_than_the_sphere() -> None:
    g = generator()
    a = torch.randn(8, 30, generator=g, dtype=F64)
    b = a[:, :3].sum(dim=1)  # u² − v² = (1, 1, 1, 0, …) fits
    x = nn.Parameter(torch.randn(60, generator=g, dtype=F64))
    network = Diagonal(x, a, b)
    descent: Any = SGD([x], lr=0.01)
    while float(descent.step(network)) > 1e-20:
        pass
    start, sharp = x.detach().clone(), network.trace
    common: dict[str, Any] = {"lr": 0.01, "rho": 0.1}
    optimizers = [
        SharpnessAwarePerturbation([x], **common, generator=generator(1)),
        SharpnessAwarePerturbation([x], **common, batch_size=None, generator=generator(1)),
        SmoothedPerturbation([x], **common, generator=generator(1)),
    ]
    traces = []
    for optimizer in optimizers:
        with torch.no_grad():
            x.copy_(start)
        for _ in range(1500):
            optimizer.step(network)
        for _ in range(1500):
            descent.step(network)  # to the floor, where the trace is that of the Hessian
        assert float(network()) < 1e-10
        traces.append(network.trace)
    single, full, smoothed = traces
    assert single < 0.5 * sharp
    assert single < 0.5 * full
    assert full < 0.9 * smoothed
    assert smoothed < 0.99 * sharp


# The theorems' settings


def test_smoothed_settings() -> None:
    settings = smoothed_settings(epsilon=0.01, delta=0.5, smoothness=4.0)
    expected = {"lr": 0.005, "rho": 0.05, "gate": 0.00353553390593, "descent_lr": 0.25}
    assert settings.arguments == pytest.approx(expected, rel=1e-10)
    assert settings.steps == 16_000_000
    (group,) = SmoothedPerturbation([nn.Parameter(torch.ones(2))], **settings.arguments).param_groups
    assert {name: group[name] for name in expected} == settings.arguments


@pytest.mark.parametrize(
    ("dim", "expected", "steps"),
    [
        # ν = d = 2 and 1/(d³ε) = 12.5
        (2, {"lr": 0.01, "rho": 0.1, "gate": 0.01, "descent_lr": 0.25}, 1_000_000),
        # ν = ε^(−1/3) = 4.641589, ν^1.5 = 10
        (100, {"lr": 0.02320794, "rho": 0.2320794, "gate": 0.0353553391, "descent_lr": 0.25}, 1_600),
    ],
)
def test_sharpness_aware_settings(dim: int, expected: dict[str, float], steps: int) -> None:
    settings = sharpness_aware_settings(epsilon=0.01, delta=0.5, smoothness=4.0, dim=dim)
    assert settings.arguments == pytest.approx(expected, rel=1e-6)
    assert settings.steps == steps
    SharpnessAwarePerturbation([nn.Parameter(torch.ones(2))], **settings.arguments)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"epsilon": 0.0}, "epsilon must be in (0, 1), got 0.0."),
        ({"delta": 1.0}, "delta must be in (0, 1), got 1.0."),
        ({"smoothness": -1.0}, "smoothness, the largest curvature, must be in (0, inf), got -1.0."),
        ({"dim": 0}, "dim must be a whole number of at least 1, got 0."),
    ],
)
def test_settings_outside_their_range(given: dict[str, float], message: str) -> None:
    settings = {"epsilon": 0.1, "delta": 0.5, "smoothness": 1.0, "dim": 3, **given}
    with pytest.raises(InputError) as error:
        sharpness_aware_settings(**settings)  # pyright: ignore[reportArgumentType]
    assert str(error.value) == message

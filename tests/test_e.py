"""E against the paper's recursion, exact facts about it, and the contract of a torch optimizer."""

from __future__ import annotations

import copy
import io
import math
import pickle
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from scipy.integrate import solve_ivp
from torch import Tensor, nn
from torch.optim import SGD, Adafactor, Adagrad, Adam, AdamW, NAdam, Optimizer, RMSprop
from torch.optim.lr_scheduler import ExponentialLR

from landscape import InputError
from optimizers.e import E, adapt

F64 = torch.float64
BASES: dict[str, Callable[[Any], Optimizer]] = {
    "sgd": lambda params: SGD(params, lr=0.05, momentum=0.9, weight_decay=1e-3),
    "adam": lambda params: Adam(params, lr=0.01, weight_decay=1e-3),
    "adamw": lambda params: AdamW(params, lr=0.01),
    "fused adamw": lambda params: AdamW(params, lr=0.01, fused=True),
    "rmsprop": lambda params: RMSprop(params, lr=0.01, momentum=0.5),
    "nadam": lambda params: NAdam(params, lr=0.01),
    "adagrad": lambda params: Adagrad(params, lr=0.01),
    "adafactor": lambda params: Adafactor(params, lr=0.01),
}
SETTINGS = [(-5.0, 0.99), (0.5, 0.01), (-80.0, 0.99), (1.5, 0.5), (-0.9, 0.0)]


def parameter(*values: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values, dtype=F64))


def gradients(n: int, shape: tuple[int, ...] = (3,), seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=F64) for _ in range(n)]


def seen_by_base(optimizer: E, p: nn.Parameter, given: list[Tensor]) -> list[Tensor]:
    """The gradients that the base is stepped with when the loss has the given ones."""
    seen: list[Tensor] = []
    handle = optimizer.base.register_step_pre_hook(lambda *_: seen.append(torch.as_tensor(p.grad).clone()))
    for g in given:
        p.grad = g.clone()
        optimizer.step()
    handle.remove()
    return seen


def paper_adaptor(
    given: list[Tensor], alpha: float, beta: float, init: str
) -> tuple[list[Tensor], list[Tensor]]:
    """(u_k, a_k) as the paper has them; init="first" takes g_0 = g_1 in place of g_0 = 0."""
    previous = torch.zeros_like(given[0]) if init == "zero" else given[0]
    a, us, averages = torch.zeros_like(given[0]), [], []
    for g in given:
        a = beta * a + (1 - beta) * (g - previous)
        us.append(g + alpha * a)
        averages.append(a)
        previous = g
    return us, averages


def network(seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)).to(F64)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=F64))
    return model


def loss_of(model: nn.Module) -> Callable[[], Tensor]:
    x, y = gradients(1, (7, 4), seed=1)[0], gradients(1, (7, 2), seed=2)[0]
    return lambda: ((model(x) - y) ** 2).mean()


def train(optimizer: Optimizer, loss: Callable[[], Tensor], steps: int) -> None:
    for _ in range(steps):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()


def all_equal(first: nn.Module, second: nn.Module) -> bool:
    return all(p.equal(q) for p, q in zip(first.parameters(), second.parameters(), strict=True))


# The rule


@pytest.mark.parametrize("init", ["zero", "first"])
@pytest.mark.parametrize(("alpha", "beta"), SETTINGS)
def test_base_sees_the_papers_gradients(alpha: float, beta: float, init: Any) -> None:
    p, given = parameter(1, 2, 3), gradients(60)
    seen = seen_by_base(E(SGD([p], lr=0.1), alpha, beta, init=init), p, given)
    expected, _ = paper_adaptor(given, alpha, beta, init)
    torch.testing.assert_close(seen, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("alpha", "beta"), SETTINGS)
def test_one_average_of_gradients_holds_what_the_average_of_differences_does(
    alpha: float, beta: float
) -> None:
    p, given = parameter(1, 2, 3), gradients(30)
    optimizer = E(SGD([p], lr=0.1), alpha, beta)
    _, differences = paper_adaptor(given, alpha, beta, "zero")
    e = torch.zeros(3, dtype=F64)
    for g, a in zip(given, differences, strict=True):
        torch.testing.assert_close((1 - beta) * (g - e), a)
        seen_by_base(optimizer, p, [g])
        e = optimizer.state[p]["average"].clone()
    assert list(optimizer.state[p]) == ["average"]


@pytest.mark.parametrize(("alpha", "beta"), [(-5.0, 0.99), (-80.0, 0.99), (-1.0, 0.5)])
def test_exploring_is_quasi_hyperbolic_momentum(alpha: float, beta: float) -> None:
    p, given = parameter(1, 2, 3), gradients(50)
    seen_by_base(E(SGD([p], lr=0.1), alpha, beta), p, given)
    nu = -alpha * (1 - beta) / beta
    theta, m = torch.tensor([1.0, 2, 3], dtype=F64), torch.zeros(3, dtype=F64)
    for g in given:
        m = beta * m + (1 - beta) * g
        theta = theta - 0.1 * ((1 - nu) * g + nu * m)
    torch.testing.assert_close(p.detach(), theta, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("layout", ["contiguous", "strided", "of two kinds"])
@pytest.mark.parametrize("beta", [0.99, 0.5, 0.2, 0.0])
@pytest.mark.parametrize("c", [0.05, 0.4, 0.995, -0.05, -0.4, -0.995, 0.0])
def test_both_forms_of_the_rule_are_the_same(c: float, beta: float, layout: str) -> None:
    """Fused in one pass over contiguous tensors of a kind, where c is small beside β; else in three operations."""
    shapes = [(3,), (2, 40), (5, 30, 2)]
    given = [gradients(1, shape, seed=i)[0] for i, shape in enumerate(shapes)]
    averages = [gradients(1, shape, seed=9 + i)[0] for i, shape in enumerate(shapes)]
    if layout == "strided":  # the two even in different orders
        given[1], averages[2] = given[1].t().contiguous().t(), averages[2].mT.contiguous().mT
    elif layout == "of two kinds":
        given[1], averages[1] = given[1].float(), averages[1].float()
    expected = [(1 - c) * g + c * e for g, e in zip(given, averages, strict=True)]
    moved = [beta * e + (1 - beta) * g for g, e in zip(given, averages, strict=True)]
    places = [t.data_ptr() for t in (*given, *averages)]
    adapt(given, averages, alpha=-c / (1 - beta), beta=beta)
    for one, exact in zip([*given, *averages], [*expected, *moved], strict=True):
        assert one.dtype == exact.dtype
        precision = 8 * torch.finfo(one.dtype).eps
        torch.testing.assert_close(one, exact, rtol=precision, atol=precision)
    assert [t.data_ptr() for t in (*given, *averages)] == places


@pytest.mark.parametrize(("alpha", "beta"), SETTINGS)
def test_esgd_and_eadam_line_by_line(alpha: float, beta: float) -> None:
    """Algorithms 3 and 4, with the coupled weight decay that SGD and Adam add after E."""
    given, decay = gradients(40), 0.1
    p, q = parameter(1, 2, 3), parameter(1, 2, 3)
    sgd = E(SGD([p], lr=0.05, momentum=0.9, weight_decay=decay), alpha, beta)
    adam = E(Adam([q], lr=0.05, betas=(0.9, 0.99), weight_decay=decay), alpha, beta)
    us, _ = paper_adaptor(given, alpha, beta, "zero")
    one = other = torch.tensor([1.0, 2, 3], dtype=F64)
    momentum = m = v = torch.zeros(3, dtype=F64)
    for k, (g, u) in enumerate(zip(given, us, strict=True), start=1):
        for optimizer, theta in ((sgd, p), (adam, q)):
            theta.grad = g.clone()
            optimizer.step()
        momentum = 0.9 * momentum + u + decay * one
        one = one - 0.05 * momentum
        w = u + decay * other
        m, v = 0.9 * m + 0.1 * w, 0.99 * v + 0.01 * w**2
        other = other - 0.05 * (m / (1 - 0.9**k)) / ((v / (1 - 0.99**k)).sqrt() + 1e-8)
    torch.testing.assert_close(p.detach(), one, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(q.detach(), other, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize(
    ("make", "steps", "expected", "tolerance"),
    [
        ("sgd", 1, (0.9525, 0.525), 1e-15),
        ("sgd", 2, (0.86448125, -0.152125), 1e-15),
        ("sgd", 10, (-0.277456011816, 0.213280373629), 1e-12),
        ("adam", 10, (0.0727387549696, 0.0727387453664), 1e-13),
    ],
)
def test_golden_values(make: str, steps: int, expected: tuple[float, float], tolerance: float) -> None:
    p = parameter(1, 1)
    base = (
        SGD([p], lr=0.05, momentum=0.9) if make == "sgd" else Adam([p], lr=0.1, betas=(0.9, 0.99), eps=1e-8)
    )
    train(E(base, -5.0, 0.99), lambda: (p[0] ** 2 + 10 * p[1] ** 2) / 2, steps)
    torch.testing.assert_close(p.detach(), torch.tensor(expected, dtype=F64), rtol=0, atol=tolerance)


@pytest.mark.parametrize("name", BASES)
def test_alpha_zero_is_the_base_bitwise(name: str) -> None:
    adapted, plain = network(), network()
    wrapped, base = E(BASES[name](adapted.parameters()), alpha=0.0), BASES[name](plain.parameters())
    train(wrapped, loss_of(adapted), 25)
    train(base, loss_of(plain), 25)
    assert all_equal(adapted, plain)
    for p, q in zip(adapted.parameters(), plain.parameters(), strict=True):
        for key, value in base.state[q].items():
            assert torch.equal(torch.as_tensor(wrapped.base.state[p][key]), torch.as_tensor(value)), key


# Exact facts


def test_unit_gain_and_the_impulse_of_a_zero_start() -> None:
    g1 = torch.tensor([2.0, -1.0, 0.5], dtype=F64)
    excess = {}
    for init in ("zero", "first"):
        p = parameter(1, 2, 3)
        seen = seen_by_base(E(SGD([p], lr=0.1), -3.0, 0.9, init=init), p, [g1] * 400)
        torch.testing.assert_close(seen[-1], g1, rtol=1e-14, atol=0)
        excess[init] = torch.stack(seen).sum(0) - 400 * g1
    torch.testing.assert_close(excess["zero"], -3.0 * g1, rtol=1e-12, atol=1e-12)
    assert excess["first"].abs().max() == 0


@pytest.mark.parametrize("alpha", [-4.0, 3.0])
def test_a_ramp_lags_by_minus_alpha_steps(alpha: float) -> None:
    p = parameter(0)
    ramp = [torch.tensor([float(k)], dtype=F64) for k in range(1, 500)]
    seen = seen_by_base(E(SGD([p], lr=0.1), alpha, 0.9), p, ramp)
    torch.testing.assert_close(seen[-1], ramp[-1] + alpha)


def test_the_modified_loss_is_followed_to_second_order() -> None:
    """f + (η/4)(1−2α)‖∇f‖²: halving η quarters the distance to its flow, but only halves that to the flow of f."""

    def f(x: Any, y: Any) -> Any:
        return (1 - x) ** 2 / 2 + 2 * (y - x**2) ** 2

    def flow(eta: float, factor: float) -> Tensor:
        def velocity(_: float, at: Any) -> Any:
            x = torch.tensor(at, dtype=F64, requires_grad=True)
            (g,) = torch.autograd.grad(f(*x), x, create_graph=True)
            (push,) = torch.autograd.grad(g @ g, x)
            return (-g - eta / 4 * factor * push).detach().numpy()

        return torch.tensor(solve_ivp(velocity, (0, 0.8), [-0.6, 0.9], rtol=1e-10, atol=1e-12).y[:, -1])

    def distance(alpha: float, beta: float, eta: float, factor: float) -> float:
        p = parameter(-0.6, 0.9)
        train(E(SGD([p], lr=eta), alpha, beta, init="first"), lambda: f(*p), round(0.8 / eta))
        return float((p.detach() - flow(eta, factor)).norm())

    for alpha, beta, eta in [(-1.5, 0.5, 1 / 400), (0.5, 0.0, 1 / 800)]:  # the second is Adams–Bashforth 2
        order2 = distance(alpha, beta, eta, 1 - 2 * alpha) / distance(alpha, beta, eta / 2, 1 - 2 * alpha)
        assert 3.6 < order2 < 4.4
    order1 = distance(-1.5, 0.5, 1 / 400, 0.0) / distance(-1.5, 0.5, 1 / 800, 0.0)
    assert 1.8 < order1 < 2.2


def spectral_radius(optimizer: E, p: nn.Parameter, curvature: float, names: tuple[str, ...]) -> float:
    """Of the linear map that one step on curvature·θ²/2 is, read off from its action on unit states."""
    size = 1 + len(names)
    unit = torch.eye(size, dtype=F64)
    with torch.no_grad():
        p.copy_(unit[0])
    states = {"average": optimizer.state[p]} | {"momentum_buffer": optimizer.base.state[p]}
    for row, name in enumerate(names, start=1):
        states[name][name] = unit[row].clone()
    p.grad = curvature * p.detach()
    optimizer.step()
    rows = [p.detach(), *(states[name][name] for name in names)]
    return float(torch.linalg.eigvals(torch.stack(rows)).abs().max())


@pytest.mark.parametrize(
    ("alpha", "beta"), [(-5.0, 0.99), (-40.0, 0.99), (-99.5, 0.99), (-1.9, 0.5), (0.5, 0.0), (5.0, 0.9)]
)
def test_largest_stable_curvature(alpha: float, beta: float) -> None:
    c = -alpha * (1 - beta)
    limits = [2 * (1 + beta) / (1 + beta - 2 * c)] if 1 + beta > 2 * c else []
    limits += [(1 - beta) / (c - beta)] if c > beta else []
    for factor, stable in ((0.999, True), (1.001, False)):
        p = parameter(0, 0)
        lr = 0.1
        radius = spectral_radius(E(SGD([p], lr=lr), alpha, beta), p, factor * min(limits) / lr, ("average",))
        assert (radius < 1) == stable


def test_smallest_alpha_that_a_first_moment_stands_at_large_curvature() -> None:
    beta, momentum = 1 - 1e-4, 1 - 2e-4
    limit = -1 / (1 - beta) + 1 / (2 - beta - momentum)
    for alpha, stable in ((0.99 * limit, True), (1.01 * limit, False)):
        p = parameter(0, 0, 0)
        optimizer = E(SGD([p], lr=0.1, momentum=momentum, dampening=momentum), alpha, beta)
        radius = spectral_radius(optimizer, p, 1.0, ("average", "momentum_buffer"))
        assert (radius < 1) == stable


def test_exploring_passes_minima_where_adam_stops() -> None:
    """f₁ of the paper: minima at 4.085, 5.589, 8.68, … on a falling slope."""

    def end(alpha: float) -> float:
        x = nn.Parameter(torch.tensor(2.3, dtype=F64))
        base = Adam([x], lr=0.03, betas=(0.95, 0.99))
        train(E(base, alpha, 0.99), lambda: 1 / (0.05 * x * torch.sin(2 * x) ** 2 + torch.log(x + 1)), 3000)
        return x.item()

    assert end(0.0) == pytest.approx(4.09, abs=0.01)
    assert end(-80.0) == pytest.approx(8.68, abs=0.01)


def test_deeper_wells_are_passed_with_larger_alpha() -> None:
    """f = −x − d exp(−x²/2): every depth d rolls at once, since SGD acts on each number alone."""
    depths = torch.linspace(1.5, 6, 91, dtype=F64)

    def deepest(alpha: float) -> float:
        x = nn.Parameter(torch.full_like(depths, -5))
        optimizer = E(SGD([x], lr=0.03), alpha, 0.99)
        for _ in range(1500):
            at = x.detach()
            x.grad = depths * at * torch.exp(-(at**2) / 2) - 1
            optimizer.step()
        passed = x.detach() > 5
        assert not passed[passed.to(torch.int8).argmin() :].any()  # none deeper than the first that holds
        return float(depths[passed].max())

    found = [deepest(alpha) for alpha in (0.0, -40.0, -60.0, -80.0, -95.0)]
    assert found == sorted(set(found))
    assert found[0] < math.sqrt(math.e) + 0.05  # where the well first stops the slope
    assert found[-1] > 4


@pytest.mark.parametrize(
    ("alpha", "init", "expected"), [(0.0, "zero", 1.92), (-50.0, "first", 0.10), (-50.0, "zero", 1.87)]
)
def test_a_ravine_is_followed_to_its_wide_end_from_the_first_gradient(
    alpha: float, init: Any, expected: float
) -> None:
    """½(1+4x²)y² from (2, ½): from a zero start, the paper's, next to nothing of it is left."""
    p = parameter(2.0, 0.5)
    optimizer = E(SGD([p], lr=0.03), alpha, 0.99, init=init)
    for _ in range(3000):
        x, y = p.detach()
        p.grad = torch.stack([4 * x * y**2, (1 + 4 * x**2) * y])
        optimizer.step()
    assert abs(p[0].item()) == pytest.approx(expected, abs=0.01)


# The contract of an optimizer


def test_the_closure_is_called_once_with_gradients_enabled_and_not_handed_on() -> None:
    p = parameter(1, 1)
    optimizer = E(SGD([p], lr=0.1), alpha=-3.0, beta=0.9, init="zero")
    calls = []

    def closure() -> Tensor:
        calls.append(torch.is_grad_enabled())
        optimizer.zero_grad()
        loss = (p**2).sum()
        loss.backward()
        return loss

    with torch.no_grad():
        loss = optimizer.step(closure)
    assert calls == [True]
    assert loss.item() == 2
    # u₁ = (1 + α(1−β)) g₁ = 0.7·2
    torch.testing.assert_close(p.detach(), torch.full((2,), 1 - 0.1 * 1.4, dtype=F64))


@pytest.mark.parametrize(("alpha", "beta"), SETTINGS)
def test_the_gradient_becomes_what_the_base_saw_in_its_own_memory(alpha: float, beta: float) -> None:
    p, given = parameter(1, 1, 1), gradients(3)
    optimizer = E(SGD([p], lr=0.1), alpha, beta)
    expected, _ = paper_adaptor(given, alpha, beta, "zero")
    for g, u in zip(given, expected, strict=True):
        p.grad = g
        optimizer.step()
        assert p.grad is g
        torch.testing.assert_close(g, u, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["gradient", "loss"])
def test_a_step_that_is_not_finite_is_skipped_and_said(bad: float, where: str) -> None:
    p, q = parameter(1.0), parameter(2.0, 3.0)
    optimizer = E(Adam([p, q], lr=0.1))

    def closure(factor: float = 1.0, offset: float = 0.0) -> Tensor:
        optimizer.zero_grad()
        loss = p.square().sum() + (factor * q).sum()
        loss.backward()
        return loss.detach() + offset

    def bad_step() -> None:
        if where == "gradient":
            closure(bad)
            optimizer.step()
        else:
            optimizer.step(lambda: closure(offset=bad))

    def everything() -> str:
        return repr((p.tolist(), q.tolist(), optimizer.state_dict()))

    optimizer.step(closure)
    before = everything()
    reason = "a gradient is not finite" if where == "gradient" else f"the loss is {bad}"
    with pytest.warns(RuntimeWarning, match=f"step skipped: {reason}"):
        bad_step()
    assert everything() == before
    optimizer.step(closure)
    assert everything() != before


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_every_number_that_is_not_finite_is_found_and_no_other(dtype: torch.dtype) -> None:
    shapes = [(70_000,), (3, 5), (), (0,)]
    params = [nn.Parameter(torch.zeros(shape, dtype=dtype)) for shape in shapes]
    optimizer = E(SGD(params, lr=0.0))
    largest = torch.finfo(dtype).max

    def gradient(*places: tuple[int, int, float], fill: float) -> None:
        for p in params:
            p.grad = torch.full_like(p, fill)
        for tensor, place, value in places:
            torch.as_tensor(params[tensor].grad).view(-1)[place] = value

    for fill in (largest, -largest, torch.finfo(dtype).tiny, 0.0):  # sums of the first two overflow
        gradient(fill=fill)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            optimizer.step()
    for bad in (math.nan, math.inf, -math.inf):
        for places in ([(0, 69_999, bad)], [(1, 7, bad)], [(2, 0, bad)], [(0, 3, bad), (0, 50_000, -bad)]):
            for fill in (0.0, largest):
                gradient(*places, fill=fill)
                with pytest.warns(RuntimeWarning, match="step skipped: a gradient is not finite"):
                    optimizer.step()


@pytest.mark.parametrize("name", ["sgd", "adamw", "fused adamw"])
def test_loss_scaling_changes_nothing_and_overflow_skips_the_step(name: str) -> None:
    scaled, plain = network(), network()
    optimizer, other = E(BASES[name](scaled.parameters())), E(BASES[name](plain.parameters()))
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=3)
    for _ in range(8):
        optimizer.zero_grad()
        scaler.scale(loss_of(scaled)()).backward()
        scaler.step(optimizer)
        scaler.update()
    train(other, loss_of(plain), 8)
    assert all_equal(scaled, plain)
    before = copy.deepcopy(scaled)
    torch.as_tensor(next(scaled.parameters()).grad).fill_(math.inf)
    scaler.scale(torch.zeros(()))
    scaler.step(optimizer)
    assert all_equal(scaled, before)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("alpha", "beta"), SETTINGS)
def test_half_precision(alpha: float, beta: float, dtype: torch.dtype) -> None:
    p, given = nn.Parameter(torch.ones(3, dtype=dtype)), [g.to(dtype) for g in gradients(20)]
    seen = seen_by_base(E(SGD([p], lr=0.1), alpha, beta), p, given)
    expected, _ = paper_adaptor([g.to(F64) for g in given], alpha, beta, "zero")
    assert seen[0].dtype == dtype
    off = torch.stack(seen).to(F64) - torch.stack(expected)
    assert off.abs().max() < 30 * torch.finfo(dtype).eps


def test_step_hooks_run_once_on_each_of_the_two() -> None:
    p, calls = parameter(1.0), []
    optimizer = E(SGD([p], lr=0.1))
    for name, one in (("E", optimizer), ("base", optimizer.base)):
        one.register_step_pre_hook(lambda *_, name=name: calls.append(f"before {name}"))
        one.register_step_post_hook(lambda *_, name=name: calls.append(f"after {name}"))
    p.grad = torch.ones(1, dtype=F64)
    optimizer.step()
    assert calls == ["before E", "before base", "after base", "after E"]


def test_a_closure_that_is_interrupted_leaves_everything() -> None:
    p = parameter(1.0)
    optimizer = E(Adam([p], lr=0.1))
    p.grad = torch.ones(1, dtype=F64)
    optimizer.step()
    before = repr((p.tolist(), optimizer.state_dict()))

    def closure() -> Tensor:
        p.grad = torch.full((1,), 5.0, dtype=F64)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        optimizer.step(closure)
    assert repr((p.tolist(), optimizer.state_dict())) == before


def test_skipping_can_be_left_to_others() -> None:
    p = parameter(1.0)
    optimizer = E(SGD([p], lr=0.1), skip_nonfinite=False)
    p.grad = torch.tensor([float("nan")], dtype=F64)
    optimizer.step()
    assert p.isnan().all()


def test_parameters_without_gradient_wait() -> None:
    p, q = parameter(1.0), parameter(1.0)
    optimizer = E(SGD([p, q], lr=0.1))
    optimizer.step()
    assert (p.item(), q.item()) == (1, 1)
    p.grad = torch.ones(1, dtype=F64)
    optimizer.step()
    assert q.item() == 1
    assert q not in optimizer.state
    assert p.item() < 1


def test_groups_are_the_bases_own() -> None:
    p, q = parameter(1.0), parameter(1.0)
    optimizer = E(SGD([{"params": [p], "lr": 0.1}], lr=1.0), alpha=0.0)
    optimizer.add_param_group({"params": [q], "lr": 0.2})
    assert optimizer.param_groups is optimizer.base.param_groups
    p.grad = q.grad = torch.ones(1, dtype=F64)
    optimizer.step()
    assert (p.item(), q.item()) == (0.9, 0.8)
    optimizer.zero_grad()
    assert p.grad is None
    assert q.grad is None


@pytest.mark.parametrize("loaded", ["fresh", "into E", "into the base"])
@pytest.mark.parametrize("on", ["E", "base"])
def test_schedulers_reach_the_base_also_after_loading(on: str, loaded: str) -> None:
    p = parameter(1.0)
    base = SGD([p], lr=0.1, momentum=0.5)
    scheduler = ExponentialLR(base, 0.5) if on == "base" else None
    optimizer = E(base)
    scheduler = scheduler or ExponentialLR(optimizer, 0.5)
    if loaded == "into E":
        optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    elif loaded == "into the base":
        base.load_state_dict(copy.deepcopy(base.state_dict()))
    p.grad = torch.ones(1, dtype=F64)
    optimizer.step()
    scheduler.step()
    assert base.param_groups[0]["lr"] == 0.05
    assert optimizer.param_groups is base.param_groups


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize(
    "name", sorted({*BASES} - {"nadam"})
)  # whose own product of momenta is rounded on loading
def test_a_state_dict_resumes_bit_for_bit(name: str) -> None:
    whole, first, second = network(), network(), network(seed=1)
    train(E(BASES[name](whole.parameters()), -7.0, 0.9, init="first"), loss_of(whole), 20)

    stopped = E(BASES[name](first.parameters()), -7.0, 0.9, init="first")
    train(stopped, loss_of(first), 9)
    second.load_state_dict(first.state_dict())
    resumed = E(BASES[name](second.parameters()))  # with other settings: the state dict brings its own
    resumed.load_state_dict(through_a_file(stopped.state_dict()))
    train(resumed, loss_of(second), 11)
    assert all_equal(second, whole)
    assert (resumed.alpha, resumed.beta, resumed.init) == (-7.0, 0.9, "first")


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda both: pickle.loads(pickle.dumps(both))])
def test_copies_go_on_alone_and_alike(copied: Callable[[Any], Any]) -> None:
    model = network()
    optimizer = E(Adam(model.parameters(), lr=0.01), -7.0, 0.9)
    train(optimizer, loss_of(model), 5)
    model2, optimizer2 = copied((model, optimizer))
    assert all_equal(model, model2)
    train(optimizer2, loss_of(model2), 5)
    assert not all_equal(model, model2)
    train(optimizer, loss_of(model), 5)
    assert all_equal(model, model2)
    assert optimizer2.param_groups is optimizer2.base.param_groups


def test_repr_names_the_settings_and_the_base() -> None:
    text = repr(E(SGD([parameter(1.0)], lr=0.1), -5.0, 0.99))
    assert text.startswith("E(alpha=-5.0, beta=0.99, init='zero', skip_nonfinite=True, base=SGD (")


# Errors


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beta": 1.0}, "beta, E's averaging factor, must be in [0, 1), got 1.0."),
        ({"beta": -0.1}, "beta, E's averaging factor, must be in [0, 1), got -0.1."),
        ({"beta": float("nan")}, "beta, E's averaging factor, must be in [0, 1), got nan."),
        (
            {"alpha": -5, "beta": 0.1},
            "alpha must satisfy |alpha| < 1/(1 - beta) = 1.11111 for beta=0.1, got -5",
        ),
        ({"alpha": 2, "beta": 0.5}, "alpha must satisfy |alpha| < 1/(1 - beta) = 2 for beta=0.5, got 2"),
        ({"alpha": float("nan")}, "alpha must satisfy"),
        ({"init": "last"}, "init must be one of 'zero', 'first', got 'last'."),
    ],
)
def test_settings_outside_their_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        E(SGD([parameter(1.0)], lr=0.1), **settings)
    assert message in str(error.value)


def test_a_base_that_evaluates_its_closure_itself_is_refused() -> None:
    with pytest.raises(
        InputError, match="LBFGS calls a closure several times a step, where an adaptor cannot change"
    ):
        E(torch.optim.LBFGS([parameter(1.0)]))
    with pytest.raises(InputError, match=r"base_optimizer must be a torch.optim.Optimizer, got <class"):
        E(SGD)  # type: ignore[arg-type]


def test_sparse_gradients_are_refused_before_anything_moves() -> None:
    p, table = parameter(1.0), nn.Embedding(4, 2, sparse=True)
    optimizer = E(SGD([p, table.weight], lr=0.1))
    (table(torch.tensor([1])).sum() + p.sum()).backward()
    with pytest.raises(InputError, match=r"gradients must be dense, got a sparse one .* shape \(4, 2\)"):
        optimizer.step()
    assert p.item() == 1


def test_a_state_dict_of_another_optimizer_is_refused() -> None:
    p = parameter(1.0)
    with pytest.raises(InputError, match="state_dict must be one of E, with 'base' and the settings alpha"):
        E(SGD([p], lr=0.1)).load_state_dict(SGD([p], lr=0.1).state_dict())

"""CLR against closed forms, naive transcriptions of SPS_max and of its bases, and where it diverges as the theory says."""

from __future__ import annotations

import copy
import io
import math
import pickle
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import ExponentialLR, LambdaLR

from landscape import InputError
from optimizers.clr import CLR, polyak_rate
from optimizers.e import E

F64 = torch.float64
Loss = Callable[[], Tensor]


def parameter(*values: float, dtype: torch.dtype = F64) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values, dtype=dtype))


def closure_of(optimizer: Optimizer, loss: Loss) -> Loss:
    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    return closure


def train(optimizer: Optimizer, loss: Loss, steps: int) -> list[float]:
    """The losses seen."""
    closure = closure_of(optimizer, loss)
    return [float(torch.as_tensor(optimizer.step(closure)).detach()) for _ in range(steps)]  # type: ignore[arg-type]


def network(seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).to(F64)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=F64))
    return model


def batches(count: int, seed: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(count):
        yield torch.randn(8, 4, generator=generator, dtype=F64), torch.randint(3, (8,), generator=generator)


def train_on_batches(model: nn.Module, optimizer: Optimizer, count: int, seed: int = 1) -> None:
    for x, y in batches(count, seed):
        optimizer.step(closure_of(optimizer, lambda x=x, y=y: nn.functional.cross_entropy(model(x), y)))  # type: ignore[misc]


def naive(model: nn.Module, count: int, step: Callable[[float, list[Tensor], int], list[Tensor]]) -> None:
    """θ ← θ + step(L, ∇L, k) over the same batches, with gradients from autograd.grad."""
    parameters = list(model.parameters())
    for k, (x, y) in enumerate(batches(count), start=1):
        loss = nn.functional.cross_entropy(model(x), y)
        gradients = list(torch.autograd.grad(loss, parameters))
        with torch.no_grad():
            for p, move in zip(parameters, step(float(loss), gradients, k), strict=True):
                p += move


def assert_close(first: nn.Module, second: nn.Module) -> None:
    for p, q in zip(first.parameters(), second.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-10, atol=1e-10)


def all_equal(first: nn.Module, second: nn.Module) -> bool:
    return all(p.equal(q) for p, q in zip(first.parameters(), second.parameters(), strict=True))


def sps(loss: float, gradients: list[Tensor], c: float, bound: float, gamma: float) -> float:
    squared = sum(float((g**2).sum()) for g in gradients)
    return min(max(loss - bound, 0.0) / (c * squared), gamma)


# Closed forms


@pytest.mark.parametrize("power", [1, 1.5, 2, 3, 4])
@pytest.mark.parametrize("c", [1.0, 0.5, 2.0])
def test_powers_of_the_distance_shrink_it_by_a_constant_factor(power: float, c: float) -> None:
    """L = ‖θ‖^p: h∇L = θ/(cp), with the norm over tensors and groups together."""
    p, q = parameter(3.0, -1.0), parameter(2.0)
    optimizer = CLR([{"params": [p]}, {"params": [q]}], c=c)
    for k in range(1, 5):
        train(optimizer, lambda: (p.square().sum() + q.square().sum()) ** (power / 2), 1)
        factor = (1 - 1 / (c * power)) ** k
        torch.testing.assert_close(
            torch.cat([p, q]).detach(), factor * torch.tensor([3.0, -1.0, 2.0], dtype=F64)
        )
        if factor == 0:
            break


@pytest.mark.parametrize("curvature", [1e-3, 1.0, 1e5])
def test_a_quadratic_loses_a_factor_of_4_a_step(curvature: float) -> None:
    p = parameter(3.0, -1.0)
    optimizer = CLR([p])
    losses = train(optimizer, lambda: curvature / 2 * p.square().sum(), 12)
    torch.testing.assert_close(torch.tensor(losses), losses[0] * 0.25 ** torch.arange(12.0))
    assert optimizer.rate == pytest.approx(1 / (2 * curvature), rel=1e-12)


CORRIDORS: dict[str, Callable[[Tensor], Tensor]] = {
    "distance to 0": lambda theta: theta.norm(),
    "distance to a point": lambda theta: (theta - torch.tensor([1.0, 2.0, 3.0], dtype=F64)).norm(),
    "distance to a plane": lambda theta: (theta @ torch.tensor([2.0, -3.0, 0.5], dtype=F64) - 0.7).abs(),
    "relu of a plane": lambda theta: torch.relu(theta @ torch.tensor([1.0, 4.0, 1.0], dtype=F64) + 9.0),
}


@pytest.mark.parametrize("name", CORRIDORS)
def test_corridors_are_solved_in_one_step(name: str) -> None:
    p = parameter(0.3, -0.8, 2.5)
    optimizer = CLR([p])
    assert train(optimizer, lambda: CORRIDORS[name](p), 1)[0] > 1
    assert float(CORRIDORS[name](p.detach())) < 1e-14


def test_steps_along_the_gradient_bring_the_linear_model_to_the_lower_bound() -> None:
    """L + ∇L·Δθ = ℓ*, whatever the loss."""
    model = network()
    x, y = next(batches(1))
    before = [p.detach().clone() for p in model.parameters()]
    optimizer = CLR(model.parameters(), lower_bound=0.2)
    (loss,) = train(optimizer, lambda: nn.functional.cross_entropy(model(x), y), 1)
    moved = sum(
        float((p.detach() - b).mul(p.grad).sum())
        for p, b in zip(model.parameters(), before, strict=True)
        if p.grad is not None
    )
    assert loss + moved == pytest.approx(0.2, abs=1e-12)


@pytest.mark.parametrize(
    ("gap", "norm", "settings", "rate"),
    [
        (3.0, 2.0, {}, 0.75),
        (3.0, 2.0, {"c": 0.5}, 1.5),
        (3.0, 2.0, {"max_lr": 0.1}, 0.1),
        (3.0, 2.0, {"c": 3.0, "max_lr": 0.3}, 0.25),
        (-1.0, 2.0, {}, 0.0),
        (0.0, 0.0, {}, 0.0),
        (1.0, 0.0, {"max_lr": 1.0}, 0.0),
        (1e-300, 1e-170, {}, 1e40),  # the square of 1e-170 is 0
        (1e300, 1e170, {}, 1e-40),  # and that of 1e170 infinite
        (1.0, 1e-200, {}, math.inf),
        (1.0, 1e-200, {"max_lr": 5.0}, 5.0),
    ],
)
def test_the_rate(gap: float, norm: float, settings: dict[str, float], rate: float) -> None:
    assert polyak_rate(gap, norm, **settings) == pytest.approx(rate, rel=1e-12)  # type: ignore[arg-type]


# Naive transcriptions


@pytest.mark.parametrize(
    ("c", "bound", "gamma"), [(1, 0, math.inf), (0.5, 0, 30.0), (2.0, 0.3, 0.4), (1, 0.5, math.inf)]
)
def test_sps_max_step_for_step(c: float, bound: float, gamma: float) -> None:
    ours, theirs = network(), network()
    optimizer = CLR(ours.parameters(), None if gamma == math.inf else gamma, bound, c=c)
    rates: list[float] = []

    def step(loss: float, gradients: list[Tensor], _: int) -> list[Tensor]:
        rates.append(sps(loss, gradients, c, bound, gamma))
        return [-rates[-1] * g for g in gradients]

    naive(theirs, 40, step)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some batches come below 0.3
        train_on_batches(ours, optimizer, 40)
    assert_close(ours, theirs)
    assert optimizer.rate == pytest.approx(rates[-1], rel=1e-9)
    assert len(set(rates)) > 3


def test_momentum_at_the_corridor_rate() -> None:
    """b ← 0.9 b + g;  θ ← θ − 0.1 h b."""
    ours, theirs = network(), network()
    buffers = [torch.zeros_like(p) for p in theirs.parameters()]

    def step(loss: float, gradients: list[Tensor], _: int) -> list[Tensor]:
        for b, g in zip(buffers, gradients, strict=True):
            b.mul_(0.9).add_(g)
        return [-0.1 * sps(loss, gradients, 1, 0, 5.0) * b for b in buffers]

    naive(theirs, 40, step)
    train_on_batches(ours, CLR(SGD(ours.parameters(), lr=0.1, momentum=0.9), 5.0), 40)
    assert_close(ours, theirs)


def test_e_at_the_corridor_rate_of_the_gradient_itself() -> None:
    """θ ← θ − h (g + αa) with a of E's paper, and h from g, not from g + αa."""
    ours, theirs = network(), network()
    alpha, beta = -2.0, 0.8
    before = [torch.zeros_like(p) for p in theirs.parameters()]
    a = [torch.zeros_like(p) for p in theirs.parameters()]

    def step(loss: float, gradients: list[Tensor], _: int) -> list[Tensor]:
        for a_i, g, g0 in zip(a, gradients, before, strict=True):
            a_i.mul_(beta).add_(g - g0, alpha=1 - beta)
            g0.copy_(g)
        h = sps(loss, gradients, 1, 0, 2.0)
        return [-h * (g + alpha * a_i) for g, a_i in zip(gradients, a, strict=True)]

    naive(theirs, 40, step)
    train_on_batches(ours, CLR(E(SGD(ours.parameters(), lr=1.0), alpha, beta), 2.0), 40)
    assert_close(ours, theirs)


def test_adamw_at_the_corridor_rate() -> None:
    """Adam's direction by hand, decoupled decay included."""
    ours, theirs = network(), network()
    m = [torch.zeros_like(p) for p in theirs.parameters()]
    v = [torch.zeros_like(p) for p in theirs.parameters()]

    def step(loss: float, gradients: list[Tensor], k: int) -> list[Tensor]:
        h, moves = 0.01 * sps(loss, gradients, 1, 0, 3.0), []
        for m_i, v_i, g, p in zip(m, v, gradients, theirs.parameters(), strict=True):
            m_i.mul_(0.9).add_(0.1 * g)
            v_i.mul_(0.999).add_(0.001 * g**2)
            direction = m_i / (1 - 0.9**k) / ((v_i / (1 - 0.999**k)).sqrt() + 1e-8)
            moves.append(-h * 0.02 * p - h * direction)
        return moves

    naive(theirs, 30, step)
    train_on_batches(ours, CLR(AdamW(ours.parameters(), lr=0.01, weight_decay=0.02), 3.0), 30)
    assert_close(ours, theirs)


# Where the bare rule diverges, and what mends it


def test_a_positive_minimum_makes_the_bare_rule_chaotic() -> None:
    """On (θ² + m²)/2 the rule is Newton's for a root of θ² + m²: θ = m cot φ goes to m cot 2φ and settles nowhere."""
    m, phi = 0.5, 1.0
    p = parameter(m / math.tan(phi))
    optimizer = CLR([p])
    rates = []
    for k in range(1, 16):
        train(optimizer, lambda: (p.square().sum() + m**2) / 2, 1)
        rates.append(optimizer.rate)
        assert p.item() == pytest.approx(m / math.tan(2**k * phi), rel=1e-8)
    assert max(rates) > 100 * min(rates)


@pytest.mark.parametrize(
    ("settings", "factor"),
    [({"lower_bound": 0.125}, 0.5), ({"max_lr": 0.4}, 0.6)],
)
def test_either_safeguard_mends_it(settings: dict[str, float], factor: float) -> None:
    """ℓ* = the least loss halves θ; a rate bounded by γ multiplies it by 1 − γ."""
    p = parameter(0.1)
    optimizer = CLR([p], **settings)  # type: ignore[arg-type]
    train(optimizer, lambda: p.square().sum() / 2 + 0.125, 8)
    assert p.item() == pytest.approx(0.1 * factor**8, rel=1e-6)


def test_data_that_no_weights_fit() -> None:
    """Logistic regression on overlapping classes: the bare rule keeps jumping, and both safeguards come to rest."""
    generator = torch.Generator().manual_seed(3)
    x = torch.randn(40, 2, generator=generator, dtype=F64)
    y = ((x[:, 0] + torch.randn(40, generator=generator, dtype=F64)) > 0).to(F64)

    def tail(**settings: float) -> list[float]:
        p = parameter(0.0, 0.0)
        return train(
            CLR([p], **settings),  # type: ignore[arg-type]
            lambda: nn.functional.binary_cross_entropy_with_logits(x @ p, y),
            300,
        )[-100:]

    capped = tail(max_lr=1.0)
    least = capped[-1]
    assert capped[0] - least < 1e-12
    assert min(tail(lower_bound=least)) - least < 1e-6
    assert max(tail()) > 2 * least


def test_separable_data_send_rate_and_parameters_to_infinity() -> None:
    """L = log(1 + exp(−θ)): steps of L/|L′| → 1 for ever, at rates that grow as exp θ. The loss itself falls to 0."""
    p = parameter(0.0)
    optimizer = CLR([p])
    losses = train(optimizer, lambda: nn.functional.softplus(-p).sum(), 60)
    assert p.item() > 59
    assert optimizer.rate > math.exp(58)
    assert losses[-1] < math.exp(-58)
    q = parameter(0.0)
    capped = CLR([q], max_lr=10.0)
    train(capped, lambda: nn.functional.softplus(-q).sum(), 60)
    assert capped.rate == 10
    assert q.item() < 8


# Factors, groups, and the base's own lr


@pytest.mark.parametrize("on", ["CLR", "base"])
def test_schedulers_set_a_relative_factor(on: str) -> None:
    p = parameter(8.0)
    base = SGD([p], lr=1.0)
    optimizer = CLR(base)
    scheduler = ExponentialLR(base if on == "base" else optimizer, 0.5)
    expected = 8.0
    for k in range(4):
        train(optimizer, lambda: p.square().sum() / 2, 1)
        expected *= 1 - 0.5**k / 2
        assert p.item() == pytest.approx(expected, rel=1e-12)
        assert optimizer.rate == pytest.approx(0.5)
        scheduler.step()
    assert base.param_groups[0]["lr"] == 0.5**4


def test_a_warm_up_from_zero() -> None:
    p = parameter(8.0)
    optimizer = CLR([p])
    scheduler = LambdaLR(optimizer, lambda k: min(1.0, k / 2))
    seen = []
    for _ in range(4):
        train(optimizer, lambda: p.square().sum() / 2, 1)
        seen.append(p.item())
        scheduler.step()
    assert seen == pytest.approx([8, 6, 3, 1.5])


def test_every_group_keeps_its_own_factor() -> None:
    p, q = parameter(1.0), parameter(1.0)
    optimizer = CLR([{"params": [p]}, {"params": [q], "lr": 0.5}])
    assert [group["lr"] for group in optimizer.param_groups] == [1.0, 0.5]
    train(optimizer, lambda: p.sum() + 2 * q.sum(), 1)  # L = 3, ‖∇L‖² = 5
    assert p.item() == pytest.approx(1 - 0.6)
    assert q.item() == pytest.approx(1 - 0.5 * 0.6 * 2)
    r = parameter(1.0)
    optimizer.add_param_group({"params": [r], "lr": 0.1})
    train(optimizer, lambda: 2 + r.sum(), 1)
    assert r.item() == pytest.approx(1 - 0.1 * 3)
    assert [group["lr"] for group in optimizer.param_groups] == [1.0, 0.5, 0.1]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_the_lr_is_put_back_if_the_base_raises(error: type[BaseException]) -> None:
    p = parameter(2.0)
    optimizer = CLR(SGD([p], lr=0.7))
    seen = []

    def fails(base: Optimizer, *_: Any) -> None:
        seen.append(base.param_groups[0]["lr"])
        raise error

    handle = optimizer.base.register_step_pre_hook(fails)
    with pytest.raises(error):
        train(optimizer, lambda: p.square().sum() / 2, 1)
    assert seen == pytest.approx([0.35])
    assert optimizer.param_groups[0]["lr"] == 0.7
    assert p.item() == 2
    handle.remove()
    train(optimizer, lambda: p.square().sum() / 2, 1)
    assert p.item() == pytest.approx(2 * (1 - 0.35))


def test_an_lr_that_is_a_tensor_stays_that_tensor() -> None:
    p, lr = parameter(2.0), torch.tensor(0.5, dtype=F64)
    optimizer = CLR(SGD([p], lr=lr))
    train(optimizer, lambda: p.square().sum() / 2, 1)
    assert p.item() == pytest.approx(2 * (1 - 0.25))
    assert optimizer.param_groups[0]["lr"] is lr
    assert lr.item() == 0.5


# Ways to give the loss


def test_a_loss_given_after_backward_is_a_closure() -> None:
    first, second = network(), network()
    one, two = CLR(first.parameters()), CLR(second.parameters())
    train_on_batches(first, one, 5)
    for x, y in batches(5):
        two.zero_grad()
        loss = nn.functional.cross_entropy(second(x), y)
        loss.backward()
        assert two.step(loss=loss) is loss
    assert all_equal(first, second)


def test_a_loss_given_as_a_number() -> None:
    p = parameter(3.0)
    p.grad = torch.full_like(p, 2.0)
    assert CLR([p]).step(loss=1) == 1
    assert p.item() == pytest.approx(2.5)


def test_the_closure_is_called_once_with_gradients_enabled_and_not_handed_on() -> None:
    p = parameter(4.0)
    optimizer = CLR([p])
    calls = []

    def closure() -> Tensor:
        calls.append(torch.is_grad_enabled())
        return closure_of(optimizer, lambda: p.square().sum())()

    with torch.no_grad():
        assert optimizer.step(closure).item() == 16
    assert calls == [True]
    assert p.item() == pytest.approx(2.0)


@pytest.mark.parametrize("unscale_first", [True, False])
def test_gradient_scaling(unscale_first: bool) -> None:
    plain, scaled = network(), network()
    expected, optimizer = CLR(plain.parameters()), CLR(scaled.parameters())
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12)
    for x, y in batches(6):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(scaled(x), y)
        scaler.scale(loss).backward()
        if unscale_first:
            scaler.unscale_(optimizer)
        scaler.step(optimizer, loss=loss)
        scaler.update()
    train_on_batches(plain, expected, 6)
    assert_close(plain, scaled)


def test_clipping_lengthens_steps() -> None:
    """A gradient shortened to a norm of 1 steps by L, a whole one by L/‖∇L‖."""
    moved = {}
    for clip in (math.inf, 1.0):
        p = parameter(3.0, 4.0)
        optimizer = CLR([p])
        loss = p.square().sum() / 2
        loss.backward()
        nn.utils.clip_grad_norm_([p], clip)
        optimizer.step(loss=loss)
        moved[clip] = float((p.detach() - torch.tensor([3.0, 4.0], dtype=F64)).norm())
    assert moved[math.inf] == pytest.approx(2.5)
    assert moved[1.0] == pytest.approx(12.5, rel=1e-5)


@pytest.mark.parametrize("wrapped", [False, True])
def test_maximizing_is_minimizing_the_negative(wrapped: bool) -> None:
    down, up = network(), network()
    low = CLR(down.parameters(), 0.7, 0.1, c=0.8)
    high = (
        CLR(SGD(up.parameters(), lr=1.0, maximize=True), 0.7, 0.1, c=0.8)
        if wrapped
        else CLR(up.parameters(), 0.7, 0.1, c=0.8, maximize=True)
    )
    for x, y in batches(10):
        train(low, lambda x=x, y=y: nn.functional.cross_entropy(down(x), y), 1)  # type: ignore[misc]
        train(high, lambda x=x, y=y: -nn.functional.cross_entropy(up(x), y), 1)  # type: ignore[misc]
        assert low.rate == high.rate > 0
    assert all_equal(down, up)


# The ends of the range


def test_a_lower_bound_that_is_too_high_is_said_once_and_stops_the_steps() -> None:
    p = parameter(1.0)
    optimizer = CLR([p], lower_bound=3.0)
    with pytest.warns(
        RuntimeWarning, match=r"lower_bound=3.0 is too high: the loss to minimize is 0.5"
    ) as said:
        train(optimizer, lambda: p.square().sum() / 2, 3)
    assert len(said) == 1
    assert (p.item(), optimizer.rate) == (1.0, 0.0)
    train(optimizer, lambda: p.square().sum() / 2 + 7, 1)
    assert optimizer.rate == 4.5


def test_a_zero_gradient_stays() -> None:
    p, q = parameter(0.0), parameter(1.0)
    q.requires_grad_(False)
    optimizer = CLR([p, q])
    train(optimizer, lambda: p.square().sum() + 5, 2)
    assert (p.item(), q.item(), optimizer.rate) == (0.0, 1.0, 0.0)
    optimizer.zero_grad()
    optimizer.step(loss=2.0)  # no gradient anywhere
    assert (p.item(), optimizer.rate) == (0.0, 0.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["gradient", "loss"])
def test_a_step_that_is_not_finite_is_skipped_and_said(bad: float, where: str) -> None:
    p, q = parameter(1.0, 2.0), parameter(3.0)
    optimizer = CLR(SGD([p, q], lr=0.1, momentum=0.9))

    def step(extra: float = 0.0, slope: float = 0.0) -> None:
        optimizer.zero_grad()
        loss = p.square().sum() + q.square().sum()
        loss.backward()
        assert q.grad is not None
        q.grad += slope
        optimizer.step(loss=loss.detach() + extra)

    def everything() -> str:
        return repr((p.tolist(), q.tolist(), optimizer.state_dict()))

    step()
    before = everything()
    reason = "a gradient is not finite" if where == "gradient" else f"the loss is {bad}"
    with pytest.warns(RuntimeWarning, match=f"step skipped: {reason}"):
        step(**{"slope" if where == "gradient" else "extra": bad})
    assert everything() == before
    step()
    assert everything() != before


@pytest.mark.parametrize(("slope", "loss"), [(1e-25, 1e-20), (1e-30, 1e-38), (1e25, 1e30)])
def test_gradients_whose_squares_float32_cannot_hold(slope: float, loss: float) -> None:
    p = parameter(0.0, 0.0, dtype=torch.float32)
    p.grad = torch.tensor([3 * slope, 4 * slope])
    optimizer = CLR([p])
    optimizer.step(loss=loss)
    assert optimizer.rate == pytest.approx(loss / (25 * slope**2), rel=1e-5)
    assert p.tolist() == pytest.approx([-3 * loss / 25 / slope, -4 * loss / 25 / slope], rel=1e-5)


@pytest.mark.parametrize(
    "slope", [1.0, 16384.0]
)  # of norms that need more digits, and more than float16 reaches
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_does_not_round_the_rate(dtype: torch.dtype, slope: float) -> None:
    p = nn.Parameter(torch.zeros(63, dtype=dtype))
    p.grad = torch.full((63,), slope, dtype=dtype)
    optimizer = CLR([p])
    optimizer.step(loss=5.0)
    assert optimizer.rate == pytest.approx(5 / (63 * slope**2), rel=1e-12)


@pytest.mark.parametrize(
    ("dtype", "slope"), [(torch.float32, 1e-22), (torch.float16, 2e-4), (F64, 1e-160), (torch.float32, 1e-40)]
)
def test_a_rate_beyond_the_dtype_is_skipped_and_said_unless_bounded(dtype: torch.dtype, slope: float) -> None:
    """Without this an infinite rate would make NaN of the parameter whose gradient is 0, or the base raise."""
    p, q = parameter(1.0, dtype=dtype), parameter(1.0, dtype=dtype)
    p.grad, q.grad = torch.full_like(p, slope), torch.zeros_like(q)
    optimizer = CLR(SGD([p, q], lr=1.0, momentum=0.5))
    before = repr(optimizer.state_dict())
    with pytest.warns(
        RuntimeWarning, match=r"step skipped: the rate .* overflows; .* give max_lr, or raise lower_bound"
    ):
        optimizer.step(loss=1.0)
    assert (p.item(), q.item()) == (1, 1)
    assert repr(optimizer.state_dict()) == before
    CLR([p, q], max_lr=100.0).step(loss=1.0)
    assert p.item() == pytest.approx(1 - 100 * slope, rel=1e-3)
    assert q.item() == 1


def test_a_factor_counts_towards_the_overflow() -> None:
    p = parameter(1.0, dtype=torch.float32)
    p.grad = torch.full_like(p, 1e-17)
    CLR(SGD([p], lr=1.0)).step(loss=1.0)
    at = p.item()
    with pytest.warns(RuntimeWarning, match="overflows"):
        CLR(SGD([p], lr=1e6)).step(loss=1.0)
    assert p.item() == at


# The contract of an optimizer


def through_a_file(state: dict[str, Any]) -> dict[str, Any]:
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_the_rate_is_kept() -> None:
    p = parameter(1.0)
    optimizer = CLR([p], max_lr=0.9)
    assert math.isnan(optimizer.rate)
    train(optimizer, lambda: p.square().sum() / 2, 1)
    assert optimizer.rate == 0.5
    other = CLR([parameter(3.0)])
    other.load_state_dict(through_a_file(optimizer.state_dict()))
    assert (other.rate, other.max_lr) == (0.5, 0.9)
    assert repr(other).startswith("CLR(max_lr=0.9, lower_bound=0.0, c=1.0, rate=0.5, base=SGD (")


def test_a_state_dict_resumes_bit_for_bit() -> None:
    def made(model: nn.Module, *settings: float) -> CLR:
        return CLR(E(SGD(model.parameters(), lr=0.1, momentum=0.9), -2.0, 0.8), *settings)

    whole, first, second = network(), network(), network(seed=1)
    whole_optimizer, stopped, resumed = made(whole, 3.0, 0.01), made(first, 3.0, 0.01), made(second)
    train_on_batches(whole, whole_optimizer, 9)
    train_on_batches(whole, whole_optimizer, 11, seed=5)
    train_on_batches(first, stopped, 9)
    second.load_state_dict(first.state_dict())
    resumed.load_state_dict(through_a_file(stopped.state_dict()))
    train_on_batches(second, resumed, 11, seed=5)
    assert all_equal(second, whole)
    assert resumed.rate == whole_optimizer.rate


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda both: pickle.loads(pickle.dumps(both))])
def test_copies_go_on_alone_and_alike(copied: Callable[[Any], Any]) -> None:
    model = network()
    optimizer = CLR(SGD(model.parameters(), lr=0.1, momentum=0.9), 3.0)
    train_on_batches(model, optimizer, 5)
    model2, optimizer2 = copied((model, optimizer))
    assert optimizer2.rate == optimizer.rate
    train_on_batches(model2, optimizer2, 5, seed=7)
    assert not all_equal(model, model2)
    train_on_batches(model, optimizer, 5, seed=7)
    assert all_equal(model, model2)


# Errors


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_lr": 0.0}, "max_lr must be positive, or None for no bound, got 0.0."),
        ({"max_lr": math.nan}, "max_lr must be positive, or None for no bound, got nan."),
        ({"lower_bound": math.nan}, "lower_bound must be a finite number, got nan;"),
        ({"lower_bound": -math.inf}, "lower_bound must be a finite number, got -inf;"),
        ({"c": 0.0}, "c must be in (0, inf), got 0.0."),
        ({"c": math.nan}, "c must be in (0, inf), got nan."),
    ],
)
def test_settings_outside_their_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        CLR([parameter(1.0)], **settings)
    assert message in str(error.value)


def test_bases_that_cannot_be_used() -> None:
    p = parameter(1.0)
    with pytest.raises(InputError, match="LBFGS calls a closure several times a step"):
        CLR(torch.optim.LBFGS([p]))
    with pytest.raises(
        InputError, match="maximize must be said to the base optimizer, got maximize=True beside a SGD"
    ):
        CLR(SGD([p], lr=1.0), maximize=True)
    optimizer = CLR([p])
    with pytest.raises(InputError, match="maximize must be the same in every group"):
        optimizer.add_param_group({"params": [parameter(1.0)], "maximize": True})
    assert len(optimizer.param_groups) == 1
    base = SGD([p], lr=1.0)
    del base.param_groups[0]["lr"]
    with pytest.raises(InputError, match="the base optimizer must have an lr in every group"):
        CLR(base)


def test_the_loss_must_be_given_in_one_way() -> None:
    p = parameter(1.0)
    optimizer = CLR([p])
    p.grad = torch.ones_like(p)
    with pytest.raises(InputError, match="step must be given the loss in one way, got neither: a closure"):
        optimizer.step()
    with pytest.raises(InputError, match="step must be given the loss in one way, got both"):
        optimizer.step(lambda: p.sum(), loss=1.0)
    with pytest.raises(InputError, match=r"the loss must be one number, got shape \(2,\)"):
        optimizer.step(loss=torch.ones(2))
    with pytest.raises(InputError, match="closure must return the loss, got None"):
        optimizer.step(lambda: None)
    assert p.item() == 1


def test_it_goes_around_other_adaptors_not_inside() -> None:
    with pytest.raises(InputError, match=r"CLR needs the loss as well; put it outside, CLR\(…\) around"):
        E(CLR([parameter(1.0)]))


def test_sparse_gradients_are_refused_before_anything_moves() -> None:
    p, table = parameter(1.0), nn.Embedding(4, 2, sparse=True)
    optimizer = CLR([p, table.weight])
    loss = table(torch.tensor([1])).sum() + p.sum()
    loss.backward()
    with pytest.raises(InputError, match=r"gradients must be dense, got a sparse one .* shape \(4, 2\)"):
        optimizer.step(loss=loss)
    assert p.item() == 1

"""RS and SA against their algorithms written out naively, and the contract of a torch optimizer."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD
from torch.optim.lr_scheduler import ExponentialLR
from training import going_on

from landscape import InputError, Objective, model_objective
from optimizers.closures import DataClosure, ObjectiveClosure, scaled_closure
from optimizers.perturbed_descent import PerturbedDescent, without
from optimizers.sharpness_aware import TINY, SharpnessAwarePerturbation
from optimizers.smoothed import SmoothedPerturbation

F64 = torch.float64
EXAMPLES = 7
Algorithm = type[SmoothedPerturbation] | type[SharpnessAwarePerturbation]
BOTH = pytest.mark.parametrize("algorithm", [SmoothedPerturbation, SharpnessAwarePerturbation])


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def data(seed: int = 1) -> tuple[Tensor, Tensor]:
    g = generator(seed)
    return tuple(torch.randn(EXAMPLES, n, generator=g, dtype=F64) for n in (4, 2))  # pyright: ignore[reportReturnType]


def network(seed: int = 0) -> nn.Sequential:
    g = generator(seed)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)).to(F64)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=g, dtype=F64))
    return model


def closure_of(model: nn.Module, *, piece: int | None = None) -> DataClosure:
    return DataClosure(model, nn.functional.mse_loss, data(), piece=piece)


def theta_of(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def loss_over(model: nn.Module, chosen: Tensor | slice = slice(None)) -> Objective:
    inputs, targets = data()
    return model_objective(model, nn.functional.mse_loss, [(inputs[chosen], targets[chosen])])


# The algorithms, line by line


def naive(
    aside: Callable[[Tensor], Tensor],
    f: Objective,
    x: Tensor,
    *,
    eta: float,
    gate: float,
    eta_descent: float,
    steps: int,
    project: bool = True,
) -> tuple[list[Tensor], int]:
    """The iterates of either algorithm, and how often the gate was open; aside(x) is the gradient nearby."""
    iterates, opened = [], 0
    for _ in range(steps):
        g = f.grad(x)
        if g.norm() <= gate:
            v = aside(x)
            if project:
                v = v - g * (g @ v) / (g @ g)
            x, opened = x - eta * (g + v), opened + 1
        else:
            x = x - eta_descent * g
        iterates.append(x)
    return iterates, opened


def stepped(optimizer: PerturbedDescent, closure: DataClosure, steps: int) -> list[Tensor]:
    """The parameters after each step."""
    iterates = []
    for _ in range(steps):
        optimizer.step(closure)
        iterates.append(theta_of(closure.model))
    return iterates


@pytest.mark.parametrize("project", [True, False])
@pytest.mark.parametrize("gate", [math.inf, 0.5, 0.0])
def test_algorithm_1(gate: float, project: bool) -> None:
    model, draws = network(), generator(3)
    f, shapes = loss_over(model), [p.shape for p in model.parameters()]

    def aside(x: Tensor) -> Tensor:
        u = torch.cat([torch.randn(shape, generator=draws, dtype=F64).flatten() for shape in shapes])
        return f.grad(x + 0.3 * u / u.norm())

    settings = {"eta": 0.05, "gate": gate, "eta_descent": 0.1, "steps": 60}
    expected, opened = naive(aside, f, theta_of(model), **settings, project=project)
    assert opened == {math.inf: 60, 0.0: 0}.get(gate, opened)
    assert (gate == 0.5) == (0 < opened < 60)
    optimizer = SmoothedPerturbation(
        model.parameters(), 0.05, 0.3, gate, 0.1, project=project, generator=generator(3)
    )
    found = stepped(optimizer, closure_of(model), 60)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("project", [True, False])
@pytest.mark.parametrize("batch_size", [1, 3, EXAMPLES, None])
@pytest.mark.parametrize("gate", [math.inf, 0.5])
def test_algorithm_2(batch_size: int | None, gate: float, project: bool) -> None:
    model, draws = network(), generator(3)
    start, f = theta_of(model), loss_over(network())

    def aside(x: Tensor) -> Tensor:
        if batch_size == 1:
            chosen: Tensor | slice = torch.randint(EXAMPLES, (1,), generator=draws)
        elif batch_size == 3:
            chosen = torch.randperm(EXAMPLES, generator=draws)[:3]
        else:
            chosen = slice(None)
        sigma = 1 if torch.randint(2, (), generator=draws) == 1 else -1
        f_i = loss_over(network(), chosen)
        own = f_i.grad(x)
        return f_i.grad(x + 0.3 * sigma * own / own.norm())

    settings = {"eta": 0.03, "gate": gate, "eta_descent": 0.1, "steps": 40}
    expected, opened = naive(aside, f, start, **settings, project=project)
    assert (gate == 0.5) == (opened < 40)
    assert opened > 0
    optimizer = SharpnessAwarePerturbation(
        model.parameters(),
        0.03,
        0.3,
        gate,
        0.1,
        batch_size=batch_size,
        project=project,
        generator=generator(3),
    )
    found = stepped(optimizer, closure_of(model), 40)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("batch_size", "gradients"), [(1, 9), (3, 13), (EXAMPLES, 14), (None, 14)])
def test_the_cost_of_a_step_in_examples(batch_size: int | None, gradients: int) -> None:
    closure = closure_of(network())
    optimizer = SharpnessAwarePerturbation(
        closure.model.parameters(), 0.1, 0.1, batch_size=batch_size, generator=generator()
    )
    optimizer.step(closure)
    assert closure.spent == {"gradients": gradients, "losses": 0}


@BOTH
def test_without_distance_it_is_gradient_descent(algorithm: Algorithm) -> None:
    settings: dict[str, Any] = {} if algorithm is SmoothedPerturbation else {"batch_size": None}
    first, second = closure_of(network()), closure_of(network())
    optimizer = algorithm(first.model.parameters(), 0.1, 0.0, **settings)
    plain = SGD(second.model.parameters(), lr=0.1)
    for _ in range(20):
        optimizer.step(first)
        plain.step(second)
    torch.testing.assert_close(theta_of(first.model), theta_of(second.model), rtol=1e-12, atol=1e-13)


def test_the_projection() -> None:
    g = generator()
    v, along = ([torch.randn(n, generator=g, dtype=F64) for n in (3, 5)] for _ in range(2))
    flat_v, flat_along = torch.cat(v), torch.cat(along)
    left = torch.cat(without(v, along))
    assert abs(float(left @ flat_along)) < 1e-14
    torch.testing.assert_close(flat_v - left, flat_along * (flat_v @ flat_along) / flat_along.square().sum())
    zero = [torch.zeros_like(t) for t in along]
    assert all(a.equal(b) for a, b in zip(without(v, zero), v, strict=True))


def test_an_example_without_gradient_takes_its_direction_a_tiny_way_off() -> None:
    """f = ½(yᵀz − 1)² on its floor: ∇f is exactly 0, and near by it points along (z, y) or against it."""
    start = torch.tensor([2.0, 0.0, 0.5, 1.0], dtype=F64)
    seen = []

    def f(x: Tensor) -> Tensor:
        seen.append(x.detach().clone())
        return (x[:2] @ x[2:] - 1) ** 2 / 2

    x = nn.Parameter(start.clone())
    optimizer = SharpnessAwarePerturbation([x], 0.01, 0.1, batch_size=None, generator=generator())
    optimizer.step(ObjectiveClosure(Objective([f], 4), x))
    first, tiny, last = seen
    assert first.equal(start)
    torch.testing.assert_close((tiny - start).norm(), torch.tensor(0.1 * TINY, dtype=F64))
    torch.testing.assert_close((last - start).norm(), torch.tensor(0.1, dtype=F64))
    normal = start.roll(2) / start.norm()
    assert abs(float((last - start) @ normal)) > 0.0999
    assert not x.detach().equal(start)


def test_an_example_that_is_flat_everywhere_is_passed_over() -> None:
    x = nn.Parameter(torch.ones(3, dtype=F64))
    optimizer = SharpnessAwarePerturbation([x], 0.1, 0.1, generator=generator())
    objective = Objective([lambda x: x.square().sum() / 2, lambda x: (0 * x).sum()], 3)
    closure = ObjectiveClosure(objective, x)
    for _ in range(20):
        optimizer.step(closure)
    assert x.isfinite().all()
    torch.testing.assert_close(x.detach().norm(), torch.tensor(3**0.5 * 0.9**20, dtype=F64))


def test_on_a_plateau_the_gradient_is_taken_at_the_edge_of_the_ball_in_a_random_direction() -> None:
    """f is flat within 0.05 of the start: neither there nor ρ/100 away is there a direction, but ρ away there is a slope."""
    start, seen = torch.tensor([1.0, 2.0, 3.0], dtype=F64), []

    def f(x: Tensor) -> Tensor:
        seen.append(x.detach() - start)
        return (x - start).square().sum().sub(0.05**2).clamp_min(0)

    x = nn.Parameter(start.clone())
    optimizer = SharpnessAwarePerturbation([x], 0.01, 0.1, batch_size=None, generator=generator())
    optimizer.step(ObjectiveClosure(Objective([f], 3), x))
    torch.testing.assert_close(seen[-1].norm(), torch.tensor(0.1, dtype=F64))
    torch.testing.assert_close(x.detach() - start, -0.01 * 2 * seen[-1])


# The iterate in the end


@BOTH
def test_the_random_iterate_is_uniform(algorithm: Algorithm) -> None:
    x, draws = nn.Parameter(torch.ones(2, dtype=F64)), generator()
    closure = ObjectiveClosure(Objective([lambda x: x.square().sum()] * 2, 2), x)
    repeats, steps, chosen = 1500, 4, []
    for _ in range(repeats):
        with torch.no_grad():
            x.fill_(1.0)
        optimizer = algorithm([x], 0.1, 0.1, iterate="random", generator=draws)
        iterates = []
        for _ in range(steps):
            optimizer.step(closure)
            iterates.append(x.detach().clone())
        optimizer.finish()
        chosen += [i for i, iterate in enumerate(iterates) if iterate.equal(x.detach())]
    counts = torch.bincount(torch.tensor(chosen), minlength=steps).double()
    assert counts.sum() == repeats
    z = (counts - repeats / steps) / (repeats * (1 / steps) * (1 - 1 / steps)) ** 0.5
    assert z.abs().max() < 3.5


@BOTH
def test_finish_leaves_the_last_iterate_unless_told_otherwise(algorithm: Algorithm) -> None:
    closure = closure_of(network())
    optimizer = algorithm(closure.model.parameters(), 0.1, 0.1)
    optimizer.finish()
    last = stepped(optimizer, closure, 3)[-1]
    optimizer.finish()
    assert theta_of(closure.model).equal(last)
    assert not optimizer.state  # and keeps no buffer


def test_a_parameter_that_joins_late_ends_at_an_iterate_of_its_own() -> None:
    p, q = (nn.Parameter(torch.full((1,), value, dtype=F64)) for value in (1.0, 2.0))
    optimizer = SmoothedPerturbation([p], 0.1, 0.1, iterate="random", generator=generator(2))

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (p**2 + q**2).sum()
        loss.backward()
        return loss.detach()

    for _ in range(5):
        optimizer.step(closure)
    optimizer.add_param_group({"params": [q]})
    q_iterates = []
    for _ in range(3):
        optimizer.step(closure)
        q_iterates.append(q.item())
    optimizer.finish()
    assert q.item() in q_iterates


# The contract of an optimizer


@BOTH
def test_uneven_pieces_give_what_one_piece_gives(algorithm: Algorithm) -> None:
    whole, pieces = closure_of(network()), closure_of(network(), piece=3)
    for closure in (whole, pieces):
        settings: dict[str, Any] = {} if algorithm is SmoothedPerturbation else {"batch_size": 5}
        optimizer = algorithm(closure.model.parameters(), 0.05, 0.3, generator=generator(), **settings)
        stepped(optimizer, closure, 10)
    torch.testing.assert_close(theta_of(whole.model), theta_of(pieces.model), rtol=1e-11, atol=1e-12)


@BOTH
def test_the_loss_at_the_start_is_returned_and_the_full_gradient_left(algorithm: Algorithm) -> None:
    closure = closure_of(network())
    start, f = theta_of(closure.model), loss_over(network())
    loss = algorithm(closure.model.parameters(), 0.1, 0.3).step(closure)
    torch.testing.assert_close(loss, f(start))
    g = torch.cat([torch.as_tensor(p.grad).flatten() for p in closure.model.parameters()])
    torch.testing.assert_close(g, f.grad(start))


@BOTH
def test_rates_and_signs_of_groups_and_schedulers(algorithm: Algorithm) -> None:
    """From one point with one draw, a group's step is its rate times what a plain optimizer moves by."""

    def move(grouped: bool, gate: float) -> list[Tensor]:
        model, draws = network(), generator()
        *rest, bias = model.parameters()
        groups = [{"params": rest}, {"params": [bias], "lr": 0.3, "descent_lr": 0.7, "maximize": True}]
        optimizer = algorithm(groups if grouped else model.parameters(), 0.1, 0.3, gate, generator=draws)
        scheduler = ExponentialLR(optimizer, 0.25)
        start = [p.detach().clone() for p in model.parameters()]
        if grouped:
            optimizer.step(closure_of(model))
            scheduler.step()
            nn.utils.vector_to_parameters(theta_of(network()), model.parameters())
            draws.manual_seed(0)
        optimizer.step(closure_of(model))
        return [p.detach() - b for p, b in zip(model.parameters(), start, strict=True)]

    for gate, last in ((math.inf, -3 * 0.25), (0.0, -7.0)):  # η is scheduled, η′ where it is given is not
        for i, (one, other) in enumerate(zip(move(True, gate), move(False, gate), strict=True)):
            torch.testing.assert_close(one, other * (last if i == 3 else 0.25), rtol=1e-9, atol=1e-12)


@BOTH
def test_frozen_parameters_are_neither_perturbed_nor_moved(algorithm: Algorithm) -> None:
    model = network()
    first = next(model.parameters()).requires_grad_(False)
    seen = []
    model.register_forward_hook(lambda *_: seen.append(first.detach().clone()))
    before = first.detach().clone()
    stepped(algorithm(model.parameters(), 0.1, 0.3), closure_of(model), 2)
    assert len(seen) >= 4
    assert all(value.equal(before) for value in [*seen, first.detach()])
    assert first.grad is None


@BOTH
@pytest.mark.parametrize("evaluation", ["first", "later"])
@pytest.mark.parametrize("what", ["loss", "gradient", "interrupt"])
def test_an_evaluation_that_fails_changes_nothing(algorithm: Algorithm, evaluation: str, what: str) -> None:
    closure = closure_of(network())
    optimizer = algorithm(closure.model.parameters(), 0.1, 0.3, iterate="random", generator=generator())
    fail_at = [-1]

    def failing(whole: Callable[[], Tensor]) -> Callable[[], Tensor]:
        def evaluate() -> Tensor:
            loss = whole()
            fail_at[0] -= 1
            if fail_at[0] == 0:
                if what == "interrupt":
                    raise KeyboardInterrupt
                for p in closure.model.parameters() if what == "gradient" else ():
                    torch.as_tensor(p.grad).view(-1)[-1] = math.nan
                return loss * math.inf if what == "loss" else loss
            return loss

        return evaluate

    def step() -> None:
        if isinstance(optimizer, SharpnessAwarePerturbation):
            optimizer.step(failing(closure), lambda n, g: failing(closure.sample(n, g)))
        else:
            optimizer.step(failing(closure))

    def everything() -> list[Tensor]:
        drawn = [optimizer.state[p]["drawn"].clone() for p in closure.model.parameters()]
        return [theta_of(closure.model), *drawn, torch.tensor(optimizer.steps)]

    step()
    step()
    last = 2 if algorithm is SmoothedPerturbation else 3
    for at in [1] if evaluation == "first" else range(2, last + 1):
        before, fail_at[0] = everything(), at
        if what == "interrupt":
            with pytest.raises(KeyboardInterrupt):
                step()
        else:
            reason = "the loss is inf" if what == "loss" else "a gradient is not finite"
            with pytest.warns(RuntimeWarning, match=f"step skipped: {reason}"):
                step()
        assert all(a.equal(b) for a, b in zip(everything(), before, strict=True))
        step()
        assert not theta_of(closure.model).equal(before[0])


@BOTH
@pytest.mark.parametrize("copied", ["file", "deepcopy"])
def test_a_state_resumes_bit_for_bit(algorithm: Algorithm, copied: str) -> None:
    def made(model: nn.Module, seed: int, **settings: Any) -> PerturbedDescent:
        return algorithm(model.parameters(), generator=generator(seed), **settings)

    settings = {"lr": 0.05, "rho": 0.3, "gate": 2.0, "descent_lr": 0.1, "iterate": "random"}
    whole, first = closure_of(network()), closure_of(network())
    uninterrupted = made(whole.model, 5, **settings)
    stepped(uninterrupted, whole, 12)
    stopped = made(first.model, 5, **settings)
    stepped(stopped, first, 7)
    # The state dict brings the settings.
    second, resumed = going_on(copied, first, stopped, lambda second: made(second.model, 99, lr=7.0, rho=1.0))
    stepped(resumed, second, 5)
    assert theta_of(second.model).equal(theta_of(whole.model))
    for optimizer in (uninterrupted, resumed):
        optimizer.finish()
    assert theta_of(second.model).equal(theta_of(whole.model))
    assert resumed.steps == 12


def test_scaled_losses_give_the_same_steps() -> None:
    plain, scaled = closure_of(network()), closure_of(network())
    optimizer = SharpnessAwarePerturbation(plain.model.parameters(), 0.05, 0.3, generator=generator())
    stepped(optimizer, plain, 5)
    other = SharpnessAwarePerturbation(scaled.model.parameters(), 0.05, 0.3, generator=generator())
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)

    def loss_on(inputs: Tensor, targets: Tensor) -> Callable[[], Tensor]:
        return lambda: nn.functional.mse_loss(scaled.model(inputs), targets)

    for _ in range(5):
        whole = scaled_closure(loss_on(*data()), scaler, other)
        other.step(whole, lambda n, g: scaled_closure(loss_on(*scaled.sample(n, g).data), scaler, other))
        scaler.update()
    torch.testing.assert_close(theta_of(scaled.model), theta_of(plain.model), rtol=1e-12, atol=1e-13)


# Errors


@BOTH
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": -1.0}, "lr must be in [0, inf), got -1.0."),
        ({"rho": math.inf}, "rho must be in [0, inf), got inf."),
        ({"gate": math.nan}, "gate must be at least 0 (math.inf opens it for every gradient), got nan."),
        ({"descent_lr": -0.1}, "descent_lr must be in [0, inf), got -0.1."),
        ({"iterate": "best"}, "iterate must be one of 'last', 'random', got 'best'."),
    ],
)
@pytest.mark.parametrize("place", ["constructor", "group"])
def test_settings_outside_their_range(
    algorithm: Algorithm, settings: dict[str, Any], message: str, place: str
) -> None:
    optimizer, more = algorithm([nn.Parameter(torch.ones(1))], 0.1, 0.1), nn.Parameter(torch.ones(1))
    make: Callable[[], object] = lambda: algorithm([more], **{"lr": 0.1, "rho": 0.1, **settings})  # noqa: E731
    if place == "group":
        make = lambda: optimizer.add_param_group({"params": [more], **settings})  # noqa: E731
    with pytest.raises(InputError) as error:
        make()
    assert len(optimizer.param_groups) == 1
    assert str(error.value) == message


@pytest.mark.parametrize("value", [0, 1.5, True])
def test_the_batch_is_a_number_of_examples(value: Any) -> None:
    with pytest.raises(InputError, match="batch_size must be a whole number of at least 1, got"):
        SharpnessAwarePerturbation([nn.Parameter(torch.ones(1))], 0.1, 0.1, batch_size=value)


@pytest.mark.parametrize(
    "settings",
    [{"rho": 0.2}, {"gate": 1.0}, {"project": False}, {"iterate": "random"}, {"batch_size": 2}],
)
def test_what_is_for_all_parameters_is_the_same_in_every_group(settings: dict[str, Any]) -> None:
    p, q = nn.Parameter(torch.ones(1)), nn.Parameter(torch.ones(1))
    (name,) = settings
    with pytest.raises(InputError, match=f"{name} is for all parameters together and must be the same"):
        SharpnessAwarePerturbation([{"params": [p]}, {"params": [q], **settings}], 0.1, 0.1)


def test_single_examples_must_come_from_somewhere() -> None:
    x = nn.Parameter(torch.ones(2))

    def closure() -> Tensor:
        x.grad = x.detach().clone()
        return x.detach().square().sum() / 2

    with pytest.raises(InputError, match="sample must be given, since the closure has none"):
        SharpnessAwarePerturbation([x], 0.1, 0.1).step(closure)
    assert x.detach().equal(torch.ones(2))
    SharpnessAwarePerturbation([x], 0.1, 0.1, batch_size=None).step(closure)
    assert not x.detach().equal(torch.ones(2))


@BOTH
@pytest.mark.parametrize("lacking", [("steps",), ("steps", "generator")])
def test_the_state_of_another_optimizer_is_refused(algorithm: Algorithm, lacking: Sequence[str]) -> None:
    x = nn.Parameter(torch.ones(2))
    optimizer = algorithm([x], 0.1, 0.1)
    state = {key: value for key, value in optimizer.state_dict().items() if key not in lacking}
    with pytest.raises(InputError, match=f"must be one of {algorithm.__name__}, but it lacks {lacking[0]}"):
        optimizer.load_state_dict(state)
    whole = optimizer.state_dict()
    with pytest.raises(InputError, match="random numbers of another device than cpu"):
        optimizer.load_state_dict({**whole, "generator": torch.zeros(16, dtype=torch.uint8)})

"""Closures against autograd on all data at once, plain gradient descent, and exact expectations of what they sample."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from scipy.stats import chisquare
from torch import Tensor, nn
from torch.optim import SGD

from landscape import InputError, Objective
from landscape.potentials import muller_brown
from optimizers import SAM, DataClosure, ObjectiveClosure, scaled_closure

F64 = torch.float64
EXAMPLES = 10


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def data() -> tuple[Tensor, Tensor]:
    generator = seeded()
    return torch.randn(EXAMPLES, 3, generator=generator, dtype=F64), torch.randn(
        EXAMPLES, 2, generator=generator, dtype=F64
    )


def network() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).to(F64)
    generator = seeded(1)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=F64))
    return model


def mse(output: Tensor, target: Tensor) -> Tensor:
    return (output - target).square().mean()


def gradient(model: nn.Module) -> Tensor:
    return torch.cat([torch.as_tensor(p.grad).reshape(-1) for p in model.parameters()]).clone()


def exact(model: nn.Module) -> tuple[Tensor, Tensor]:
    x, y = data()
    loss = mse(model(x), y)
    return loss.detach(), torch.cat(
        [g.reshape(-1) for g in torch.autograd.grad(loss, list(model.parameters()))]
    )


# Data


@pytest.mark.parametrize("piece", [None, 1, 3, 4, 10, 99])
def test_pieces_of_any_size_give_the_mean_over_all_examples(piece: int | None) -> None:
    model = network()
    closure = DataClosure(model, mse, data(), piece=piece)
    loss, expected = exact(model)
    for _ in range(2):  # gradients of the first time do not add up
        torch.testing.assert_close(closure(), loss, rtol=1e-14, atol=0)
        torch.testing.assert_close(gradient(model), expected, rtol=1e-13, atol=1e-15)
    torch.testing.assert_close(closure.loss(), loss, rtol=1e-14, atol=0)


def test_batches_may_be_mappings_and_losses_the_models_own() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network()

        def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
            return {"loss": mse(self.inner(x), labels)}

    model, (x, y) = Own(), data()
    closure = DataClosure(model, None, {"x": x, "labels": y}, piece=4)
    loss, expected = exact(model.inner)
    torch.testing.assert_close(closure(), loss, rtol=1e-14, atol=0)
    torch.testing.assert_close(gradient(model), expected, rtol=1e-13, atol=1e-15)
    one = closure.sample(1, seeded(3))
    index = int(torch.randint(EXAMPLES, (1,), generator=seeded(3)))
    torch.testing.assert_close(one.loss(), mse(model.inner(x[index]), y[index]).detach())


def test_the_loss_alone_leaves_the_gradients_and_makes_no_graph() -> None:
    model = network()
    closure = DataClosure(model, mse, data(), piece=4)
    closure()
    before = [p.grad for p in model.parameters()]
    kept = gradient(model)
    assert not closure.loss().requires_grad
    assert all(p.grad is g for p, g in zip(model.parameters(), before, strict=True))
    assert gradient(model).equal(kept)


def test_one_example_is_drawn_uniformly() -> None:
    model, (x, y) = network(), data()
    closure, generator = DataClosure(model, mse, (x, y)), seeded()
    of_each = torch.stack([mse(model(x[i]), y[i]).detach() for i in range(EXAMPLES)])
    drawn = [
        int((of_each - closure.sample(1, generator).loss()).abs().argmin()) for _ in range(400 * EXAMPLES)
    ]
    counts = torch.bincount(torch.tensor(drawn), minlength=EXAMPLES)
    assert chisquare(counts.numpy()).pvalue > 0.01
    assert closure.sample(EXAMPLES, generator) is closure
    assert closure.sample(EXAMPLES + 1, generator) is closure


def test_the_mean_gradient_of_single_examples_is_the_full_one() -> None:
    model = network()
    closure = DataClosure(model, mse, data())
    of_each: dict[float, Tensor] = {}
    generator = seeded()
    while len(of_each) < EXAMPLES:
        loss = closure.sample(1, generator)()
        of_each[loss.item()] = gradient(model)
    torch.testing.assert_close(torch.stack(list(of_each.values())).mean(0), exact(model)[1])


def test_a_sample_of_three_holds_three_examples_and_is_unbiased() -> None:
    model = network()
    closure, generator = DataClosure(model, mse, data()), seeded()
    drawn = []
    for _ in range(2000):
        part = closure.sample(3, generator)
        assert len({tuple(row) for row in part.data[0].tolist()}) == 3
        part()
        drawn.append(gradient(model))
    estimates = torch.stack(drawn)
    z = (estimates.mean(0) - exact(model)[1]) / (estimates.std(0) / 2000**0.5)
    assert z.abs().max() < 4


def test_what_is_spent_counts_examples_those_of_samples_too() -> None:
    closure = DataClosure(network(), mse, data(), piece=4)
    assert closure.spent == {"gradients": 0, "losses": 0}
    closure()
    closure.loss()
    closure.loss()
    part = closure.sample(3, seeded())
    part()
    part.loss()
    assert closure.spent == part.spent == {"gradients": EXAMPLES + 3, "losses": 2 * EXAMPLES + 3}


def test_the_models_mode_is_respected() -> None:
    model, (x, y) = nn.Sequential(nn.Dropout(0.5), network()), data()
    closure = DataClosure(model, mse, (x, y))
    model.eval()
    torch.testing.assert_close(closure(), exact(model[1])[0])
    model.train()
    assert closure() != closure()


# Objectives


def test_torch_sgd_on_a_potential_is_gradient_descent() -> None:
    objective = muller_brown()
    theta = nn.Parameter(torch.tensor([-0.75, 0.55], dtype=F64))
    optimizer, closure = SGD([theta], lr=1e-4), ObjectiveClosure(objective, theta)
    plain = theta.detach().clone()
    for _ in range(200):
        loss = optimizer.step(closure)
        torch.testing.assert_close(loss, objective(plain), rtol=0, atol=0)
        plain = plain - 1e-4 * objective.grad(plain)
    torch.testing.assert_close(theta.detach(), plain, rtol=0, atol=1e-13)
    torch.testing.assert_close(closure.loss(), objective(theta.detach()), rtol=0, atol=0)
    assert float(closure.loss()) == pytest.approx(-80.77, abs=0.05)  # the third minimum


def three_terms() -> Objective:
    def term(c: Tensor) -> Callable[[Tensor], Tensor]:
        return lambda theta: ((theta - c) ** 2).sum() * c[0]

    return Objective([term(torch.randn(2, generator=seeded(i), dtype=F64)) for i in range(3)], 2)


@pytest.mark.parametrize("count", [1, 2])
def test_a_sample_of_terms_has_the_whole_as_its_mean(count: int) -> None:
    """Over the samples there are, each as frequent as the others."""
    objective = three_terms()
    theta = nn.Parameter(torch.tensor([0.3, -0.4], dtype=F64))
    closure, generator = ObjectiveClosure(objective, theta), seeded()
    found: dict[float, list[Tensor]] = {}
    for _ in range(600):
        loss = closure.sample(count, generator)()
        found.setdefault(round(loss.item(), 9), []).append(torch.as_tensor(theta.grad).clone())
    assert len(found) == 3
    assert chisquare([len(g) for g in found.values()]).pvalue > 0.01
    mean = torch.stack([g[0] for g in found.values()]).mean(0)
    torch.testing.assert_close(mean, objective.grad(theta))
    assert sum(found) / 3 == pytest.approx(float(objective(theta)), abs=1e-8)
    assert closure.sample(3, generator) is closure


# Scaled losses


@pytest.mark.parametrize("enabled", [True, False])
def test_scaled_gradients_come_unscaled_at_every_evaluation(enabled: bool) -> None:
    model, (x, y) = network(), data()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, enabled=enabled)
    seen: list[float] = []

    def loss() -> Tensor:
        value = mse(model(x), y)
        value.register_hook(lambda g: seen.append(g.item()))
        return value

    optimizer = SGD(model.parameters(), lr=0.1)
    closure = scaled_closure(loss, scaler, optimizer)
    expected = exact(model)
    for _ in range(3):
        torch.testing.assert_close(closure(), expected[0])
        torch.testing.assert_close(gradient(model), expected[1], rtol=1e-14, atol=0)
    assert seen == [1024.0 if enabled else 1.0] * 3


@pytest.mark.parametrize("evaluation", [1, 2])
def test_an_overflow_in_any_evaluation_lowers_the_scale(evaluation: int) -> None:
    p = nn.Parameter(torch.ones(2))
    optimizer, scaler = SAM(SGD([p], lr=0.1)), torch.amp.GradScaler("cpu", init_scale=8.0)
    calls = 0

    def loss() -> Tensor:
        nonlocal calls
        calls += 1
        return (p * (1e38 if calls == evaluation else 1.0)).sum()

    with pytest.warns(RuntimeWarning, match="step skipped: a gradient is not finite"):
        optimizer.step(scaled_closure(loss, scaler, optimizer))
    scaler.update()
    assert (calls, scaler.get_scale(), p.tolist()) == (evaluation, 4.0, [1.0, 1.0])
    optimizer.step(scaled_closure(loss, scaler, optimizer))
    scaler.update()
    assert scaler.get_scale() == 4.0
    assert p.tolist() != [1.0, 1.0]


# Errors


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: DataClosure(network(), mse, (torch.ones(0, 3), torch.ones(0, 2))),
            "the data hold no example; give at least one.",
        ),
        (
            lambda: DataClosure(network(), mse, data(), piece=0),
            "piece must be a whole number of at least 1, got 0.",
        ),
        (
            lambda: DataClosure(network(), mse, data()).sample(-1, seeded()),
            "count must be a whole number of at least 1, got -1.",
        ),
        (
            lambda: ObjectiveClosure(three_terms(), nn.Parameter(torch.ones(2, dtype=F64))).sample(
                0, seeded()
            ),
            "count must be a whole number of at least 1, got 0.",
        ),
        (
            lambda: ObjectiveClosure(three_terms(), nn.Parameter(torch.ones(3, dtype=F64))),
            "theta must have shape (2,) or (K, 2), got (3,).",
        ),
        (
            lambda: ObjectiveClosure(three_terms(), nn.Parameter(torch.ones(4, 2, dtype=F64))),
            "theta must be one point (2,) in torch.float64 on cpu, as the objective is, "
            "got shape (4, 2) in torch.float64 on cpu.",
        ),
        (
            lambda: ObjectiveClosure(three_terms(), nn.Parameter(torch.ones(2))),
            "theta must be one point (2,) in torch.float64 on cpu, as the objective is, "
            "got shape (2,) in torch.float32 on cpu.",
        ),
    ],
)
def test_what_is_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        make()
    assert str(error.value) == message

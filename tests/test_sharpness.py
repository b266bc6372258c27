"""Sharpness against exact maxima and means of quadratics and quartics, and what the ascents and starts are for."""

import math

import numpy as np
import pytest
import torch
from dense import quadratic, reference, rotated
from torch import Tensor

from analysis import average_sharpness, worst_case_sharpness
from analysis.flatness.sharpness import Ball
from landscape import InputError, Objective, load

BALLS: list[Ball] = ["plain", "adaptive"]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def point(dim: int) -> Tensor:
    return torch.randn(dim, generator=generator(2), dtype=torch.float64)


def units(theta: Tensor, ball: Ball) -> Tensor:
    return torch.ones_like(theta) if ball == "plain" else theta.abs()


@pytest.mark.parametrize("ball", BALLS)
def test_in_l2_the_maximum_of_a_quadratic_at_its_minimum_is_along_the_top_eigenvector(ball):
    theta = point(50)
    a = rotated(torch.linspace(-0.5, 4, 50, dtype=torch.float64), generator(1))
    objective = Objective([lambda x: 0.5 * (x - theta) @ a @ (x - theta)], 50)
    t = units(theta, ball)
    expected = 0.5 * 0.3**2 * float(torch.linalg.eigvalsh(t[:, None] * a * t)[-1])
    found = worst_case_sharpness(objective, theta, 0.3, ball=ball, generator=generator())
    assert found.value == pytest.approx(expected, rel=1e-6)
    assert found.step == 0  # no gradient, no step


@pytest.mark.parametrize("ball", BALLS)
@pytest.mark.parametrize("along", [0, 2])
def test_in_linf_the_maximum_of_a_separable_quadratic_is_in_a_corner(ball, along):
    theta, g = point(40), generator(3)
    curvature = torch.rand(40, generator=g, dtype=torch.float64)
    slope = torch.randn(40, generator=g, dtype=torch.float64)
    slope[:5] = 0  # there the gradient does not say which corner, and any will do
    objective = Objective([lambda x: (slope * (x - theta) + 0.5 * curvature * (x - theta) ** 2).sum()], 40)
    t = units(theta, ball)
    expected = float((slope.abs() * 0.1 * t + 0.5 * curvature * (0.1 * t) ** 2).sum())
    found = worst_case_sharpness(
        objective, theta, 0.1, norm="linf", ball=ball, along=along, generator=generator()
    )
    assert found.value == pytest.approx(expected, rel=1e-10)
    assert found.rises.shape == (20, 2 * along + 1)


@pytest.mark.parametrize("ball", BALLS)
def test_in_linf_it_is_a_lower_bound_near_the_best_of_all_corners(ball):
    theta = point(10)
    a = rotated(torch.linspace(0.1, 4, 10, dtype=torch.float64), generator(1))
    objective = Objective([lambda x: 0.5 * (x - theta) @ a @ (x - theta) + 0.05 * (x - theta).sum()], 10)
    corners = torch.cartesian_prod(*[torch.tensor([-0.2, 0.2], dtype=torch.float64)] * 10)
    best = float(
        objective(theta + units(theta, ball) * corners).max()
    )  # a convex function's maximum is in a corner
    found = worst_case_sharpness(
        objective, theta, 0.2, norm="linf", ball=ball, along=10, generator=generator()
    )
    assert 0.95 * best < found.value <= best + 1e-12


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_a_convex_loss_never_falls_along_the_ascent(norm):
    a = rotated(torch.rand(30, generator=generator(4), dtype=torch.float64), generator(1))
    found = worst_case_sharpness(quadratic(a), point(30), 0.5, norm=norm, generator=generator())
    assert (np.diff(found.rises, axis=0) > -1e-12).all()
    assert found.rises[-1].min() > found.rises[0].min()


@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("ball", BALLS)
def test_no_point_of_the_ball_among_many_is_higher_on_a_network(norm, ball):
    net = reference("mlp")
    rho = {"l2": 0.3, "linf": 0.03}[norm]
    found = worst_case_sharpness(net.objective, net.theta, rho, norm=norm, ball=ball, generator=generator())
    s = torch.randn(500, len(net.theta), generator=generator(5), dtype=torch.float64)
    s = s.sign() if norm == "linf" else s / s.norm(dim=1, keepdim=True)
    values = net.whole(net.theta + rho * units(net.theta, ball) * s) - net.whole(net.theta)
    assert found.value > float(values.max())
    gradient = units(net.theta, ball) * net.whole.grad(net.theta)
    step = gradient.sign() if norm == "linf" else gradient / gradient.norm()
    expected = net.whole(net.theta + rho * units(net.theta, ball) * step) - net.whole(net.theta)
    assert found.step == pytest.approx(float(expected), rel=1e-9)


def test_directions_may_be_given_and_evaluations_are_counted():
    a = torch.diag(torch.tensor([1.0, 5.0, 2.0], dtype=torch.float64))
    zero = torch.zeros(3, dtype=torch.float64)
    ball: Ball = "plain"
    assert worst_case_sharpness(quadratic(a), zero, 1, ball=ball, along=0, steps=3).value == 0
    found = worst_case_sharpness(quadratic(a), zero, 1, ball=ball, along=torch.eye(3)[1], steps=3)
    assert found.value == 2.5
    assert (found.gradients, found.matvecs) == (3 * 3 + 1, 0)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_ascents_start_both_ways_along_a_direction(norm):
    cubic = Objective([lambda x: 2 * x[0] ** 2 - x[0] ** 3 + 0.5 * x[1] ** 2], 2)
    zero, axis = torch.zeros(2), torch.tensor([1.0, 0.0])
    found = worst_case_sharpness(cubic, zero, 0.5, norm=norm, ball="plain", along=axis, generator=generator())
    side = 0.5 * 0.5**2 if norm == "linf" else 0.0  # the other axis, which a cube's corners move as well
    assert found.rises.max(0)[1:] == pytest.approx([0.375 + side, 0.625 + side])
    assert found.value == pytest.approx(0.625 + side)


@pytest.mark.parametrize("ball", BALLS)
def test_the_mean_rise_of_a_quartic_with_an_error_bar(ball):
    theta, g = point(30), generator(6)
    a = rotated(torch.linspace(-0.2, 1, 30, dtype=torch.float64), g)
    objective = Objective([lambda x: 0.5 * x @ a @ x + 3 * x.sum() + 0.1 * (x**4).sum()], 30)
    rho = 1.5
    variance = rho**2 / 30 * units(theta, ball) ** 2  # of each entry; E (θ+τ)⁴ = θ⁴ + 6θ²σ² + 3σ⁴
    exact = float(
        0.5 * (variance * a.diagonal()).sum() + 0.1 * (6 * theta**2 * variance + 3 * variance**2).sum()
    )
    found = [average_sharpness(objective, theta, rho, ball=ball, pairs=24, generator=g) for _ in range(200)]
    z = np.array([(f.value - exact) / f.stderr for f in found])
    assert abs(z.mean()) < 0.25
    assert 0.8 < z.std(ddof=1) < 1.25


def test_opposite_draws_leave_the_mean_and_take_the_gradient_out():
    theta = point(20)
    linear = Objective([lambda x: 3 * x.sum()], 20)
    found = average_sharpness(linear, theta, 1.0, pairs=4, generator=generator())
    np.testing.assert_allclose(found.samples, 0, atol=1e-12)
    cubic = Objective([lambda x: ((x - theta) ** 3 + (x - theta) ** 2).sum()], 20)
    z = torch.randn(4, 20, generator=generator(), dtype=torch.float64)
    s = 1 / math.sqrt(20) * theta.abs() * z
    both = torch.stack([cubic(theta + s), cubic(theta - s)]).mean(0)
    found = average_sharpness(cubic, theta, 1.0, pairs=4, generator=generator())
    np.testing.assert_allclose(found.samples, both.numpy(), rtol=1e-10)
    assert found.losses == 2 * 4 + 1


def test_records_keep_what_they_say(tmp_path):
    objective, theta = quadratic(torch.eye(5, dtype=torch.float64)), torch.ones(5)
    for record in (
        worst_case_sharpness(objective, theta, 1.0, generator=generator()),
        average_sharpness(objective, theta, 1.0, generator=generator()),
    ):
        again = load(record.save(tmp_path / "record.npz"))
        assert again.value == record.value


def test_bad_input_says_what_to_do():
    objective, theta = quadratic(torch.eye(3, dtype=torch.float64)), torch.ones(3)
    with pytest.raises(InputError, match=r"rho must be a positive radius, got -1"):
        worst_case_sharpness(objective, theta, -1)
    with pytest.raises(InputError, match=r"norm must be l2 or linf, got 'l1'"):
        worst_case_sharpness(objective, theta, 1, norm="l1")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match=r"ball must be plain or adaptive, got 'round'"):
        average_sharpness(objective, theta, 1, ball="round")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match=r"steps must be at least 1, got 0"):
        worst_case_sharpness(objective, theta, 1, steps=0)
    with pytest.raises(
        InputError, match=r"pairs must be at least 2, of which an error bar can be made, got 1"
    ):
        average_sharpness(objective, theta, 1, pairs=1)
    with pytest.raises(InputError, match=r"theta holds 3 values that are NaN or infinite"):
        average_sharpness(objective, theta / 0, 1)
    with pytest.raises(InputError, match=r"along must have shape \(3,\) or \(K, 3\), got \(2,\)"):
        worst_case_sharpness(objective, theta, 1, along=torch.ones(2))

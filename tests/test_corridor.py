"""Corridor measures: exact corridors, closed forms on quadratics, and dense Hessians along a real trajectory."""

import warnings

import numpy as np
import pytest
import torch
from dense import dense_hessian, quadratic, reference, rotated
from torch import Tensor

from analysis.corridors.steps import corridor
from landscape import InputError, Objective

A = torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
START = torch.tensor([3.0, -1.0, 2.0], dtype=torch.float64)
CORRIDORS = {
    "|aᵀθ − b|": Objective([lambda theta: (A @ theta - 0.3).abs()], 3),
    "‖θ‖": Objective([lambda theta: theta.norm()], 3),
}


def descent(objective: Objective, theta: Tensor, lr: float, steps: int, momentum: float = 0.0) -> Tensor:
    """(T+1, P)"""
    points, velocity = [theta], torch.zeros_like(theta)
    for _ in range(steps):
        velocity = momentum * velocity + objective.grad(points[-1])
        points.append(points[-1] - lr * velocity)
    return torch.stack(points)


@pytest.mark.parametrize("name", CORRIDORS)
@pytest.mark.parametrize("lr", [None, 0.05])
def test_exact_corridors(name, lr):
    objective = CORRIDORS[name]
    found = corridor(objective, descent(objective, START, 0.05, 10), lr=lr)
    np.testing.assert_allclose(found.kappa, 0, atol=1e-14)
    np.testing.assert_allclose(found.kappa_weak, 0, atol=1e-14)
    for measure in (found.linearity, found.cosine, found.norm_ratio, found.chord):
        np.testing.assert_allclose(measure, 1, rtol=1e-12)
    np.testing.assert_allclose(found.rate, 0.05, rtol=1e-12)


@pytest.mark.parametrize("h", [0.1, 0.7])
def test_closed_forms_of_a_round_quadratic(h):
    curvature, steps = 2.0, 6
    objective = quadratic(curvature * torch.eye(3, dtype=torch.float64))
    thetas = descent(objective, START, h, steps)
    found = corridor(objective, thetas, label="gd")
    np.testing.assert_allclose(found.rate, h, rtol=1e-12)
    np.testing.assert_allclose(found.kappa, h * curvature, rtol=1e-12)
    np.testing.assert_allclose(found.kappa_weak, h * curvature, rtol=1e-12)
    np.testing.assert_allclose(found.linearity, 1 - h * curvature / 2, rtol=1e-12)
    np.testing.assert_allclose(found.norm_ratio, abs(1 - h * curvature), rtol=1e-12)
    np.testing.assert_allclose(found.cosine, np.sign(1 - h * curvature), rtol=1e-12)
    shrink = 1 - h * curvature
    travelled = abs(h * curvature) * sum(abs(shrink) ** t for t in range(steps))
    assert found.chord == pytest.approx(abs(1 - shrink**steps) / travelled, rel=1e-12)
    np.testing.assert_allclose(found.loss, objective(thetas).numpy(), rtol=1e-13)
    assert (found.gradients, found.matvecs, found.label) == (steps + 1, 2 * steps, "gd")


def test_linearity_of_gradient_descent_is_the_papers():
    a = rotated(torch.linspace(0.1, 2, 12, dtype=torch.float64), torch.Generator().manual_seed(0))
    objective, h = quadratic(a), 0.3
    thetas = descent(objective, torch.ones(12, dtype=torch.float64), h, 5)
    found = corridor(objective, thetas, lr=h)
    loss, gradients = objective(thetas), objective.grad(thetas)
    expected = (loss[:-1] - loss[1:]) / (h * gradients[:-1].square().sum(1))
    np.testing.assert_allclose(found.linearity, expected.numpy(), rtol=1e-12)
    np.testing.assert_allclose(found.linearity, 1 - found.kappa_weak / 2, rtol=1e-12)  # exact on a quadratic


@pytest.mark.parametrize("name", ["mlp", "layernorm", "conv"])
def test_a_network_against_its_dense_hessian(name):
    net = reference(name)
    thetas = descent(net.objective, net.theta, 0.1, 3, momentum=0.9)
    before = thetas.clone()
    found = corridor(net.objective, thetas, lr=np.array([0.1, 0.2, np.nan]))
    for t in range(3):
        g, after = net.whole.grad(thetas[t]), net.whole.grad(thetas[t + 1])
        move, image = thetas[t + 1] - thetas[t], dense_hessian(net.whole, thetas[t]) @ g
        h = (0.1, 0.2, float(move.norm() / g.norm()))[t]
        beside = move - (g @ move) / (g @ g) * g  # r, orthogonal to g
        down = move - beside
        hessian = dense_hessian(net.whole, thetas[t])
        change = [0.5 * beside @ hessian @ beside + beside @ hessian @ down]
        rise = float(net.whole(thetas[t + 1]) - net.whole(thetas[t]))
        expected = {
            "gradient_norm": g.norm(),
            "rate": h,
            "kappa": h * image.norm() / g.norm(),
            "kappa_weak": h * (g @ image) / (g @ g),
            "linearity": rise / (g @ move),
            "cosine": g @ after / (g.norm() * after.norm()),
            "norm_ratio": after.norm() / g.norm(),
            "alignment": -(g @ move) / (g.norm() * move.norm()),
            "slope": g @ move,
            "change_along": 0.5 * (g @ move) ** 2 * (g @ image) / (g @ g) ** 2,
            "change_beside": change[0],
            "change_beyond": rise - g @ move - 0.5 * move @ dense_hessian(net.whole, thetas[t]) @ move,
        }
        for measure, value in expected.items():
            assert getattr(found, measure)[t] == pytest.approx(float(value), rel=1e-8), measure
    lengths = (thetas[1:] - thetas[:-1]).norm(dim=1).sum()
    assert found.chord == pytest.approx(float((thetas[-1] - thetas[0]).norm() / lengths))
    assert thetas.equal(before)


def test_arrays_are_taken_and_a_rate_is_one_for_all():
    net = reference("mlp")
    thetas = descent(net.objective, net.theta, 0.1, 2)
    one, each = (
        corridor(net.objective, thetas.numpy(), lr=0.3),
        corridor(net.objective, thetas, lr=[0.3, 0.3]),
    )
    np.testing.assert_array_equal(one.kappa, each.kappa)
    np.testing.assert_allclose(one.rate, 0.3)


def test_where_there_is_no_gradient_or_no_step_measures_are_missing():
    objective = quadratic(torch.eye(3, dtype=torch.float64))
    thetas = torch.stack([START, START, 0 * START, 0 * START, START])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = corridor(objective, thetas)
        still = corridor(objective, thetas[:2])
    np.testing.assert_array_equal(np.isnan(found.linearity), [True, False, True, True])
    np.testing.assert_array_equal(np.isnan(found.kappa), [False, False, True, True])
    np.testing.assert_array_equal(np.isnan(found.cosine), [False, True, True, True])
    np.testing.assert_array_equal(np.isnan(found.norm_ratio), [False, False, True, True])
    assert found.rate[0] == found.kappa[0] == 0
    assert found.linearity[1] == pytest.approx(0.5)
    assert np.isnan(still.chord)


def test_bad_input_says_what_to_do():
    objective = quadratic(torch.eye(3, dtype=torch.float64))
    for thetas, shape in ((START, r"\(3,\)"), (START[None], r"\(1, 3\)")):
        with pytest.raises(
            InputError, match=rf"thetas must be at least two points \(T\+1, 3\), got shape {shape}"
        ):
            corridor(objective, thetas)
    with pytest.raises(InputError, match=r"thetas must have shape \(3,\) or \(K, 3\), got \(2, 4\)"):
        corridor(objective, torch.zeros(2, 4))
    points = torch.stack([START, 0 * START])
    with pytest.raises(
        InputError, match=r"lr must be one number or one for each of the 1 steps, got shape \(2,\)"
    ):
        corridor(objective, points, lr=[0.1, 0.2])
    with pytest.raises(InputError, match=r"lr must not be negative, got -1"):
        corridor(objective, points, lr=-1)


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 4.0])
def test_closed_forms_of_a_power_of_the_norm(p):
    """g = p r^(p−1) u and Hu = p(p−1) r^(p−2) u with r = ‖θ‖, u = θ/r."""
    objective = Objective([lambda theta: theta.norm() ** p], 3)
    r, h = float(START.norm()), 0.01
    found = corridor(objective, descent(objective, START, h, 1), flow_steps=16)
    after = r - h * p * r ** (p - 1)
    assert found.kappa[0] == pytest.approx(h * p * (p - 1) * r ** (p - 2), rel=1e-10, abs=1e-14)
    assert found.kappa_weak[0] == pytest.approx(found.kappa[0], rel=1e-9, abs=1e-14)
    assert found.linearity[0] == pytest.approx((r**p - after**p) / (h * p**2 * r ** (2 * p - 2)), rel=1e-10)
    assert found.norm_ratio[0] == pytest.approx((after / r) ** (p - 1), rel=1e-10)
    decay = r * np.exp(-h * p) if p == 2 else (r ** (2 - p) - p * (2 - p) * h) ** (1 / (2 - p))
    assert found.flow_gap[0] == pytest.approx((decay - after) / (r - after), rel=1e-4, abs=1e-12)


def test_the_change_of_the_loss_is_told_apart_and_sums_exactly():
    net = reference("mlp")
    found = corridor(net.objective, descent(net.objective, net.theta, 0.3, 6, momentum=0.9))
    parts = found.slope + found.change_along + found.change_beside + found.change_beyond
    np.testing.assert_allclose(parts, np.diff(found.loss), rtol=1e-12, atol=1e-15)
    straight = corridor(net.objective, descent(net.objective, net.theta, 0.3, 6))
    np.testing.assert_allclose(straight.alignment, 1, rtol=1e-12)
    np.testing.assert_allclose(straight.change_beside, 0, atol=1e-12 * np.abs(straight.change_along).max())
    assert (found.alignment[1:] < 0.99).all()
    assert np.abs(found.change_beside[1:]).min() > 1e-6


def test_momentum_meets_curvature_beside_an_exact_corridor():
    objective, h = CORRIDORS["‖θ‖"], 0.05
    sideways = torch.linalg.cross(START, A)
    move = -h * START / START.norm() + 0.1 * sideways / sideways.norm()
    found = corridor(objective, torch.stack([START, START + move]))
    assert found.change_along[0] == pytest.approx(0, abs=1e-15)
    assert found.change_beside[0] == pytest.approx(0.5 * 0.1**2 / float(START.norm()), rel=1e-10)
    assert found.alignment[0] == pytest.approx(h / np.hypot(h, 0.1), rel=1e-12)
    assert found.by_length().rate[0] == pytest.approx(np.hypot(h, 0.1), rel=1e-12)


def test_chords_over_windows():
    angles = torch.linspace(0, 1.2, 13, dtype=torch.float64)
    circle = torch.stack([angles.cos(), angles.sin()], dim=1)
    found = corridor(quadratic(torch.eye(2, dtype=torch.float64)), circle, windows=(1, 3, 12))
    np.testing.assert_allclose(found.chord_over(1), 1, rtol=1e-12)
    three = np.sin(0.15) / (3 * np.sin(0.05))  # chords of 0.3 and of 0.1 radians
    np.testing.assert_allclose(found.chord_over(3)[:10], three, rtol=1e-12)
    assert np.isnan(found.chord_over(3)[10:]).all()
    assert found.chord_over(12)[0] == pytest.approx(found.chord, rel=1e-14)
    assert found.chord == pytest.approx(np.sin(0.6) / (12 * np.sin(0.05)), rel=1e-12)
    with pytest.raises(
        InputError, match=r"window must be one of \(1, 3, 12\), for which this was made, got 2"
    ):
        found.chord_over(2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"windows": [2]}, r"windows must be different numbers from 1 to 1, the rows, got \(2,\)"),
        (
            {"flow_steps": 3},
            "flow_steps must be even, since half as many tell the error, or 0 for none, got 3",
        ),
        ({"eigenvectors": 4}, "eigenvectors must be from 0 to 3, got 4"),
        ({"steps": [3, 2]}, r"steps must be 2 ascending numbers, one for each point, got \[3, 2\]"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(InputError, match=message):
        corridor(quadratic(torch.eye(3, dtype=torch.float64)), torch.stack([START, 0 * START]), **settings)

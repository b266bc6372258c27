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
    np.testing.assert_allclose(found.step, 0.05, rtol=1e-12)


@pytest.mark.parametrize("h", [0.1, 0.7])
def test_closed_forms_of_a_round_quadratic(h):
    curvature, steps = 2.0, 6
    objective = quadratic(curvature * torch.eye(3, dtype=torch.float64))
    thetas = descent(objective, START, h, steps)
    found = corridor(objective, thetas, label="gd")
    np.testing.assert_allclose(found.step, h, rtol=1e-12)
    np.testing.assert_allclose(found.kappa, h * curvature, rtol=1e-12)
    np.testing.assert_allclose(found.kappa_weak, h * curvature, rtol=1e-12)
    np.testing.assert_allclose(found.linearity, 1 - h * curvature / 2, rtol=1e-12)
    np.testing.assert_allclose(found.norm_ratio, abs(1 - h * curvature), rtol=1e-12)
    np.testing.assert_allclose(found.cosine, np.sign(1 - h * curvature), rtol=1e-12)
    shrink = 1 - h * curvature
    travelled = abs(h * curvature) * sum(abs(shrink) ** t for t in range(steps))
    assert found.chord == pytest.approx(abs(1 - shrink**steps) / travelled, rel=1e-12)
    np.testing.assert_allclose(found.loss, objective(thetas).numpy(), rtol=1e-13)
    assert (found.gradients, found.matvecs, found.label) == (steps + 1, steps, "gd")


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
        rise = float(net.whole(thetas[t + 1]) - net.whole(thetas[t]))
        expected = {
            "gradient_norm": g.norm(),
            "step": h,
            "kappa": h * image.norm() / g.norm(),
            "kappa_weak": h * (g @ image) / (g @ g),
            "linearity": rise / (g @ move),
            "cosine": g @ after / (g.norm() * after.norm()),
            "norm_ratio": after.norm() / g.norm(),
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
    np.testing.assert_allclose(one.step, 0.3)


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
    assert found.step[0] == found.kappa[0] == 0
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

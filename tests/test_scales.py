"""Curvature at finite scales: exact on polynomials, vᵀHv where the loss is smooth, and the kinks of ReLU counted one by one."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from dense import dense_hessian, quadratic, reference, rotated
from torch import Tensor, nn

from analysis import curvature_at_scales
from landscape import InputError, load, model_objective


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed), dtype=torch.float64)


def test_a_quadratic_is_the_same_at_every_scale():
    a = rotated(torch.linspace(-1, 3, 20, dtype=torch.float64), generator(1))
    theta, v = normal(20), normal(3, 20, seed=2)
    steps = np.logspace(-3, 1, 5)
    found = curvature_at_scales(quadratic(a), theta, v, steps=steps)
    unit = v / v.norm(dim=1, keepdim=True)
    exact = ((unit @ a) * unit).sum(1).numpy()
    np.testing.assert_allclose(found.hessian, exact, rtol=1e-12)
    np.testing.assert_allclose(found.of_gradients, exact[:, None] + np.zeros(5), rtol=1e-10)
    np.testing.assert_allclose(found.of_losses, exact[:, None] + np.zeros(5), rtol=1e-7)
    np.testing.assert_allclose(found.steps, steps * float(theta.norm()))
    np.testing.assert_allclose(found.relative_steps, steps)
    assert (found.losses, found.gradients, found.matvecs) == (30, 31, 3)


@pytest.mark.parametrize("name", ["mlp", "layernorm", "conv"])
def test_smooth_networks_agree_with_the_hessian(name):
    net = reference(name)
    v = normal(3, len(net.theta), seed=3)
    before = net.theta.clone()
    found = curvature_at_scales(net.objective, net.theta, v, steps=[1e-4, 1e-3, 1e-2])
    unit = v / v.norm(dim=1, keepdim=True)
    exact = ((unit @ net.hessian) * unit).sum(1).numpy()
    np.testing.assert_allclose(found.hessian, exact, rtol=1e-9)
    np.testing.assert_allclose(found.of_gradients, exact[:, None] + np.zeros(3), rtol=1e-2)
    np.testing.assert_allclose(found.of_losses, exact[:, None] + np.zeros(3), rtol=1e-2)
    np.testing.assert_allclose(found.excess, found.of_gradients / exact[:, None] - 1, atol=1e-9)
    assert net.theta.equal(before)


@pytest.mark.parametrize("name", ["mlp", "conv"])
def test_rounding_is_estimated_to_an_order_of_magnitude(name):
    net = reference(name)
    v = normal(40, len(net.theta), seed=4)
    steps = [1e-9, 1e-8, 1e-7]  # where all error is rounding: what the third derivatives leave is below
    found = curvature_at_scales(net.objective, net.theta, v, steps=steps)
    for values, rounding in (
        (found.of_losses, found.of_losses_rounding),
        (found.of_gradients, found.of_gradients_rounding),
    ):
        error = np.sqrt(((values - found.hessian[:, None]) ** 2).mean(0))
        ratio = error / rounding.mean(0)
        assert (ratio > 0.03).all(), ratio
        assert (ratio < 3).all(), ratio


def relu_network() -> tuple[nn.Sequential, Tensor, Tensor]:
    torch_model = nn.Sequential(nn.Linear(4, 7), nn.ReLU(), nn.Linear(7, 3)).double()
    return torch_model, normal(15, 4, seed=5), torch.randint(0, 3, (15,), generator=generator(6))


def test_the_kinks_of_relu_are_seen_and_are_all_that_differs():
    """The mean of L″ over −h … h is that of vᵀHv between the kinks, and a jump of the slope at each of them over 2h."""
    model, inputs, targets = relu_network()
    objective = model_objective(model, nn.functional.cross_entropy, [(inputs, targets)])
    theta, v = normal(objective.dim, seed=7), normal(objective.dim, seed=8)
    # Along the first layer alone a unit's input is linear in t, and the kinks are where it is 0.
    v[7 * 5 :] = 0
    v /= v.norm()
    h = 0.5 * float(theta.norm())
    found = curvature_at_scales(objective, theta, v, steps=[1e-9, 0.5])
    part, along = objective.parameters.unpack(theta), objective.parameters.unpack(v)
    z = inputs @ part["0.weight"].T + part["0.bias"]
    speed = inputs @ along["0.weight"].T + along["0.bias"]
    kinks = (-z / speed).reshape(-1)
    inside = kinks.abs() < h
    assert int(inside.sum()) > 10
    jumps = 0.0
    for index in torch.nonzero(inside).reshape(-1):
        example, unit, t = int(index) // 7, int(index) % 7, float(kinks[index])
        hidden = (z[example] + t * speed[example]).relu()
        p = (part["2.weight"] @ hidden + part["2.bias"]).softmax(0)
        slope = part["2.weight"][:, unit] @ (p - nn.functional.one_hot(targets[example], 3)) / 15
        jumps += float(slope * speed[example, unit].abs())
    ends = [-h, *sorted(float(t) for t in kinks[inside]), h]
    nodes, weights = np.polynomial.legendre.leggauss(12)
    smooth = 0.0
    for low, high in pairwise(ends):
        for node, weight in zip(nodes, weights, strict=True):
            t = (low + high) / 2 + node * (high - low) / 2
            smooth += weight * (high - low) / 2 * float(v @ objective.hvp(theta + t * v, v))
    assert found.of_gradients[0, 1] == pytest.approx((smooth + jumps) / (2 * h), rel=1e-9)
    assert abs(jumps / smooth) > 0.05
    assert abs(found.excess[0, 1]) > 0.05
    assert found.hessian[0] == pytest.approx(float(v @ dense_hessian(objective, theta) @ v), rel=1e-10)
    assert found.of_gradients[0, 0] == pytest.approx(found.hessian[0], rel=1e-4)  # nearer than any kink


def test_records_and_a_single_direction(tmp_path):
    objective = quadratic(torch.eye(4, dtype=torch.float64))
    found = curvature_at_scales(objective, torch.zeros(4), [0.0, 5.0, 0.0, 0.0], steps=[0.5])
    assert (found.theta_norm, found.steps[0]) == (1.0, 0.5)
    assert found.of_losses[0, 0] == pytest.approx(1)
    again = load(found.save(tmp_path / "record.npz"))
    np.testing.assert_array_equal(again.of_losses, found.of_losses)


def test_in_float32_rounding_stands_with_the_number():
    model, inputs, targets = relu_network()
    objective = model_objective(model.float(), nn.functional.cross_entropy, [(inputs.float(), targets)])
    theta, v = normal(objective.dim, seed=7).float(), normal(objective.dim, seed=8)
    found = curvature_at_scales(objective, theta, v, steps=[1e-6, 1e-1])
    assert found.of_losses_rounding[0, 0] > abs(found.hessian[0])  # at so small a step there is nothing else
    assert found.of_gradients_rounding[0, 1] < 1e-3 * abs(found.hessian[0])
    assert math.isfinite(found.of_losses[0, 0])


def test_bad_input_says_what_to_do():
    objective, theta = quadratic(torch.eye(3, dtype=torch.float64)), torch.zeros(3)
    with pytest.raises(
        InputError, match=r"directions must be finite and not 0, got one that is not; leave it out"
    ):
        curvature_at_scales(objective, theta, torch.zeros(2, 3))
    with pytest.raises(
        InputError, match=r"steps must be positive shares of the norm of theta, got \[0.1, 0\]"
    ):
        curvature_at_scales(objective, theta, torch.ones(3), steps=[0.1, 0])
    with pytest.raises(InputError, match=r"directions must have shape \(3,\) or \(K, 3\), got \(2,\)"):
        curvature_at_scales(objective, theta, torch.ones(2))

"""Flatness against dense Hessians and exact maxima of quadratics on balls, and what rescaling two ReLU layers changes."""

import math
from dataclasses import fields

import numpy as np
import pytest
import torch
from dense import Reference, quadratic, reference, rotated
from scipy.optimize import brentq
from torch import Tensor

from analysis.flatness import flatness
from analysis.trace import trace_and_square
from landscape import HessianProducts, InputError, Objective
from landscape.potentials import muller_brown

ADAPTIVE_RHO, SAM_RHO = 0.5, 0.05


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def largest_rise(hessian: Tensor, gradient: Tensor, rho: float) -> float:
    """max g·ε + ½εᵀHε over ‖ε‖ ≤ ρ, exactly: (μI − H)ε = g with μ > λ₁ such that ‖ε‖ = ρ, by the secular equation."""
    values, vectors = (x.numpy() for x in torch.linalg.eigh(hessian))
    g = vectors.T @ gradient.numpy()

    def excess(mu: float) -> float:
        return float(np.linalg.norm(g / (mu - values))) / rho - 1

    upper = values[-1] + np.linalg.norm(g) / rho + 1e-9
    mu = brentq(excess, values[-1] + 1e-13 * abs(values[-1]), upper, xtol=1e-15)
    assert isinstance(mu, float)
    step = g / (mu - values)
    return float(g @ step + 0.5 * step @ (values * step))


@pytest.mark.parametrize("name", ["mlp", "layernorm", "batchnorm", "conv"])
def test_networks(name):
    net = reference(name)
    theta, before, hessian = net.theta, net.theta.clone(), net.hessian
    found = flatness(net.objective, theta, matvecs=30, optimizer="sgd", seed=3, generator=generator())
    assert found.loss == pytest.approx(float(net.whole(theta)), rel=1e-12)
    assert found.gradient_norm == pytest.approx(float(net.whole.grad(theta).norm()), rel=1e-10)
    assert found.theta_norm == pytest.approx(float(theta.norm()))
    assert found.trace == pytest.approx(float(hessian.trace()), abs=5 * found.trace_stderr)
    assert found.frobenius == pytest.approx(float(hessian.norm()), abs=5 * found.frobenius_stderr)
    square = trace_and_square(net.objective, theta, matvecs=30, generator=generator())[1]
    assert found.frobenius**2 == pytest.approx(square.value, rel=1e-12)
    assert found.frobenius_stderr * 2 * found.frobenius == pytest.approx(square.stderr, rel=1e-12)
    assert 0 < found.trace_stderr < 0.3 * found.trace
    assert 0 < found.frobenius_stderr < 0.1 * found.frobenius
    np.testing.assert_allclose(
        found.eigenvalues, torch.linalg.eigvalsh(hessian).flip(0)[:5].numpy(), rtol=1e-5
    )
    assert found.residuals.max() < 1e-5 * found.eigenvalues[0]
    assert (found.label, found.dim, found.trace_method) == ("sgd/3", len(theta), "xtrace")
    assert theta.equal(before)


def test_exact_where_there_are_few_parameters():
    minimum = torch.tensor([-0.55822363, 1.44172584], dtype=torch.float64)
    objective = muller_brown()
    hessian = torch.autograd.functional.hessian(objective.terms[0], minimum)
    assert isinstance(hessian, Tensor)
    found = flatness(objective, minimum)
    assert found.loss == pytest.approx(-146.69951721, abs=1e-7)
    assert (found.trace_stderr, found.frobenius_stderr, found.trace_method) == (0, 0, "exact")
    assert found.trace == pytest.approx(float(hessian.trace()), rel=1e-10)
    assert found.frobenius == pytest.approx(float(hessian.norm()), rel=1e-10)
    np.testing.assert_allclose(found.eigenvalues, torch.linalg.eigvalsh(hessian).flip(0).numpy(), rtol=1e-10)


def test_the_step_of_sam():
    net = reference("mlp")
    gradient = net.whole.grad(net.theta)
    expected = net.whole(net.theta + 0.1 * gradient / gradient.norm()) - net.whole(net.theta)
    found = flatness(net.objective, net.theta, sam_rho=0.1, generator=generator())
    assert found.sam_step == pytest.approx(float(expected), rel=1e-10)
    assert found.sam_sharpness > found.sam_step
    gradient = net.theta.abs() * gradient
    kwon = 0.2 * net.theta.abs() * gradient / gradient.norm()
    expected = net.whole(net.theta + kwon) - net.whole(net.theta)
    one = flatness(net.objective, net.theta, adaptive_rho=0.2, ascent_steps=1, generator=generator())
    assert one.adaptive_sharpness >= float(expected) - 1e-14


@pytest.mark.parametrize("where", ["minimum", "slope", "saddle"])
def test_sharpness_is_the_exact_maximum_of_a_quadratic(where):
    g = generator(1)
    eigenvalues = torch.cat([torch.tensor([4.0, 2.5, 1.0]), torch.rand(77, generator=g)]).double()
    if where == "saddle":
        eigenvalues[-1] = -3.0
    a = rotated(eigenvalues, g)
    center = 1 + torch.rand(80, generator=g, dtype=torch.float64)
    slope = torch.zeros(80).double() if where == "minimum" else 0.1 * torch.randn(80, generator=g).double()
    objective = Objective(
        [lambda theta: 0.5 * (theta - center) @ a @ (theta - center) + slope @ (theta - center)], 80
    )
    found = flatness(objective, center, ascent_steps=40, generator=g)
    if where == "minimum":
        scaled = center[:, None] * a * center
        assert found.sam_step == 0
        assert found.sam_sharpness == pytest.approx(0.5 * 4 * SAM_RHO**2, rel=1e-9)
        expected = 0.5 * float(torch.linalg.eigvalsh(scaled)[-1]) * ADAPTIVE_RHO**2
        assert found.adaptive_sharpness == pytest.approx(expected, rel=1e-9)
    else:
        assert found.sam_sharpness == pytest.approx(largest_rise(a, slope, SAM_RHO), rel=1e-4)
        scaled = center[:, None] * a * center
        expected = largest_rise(scaled, center * slope, ADAPTIVE_RHO)
        assert found.adaptive_sharpness == pytest.approx(expected, rel=1e-4)


def test_in_a_deep_minimum_the_ascent_does_not_rest_on_the_noise_of_the_gradient():
    a = torch.diag(torch.linspace(0.1, 1, 100, dtype=torch.float64) ** 2)
    a[0, 0] = 5.0  # sharp along the first axis, where the gradient has nothing

    def loss(theta: Tensor) -> Tensor:
        return 0.5 * theta @ a @ theta + 1e-15 * theta[50]

    found = flatness(Objective([loss], 100), torch.zeros(100), ascent_steps=2, generator=generator())
    assert found.sam_sharpness == pytest.approx(0.5 * 5 * SAM_RHO**2, rel=1e-6)


def test_at_a_maximum_nothing_rises():
    found = flatness(quadratic(-torch.eye(70, dtype=torch.float64)), torch.zeros(70), generator=generator())
    assert (found.sam_step, found.sam_sharpness, found.adaptive_sharpness) == (0, 0, 0)
    beside = Objective([lambda theta: -0.5 * (theta - 1).square().sum()], 70)  # the top is inside the ball
    found = flatness(beside, torch.full((70,), 1 + 1e-6), generator=generator())
    assert found.sam_step < 0
    assert (found.sam_sharpness, found.adaptive_sharpness) == (0, 0)


def rescaled(net: Reference, alpha: float) -> Tensor:
    """θ with the first layer (weights and biases) times alpha and the weights of the next divided by it."""
    assert net.objective.parameters is not None
    tensors = {name: tensor.clone() for name, tensor in net.objective.parameters.unpack(net.theta).items()}
    tensors["0.weight"] *= alpha
    tensors["0.bias"] *= alpha
    tensors["2.weight"] /= alpha
    return net.objective.parameters.pack(tensors)


@pytest.mark.parametrize("alpha", [0.2, 3.0])
def test_rescaling_layers_moves_everything_but_the_adaptive_sharpness(alpha):
    net = reference("relu")
    ours = flatness(net.objective, net.theta, matvecs=90, generator=generator())
    other = flatness(net.objective, rescaled(net, alpha), matvecs=90, generator=generator())
    assert other.loss == pytest.approx(ours.loss, rel=1e-13)
    assert other.adaptive_sharpness == pytest.approx(ours.adaptive_sharpness, rel=1e-6)
    for name in ("trace", "frobenius", "sam_step", "sam_sharpness", "gradient_norm"):
        assert abs(getattr(other, name) / getattr(ours, name) - 1) > 0.1, name
    assert abs(other.eigenvalues[0] / ours.eigenvalues[0] - 1) > 0.1


def test_evaluations_are_counted(monkeypatch):
    spent = {"gradients": 0, "matvecs": 0}
    value_and_grad, hvp, times = Objective.value_and_grad, Objective.hvp, HessianProducts.__call__

    def counted_gradient(self: Objective, theta: Tensor) -> tuple[Tensor, Tensor]:
        spent["gradients"] += theta.reshape(-1, self.dim).shape[0]
        return value_and_grad(self, theta)

    def counted_hvp(self: Objective, theta: Tensor, v: Tensor) -> Tensor:
        spent["matvecs"] += v.reshape(-1, self.dim).shape[0]
        return hvp(self, theta, v)

    def counted_times(self: HessianProducts, v: Tensor) -> Tensor:
        spent["matvecs"] += v.reshape(-1, v.shape[-1]).shape[0]
        return times(self, v)

    monkeypatch.setattr(Objective, "value_and_grad", counted_gradient)
    monkeypatch.setattr(Objective, "hvp", counted_hvp)
    monkeypatch.setattr(HessianProducts, "__call__", counted_times)
    net = reference("mlp")
    found = flatness(net.objective, net.theta, generator=generator())
    assert {"gradients": found.gradients, "matvecs": found.matvecs} == spent
    assert found.gradients == 2 * 20 * 11 + 1


def test_the_same_generator_gives_the_same_record():
    net = reference("mlp")
    one, other = (flatness(net.objective, net.theta, generator=generator(5)) for _ in range(2))
    for item in fields(one):
        np.testing.assert_array_equal(getattr(one, item.name), getattr(other, item.name))


def test_what_is_not_finite_is_nan():
    broken = Objective([lambda t: (t - 1).sqrt().sum()], 100)
    found = flatness(broken, torch.zeros(100), generator=generator())
    assert math.isnan(found.trace)
    assert math.isnan(found.frobenius_stderr)
    assert math.isnan(found.sam_sharpness)
    assert np.isnan(found.eigenvalues).all()


def test_bad_input_says_what_to_do():
    objective, theta = quadratic(torch.eye(9, dtype=torch.float64)), torch.zeros(9)
    with pytest.raises(InputError, match=r"theta must be one point \(9,\), got shape \(2, 9\)"):
        flatness(objective, torch.zeros(2, 9))
    with pytest.raises(InputError, match=r"theta holds 9 values that are NaN or infinite"):
        flatness(objective, theta / 0)
    with pytest.raises(InputError, match=r"adaptive_rho must be a positive radius, got 0"):
        flatness(objective, theta, adaptive_rho=0)
    with pytest.raises(InputError, match=r"sam_rho must be a positive radius, got nan"):
        flatness(objective, theta, sam_rho=math.nan)
    with pytest.raises(InputError, match=r"eigenvalues must be at least 1, got 0"):
        flatness(objective, theta, eigenvalues=0)
    with pytest.raises(InputError, match=r"ascent_steps must be at least 1, got 0"):
        flatness(objective, theta, ascent_steps=0)

"""Flatness against dense Hessians and exact maxima of quadratics on balls, and what rescaling two ReLU layers changes."""

import json
import math
from dataclasses import MISSING, fields
from typing import Any

import numpy as np
import pytest
import torch
from dense import Reference, quadratic, reference, rotated
from scipy.optimize import brentq
from torch import Tensor

import landscape
from analysis import (
    average_sharpness,
    fisher_rao,
    flat_minimum_certificate,
    lpf,
    pac_bayes_sigma,
    relative_flatness,
    worst_case_sharpness,
)
from analysis.curvature.trace import trace_and_square
from analysis.flatness import noise
from analysis.flatness.measures import flatness
from landscape import Family, HessianProducts, InputError, Objective, load
from landscape.potentials import muller_brown
from landscape.results import Flatness

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


def numbers(record: Flatness) -> dict[str, float]:
    """All that Flatness.invariant speaks of; of the loss under noise the rise."""
    found = {name: float(np.ravel(getattr(record, name))[0]) for name in Flatness.invariant}
    return found | {"lpf": record.lpf - record.loss}


@pytest.mark.parametrize("alpha", [0.2, 3.0])
def test_rescaling_layers_moves_just_what_the_record_says(alpha):
    net = reference("relu")
    settings: dict[str, Any] = {"matvecs": 90, "descent_steps": 20, "probes": 100}
    ours = flatness(net.objective, net.theta, generator=generator(), **settings)
    other = flatness(net.objective, rescaled(net, alpha), generator=generator(), **settings)
    assert other.loss == pytest.approx(ours.loss, rel=1e-13)
    before, after = numbers(ours), numbers(other)
    for name, invariant in Flatness.invariant.items():
        assert math.isfinite(before[name]), name
        if invariant:
            assert after[name] == pytest.approx(before[name], rel=1e-6), name
        else:
            assert abs(after[name] / before[name] - 1) > 0.02, name
    assert abs(other.gradient_norm / ours.gradient_norm - 1) > 0.1


def test_permuting_hidden_units_moves_nothing():
    net = reference("relu")
    order = torch.randperm(8, generator=generator(1))
    tensors = dict(net.objective.parameters.unpack(net.theta))
    tensors |= {name: tensors[name][order] for name in ("0.weight", "0.bias")}
    other = net.objective.parameters.pack(tensors | {"2.weight": tensors["2.weight"][:, order]})
    settings: dict[str, Any] = {"matvecs": 90, "probes": 100, "pairs": 60}
    ours = flatness(net.objective, net.theta, generator=generator(), **settings)
    theirs = flatness(net.objective, other, generator=generator(2), **settings)
    before, after = numbers(ours), numbers(theirs)
    sampled = {
        "lpf": ours.lpf_stderr,
        "pac_bayes_sigma": ours.pac_bayes_stderr,
        "adaptive_average": ours.adaptive_average_stderr,
    }
    for name in set(before) - {"epsilon", "epsilon_prime"}:
        error = 5 * sampled.get(name, 0.0)
        assert after[name] == pytest.approx(before[name], rel=1e-6 if not error else 0, abs=error), name


@pytest.mark.parametrize("name", ["mlp", "conv"])
def test_the_measures_are_those_of_their_functions(name):
    net = reference(name)
    found = flatness(net.objective, net.theta, pairs=40, probes=100, generator=generator())
    alone = worst_case_sharpness(net.objective, net.theta, 0.005, norm="linf", along=1, generator=generator())
    assert found.adaptive_linf_sharpness == pytest.approx(alone.value, rel=0.05)  # random signs start it
    average = average_sharpness(net.objective, net.theta, ADAPTIVE_RHO, pairs=100, generator=generator(1))
    assert found.adaptive_average == pytest.approx(average.value, abs=6 * found.adaptive_average_stderr)
    filtered = lpf(net.objective, net.theta, pairs=100, generator=generator(1))
    assert found.lpf == pytest.approx(filtered.value, abs=5 * found.lpf_stderr)
    allowed = pac_bayes_sigma(net.objective, net.theta, pairs=40, generator=generator(1))
    assert found.pac_bayes_sigma == pytest.approx(allowed.sigma, abs=5 * found.pac_bayes_stderr)
    more = math.sqrt(100 / 40)  # draws
    assert found.adaptive_average_stderr == pytest.approx(more * average.stderr, rel=0.6)
    assert found.lpf_stderr == pytest.approx(more * filtered.stderr, rel=0.6)
    assert found.pac_bayes_stderr == pytest.approx(allowed.stderr, rel=0.6)
    relative = relative_flatness(net.objective, net.theta, probes=100)
    assert (found.relative_layer, found.relative_flatness) == (relative.layer, pytest.approx(relative.value))
    assert found.fisher_rao == pytest.approx(fisher_rao(net.objective, net.theta))
    assert found.mean_trace == found.trace / len(net.theta)
    assert (found.lpf_sigma, found.linf_rho, found.pac_bayes_tolerance) == (0.01, 0.005, 0.1)
    assert math.isnan(found.epsilon)


def test_the_certificate_is_there_if_asked_for():
    net = reference("mlp")
    found = flatness(net.objective, net.theta, descent_steps=30, tau=0.1, generator=generator())
    alone = flat_minimum_certificate(
        net.objective, net.theta, taus=(0.1,), max_steps=30, generator=generator(1)
    )
    assert found.epsilon == pytest.approx(alone.epsilon, rel=1e-5)
    error = 5 * math.hypot(found.epsilon_prime_stderr, float(alone.epsilon_prime_stderr[0]))
    assert found.epsilon_prime == pytest.approx(float(alone.epsilon_prime[0]), abs=error)
    assert found.message.startswith("descent was not stationary after 30 steps")


def test_what_an_objective_does_not_have_is_nan():
    found = flatness(quadratic(torch.eye(70, dtype=torch.float64)), torch.zeros(70), generator=generator())
    assert math.isnan(found.relative_flatness)
    assert math.isnan(found.fisher_rao)
    assert found.pac_bayes_sigma == pytest.approx(math.sqrt(0.2 / 70), abs=5 * found.pac_bayes_stderr)


def test_old_records_load_with_new_fields_missing(tmp_path):
    net = reference("mlp")
    found = flatness(net.objective, net.theta, generator=generator())
    path = found.save(tmp_path / "flatness.npz")
    with np.load(path) as archive:
        arrays = dict(archive)
    header = json.loads(str(arrays["header"]))
    new = {f.name for f in fields(Flatness) if f.default is not MISSING}
    header["fields"] = {name: value for name, value in header["fields"].items() if name not in new}
    np.savez(path, **{**arrays, "header": np.array(json.dumps(header))})
    again = load(path)
    assert (again.trace, again.losses, again.message) == (found.trace, 0, "")
    assert math.isnan(again.fisher_rao)


def test_evaluations_are_counted(monkeypatch):
    spent = {"gradients": 0, "matvecs": 0, "losses": 0}
    call = Objective.__call__
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

    def counted_loss(self: Objective, theta: Tensor) -> Tensor:
        spent["losses"] += theta.reshape(-1, self.dim).shape[0]
        return call(self, theta)

    def counted_losses(objective: Objective, family: Family, **settings: Any) -> tuple[Tensor, Any]:
        spent["losses"] += len(family)
        return landscape.losses(objective, family, **settings)

    monkeypatch.setattr(Objective, "__call__", counted_loss)
    monkeypatch.setattr(noise, "losses", counted_losses)
    monkeypatch.setattr(Objective, "value_and_grad", counted_gradient)
    monkeypatch.setattr(Objective, "hvp", counted_hvp)
    monkeypatch.setattr(HessianProducts, "__call__", counted_times)
    net = reference("mlp")
    found = flatness(net.objective, net.theta, generator=generator())
    assert {
        name: getattr(found, name) for name in spent
    } == spent  # Fisher–Rao's one product is of another kind
    assert found.gradients == 20 * (11 + 11 + 3) + 4


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

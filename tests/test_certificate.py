"""Flat minima certified: against closed forms on two valleys, dense references, and errors over error bars."""

import math

import numpy as np
import pytest
import torch
from dense import dense_hessian, quadratic, reference
from torch import Tensor, nn

from analysis import flat_minimum_certificate
from analysis.flatness.certificate import _slopes, _square
from analysis.flatness.thirds import third_derivatives
from landscape import HessianProducts, InputError, Objective, load, model_objective
from landscape.networks import BatchNormPolicy

F64 = torch.float64


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def hyperbola() -> Objective:
    return Objective([lambda x: (x[0] * x[1] - 1) ** 2], 2)


def product(n: int) -> Objective:
    """½(yᵀz − 1)², θ = (y, z)."""
    return Objective([lambda x: 0.5 * (x[:n] @ x[n:] - 1) ** 2], 2 * n)


def on_the_floor(n: int) -> tuple[Tensor, float]:
    """A minimum of product(n), and ε′²: with t̄r = (‖y‖² + ‖z‖²)/2n, P∇t̄r is (y, z)/n less its part along (z, y)."""
    y, z = (torch.randn(n, generator=generator(s), dtype=F64) for s in (1, 2))
    z = z - y * (y @ z - 1) / (y @ y)
    theta, normal = torch.cat([y, z]), torch.cat([z, y])
    tangent = theta - normal * (normal @ theta) / (normal @ normal)
    return theta, float(tangent.square().sum()) / n**2


def diagonal_linear_network(n: int = 5, d: int = 12) -> tuple[Objective, Tensor]:
    """Mean of (x_i·(u² − v²) − y_i)² with y such that θ = (u, v) fits it exactly."""
    g = generator(3)
    inputs, theta = torch.randn(n, d, generator=g, dtype=F64), torch.rand(2 * d, generator=g, dtype=F64) + 0.2

    def output(x: Tensor) -> Tensor:
        return inputs @ (x[:d] ** 2 - x[d:] ** 2)

    targets = output(theta)
    return Objective([lambda x: (output(x) - targets).square().mean()], 2 * d), theta


def dense_square(objective: Objective, theta: Tensor, rank: int) -> float:
    """‖P∇t̄r‖² with ∇tr by differentiating a dense Hessian, P from its eigenvectors."""
    leaf = theta.clone().requires_grad_()
    hessian = torch.autograd.functional.hessian(objective.terms[0], leaf, create_graph=True)
    assert isinstance(hessian, Tensor)
    (slope,) = torch.autograd.grad(hessian.trace() / len(theta), leaf)
    vectors = torch.linalg.eigh(dense_hessian(objective, theta))[1]
    return float((vectors[:, : len(theta) - rank].T @ slope).square().sum())


def test_on_the_hyperbola_it_is_the_closed_form():
    a = 3.0
    found = flat_minimum_certificate(hyperbola(), torch.tensor([a, 1 / a]), generator=generator())
    # P∇t̄r, t̄r = x₁² + x₂², along the tangent (x₁, −x₂).
    expected = 2 * (a**2 - a**-2) / math.sqrt(a**2 + a**-2)
    np.testing.assert_allclose(found.epsilon_prime, expected, rtol=1e-6)
    assert found.epsilon_prime_stderr.max() < 1e-6  # here the noise is all along the normal
    assert (found.epsilon, found.converged) == (0, True)
    np.testing.assert_array_equal(found.normal, 1)
    balanced = flat_minimum_certificate(hyperbola(), torch.ones(2), generator=generator())
    assert balanced.epsilon_prime.max() < 1e-6


@pytest.mark.parametrize("step", [1.0, 0.02])
def test_descent_follows_the_gradient_flow(step):
    start = torch.tensor([2.0, 0.8], dtype=F64)
    # The flow keeps x₁² − x₂² = c, and ends where x₁x₂ = 1.
    c = float(start[0] ** 2 - start[1] ** 2)
    x1 = math.sqrt((c + math.sqrt(c * c + 4)) / 2)
    expected = math.hypot(2 - x1, 0.8 - 1 / x1)
    found = flat_minimum_certificate(hyperbola(), start, step=step, max_steps=2000, generator=generator())
    assert found.converged
    assert found.epsilon == pytest.approx(expected, rel=0.5 * step)
    np.testing.assert_allclose(found.minimum, [x1, 1 / x1], rtol=0.2 * step)
    assert found.loss < 1e-14
    assert start.tolist() == [2.0, 0.8]


def test_where_a_step_would_raise_the_loss_it_is_halved():
    quartic = Objective(
        [lambda x: (x**4).sum() - 0.05 * (x**2).sum()], 6
    )  # at 0.09 the curvature is 40 times too small
    found = flat_minimum_certificate(quartic, torch.full((6,), 0.0913, dtype=F64), generator=generator())
    assert found.converged
    np.testing.assert_allclose(found.minimum, math.sqrt(0.025), rtol=1e-5)


def test_the_estimate_is_near_the_dense_one_where_chance_is_left():
    objective, theta = diagonal_linear_network()
    exact = dense_square(objective, theta, 2)
    found = flat_minimum_certificate(
        objective, theta, taus=(1e-6,), probes=100, eigenvalues=2, generator=generator()
    )
    assert found.square_stderr[0] < 0.2 * exact
    assert found.square[0] == pytest.approx(exact, abs=3 * found.square_stderr[0])
    assert found.epsilon_prime[0] == pytest.approx(math.sqrt(exact), abs=3 * found.epsilon_prime_stderr[0])
    assert found.epsilon_prime_stderr[0] == pytest.approx(
        found.square_stderr[0] / 2 / math.sqrt(found.square[0])
    )


@pytest.mark.parametrize("name", ["mlp", "diagonal"])
def test_errors_over_their_error_bars_are_standard(name):
    objective, theta = diagonal_linear_network(8, 40)
    if name == "mlp":
        objective, theta = reference("mlp").whole, reference("mlp").theta
    basis = torch.linalg.eigh(dense_hessian(objective, theta))[1][:, -2:].T.contiguous()
    exact, z, g = dense_square(objective, theta, 2), [], generator(1)
    for _ in range(200):
        slopes = _slopes(objective, theta, basis, torch.randn(50, len(theta), generator=g, dtype=F64))
        along = slopes - (slopes @ basis.T) @ basis
        square, stderr = _square((along @ along.T).numpy())
        z.append((square - exact) / stderr)
    assert abs(np.mean(z)) < 0.25
    assert 0.8 < np.std(z, ddof=1) < 1.25


@pytest.mark.parametrize("n", [3, 10])
def test_on_the_valley_of_a_product_it_is_the_closed_form(n):
    theta, exact = on_the_floor(n)
    objective = product(n)
    assert dense_square(objective, theta, 1) == pytest.approx(exact, rel=1e-10)
    found = flat_minimum_certificate(objective, theta, generator=generator())
    np.testing.assert_allclose(
        found.square, exact, rtol=1e-6
    )  # beside the eigenvector nothing is left to chance
    np.testing.assert_array_equal(found.normal, 1)


def test_on_a_diagonal_linear_network_it_is_the_dense_reference():
    objective, theta = diagonal_linear_network()
    exact = dense_square(objective, theta, 5)
    found = flat_minimum_certificate(
        objective, theta, taus=(0.9, 1e-6), eigenvalues=6, probes=200, generator=generator()
    )
    np.testing.assert_array_equal(found.normal, [1, 5])
    np.testing.assert_array_equal(found.complete, [1, 1])
    assert found.square[1] == pytest.approx(
        exact, rel=1e-6
    )  # a minimum: probes along the floor add nothing along it
    assert found.square[0] > found.square[1]  # fewer directions are taken out
    assert found.epsilon == 0
    few = flat_minimum_certificate(objective, theta, taus=(1e-6,), eigenvalues=3, generator=generator())
    np.testing.assert_array_equal(few.complete, [0])


@pytest.mark.parametrize("slope", [0.0, 0.1, 1.0])
def test_the_square_of_a_mean_is_unbiased_and_its_error_bar_right(slope):
    g, m, d = generator(5), 20, 30
    mean = torch.full((d,), slope, dtype=F64)
    spread = torch.linspace(0.5, 2, d, dtype=F64)
    z = []
    for _ in range(1000):
        t = mean + spread * torch.randn(m, d, generator=g, dtype=F64)
        value, stderr = _square((t @ t.T).numpy())
        z.append((value - float(mean @ mean)) / stderr)
    assert abs(np.mean(z)) < 0.15
    assert 0.8 < np.std(z) < 1.25


def test_the_variance_is_that_of_all_quadruples():
    t = torch.randn(7, 4, generator=generator(6), dtype=F64) + 1
    g = (t @ t.T).numpy()
    r = range(7)
    apart = [g[i, j] * g[k, m] for i in r for j in r for k in r for m in r if len({i, j, k, m}) == 4]
    off = np.array([g[i, j] for i in r for j in r if i != j])
    value, stderr = _square(g)
    assert value == pytest.approx(off.mean(), rel=1e-12)
    assert stderr**2 == pytest.approx(max(off.mean() ** 2 - np.mean(apart), 2 * off.var() / 42), rel=1e-9)


NORMS = {
    "none": nn.Identity,
    "layer": lambda: nn.LayerNorm(8),
    "layer of two axes": lambda: nn.Sequential(nn.Unflatten(1, (2, 4)), nn.LayerNorm([2, 4], bias=False)),
    "layer without weights": lambda: nn.LayerNorm(8, elementwise_affine=False),
    "group": lambda: nn.GroupNorm(2, 8),
    "RMS": lambda: nn.RMSNorm(8),
    "instance": lambda: nn.Sequential(nn.Unflatten(1, (2, 4)), nn.InstanceNorm1d(2, affine=True)),
    "batch": lambda: nn.BatchNorm1d(8),
}


def normalized(name: str, batchnorm: BatchNormPolicy = "eval") -> tuple[Objective, Tensor, Tensor]:
    """A smooth network with a normalization, a point, and vectors (3, P)."""
    g = generator(8)
    inputs = torch.randn(9, 6, generator=g, dtype=F64)
    targets = torch.randint(0, 3, (9,), generator=g)
    model = nn.Sequential(nn.Linear(6, 8), NORMS[name](), nn.Softplus(), nn.Flatten(), nn.Linear(8, 3))
    batches = [(inputs[:5], targets[:5]), (inputs[5:], targets[5:])]
    objective = model_objective(
        model.double().eval(), nn.functional.cross_entropy, batches, batchnorm=batchnorm
    )
    points = torch.randn(4, objective.dim, generator=g, dtype=F64)
    return objective, points[0], points[1:]


def by_differences(objective: Objective, theta: Tensor, vectors: Tensor) -> Tensor:
    """∂/∂θ vᵀHv = ∂/∂s H(θ + sv) v, of products that other tests prove."""
    rows = []
    for v in vectors:
        h = 1e-4 / float(v.norm())
        rows.append((objective.hvp(theta + h * v, v) - objective.hvp(theta - h * v, v)) / (2 * h))
    return torch.stack(rows)


@pytest.mark.parametrize(("name", "policy"), [*((name, "eval") for name in NORMS), ("batch", "batch")])
def test_third_derivatives_are_those_of_hessian_vector_products(name, policy):
    objective, theta, v = normalized(name, policy)
    expected = by_differences(objective, theta, v)
    found = third_derivatives(objective, theta, v)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.parametrize(("name", "policy"), [("layer", "eval"), ("instance", "eval"), ("batch", "batch")])
def test_the_fused_normalizations_are_wrong_three_times_differentiated(name, policy):
    """Why third_derivatives does without them: if PyTorch mends this, it need not."""
    objective, theta, v = normalized(name, policy)
    leaf, total = theta.clone().requires_grad_(), torch.zeros_like(theta)
    for term in objective.terms:
        value = term(leaf)
        for _ in range(2):
            value = torch.autograd.grad(value, leaf, create_graph=True)[0] @ v[0]
        total += torch.autograd.grad(value, leaf)[0]
    expected = by_differences(objective, theta, v[:1])[0]
    assert float((total - expected).norm()) > 0.01 * float(expected.norm())


def test_a_quadratic_has_no_slope_and_a_loss_without_minimum_says_so():
    found = flat_minimum_certificate(
        quadratic(torch.diag(torch.tensor([3.0, 1.0, 0.0], dtype=F64))), torch.ones(3), generator=generator()
    )
    np.testing.assert_allclose(found.epsilon_prime, 0)
    assert found.epsilon == pytest.approx(math.sqrt(2), rel=1e-6)  # along the zero curvature nothing moves
    assert found.loss < 1e-14
    falling = Objective([lambda x: torch.nn.functional.softplus(-x).sum()], 4)
    found = flat_minimum_certificate(falling, torch.zeros(4), max_steps=30, generator=generator())
    assert not found.converged
    assert found.message.startswith("descent was not stationary after 30 steps: the gradient norm is")
    assert found.gradients == 1 + 30 + 1


def test_evaluations_are_counted(monkeypatch):
    spent = {"gradients": 0, "matvecs": 0}
    value_and_grad, times = Objective.value_and_grad, HessianProducts.__call__

    def counted_gradient(self: Objective, theta: Tensor) -> tuple[Tensor, Tensor]:
        spent["gradients"] += theta.reshape(-1, self.dim).shape[0]
        return value_and_grad(self, theta)

    def counted_times(self: HessianProducts, v: Tensor) -> Tensor:
        spent["matvecs"] += v.reshape(-1, v.shape[-1]).shape[0]
        return times(self, v)

    monkeypatch.setattr(Objective, "value_and_grad", counted_gradient)
    monkeypatch.setattr(HessianProducts, "__call__", counted_times)
    net = reference("mlp")
    found = flat_minimum_certificate(net.whole, net.theta, max_steps=7, probes=5, generator=generator())
    assert {"gradients": found.gradients, "matvecs": found.matvecs} == spent


def test_what_is_not_finite_is_said():
    broken = Objective([lambda x: (x - 1).sqrt().sum()], 100)
    found = flat_minimum_certificate(broken, torch.zeros(100), generator=generator())
    assert found.message == "the Hessian at theta is 0 or not finite, so no step of descent is known."
    assert np.isnan(found.square).all()


def test_records_keep_what_they_say(tmp_path):
    theta, _ = on_the_floor(3)
    found = flat_minimum_certificate(product(3), theta, generator=generator())
    again = load(found.save(tmp_path / "record.npz"))
    np.testing.assert_array_equal(again.epsilon_prime, found.epsilon_prime)
    one, other = (flat_minimum_certificate(product(3), theta, generator=generator(1)) for _ in range(2))
    np.testing.assert_array_equal(one.square, other.square)


def test_bad_input_says_what_to_do():
    objective, theta = quadratic(torch.eye(3, dtype=F64)), torch.ones(3)
    cases = {
        r"taus must be shares of the largest eigenvalue between 0 and 1, got \(2,\)": {"taus": (2,)},
        r"step must be between 0 and 2, where descent is stable, got 2": {"step": 2},
        r"max_steps must be at least 0, got -1": {"max_steps": -1},
        r"tolerance must be a positive share of the norm of theta, got 0": {"tolerance": 0},
        r"eigenvalues must be at least 1, got 0": {"eigenvalues": 0},
        r"probes must be at least 4, of which an error bar can be made, got 3": {"probes": 3},
    }
    for message, settings in cases.items():
        with pytest.raises(InputError, match=message):
            flat_minimum_certificate(objective, theta, **settings)

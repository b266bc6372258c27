"""The gap to the gradient flow and the drift along eigenvectors: closed forms on quadratics, dense Hessians of networks."""

import numpy as np
import pytest
import torch
from dense import dense_hessian, quadratic, reference, rotated
from torch import Tensor

from analysis import corridor
from landscape import Objective

VALUES = torch.tensor([-0.5, 0.1, 0.4, 1.0, 2.0], dtype=torch.float64)


def descent(objective: Objective, theta: Tensor, lr: float, steps: int) -> Tensor:
    points = [theta]
    for _ in range(steps):
        points.append(points[-1] - lr * objective.grad(points[-1]))
    return torch.stack(points)


@pytest.mark.parametrize("h", [0.05, 0.8])
def test_the_flow_of_a_quadratic_is_an_exponential(h):
    a = rotated(VALUES, torch.Generator().manual_seed(1))
    objective = quadratic(a)
    thetas = descent(objective, torch.ones(5, dtype=torch.float64), h, 3)
    before = thetas.clone()
    found = corridor(objective, thetas, lr=h, flow_steps=32)
    for t, theta in enumerate(thetas[:-1]):
        flow = torch.linalg.matrix_exp(-h * a) @ theta
        gap = (thetas[t + 1] - flow).norm() / (thetas[t + 1] - theta).norm()
        assert found.flow_gap[t] == pytest.approx(float(gap), rel=1e-7)
        assert abs(found.flow_gap[t] - float(gap)) < 2 * found.flow_error[t] + 1e-13
    assert found.gradients == 4 + 3 * (6 * 32 - 1)
    assert thetas.equal(before)


def test_the_error_of_the_flow_is_of_order_4_and_covers_what_it_says():
    a = rotated(VALUES, torch.Generator().manual_seed(1))
    objective, h = quadratic(a), 1.0
    theta = torch.ones(5, dtype=torch.float64)
    thetas = torch.stack([theta, theta - h * a @ theta])
    exact = (thetas[1] - torch.linalg.matrix_exp(-h * a) @ theta).norm() / (thetas[1] - theta).norm()
    runs = [corridor(objective, thetas, lr=h, flow_steps=n) for n in (16, 32, 64)]
    errors = np.array([r.flow_error[0] for r in runs])
    np.testing.assert_allclose(errors[:-1] / errors[1:], 16, rtol=0.2)
    for run, n in zip(runs, (16, 32, 64), strict=True):
        assert abs(run.flow_gap[0] - float(exact)) < 1.5 * run.flow_error[0]
        x, eye = h * a / n, torch.eye(5, dtype=torch.float64)
        once = eye - x + x @ x / 2 - x @ x @ x / 6 + x @ x @ x @ x / 24  # what the method makes of exp(−x)
        away = (torch.linalg.matrix_power(once, n) - torch.linalg.matrix_exp(-h * a)) @ theta
        assert run.flow_error[0] == pytest.approx(float(away.norm() / (thetas[1] - theta).norm()), rel=0.3)


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e-5])
def test_steps_far_below_the_size_of_theta_are_followed_in_float32(scale):
    """Near a minimum the step is ``scale`` of what it is far from it, and the gap, relative to it, the same."""
    p, generator = 1000, torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:  # numbers that float32 holds
        return torch.randn(*shape, generator=generator).double()

    rows = normal(50, p) / 32
    theta = 3 * normal(p).float().double()
    target = (rows @ theta + scale * normal(50)).float().double()
    left, kernel, eye = rows @ theta - target, rows @ rows.T / 50, torch.eye(50, dtype=torch.float64)
    decayed = torch.linalg.solve(kernel, (eye - torch.linalg.matrix_exp(-0.5 * kernel)) @ left)
    gradient, moved = rows.T @ left / 50, -rows.T @ decayed / 50
    exact = float((0.5 * gradient + moved).norm() / (0.5 * gradient.norm()))
    objective = Objective(
        [lambda t: 0.5 * (rows.to(t) @ t - target.to(t)).square().mean()], p, dtype=torch.float32
    )
    found = corridor(objective, torch.stack([theta, theta - 0.5 * gradient]), lr=0.5, flow_steps=8)
    assert abs(found.flow_gap[0] - exact) < found.flow_error[0]
    assert found.flow_error[0] < 1e-6 / scale  # as well as gradients are known


def test_to_first_order_the_gap_is_half_of_kappa():
    net = reference("mlp")
    found = corridor(net.objective, descent(net.objective, net.theta, 1e-3, 3), flow_steps=2)
    np.testing.assert_allclose(found.flow_gap, found.kappa / 2, rtol=5e-3)
    assert np.isnan(corridor(net.objective, torch.stack([net.theta] * 2), flow_steps=2).flow_gap).all()


@pytest.mark.parametrize("name", ["mlp", "layernorm"])
@pytest.mark.parametrize("k", [1, 3])
def test_drift_along_eigenvectors_of_the_dense_hessian(name, k):
    net = reference(name)
    thetas = descent(net.objective, net.theta, 0.1, 2)
    thetas[2] += 0.05
    found = corridor(net.objective, thetas, eigenvectors=k, generator=torch.Generator().manual_seed(0))
    for t in range(2):
        values, vectors = torch.linalg.eigh(dense_hessian(net.whole, thetas[t]))
        chosen = values.abs().argsort(descending=True)[:k]
        top, g, move = vectors[:, chosen], net.whole.grad(thetas[t]), thetas[t + 1] - thetas[t]
        expected = values[chosen].sort(descending=True).values.numpy()
        np.testing.assert_allclose(found.eigenvalues[t], expected, rtol=1e-8)
        assert found.gradient_share[t] == pytest.approx(float((top.T @ g).square().sum() / (g @ g)), rel=1e-6)
        share = float((top.T @ move).square().sum() / (move @ move))
        assert found.step_share[t] == pytest.approx(share, rel=1e-6)
    assert found.eigenvalues.shape == found.step_components.shape == (2, k)
    assert (found.residuals < 1e-4).all()
    assert found.matvecs > 4


def test_all_eigenvectors_span_everything_and_negative_curvature_counts():
    objective = quadratic(torch.diag(torch.tensor([1.0, -3.0, 0.5], dtype=torch.float64)))
    thetas = torch.tensor([[1.0, 1.0, 1.0], [0.9, 1.3, 0.95]], dtype=torch.float64)
    whole = corridor(objective, thetas, eigenvectors=3)
    np.testing.assert_allclose([whole.gradient_share, whole.step_share], 1, rtol=1e-12)
    one = corridor(objective, thetas, eigenvectors=1)
    assert one.eigenvalues[0, 0] == pytest.approx(-3)
    assert one.gradient_share[0] == pytest.approx(9 / 10.25)
    assert one.step_share[0] == pytest.approx(0.09 / (0.01 + 0.09 + 0.0025))

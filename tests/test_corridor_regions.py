"""Piecewise linear networks with a loss linear in the output: inside one region the corridors are what theory says."""

import numpy as np
import pytest
import torch
from dense import dense_hessian
from torch import Tensor, nn

from analysis import corridor
from landscape import Objective, model_objective

X = torch.randn(9, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
PULL = torch.randn(9, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def network(*free: int) -> tuple[Objective, Tensor, nn.Sequential]:
    """Three layers with ReLU, those of these indices free, and mean(pull · output): linear in the output, without curvature."""
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2)).double()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    for i in (0, 2, 4):
        model[i].requires_grad_(i in free)
    objective = model_objective(model, lambda z, pull: (z * pull).sum(dim=1).mean(), [(X, PULL)])
    return objective, objective.parameters.theta(model).double(), model


def pattern(objective: Objective, model: nn.Sequential, theta: Tensor) -> list[Tensor]:
    """Which units are on, at θ."""
    parameters = dict(model.named_parameters()) | objective.parameters.unpack(theta)
    first = X @ parameters["0.weight"].T + parameters["0.bias"]
    second = first.relu() @ parameters["2.weight"].T + parameters["2.bias"]
    return [first > 0, second > 0]


def descent(objective: Objective, theta: Tensor, lr: float, steps: int) -> Tensor:
    points = [theta]
    for _ in range(steps):
        points.append(points[-1] - lr * objective.grad(points[-1]))
    return torch.stack(points)


@pytest.mark.parametrize("layer", [0, 2, 4])
def test_one_free_layer_descends_in_an_exact_corridor_inside_a_region(layer):
    objective, theta, model = network(layer)
    thetas = descent(objective, theta, 1e-4, 8)
    patterns = [pattern(objective, model, point.detach()) for point in thetas]
    assert all(torch.equal(a, b) for p in patterns for a, b in zip(p, patterns[0], strict=True))
    found = corridor(objective, thetas)
    np.testing.assert_array_equal(found.image_norm, 0)
    (interval,) = found.intervals(kappa=0, linearity=1e-9)
    assert (interval.first, interval.last) == (0, 7)
    assert interval.share == pytest.approx(1)
    np.testing.assert_allclose(found.cosine, 1, rtol=1e-12)


def test_a_step_across_a_kink_leaves_the_corridor():
    objective, theta, model = network(0)
    far = theta - 3.0 * objective.grad(theta)
    assert not torch.equal(pattern(objective, model, theta)[0], pattern(objective, model, far)[0])
    found = corridor(objective, torch.stack([theta, far]), lr=3.0)
    assert found.kappa[0] == 0  # the derivative at θ does not see the kink, the fall of the loss does
    assert abs(found.linearity[0] - 1) > 0.1
    assert found.intervals() == ()


def test_with_all_layers_free_each_layers_block_is_zero_and_kappa_comes_from_between():
    objective, theta, _ = network(0, 2, 4)
    hessian, g, h = dense_hessian(objective, theta), objective.grad(theta), 1e-3
    layers = np.array([name.split(".")[0] for name in objective.parameters.names])
    sizes = [int(np.prod(shape)) for shape in objective.parameters.shapes]
    owner = np.repeat(layers, sizes)
    between = torch.zeros_like(g)
    for layer in ("0", "2", "4"):
        mine = torch.from_numpy(owner == layer)
        np.testing.assert_array_equal(hessian[mine][:, mine].numpy(), 0)
        between[mine] = hessian[mine][:, ~mine] @ g[~mine]
    found = corridor(objective, torch.stack([theta, theta - h * g]), lr=h)
    assert found.kappa[0] == pytest.approx(float(h * between.norm() / g.norm()), rel=1e-10)
    assert found.kappa[0] > 1e-4
    assert found.curvature[0] == pytest.approx(float(g @ between), rel=1e-9)

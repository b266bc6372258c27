"""Lines, planes and directions against their definitions."""

import numpy as np
import pytest
import torch
from torch import nn

from landscape import InputError, Line, Objective, Parameters, Plane, load_problem, scan
from landscape.directions import random_direction


def quadratic() -> Objective:
    scale = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    return Objective([lambda t: (scale * t**2).sum()], 3)


def test_a_line_scan_is_the_loss_at_each_point():
    start, direction = torch.tensor([1.0, 0, 0]), torch.tensor([0.0, 1, 1])
    record = scan(quadratic(), Line(start, direction, torch.linspace(-2, 2, 5)), label="x")
    np.testing.assert_allclose(record.loss, [1 + 5 * s**2 for s in (-2, -1, 0, 1, 2)], rtol=1e-14)
    assert record.label == "x"


def test_a_plane_scan_has_the_first_direction_along_rows():
    d1, d2 = torch.tensor([1.0, 0, 0]), torch.tensor([0.0, 0, 1])
    probe = Plane(torch.zeros(3), d1, d2, torch.tensor([0.0, 1, 2]), torch.tensor([0.0, 1]))
    record = scan(quadratic(), probe)
    np.testing.assert_allclose(record.loss, [[0, 3], [1, 4], [4, 7]])


@pytest.mark.parametrize("name", ["digits-mlp", "digits-cnn"])
def test_the_center_of_every_scan_is_the_models_own_loss(name):
    problem = load_problem(name)
    model = problem.build(0).double()
    x, y = problem.train
    own = float(nn.functional.cross_entropy(model(x.double()), y).detach())
    objective = problem.objective()
    theta = objective.parameters.theta(model)
    generator = torch.Generator().manual_seed(0)
    d1, d2 = (random_direction(theta, objective.parameters, generator=generator) for _ in range(2))
    steps = torch.tensor([-1.0, 0, 1])
    kept = theta.clone()
    line, plane = scan(objective, Line(theta, d1, steps)), scan(objective, Plane(theta, d1, d2, steps, steps))
    assert line.center_loss == float(objective(theta)) == plane.center_loss
    assert line.center_loss == pytest.approx(own, rel=1e-13)
    np.testing.assert_allclose(plane.loss[:, 1], line.loss, rtol=1e-13)
    assert theta.equal(kept)


def model() -> nn.Module:
    return nn.Sequential(nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(3, 4)).double()


def test_filter_normalization_is_that_of_li_et_al():
    net = model()
    parameters = Parameters.of(net)
    theta = parameters.theta(net)
    direction = parameters.unpack(
        random_direction(theta, parameters, generator=torch.Generator().manual_seed(1))
    )
    conv, linear = net.get_parameter("0.weight"), net.get_parameter("3.weight")
    for k in range(3):
        torch.testing.assert_close(direction["0.weight"][k].norm(), conv[k].norm())
    for k in range(4):
        torch.testing.assert_close(direction["3.weight"][k].norm(), linear[k].norm())
    for name in ("0.bias", "1.weight", "1.bias", "3.bias"):
        assert direction[name].count_nonzero() == 0


def test_layer_and_whole_normalization():
    net = model()
    parameters = Parameters.of(net)
    theta = parameters.theta(net) + 1
    generator = torch.Generator().manual_seed(1)
    layer = parameters.unpack(random_direction(theta, parameters, generator=generator, normalize="layer"))
    for name, tensor in parameters.unpack(theta).items():
        torch.testing.assert_close(layer[name].norm(), tensor.norm())
    whole = random_direction(theta, parameters, generator=generator, normalize="none")
    torch.testing.assert_close(whole.norm(), theta.norm())
    with pytest.raises(InputError, match="normalize must be 'filter', 'layer' or 'none', got 'x'"):
        random_direction(theta, parameters, generator=generator, normalize="x")  # type: ignore[arg-type]


def test_the_same_generator_gives_the_same_direction():
    net = model()
    parameters = Parameters.of(net)
    theta = parameters.theta(net)
    one, two = (
        random_direction(theta, parameters, generator=torch.Generator().manual_seed(7)) for _ in range(2)
    )
    assert one.equal(two)


def test_bad_probes_are_refused():
    with pytest.raises(InputError, match="steps must be a vector of at least one"):
        scan(quadratic(), Line(torch.zeros(3), torch.ones(3), torch.zeros(0)))
    with pytest.raises(InputError, match=r"a probe's vector must have shape \(3,\)"):
        scan(quadratic(), Line(torch.zeros(2), torch.ones(2)))

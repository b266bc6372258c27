"""Lines, planes and directions against their definitions."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from landscape import (
    InputError,
    Line,
    Objective,
    Plane,
    load,
    load_problem,
    model_objective,
    random_plane,
    scan,
)
from landscape.directions import random_direction
from landscape.probes import centered_steps


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


def test_default_steps_hold_an_exact_zero_and_exact_ends():
    d1, d2 = torch.tensor([1.0, 0, 0]), torch.tensor([0.0, 1, 0])
    line = scan(quadratic(), Line(torch.ones(3), d1))
    plane = scan(quadratic(), Plane(torch.ones(3), d1, d2))
    assert (len(line.steps), plane.loss.shape) == (51, (25, 25))
    assert line.center_loss == 6 == plane.center_loss
    for steps in (line.steps, plane.steps1, plane.steps2):
        assert (steps[0], steps[-1]) == (-1, 1)


@pytest.mark.parametrize(("points", "count"), [(2, 3), (25, 25), (30, 31), (31, 31)])
def test_centered_steps_are_multiples_of_one_number(points, count):
    steps = centered_steps(points, 0.7)
    assert len(steps) == count
    assert steps[count // 2] == 0
    assert steps.equal(-steps.flip(0))
    torch.testing.assert_close(steps.diff(), torch.full((count - 1,), 1.4 / (count - 1), dtype=torch.float64))


@pytest.mark.parametrize("engine", ["loop", "auto"])
def test_other_objectives_and_gradients_stand_beside_the_loss(engine):
    generator = torch.Generator().manual_seed(3)
    center, d1, d2 = (torch.randn(3, generator=generator, dtype=torch.float64) for _ in range(3))
    objective, other = quadratic(), Objective([lambda t: t.sum()], 3)
    probe = Plane(center, d1, d2, torch.tensor([0.0, 1, 2]), torch.tensor([0.0, 0.5]))
    record = scan(objective, probe, also={"test loss": other}, gradient=True, engine=engine)
    q, _ = torch.linalg.qr(torch.stack([d1, d2]).T)
    expected: dict[str, Any] = {}
    for i, s in enumerate(probe.steps1):
        for j, t in enumerate(probe.steps2):
            theta = center + s * d1 + t * d2
            g = 2 * torch.tensor([1.0, 2, 3], dtype=torch.float64) * theta
            expected = {
                "loss": objective(theta),
                "test loss": theta.sum(),
                "gradient norm": g.norm(),
                "slope along d1": g @ d1,
                "slope along d2": g @ d2,
                "gradient norm in the probe": (q.T @ g).norm(),
            }
            for name, value in expected.items():
                assert record.value(name)[i, j] == pytest.approx(float(value), rel=1e-12), name
    assert set(record.values) == set(expected) - {"loss"}
    line = scan(objective, Line(center, d1, probe.steps1), also={"test loss": other}, gradient=True)
    for name in ("test loss", "gradient norm", "slope along d1"):
        np.testing.assert_allclose(line.value(name), record.value(name)[:, 0], rtol=1e-12)
    along = line.value("slope along d1") / float(d1.norm())
    np.testing.assert_allclose(line.value("gradient norm in the probe"), np.abs(along), rtol=1e-12)
    with pytest.raises(
        InputError, match=r"value must be one of those recorded \(loss, test loss, .*, got 'x'"
    ):
        line.value("x")
    with pytest.raises(InputError, match="also must not be called 'gradient norm'"):
        scan(objective, probe, also={"gradient norm": other})


def test_values_and_marks_are_saved(tmp_path):
    d1, d2 = torch.tensor([1.0, 0, 0]), torch.tensor([1.0, 1, 0])
    marks = {"sgd/0": torch.tensor([1.0, 2, 0]), "off": [0.0, 0, 2]}
    probe = Plane(torch.zeros(3), d1, d2, marks=marks, drawn="by hand")
    record = scan(quadratic(), probe, also={"test loss": quadratic()}, label="x", about={"seed": 1})
    np.testing.assert_allclose(record.mark_coordinates, [[-1, 2], [0, 0]], atol=1e-15)
    np.testing.assert_allclose(record.mark_distance, [0, 2], atol=1e-15)
    np.testing.assert_allclose(record.mark_loss, [9, 12], rtol=1e-15)
    kept = load(record.save(tmp_path / "surface.npz"))
    assert (kept.direction, kept.mark_labels, kept.about["seed"]) == ("by hand", ("sgd/0", "off"), 1)
    assert set(kept.about["engines"]) == {"test loss"}
    for name in ("loss", "mark_coordinates", "mark_distance", "mark_loss"):
        np.testing.assert_array_equal(getattr(kept, name), getattr(record, name))
    np.testing.assert_array_equal(kept.values["test loss"], record.loss)
    assert scan(quadratic(), probe, direction="other").direction == "other"


def test_accuracy_of_a_network_on_a_plane():
    problem = load_problem("digits-mlp")
    model = problem.build(0).double()
    x, y = problem.test
    objective = problem.objective()
    theta = objective.parameters.theta(model)
    plane = random_plane(theta, objective.parameters, generator=torch.Generator().manual_seed(0), points=3)
    accuracy = model_objective(model, lambda z, t: (z.argmax(-1) == t).double().mean(), [(x.double(), y)])
    record = scan(objective, plane, also={"test accuracy": accuracy})
    own = float((model(x.double()).argmax(-1) == y).double().mean())
    assert record.values["test accuracy"][1, 1] == pytest.approx(own, rel=1e-12)
    point = theta - plane.d1 + plane.d2
    assert record.values["test accuracy"][0, 2] == pytest.approx(float(accuracy(point)), rel=1e-12)


def test_bad_probes_are_refused():
    with pytest.raises(InputError, match="steps must be a vector of at least one"):
        scan(quadratic(), Line(torch.zeros(3), torch.ones(3), torch.zeros(0)))
    with pytest.raises(InputError, match=r"a probe's vector must have shape \(3,\)"):
        scan(quadratic(), Line(torch.zeros(2), torch.ones(2)))
    for points, reach in ((1, 1.0), (5, 0.0)):
        with pytest.raises(InputError, match="steps need at least 2 points and a reach above 0, got"):
            centered_steps(points, reach)

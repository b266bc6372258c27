"""A trajectory on disk is measured as the array of its points is, with its steps, rates and the length of its way."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from dense import reference

from analysis import corridor, corridor_noise, corridor_points
from landscape import InputError, Objective
from landscape.results import Checkpoint
from landscape.trajectories import Trajectory, checkpoint_file

STEPS, RATES = [0, 1, 10, 11, 30], [0.1, 0.1, 0.05, np.nan, np.nan]
TRAVELLED = [3.0, 3.5, 6.0, 6.25, 10.0]
NET = reference("mlp")
THETAS = torch.stack([NET.theta * (1 - 0.01 * s) for s in STEPS])


@pytest.fixture
def trajectory(tmp_path):
    parameters = NET.objective.parameters
    for theta, step, rate, way in zip(THETAS, STEPS, RATES, TRAVELLED, strict=True):
        Checkpoint(
            problem="p", optimizer="sgd", seed=3, theta=theta.numpy(), names=parameters.names,
            shapes=parameters.shapes, step=step, rate=rate, travelled=way,
        ).save(checkpoint_file(tmp_path, step))  # fmt: skip
    return Trajectory(tmp_path)


def test_it_equals_the_array(trajectory):
    found = corridor(NET.objective, trajectory, windows=[2])
    array = corridor(NET.objective, THETAS, lr=found.rate, steps=STEPS, windows=[2], label="sgd/3")
    for name in ("steps", "loss", "rate", "kappa", "linearity", "cosine", "change_beside", "spans", "reach"):
        np.testing.assert_array_equal(getattr(found, name), getattr(array, name))
    assert found.label == "sgd/3"
    np.testing.assert_array_equal(found.rate[:3], RATES[:3])
    assert found.rate[3] == pytest.approx(3.75 / 19 / float(NET.objective.grad(THETAS[3]).norm()))


def test_rows_are_stretches_and_the_way_is_that_of_every_step(trajectory):
    found = corridor(NET.objective, trajectory, windows=[1], lr=1e-5)
    np.testing.assert_allclose(found.rate, 1e-5)
    np.testing.assert_allclose(found.travelled, [0, 0.5, 3, 3.25, 7])
    np.testing.assert_allclose(found.chord_over(1), found.length / np.diff(TRAVELLED))
    assert found.chord == pytest.approx(0.3 * float(NET.theta.norm()) / 7)
    inside = found.in_corridor(linearity=np.inf)
    assert inside.all()
    whole = found.in_corridor(kappa=1.0, linearity=0.15)
    share = found.share_of_steps(kappa=1.0, linearity=0.15)
    assert share == pytest.approx(whole @ np.array([1, 9, 1, 19]) / 30)
    assert found.about["travelled"] == "summed over steps"


@pytest.mark.parametrize("every", [1, 5, 20])
@pytest.mark.parametrize("recorded", [True, False])
def test_thinning_leaves_the_rate_of_a_step(tmp_path, every, recorded):
    """On a line the way of 20 steps is known from its ends, and by_length and the default find the rate of descent."""
    objective, theta, way = Objective([lambda t: t.sum() / 6], 36), torch.zeros(36, dtype=torch.float64), 0.0
    objective.parameters = NET.objective.parameters
    gradient, thetas = objective.grad(theta), []
    for step in range(41):
        if step % every == 0:
            thetas.append(theta)
            Checkpoint(
                problem="p", optimizer="sgd", seed=3, theta=theta.numpy(), names=("theta",), shapes=((36,),),
                step=step, rate=np.nan, travelled=way,
            ).save(checkpoint_file(tmp_path, step))  # fmt: skip
        theta, way = theta - 0.05 * gradient, way + 0.05 * float(gradient.norm())
    steps = None if recorded else np.arange(0, 41, every)
    found = corridor(objective, Trajectory(tmp_path) if recorded else torch.stack(thetas), steps=steps)
    np.testing.assert_allclose(found.rate, 0.05, rtol=1e-12)
    np.testing.assert_allclose(found.at_rate(3.0).by_length().rate, 0.05, rtol=1e-12)


def test_of_a_winding_way_every_step_counts(trajectory):
    """What was recorded step by step, not how far apart the ends are."""
    found = corridor(NET.objective, trajectory)
    ways = [float(found.length[0]), 2.5 / 9, float(found.length[2]), 3.75 / 19]
    np.testing.assert_allclose(found.by_length().rate, ways / found.gradient_norm[:-1], rtol=1e-12)


def test_a_way_that_was_not_recorded_is_summed_over_rows(trajectory):
    first = trajectory.checkpoint(0)
    replace(first, travelled=np.nan).save(trajectory.files[0])
    found = corridor(NET.objective, Trajectory(trajectory.directory))
    np.testing.assert_allclose(found.travelled[1:], np.cumsum(found.length))
    lengths = found.length / np.diff(STEPS) / found.gradient_norm[:-1]
    np.testing.assert_allclose([found.rate[3], found.by_length().rate[1]], lengths[[3, 1]], rtol=1e-12)
    assert found.chord == pytest.approx(1)  # all points lie on a ray
    assert found.about["travelled"] == "summed over rows"


def test_noise_and_points_of_a_trajectory(trajectory):
    noise = corridor_noise(NET.objective, trajectory, draws=3)
    np.testing.assert_array_equal(noise.steps, STEPS)
    assert noise.label == corridor_points(NET.objective, trajectory).label == "sgd/3"
    np.testing.assert_array_equal(
        corridor_points(NET.objective, trajectory).bend, corridor_points(NET.objective, THETAS).bend
    )


def test_a_trajectory_is_refused_where_it_does_not_fit(trajectory):
    with pytest.raises(InputError, match="steps must be None for a Trajectory, which has its own"):
        corridor(NET.objective, trajectory, steps=STEPS)
    with pytest.raises(InputError, match=r"thetas must have shape \(36,\)|thetas must have shape"):
        corridor(reference("conv").objective, trajectory)
    for file in trajectory.files[1:]:
        file.unlink()
    with pytest.raises(InputError, match=r"thetas must be at least two points .*, got a trajectory of 1"):
        corridor(NET.objective, Trajectory(trajectory.directory))

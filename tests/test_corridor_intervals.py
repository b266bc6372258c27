"""Stretches that are corridors: exact ones are found whole, quadratics are at rates where theory says so."""

import numpy as np
import pytest
import torch
from dense import quadratic
from test_corridor import CORRIDORS, START, descent
from torch import Tensor

from analysis import corridor
from landscape import InputError, Objective
from landscape.results import Corridor

SPHERE = Objective([lambda theta: (theta - 1).norm() - 0.5], 3)  # the distance to a sphere, from outside
ENDS = torch.tensor([[0.0, 0.0, 0.0], [2.0, 0.5, -1.0]], dtype=torch.float64)


def to_segment(theta: Tensor) -> Tensor:
    """The distance to the segment between ENDS."""
    along = ENDS[1] - ENDS[0]
    share = ((theta - ENDS[0]) @ along / (along @ along)).clamp(0, 1)
    return (theta - ENDS[0] - share * along).norm()


EXACT = CORRIDORS | {"distance to a sphere": SPHERE, "distance to a segment": Objective([to_segment], 3)}


@pytest.mark.parametrize("start", [START, torch.tensor([1.0, 3.0, 1.0], dtype=torch.float64)])
@pytest.mark.parametrize("name", EXACT)
def test_an_exact_corridor_is_one_interval(name, start):
    objective = EXACT[name]
    found = corridor(objective, descent(objective, start, 0.05, 12), steps=np.arange(13) * 7)
    (interval,) = found.intervals(kappa=1e-12, linearity=1e-12)
    assert (interval.first, interval.last, interval.start, interval.end, interval.steps) == (0, 11, 0, 84, 84)
    assert interval.decrease == pytest.approx(float(found.loss[0] - found.loss[-1]))
    assert interval.share == pytest.approx(1)
    assert found.share_of_steps(kappa=1e-12, linearity=1e-12) == 1
    assert found.share_of_decrease(kappa=1e-12, linearity=1e-12) == pytest.approx(1)
    assert found.longest(kappa=1e-12, linearity=1e-12) == 84


@pytest.mark.parametrize(("h", "inside"), [(0.049, True), (0.051, False)])  # κ = hλ = 2h
def test_a_round_quadratic_is_a_corridor_at_small_rates_alone(h, inside):
    objective = quadratic(2 * torch.eye(3, dtype=torch.float64))
    found = corridor(objective, descent(objective, START, h, 20), lr=h)
    assert found.in_corridor(kappa=0.1, linearity=0.1).tolist() == [inside] * 20
    assert len(found.intervals(kappa=0.1)) == inside
    assert found.share_of_decrease(kappa=0.1) == pytest.approx(float(inside))
    np.testing.assert_allclose(
        np.abs(found.linearity - 1), h, rtol=1e-11
    )  # κ/2: linearity decides nothing here


def test_an_anisotropic_quadratic_becomes_a_corridor_once_the_steep_direction_is_gone():
    values = torch.tensor([4.0, 0.01], dtype=torch.float64)
    objective, h, steps = quadratic(torch.diag(values)), 0.1, 40
    thetas = descent(objective, torch.ones(2, dtype=torch.float64), h, steps)
    found = corridor(objective, thetas, lr=h)
    g = (1 - h * values) ** torch.arange(steps)[:, None] * values
    kappa = h * (values * g).norm(dim=1) / g.norm(dim=1)
    np.testing.assert_allclose(found.kappa, kappa.numpy(), rtol=1e-12)
    first = int((kappa > 0.1).sum())
    (interval,) = found.intervals()
    assert 0 < first < steps
    assert (interval.first, interval.last) == (first, steps - 1)
    loss = (0.5 * values * ((1 - h * values) ** torch.arange(steps + 1)[:, None]) ** 2).sum(1)
    share = float((loss[first] - loss[-1]) / (loss[0] - loss[-1]))
    assert interval.share == found.share_of_decrease() == pytest.approx(share, rel=1e-9)
    assert found.share_of_steps() == pytest.approx((steps - first) / steps)


def test_a_loss_that_rises_has_no_decrease_to_share():
    objective = CORRIDORS["‖θ‖"]
    up = corridor(objective, torch.stack([START, 1.1 * START, 1.2 * START]))
    assert up.share_of_steps() == 1
    assert np.isnan(up.share_of_decrease())
    assert np.isnan(up.intervals()[0].share)
    assert up.intervals()[0].decrease == pytest.approx(-0.2 * float(START.norm()))


def test_a_row_without_a_measure_is_in_no_corridor_and_records_are_kept(tmp_path):
    objective = CORRIDORS["‖θ‖"]
    thetas = torch.stack([START, 0.9 * START, 0.9 * START, 0.8 * START])
    found = corridor(objective, thetas, windows=[2], flow_steps=2, eigenvectors=1)
    assert found.in_corridor().tolist() == [True, False, True]
    assert [(i.first, i.last) for i in found.intervals()] == [(0, 0), (2, 2)]
    assert found.share_of_decrease() == pytest.approx(1)
    assert found.share_of_steps() == pytest.approx(2 / 3)
    again = Corridor.load(found.save(tmp_path / "corridor.npz"))
    for name in ("loss", "kappa", "linearity", "flow_gap", "gradient_share", "spans"):
        np.testing.assert_array_equal(getattr(again, name), getattr(found, name))
    assert again.windows == (2,)
    with pytest.raises(InputError, match=r"kappa and linearity must be at least 0, got -1 and 0.1"):
        found.intervals(kappa=-1)


def bowl(rise: float, dtype: torch.dtype) -> Objective:
    """1 + ½ rise ‖θ‖²"""
    return Objective([lambda theta: 1 + 0.5 * rise * (theta @ theta)], 3, dtype=dtype)


@pytest.mark.parametrize(("dtype", "rise"), [(torch.float32, 1e-8), (torch.float64, 1e-17)])
def test_linearity_below_the_rounding_of_losses_is_not_known(dtype, rise):
    """Halving θ, linearity is ¾: of a bowl this flat on a loss of 1 the losses do not show it, κ does."""
    thetas = START * 0.5 ** torch.arange(4)[:, None]
    found = corridor(bowl(rise, dtype), thetas)
    assert found.lost.all()
    assert np.isnan(found.linearity).all()
    np.testing.assert_allclose(found.kappa, 0.5, rtol=1e-5)
    assert not found.in_corridor(kappa=1).any()
    assert found.in_corridor(kappa=1, linearity=np.inf).all()
    steep = corridor(bowl(1.0, dtype), thetas)
    assert not steep.lost.any()
    np.testing.assert_allclose(steep.linearity, 0.75, rtol=1e-4)


def test_a_fall_of_0_that_is_known_is_no_rounding():
    """A step across a bowl to the same height: the gradient foretold a fall, and there was none."""
    found = corridor(bowl(1.0, torch.float64), torch.stack([START, -START]))
    assert not found.lost.any()
    assert found.linearity[0] == 0
    along_the_level = corridor(bowl(1.0, torch.float64), torch.tensor([[1.0, 0, 0], [1.0, 1e-3, 0]]).double())
    assert np.isnan(along_the_level.linearity[0])  # nothing foretold, and that is known
    assert not along_the_level.lost[0]


def test_records_without_their_rounding_are_of_float64(tmp_path):
    found = corridor(bowl(1e-8, torch.float32), START * 0.5 ** torch.arange(4)[:, None])
    again = Corridor.load(found.save(tmp_path / "float32.npz"))
    assert again.lost.all()
    told = {name: value for name, value in vars(found).items() if name != "rounding"}
    old = Corridor(**told)
    assert old.rounding == pytest.approx(100 * 2.0**-52)
    assert not old.lost.all()


def test_no_rows_are_no_corridor():
    none = Corridor(label="diverged/0")
    assert none.kappa.size == none.linearity.size == none.change_beyond.size == 0
    assert none.intervals() == ()
    assert none.lost.size == none.by_length().rate.size == 0
    values = (none.chord, none.share_of_steps(), none.share_of_decrease(), none.longest())
    assert np.isnan(values).all()


def test_at_one_rate_kappa_is_the_bend_times_it_and_steps_are_as_they_were():
    objective = quadratic(torch.diag(torch.tensor([3.0, 0.5], dtype=torch.float64)))
    points = torch.tensor([[1.0, 2.0], [0.7, 1.9], [0.1, 1.0]], dtype=torch.float64)
    run = corridor(objective, points)
    other = run.at_rate(0.2)
    np.testing.assert_allclose(other.kappa, 0.2 * run.image_norm / run.gradient_norm[:-1], rtol=1e-14)
    np.testing.assert_array_equal(other.linearity, run.linearity)
    with pytest.raises(InputError, match="rate must be greater than 0, got 0"):
        run.at_rate(0)

"""The Fourier search: its geometry against fine polygons, how it grows, its two halves, and that it holds what is held."""

import math

import numpy as np
import pytest
import torch
from reference import CROSSINGS
from training import two_minima

from analysis import NEB, Fourier, StringMethod, find_path, linear_path
from analysis.paths.heights import Sampled, Survey
from analysis.paths.relaxing import _Adam
from analysis.paths.sine_draws import drawn_sines
from analysis.paths.sine_strings import outgrown, points_at, spread
from landscape import Objective
from landscape.paths import FourierPath, Segment
from landscape.potentials import ring

float64 = torch.float64


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def vector(*values):
    return torch.tensor(values, dtype=float64)


def random_path(seed, modes=5, dim=4):
    a, b = torch.randn(2, dim, generator=seeded(seed), dtype=float64)
    return FourierPath(a, b, 0.4 * torch.randn(modes, dim, generator=seeded(seed + 1), dtype=float64))


def shares_of(path, points):
    """The share of a path's length before each of some points on it, by a fine polygon."""
    fine = path(torch.linspace(0, 1, 40_001, dtype=float64))
    arc = np.append(0, fine.diff(dim=0).norm(dim=1).cumsum(0).numpy())
    nearest = torch.cdist(points, fine).argmin(dim=1).numpy()
    return arc[nearest] / arc[-1]


def seen(path, loss, t=None):
    """A path as if sampled evenly, with these losses."""
    loss = np.asarray(loss, dtype=float)
    t = np.linspace(0, 1, len(loss)) if t is None else t
    return Sampled(path, t, loss, np.ones_like(loss), 1e-9)


def sines(found):
    """The b_n (n, P) of a path that was sampled."""
    return torch.from_numpy(found.path.stored()[1])


# ---------------------------------------------------------------- geometry


@pytest.mark.parametrize("count", [1, 2, 7])
def test_the_path_through_points_passes_them_at_even_times(count):
    points = torch.randn(count + 2, 3, generator=seeded(0), dtype=float64)
    path = FourierPath.through(points)
    torch.testing.assert_close(path(torch.linspace(0, 1, count + 2, dtype=float64)), points)
    assert path(0.0).equal(points[0])
    assert path(1.0).equal(points[-1])


def test_the_path_through_points_of_a_path_is_that_path():
    path = random_path(3)
    again = FourierPath.through(path(torch.linspace(0, 1, 7, dtype=float64)))
    torch.testing.assert_close(again.coefficients, path.coefficients)
    more = FourierPath.through(
        path(torch.linspace(0, 1, 13, dtype=float64))
    )  # with sines that it has no need of
    torch.testing.assert_close(more.coefficients[:5], path.coefficients)
    torch.testing.assert_close(more.coefficients[5:], torch.zeros(6, 4, dtype=float64), rtol=0, atol=1e-14)


def test_points_lie_at_the_shares_of_the_length_asked_for():
    path, shares = random_path(5), np.array([0, 0.1, 0.45, 0.5, 0.97, 1])
    points = points_at(path, shares)
    np.testing.assert_allclose(shares_of(path, points), shares, atol=2e-3)
    assert points[0].equal(path.a)
    assert points[-1].equal(path.b)


@pytest.mark.parametrize(("top", "expected"), [(0.52, [1, 2, None, 4, 5]), (0.3, [1, None, 3, 4, 5])])
def test_images_are_spread_evenly_but_one_is_set_on_the_top(top, expected):
    path = random_path(7)
    images = path(torch.linspace(0, 1, 7, dtype=float64))
    t = np.linspace(0, 1, 201)
    points = spread(images, seen(path, -np.abs(t - top)))
    at = float(shares_of(path, path(top)[None])[0])
    wanted = [0, *(at if i is None else i / 6 for i in expected), 1]
    np.testing.assert_allclose(shares_of(path, points), wanted, atol=5e-3)


def test_one_image_stays_in_the_middle_and_none_goes_to_an_end():
    path = random_path(9)
    one, some = (path(torch.linspace(0, 1, n + 2, dtype=float64)) for n in (1, 3))
    t = np.linspace(0, 1, 201)
    alone = FourierPath.through(one)
    np.testing.assert_allclose(
        shares_of(alone, spread(one, seen(alone, -np.abs(t - 0.2))))[1], 0.5, atol=5e-3
    )
    through = FourierPath.through(some)
    for downhill in (t, -t):
        np.testing.assert_allclose(
            shares_of(through, spread(some, seen(through, downhill))), np.arange(5) / 4, atol=5e-3
        )


# ---------------------------------------------------------------- growth


def test_a_path_has_outgrown_its_images_when_it_stalls_or_climbs_between_them():
    path, t = random_path(11), np.linspace(0, 1, 81)
    shown = seen(path, np.maximum(0, 1 - 8 * np.abs(t - 0.5)))  # top 1 at the image in the middle
    hidden = seen(path, np.maximum(0, 1 - 8 * np.abs(t - 0.375)))  # nothing of it at 1/4, 1/2 or 3/4
    assert not outgrown(3, shown, math.inf)
    assert not outgrown(3, shown, 1.3)  # fell from there
    assert outgrown(3, shown, 1.2)  # hardly did
    assert outgrown(3, hidden, math.inf)
    assert not outgrown(7, hidden, math.inf)  # where an image is at 3/8
    above = seen(path, shown.loss + 5)  # what counts is what lies above the ends
    assert not outgrown(3, above, 1.3)
    assert outgrown(3, above, 1.2)
    assert outgrown(3, seen(path, hidden.loss + 5), math.inf)


def crossing(name):
    known = CROSSINGS[name]
    return known.potential(), vector(*known.a), vector(*known.b), known.height


@pytest.mark.parametrize(("modes", "counts"), [(15, [1, 3, 7, 15]), (5, [1, 3, 5]), (1, [1]), (2, [1, 2])])
def test_sines_come_as_they_are_needed_and_no_more_than_they_may(modes, counts):
    objective, a, b, _ = crossing("muller_brown")
    survey = Survey(objective, tolerance=1e-6)
    found = list(Fourier(modes=modes).search(survey, a, b, steps=2500, generator=seeded(0)))
    assert list(dict.fromkeys(len(sines(f)) for f in found)) == counts


@pytest.mark.parametrize("steps", [1, 2, 37, 400])
@pytest.mark.parametrize("modes", [1, 4, 15])
def test_steps_count_gradients(modes, steps):
    calls = 0

    def f(theta):
        nonlocal calls
        calls += theta.requires_grad
        return (theta.square().sum() - 1) ** 2

    survey = Survey(Objective([f], 2), tolerance=1e-6)
    found = list(
        Fourier(modes=modes).search(survey, vector(1, 0), vector(-1, 0), steps=steps, generator=seeded(0))
    )
    assert survey.gradients == calls
    assert steps - modes <= calls <= steps
    assert found


# ---------------------------------------------------------------- passes


@pytest.mark.parametrize("name", CROSSINGS)
def test_an_image_ends_on_the_pass_itself(name):
    objective, a, b, height = crossing(name)
    record = find_path(objective, a, b, steps=8000, negligible=1e-9, generator=seeded(0))
    assert record.height == pytest.approx(height, abs=1e-6 * np.ptp(record.loss))


def test_the_second_half_starts_from_the_lowest_path_of_the_first():
    objective, a, b, _ = crossing("muller_brown")
    survey = Survey(objective, tolerance=1e-6)
    spent, found = [], []
    for sampled in Fourier().search(survey, a, b, steps=600, generator=seeded(0)):
        spent.append(survey.gradients)
        found.append(sampled)
    first = [f for f, n in zip(found, spent, strict=True) if n <= 300]
    second = found[len(first) :]
    assert all(len(sines(f)) == 15 for f in second)
    lowest = sines(min(first, key=lambda f: f.height))
    nearest = min((sines(f)[: len(lowest)] - lowest).norm() for f in second)
    assert float(nearest) < 0.1 * float(Segment(a, b).length)


# ---------------------------------------------------------------- networks


@pytest.fixture(scope="module")
def network():
    return two_minima(batch=30)


def test_held_paths_keep_the_norms_between_those_of_their_ends(network):
    objective, a, b = network
    record = find_path(objective, a, b, steps=600, hold_norm=True, generator=seeded(0))
    np.testing.assert_allclose(record.norm, (1 - record.t) * float(a.norm()) + record.t * float(b.norm()))
    assert record.path_kind == "held fourier"
    assert record.barrier < linear_path(objective, a, b, hold_norm=True).barrier / 5


@pytest.mark.parametrize("method", [Fourier(), NEB(), StringMethod()])
def test_gradients_of_mini_batches_get_as_far_down_as_they_should(network, method):
    objective, a, b = network
    line = linear_path(objective, a, b)
    record = find_path(objective, a, b, method=method, steps=2000, batches=1, generator=seeded(0))
    assert (
        record.barrier < line.barrier / 15
    )  # by FIRE, which takes noise for walls, 1/10 to 1/5 would be left
    assert record.gradients < 1100  # half a gradient each


def test_with_mini_batches_every_gradient_moves_all_sines():
    survey = Survey(
        Objective([lambda theta: (theta.square().sum() - 1) ** 2] * 2, 2),
        tolerance=1e-6,
        batches=1,
        generator=seeded(1),
    )
    found = list(Fourier(modes=6).search(survey, vector(1, 0), vector(-1, 0), steps=200, generator=seeded(0)))
    assert {len(sines(f)) for f in found} == {6}
    assert survey.gradients == 100


def test_draws_start_from_the_path_that_they_are_given():
    objective, a, b, _ = crossing("four_well")
    start = FourierPath(a, b, 0.1 * torch.randn(6, 2, generator=seeded(2), dtype=float64))
    survey = Survey(objective, tolerance=1e-6)
    last = list(drawn_sines(survey, start, steps=60, step=1e-12, generator=seeded(0)))[-1]
    torch.testing.assert_close(sines(last), start.coefficients)


def test_adam_for_noisy_forces_takes_steps_of_its_rate_that_end_in_nothing():
    line = Survey(ring(), tolerance=1e-6).sample(Segment(vector(1, 0), vector(-1, 0)))
    adam = _Adam(line, torch.zeros(3, 2, dtype=float64))
    force = vector(5, -0.1).expand(3, 2)
    for done, share in ((0.0, 1.0), (0.5, 0.5), (1.0, 0.0)):
        expected = share * 0.02 * line.path.length / math.sqrt(2) * force.sign()
        torch.testing.assert_close(adam.step(force, done), expected, rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize("dim", [2, 9])
def test_the_floor_of_a_ring_is_found_whole(dim):
    a = torch.eye(dim, dtype=float64)[0]
    record = find_path(ring(dim), a, -a, steps=3000, generator=seeded(4))
    assert record.barrier < 1e-5
    assert record.length == pytest.approx(np.pi, rel=0.01)

"""Curves, bands and strings: their forces against transcriptions, heights against known passes, gradients counted alike."""

import numpy as np
import pytest
import torch
from reference import CROSSINGS
from training import two_minima

from analysis import NEB, AutoNEB, Bezier, Polychain, StringMethod, find_path, linear_path
from analysis.paths.chains import _band, evenly, inserted, upwind
from analysis.paths.heights import Survey
from analysis.paths.relaxing import bent, relax
from landscape import InputError, Objective
from landscape.paths import BezierPath, Polyline
from landscape.potentials import ring

float64 = torch.float64
CURVES = {"bezier": Bezier, "polychain": Polychain}
CHAINS = {"neb": NEB, "autoneb": AutoNEB, "string": StringMethod}
METHODS = CURVES | CHAINS
methods = pytest.mark.parametrize("method", METHODS)
chains = pytest.mark.parametrize("method", CHAINS)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def vector(*values):
    return torch.tensor(values, dtype=float64)


def case(name):
    """Objective, ends, and the height of the lowest path between them."""
    if name == "ring":
        return ring(), vector(1, 0), vector(-1, 0), 0.0
    known = CROSSINGS[name]
    return known.potential(), vector(*known.a), vector(*known.b), known.height


def points_of(found):
    """The images of a sampled polygon."""
    return torch.from_numpy(found.path.stored()[0])


# ---------------------------------------------------------------- forces


def naive_tangent(before, here, after, low, mid, high):
    """Henkelman and Jónsson (2000), equations 8 to 11, for one image: neighbours, then the three losses."""
    plus, minus = after - here, here - before
    if low < mid < high:
        tangent = plus
    elif low > mid > high:
        tangent = minus
    else:
        largest, least = max(abs(high - mid), abs(low - mid)), min(abs(high - mid), abs(low - mid))
        tangent = plus * largest + minus * least if high > low else plus * least + minus * largest
    return tangent / tangent.norm()


@pytest.mark.parametrize("seed", range(5))
def test_tangents_are_the_papers_written_out(seed):
    images = torch.randn(200, 3, generator=seeded(seed), dtype=float64)
    loss = torch.randint(5, (200,), generator=seeded(seed + 9)).to(float64).square()
    tangents = upwind(images, loss)
    kinds = set()
    for i in range(1, 199):
        kinds.add((float((loss[i + 1] - loss[i]).sign()), float((loss[i - 1] - loss[i]).sign())))
        if loss[i - 1] == loss[i] == loss[i + 1]:
            expected = (images[i + 1] - images[i - 1]) / (images[i + 1] - images[i - 1]).norm()
        else:
            expected = naive_tangent(*images[i - 1 : i + 2], *loss[i - 1 : i + 2].tolist())
        torch.testing.assert_close(tangents[i - 1], expected)
    assert len(kinds) == 9  # slopes both ways, tops, dips, steps and flats were all among them


def test_held_tangents_have_no_part_along_the_radius():
    images, loss = torch.randn(9, 4, generator=seeded(0), dtype=float64), torch.arange(9).to(float64)
    tangents, free = upwind(images, loss, held=True), upwind(images, loss)
    radius = images[1:-1] / images[1:-1].norm(dim=1, keepdim=True)
    torch.testing.assert_close((tangents * radius).sum(1), torch.zeros(7, dtype=float64))
    torch.testing.assert_close(tangents.norm(dim=1), torch.ones(7, dtype=float64))
    across = free - (free * radius).sum(1, keepdim=True) * radius
    torch.testing.assert_close(tangents, across / across.norm(dim=1, keepdim=True))


def test_points_set_evenly_lie_on_the_old_polygon_at_equal_arc_lengths():
    images = torch.randn(12, 3, generator=seeded(1), dtype=float64)
    points = evenly(images)
    assert points[0].equal(images[0])
    assert points[-1].equal(images[-1])
    arc = np.append(0, np.cumsum(images.diff(dim=0).norm(dim=1).numpy()))
    expected = [np.interp(np.linspace(0, arc[-1], 12), arc, column) for column in images.T.numpy()]
    np.testing.assert_allclose(points.numpy(), np.stack(expected, axis=1), atol=1e-14)


@pytest.mark.parametrize("method", [NEB(), AutoNEB(images=15, most=15), StringMethod()])
@pytest.mark.parametrize("name", ["four_well", "ring"])
def test_images_at_rest_are_evenly_spaced(name, method):
    objective, a, b, _ = case(name)
    survey = Survey(objective, tolerance=1e-6)
    points = points_of(list(method.search(survey, a, b, steps=3000, generator=seeded(0)))[-1])
    lengths = points.diff(dim=0).norm(dim=1)
    if name == "four_well" and not isinstance(method, StringMethod):
        top = int(
            objective(points).argmax()
        )  # the image that climbs: the band on each side is even by itself
        torch.testing.assert_close(lengths[:top], lengths[:top].mean().expand(top), rtol=0.04, atol=0)
        lengths = lengths[top:]
    torch.testing.assert_close(lengths, lengths.mean().expand_as(lengths), rtol=0.04, atol=0)


def test_springs_pull_pieces_to_their_shares_of_the_length():
    # On a straight floor nothing but springs acts.
    objective = Objective([lambda theta: theta[1].square() + 1e-9 * theta[0]], 2)
    survey = Survey(objective, tolerance=1e-6)
    images = torch.stack([torch.linspace(0, 1, 5, dtype=float64), torch.zeros(5, dtype=float64)], dim=1)
    line = survey.sample(Polyline(images))
    last = list(
        relax(survey, images, line, _band(line, vector(0.5, 1.5, 0.5, 1.5), np.inf, False), steps=900)
    )[-1]
    torch.testing.assert_close(points_of(last)[:, 0], vector(0, 0.125, 0.5, 0.625, 1), rtol=1e-3, atol=1e-3)


def test_forces_are_given_the_losses_and_gradients_of_the_images_as_they_are():
    objective, a, b, _ = case("four_well")
    survey, seen = Survey(objective, tolerance=1e-6), []

    def force(images, loss, gradient, done):
        torch.testing.assert_close(loss, objective(images))
        torch.testing.assert_close(gradient, objective.grad(images[1:-1]))
        seen.append((done, images))
        return -gradient

    images = bent(a, b, 4, seeded(0))
    list(relax(survey, images, survey.sample(Polyline(images)), force, steps=43))
    assert [done for done, _ in seen] == [i / 10 for i in range(10)]
    assert not seen[0][1].equal(seen[1][1])


# ---------------------------------------------------------------- insertion


def bumpy(heights, dim=2):
    """An objective on the line from (0, 0) to (1, 0) that is the sines of so many pieces, of these heights."""
    pieces = len(heights)

    def f(theta):
        piece = (theta[0].detach() * pieces).long().clamp(0, pieces - 1)
        return torch.tensor(heights, dtype=float64)[piece] * torch.sin(np.pi * pieces * theta[0]).abs()

    return Objective([f], dim)


@pytest.mark.parametrize(
    ("most", "expected"), [(9, [0.125, 0.625]), (4, [0.625]), (3, [])], ids=["all", "one", "none"]
)
def test_images_are_inserted_at_the_excess_the_highest_first(most, expected):
    objective = bumpy([0.5, 0.05, 1.0, 0.0])
    images = torch.stack([torch.linspace(0, 1, 5, dtype=float64), torch.zeros(5, dtype=float64)], dim=1)
    found = Survey(objective, tolerance=1e-6).sample(Polyline(images))
    grown, shares = inserted(images, vector(1, 1, 1, 1), found, excess=0.1, most=most)
    torch.testing.assert_close(
        grown[:, 0], vector(*sorted([0, 0.25, 0.5, 0.75, 1, *expected])), rtol=0, atol=1e-2
    )
    torch.testing.assert_close(shares / shares.sum(), grown[:, 0].diff())
    assert float(shares.mean()) == pytest.approx(1)


def test_autoneb_grows_where_the_valley_winds_and_no_more_than_it_may():
    objective, a, b, _ = case("curvy_valley")
    survey = Survey(objective, tolerance=1e-6)
    grown, capped = (
        list(AutoNEB(images=5, most=most).search(survey, a, b, steps=2000, generator=seeded(0)))[-1]
        for most in (31, 6)
    )
    assert len(points_of(grown)) > 9
    assert len(points_of(capped)) == 8
    assert grown.height < capped.height - 0.1


# ---------------------------------------------------------------- known passes


@pytest.mark.parametrize("name", [*CROSSINGS, "ring"])
@chains
def test_chains_reach_the_pass(method, name):
    objective, a, b, height = case(name)
    record = find_path(objective, a, b, method=method, generator=seeded(0))
    allowed = max(1e-3, 1e-4 * abs(height))
    assert height - 1e-6 * np.ptp(record.loss) <= record.height <= height + allowed
    assert record.method == method


@pytest.mark.parametrize("name", ["muller_brown", "four_well"])
def test_the_climbing_image_gets_to_the_saddle_itself(name):
    objective, a, b, height = case(name)
    survey = Survey(objective, tolerance=1e-6)
    climbed, still = (
        list(NEB(climbing=climbing).search(survey, a, b, steps=2500, generator=seeded(0)))[-1]
        for climbing in (True, False)
    )
    tops = [float(objective(points_of(found)).max()) for found in (climbed, still)]
    assert tops[0] == pytest.approx(height, abs=1e-5)
    assert tops[1] < height - 1e-5


def test_a_polygon_round_the_ring_is_as_high_as_its_sagitta():
    objective, a, b, _ = case("ring")
    survey = Survey(objective, tolerance=1e-6)
    last = list(StringMethod(images=9).search(survey, a, b, steps=4000, generator=seeded(0)))[-1]
    assert last.height == pytest.approx((np.cos(np.pi / 20) ** 2 - 1) ** 2, rel=1e-3)


def test_one_bend_cannot_wind_through_a_valley():
    objective, a, b, _ = case("curvy_valley")
    one, three = (
        find_path(objective, a, b, method=Bezier(bends=bends), steps=400, generator=seeded(0))
        for bends in (1, 4)
    )
    assert one.height > 2.9  # hardly below the straight line
    assert three.height < one.height


@pytest.mark.parametrize("method", [Bezier(), Polychain()])
def test_curves_get_to_the_lowest_mean(method):
    # One bend at (0, y), by symmetry: the best y from a scan.
    objective, a, b, _ = case("ring")
    record = find_path(objective, a, b, method=method, steps=600, negligible=0, generator=seeded(0))
    t = torch.linspace(0, 1, 501, dtype=float64)
    curve = BezierPath if record.path_kind == "bezier" else Polyline

    def mean(y):
        theta = curve(torch.stack([a, vector(0, y), b]))(t)
        return float((theta.square().sum(dim=1) - 1).square().mean())

    best = min(np.linspace(0, 3, 301), key=mean)
    assert abs(record.points[1, 1]) == pytest.approx(best, abs=0.1)
    assert record.points[1, 0] == pytest.approx(0, abs=0.1)


# ---------------------------------------------------------------- what all share


@methods
@pytest.mark.parametrize("steps", [1, 40, 70, 333])
def test_steps_count_gradients(method, steps):
    calls = {"loss": 0, "gradient": 0}

    def f(theta):
        calls["gradient" if theta.requires_grad else "loss"] += 1
        return (theta.square().sum() - 1) ** 2

    objective = Objective([f], 2)
    survey = Survey(objective, tolerance=1e-6)
    list(METHODS[method]().search(survey, vector(1, 0), vector(-1, 0), steps=steps, generator=seeded(0)))
    spent = calls["gradient"]
    assert (survey.gradients, survey.losses) == (spent, calls["loss"])
    # sweeps of 15 images that they suffice for; in each of five cycles of up to 31 a sweep may be left over
    unspent = {"neb": steps % 15, "string": steps % 15, "autoneb": 5 * 31}.get(method, 0)
    assert steps - unspent <= spent <= steps
    assert method == "autoneb" or spent == steps - unspent


@methods
def test_long_searches_look_about_twenty_times(method):
    objective, a, b, _ = case("four_well")
    survey = Survey(objective, tolerance=1e-6)
    looks = len(list(METHODS[method]().search(survey, a, b, steps=1500, generator=seeded(0))))
    assert 12 <= looks <= 24


@methods
def test_found_paths_are_never_higher_than_the_line_and_end_where_asked(method):
    for name in CROSSINGS:
        objective, a, b, _ = case(name)
        kept = a.clone(), b.clone()
        for steps in (1, 20, 90):
            record = find_path(objective, a, b, method=method, steps=steps, generator=seeded(5))
            assert record.height <= linear_path(objective, a, b).height
            theta = record.path(torch.from_numpy(record.t))
            assert theta[0].equal(a)
            assert theta[-1].equal(b)
            np.testing.assert_allclose(record.loss, objective(theta).numpy(), rtol=1e-10, atol=1e-12)
        assert a.equal(kept[0])
        assert b.equal(kept[1])


@methods
def test_the_same_generator_finds_the_same_path(method):
    objective, a, b, _ = case("four_well")
    state = torch.get_rng_state()
    first, second, other = (
        find_path(objective, a, b, method=method, steps=200, negligible=0, generator=seeded(seed))
        for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(first.points, second.points)
    assert not np.array_equal(first.points, other.points)
    assert torch.get_rng_state().equal(state)


@methods
def test_units_of_loss_and_parameters_do_not_matter(method):
    objective, a, b, _ = case("muller_brown")
    scaled = Objective([lambda theta: 8 * objective.terms[0](theta / 4)], 2)
    plain = find_path(objective, a, b, method=method, steps=300, generator=seeded(0))
    record = find_path(scaled, 4 * a, 4 * b, method=method, steps=300, generator=seeded(0))
    np.testing.assert_allclose(record.points, 4 * plain.points, rtol=1e-6, atol=1e-6)
    assert record.height == pytest.approx(8 * plain.height, rel=1e-6)


@methods
def test_a_loss_that_ends_ends_the_search(method):
    # Not finite away from the line: the path leaves it, and what was found before is kept.
    def f(theta):
        return torch.where(theta[1].abs() > 0.4, np.nan, (theta.square().sum() - 1) ** 2)

    objective = Objective([f], 2)
    record = find_path(objective, vector(1, 0), vector(-1, 0), method=method, generator=seeded(0))
    assert record.height <= 1.0
    assert np.isfinite(record.loss).all()
    assert record.gradients < 900


# ---------------------------------------------------------------- networks


@pytest.fixture(scope="module")
def network():
    return two_minima(batch=30)


@methods
def test_minima_of_a_network_are_joined_far_below_the_straight_line(network, method):
    objective, a, b = network
    record = find_path(objective, a, b, method=method, steps=1000, generator=seeded(0))
    assert record.barrier < linear_path(objective, a, b).barrier / 20
    assert record.gradients < 1100


@methods
def test_held_paths_keep_the_norms_between_those_of_their_ends(network, method):
    objective, a, b = network
    record = find_path(objective, a, b, method=method, steps=1200, hold_norm=True, generator=seeded(0))
    line = linear_path(objective, a, b, hold_norm=True)
    np.testing.assert_allclose(record.norm, (1 - record.t) * float(a.norm()) + record.t * float(b.norm()))
    assert record.path_kind.startswith("held ")
    if method in CHAINS:  # images are where they are seen
        knots = np.linspace(0, 1, len(record.points))
        norms = np.interp(knots, [0, 1], [float(a.norm()), float(b.norm())])
        np.testing.assert_allclose(np.linalg.norm(record.points, axis=1), norms)
    assert record.barrier < line.barrier / 5


@methods
def test_gradients_may_be_of_some_batches(network, method):
    objective, a, b = network
    record = find_path(objective, a, b, method=method, steps=600, batches=1, generator=seeded(0))
    assert record.barrier < linear_path(objective, a, b).barrier / 5
    assert record.gradients < 400  # half a gradient each


# ---------------------------------------------------------------- what cannot be done


def test_unusable_settings_are_refused():
    for make in (Bezier, Polychain):
        with pytest.raises(InputError, match=r"bends must be at least 1.*got bends=0"):
            make(bends=0)
        with pytest.raises(InputError, match=r"rate positive, got bends=1, rate=-1.0"):
            make(rate=-1.0)
    for make in (NEB, StringMethod, AutoNEB):
        with pytest.raises(InputError, match="images must be at least 1, got 0"):
            make(images=0)
    with pytest.raises(InputError, match=r"most must be at least images.*got most=3, cycles=5"):
        AutoNEB(images=7, most=3)
    with pytest.raises(InputError, match=r"cycles at least 1.*cycles=0"):
        AutoNEB(cycles=0)
    with pytest.raises(InputError, match=r"excess positive.*excess=0"):
        AutoNEB(excess=0)
    objective, a, b, _ = case("ring")
    with pytest.raises(InputError, match="modes must be left out for 'neb', which has none, got 3"):
        find_path(objective, a, b, method="neb", modes=3)
    with pytest.raises(
        InputError, match=r"modes belong to the method where it is given with settings, NEB\("
    ):
        find_path(objective, a, b, method=NEB(), modes=3)

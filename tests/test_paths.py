"""Paths: their geometry by finite differences, their tops against dense grids, found heights against known saddles."""

import numpy as np
import pytest
import torch
from reference import CROSSINGS
from torch import nn
from training import two_minima

from analysis.paths.find import find_path, linear_path
from analysis.paths.fourier import PublishedFourier
from analysis.paths.heights import Survey
from landscape import InputError, Objective, model_objective
from landscape.paths import BezierPath, FourierPath, Held, Polyline, Segment, restore
from landscape.potentials import curvy_valley, ring, two_wells
from landscape.results import PathRecord

float64 = torch.float64


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def vector(*values):
    return torch.tensor(values, dtype=float64)


def random_path(seed, modes=4, dim=5, size=0.5):
    a, b = torch.randn(2, dim, generator=seeded(seed), dtype=float64)
    return FourierPath(a, b, size * torch.randn(modes, dim, generator=seeded(seed + 1), dtype=float64))


def crossing(name):
    known = CROSSINGS[name]
    return known.potential(), vector(*known.a), vector(*known.b), known


PATHS = {
    "segment": Segment(vector(1, 2, 3), vector(-1, 0, 7)),
    "fourier": random_path(0),
    "one mode": random_path(1, modes=1),
    "many modes": random_path(2, modes=12, dim=2),
}


def corners(*shape, seed=3):
    return torch.randn(*shape, generator=seeded(seed), dtype=float64)


PATHS |= {
    "bezier": BezierPath(corners(4, 5)),
    "polyline": Polyline(corners(5, 3)),
    "held segment": Held(PATHS["segment"]),
    "held fourier": Held(random_path(0)),
    "held polyline": Held(Polyline(corners(5, 6))),
}
ENDS = {
    "bezier": corners(4, 5)[[0, -1]],
    "polyline": corners(5, 3)[[0, -1]],
    "held polyline": corners(5, 6)[[0, -1]],
}
paths = pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)


# ---------------------------------------------------------------- geometry


@pytest.mark.parametrize("name", PATHS)
def test_a_path_is_exact_at_its_ends_and_takes_one_t_or_many(name):
    path = PATHS[name]
    a, b = (
        (path.path.a, path.path.b)
        if name in ("held segment", "held fourier")
        else ENDS.get(name, (None, None))
    )
    a, b = (path.a, path.b) if a is None else (a, b)
    t = torch.linspace(0, 1, 7, dtype=float64)
    assert path(t).shape == path.derivative(t).shape == (7, len(a))
    assert path(0.0).equal(a)
    assert path(t)[0].equal(a)
    assert path(1.0).equal(b)
    assert path(t)[-1].equal(b)
    torch.testing.assert_close(path(t)[3], path(0.5))
    torch.testing.assert_close(path.derivative(t)[3], path.derivative(0.5))


def test_a_fourier_path_is_the_line_and_its_sines():
    path, t = PATHS["fourier"], 0.3
    expected = 0.7 * path.a + 0.3 * path.b
    for n, b_n in enumerate(path.coefficients, start=1):
        expected = expected + b_n * np.sin(n * np.pi * t)
    torch.testing.assert_close(path(t), expected)
    torch.testing.assert_close(
        path(1 - t) - 0.3 * path.a - 0.7 * path.b, path.basis(1 - t) @ path.coefficients
    )


@paths
def test_the_derivative_is_that_of_finite_differences_and_the_speed_its_norm(path):
    t, h = torch.linspace(0.01, 0.98, 23, dtype=float64), 1e-6  # no kink of a polyline is among them
    torch.testing.assert_close(
        path.derivative(t), (path(t + h) - path(t - h)) / (2 * h), atol=1e-7, rtol=1e-7
    )
    torch.testing.assert_close(path.speed(t), path.derivative(t).norm(dim=1))
    torch.testing.assert_close(path.speed(0.4), path.derivative(0.4).norm())


@paths
def test_the_length_is_that_of_a_fine_polygon(path):
    polygon = path(torch.linspace(0, 1, 100_001, dtype=float64)).diff(dim=0).norm(dim=1).sum()
    assert path.length == pytest.approx(float(polygon), rel=1e-7)


@paths
def test_a_path_is_restored_from_what_is_stored(path):
    again = restore(path.kind, *path.stored())
    t = torch.linspace(0, 1, 11, dtype=float64)
    assert type(again) is type(path)
    assert again(t).equal(path(t))
    assert again.length == path.length


def test_a_bezier_curve_is_de_casteljaus():
    path, t = PATHS["bezier"], 0.3
    points = path.points
    while len(points) > 1:
        points = (1 - t) * points[:-1] + t * points[1:]
    torch.testing.assert_close(path(t), points[0])


def test_a_polyline_passes_its_points_at_even_times():
    path = PATHS["polyline"]
    torch.testing.assert_close(path(torch.linspace(0, 1, 5, dtype=float64)), path.points)
    torch.testing.assert_close(path(0.375), (path.points[1] + path.points[2]) / 2)


@pytest.mark.parametrize("name", ["held segment", "held fourier", "held polyline"])
def test_a_held_path_has_the_norms_between_those_of_its_ends_and_the_directions_of_the_free_one(name):
    held, t = PATHS[name], torch.linspace(0, 1, 9, dtype=float64)
    norms = held(t).norm(dim=1)
    torch.testing.assert_close(norms, torch.lerp(norms[0], norms[-1], t))
    assert (norms[0], norms[-1]) == (held.path(0.0).norm(), held.path(1.0).norm())
    free = held.path(t)
    torch.testing.assert_close(held(t) / norms[:, None], free / free.norm(dim=1, keepdim=True))


def test_paths_that_cannot_be_are_refused():
    with pytest.raises(InputError, match=r"points must be at least two vectors \(M, P\).*got \(1, 3\)"):
        Polyline(torch.zeros(1, 3))
    with pytest.raises(InputError, match=r"points must be at least two vectors"):
        BezierPath(torch.zeros(3))
    with pytest.raises(InputError, match=r"two vectors of one shape.*\(2,\) and \(3,\)"):
        Segment(torch.zeros(2), torch.zeros(3))
    with pytest.raises(InputError, match=r"coefficients must have shape \(n, 2\).*got \(4, 3\)"):
        FourierPath(torch.zeros(2), torch.zeros(2), torch.zeros(4, 3))
    with pytest.raises(InputError, match="no path of kind 'spline'; known are segment, fourier"):
        restore("spline", np.zeros((2, 2)), np.zeros((0, 2)))


@paths
def test_the_family_of_a_path_has_its_points_and_exactly_its_ends(path):
    t = torch.tensor([0.0, 0.3, 0.5, 0.9, 1.0], dtype=float64)
    family = path.family(t)
    points = family.points(family.coordinates)
    torch.testing.assert_close(points, path(t), rtol=1e-14, atol=1e-14)
    assert points[0].equal(path(0.0))
    assert points[-1].equal(path(1.0))


# ---------------------------------------------------------------- the dense maximum


@pytest.mark.parametrize("seed", range(4))
def test_the_height_of_a_path_is_that_of_a_brute_force_grid(seed):
    objective, a, b, _ = crossing("muller_brown")
    bends = 0.2 * torch.randn(6, 2, generator=seeded(seed), dtype=float64)
    path = FourierPath(a, b, bends)
    found = Survey(objective, tolerance=1e-6).sample(path)
    brute = objective(path(torch.linspace(0, 1, 20_001, dtype=float64)))
    spread = float(brute.max() - brute.min())
    assert found.resolution == pytest.approx(1e-6 * float(np.ptp(found.loss)))
    assert float(brute.max()) - 1e-6 * spread <= found.height <= float(brute.max()) + 1e-5 * spread
    assert found.top == pytest.approx(float(brute.argmax()) / 20_000, abs=1e-3)


def along_x(f):
    """An objective that is f along the path from (0, 0) to (1, 0), and that path's record."""
    objective = Objective([lambda theta: f(theta[0]) + theta[1] ** 2], 2)
    return linear_path(objective, np.zeros(2), np.array([1.0, 0.0]))


def test_the_higher_of_two_tops_is_found_where_the_samples_show_the_lower_one_higher():
    width = 0.01
    low, high = 20 / 64, 40.5 / 64  # on a sample, and between two

    def f(x):
        return torch.exp(-(((x - low) / width) ** 2)) + 1.05 * torch.exp(-(((x - high) / width) ** 2))

    record = along_x(f)
    assert record.top == pytest.approx(high, abs=1e-4)
    assert record.height == pytest.approx(1.05, abs=1e-6)


@pytest.mark.parametrize("x0", [0.3001, 0.5, 0.77777])
def test_a_kink_is_bracketed_too(x0):
    record = along_x(lambda x: -(x - x0).abs())
    assert record.height == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_top_at_an_end_is_the_end(sign):
    record = along_x(lambda x: sign * x)
    assert record.top == (1.0 if sign > 0 else 0.0)
    assert record.barrier == 0.0


def test_a_top_hidden_beside_an_end_is_found():
    x0 = 0.3 / 64  # the second sample lies below the first
    record = along_x(lambda x: -((x - x0) ** 2))
    assert record.top == pytest.approx(x0, abs=1e-3)
    assert record.height == pytest.approx(0, abs=1e-6)


# ---------------------------------------------------------------- the straight line


@pytest.mark.parametrize("name", CROSSINGS)
def test_straight_lines_climb_to_the_known_heights(name):
    objective, a, b, known = crossing(name)
    record = linear_path(objective, a, b)
    digits = len(str(known.line).partition(".")[2])
    assert record.height == pytest.approx(known.line, abs=0.6 * 10.0**-digits)
    assert record.converged


@pytest.mark.parametrize("dim", [2, 5])
def test_the_chord_through_a_ring_has_a_barrier_of_exactly_one(dim):
    a = torch.eye(dim, dtype=float64)[0]
    record = linear_path(ring(dim), a, -a)
    assert (record.height, record.barrier, record.top) == (1.0, 1.0, 0.5)
    assert record.length == 2.0


def check_record(record: PathRecord, objective, a, b):
    """The samples are those of the path in the record, and its ends those that were asked for."""
    assert record.t[0] == 0.0
    assert record.t[-1] == 1.0
    assert (np.diff(record.t) > 0).all()
    theta = record.path(torch.from_numpy(record.t))
    assert theta[0].equal(a)
    assert theta[-1].equal(b)
    np.testing.assert_allclose(record.loss, objective(theta).numpy(), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(record.norm, theta.norm(dim=1).numpy())
    assert record.loss[0] == float(objective(a))
    assert record.loss[-1] == float(objective(b))
    assert record.length == record.path.length
    assert record.height == record.loss.max()


@pytest.mark.parametrize("method", ["linear", "fourier", "fourier-published"])
def test_a_record_holds_its_path_through_saving_and_loading(method, tmp_path):
    objective, a, b, _ = crossing("curvy_valley")
    ends = {"start": "sgd/0", "end": "sgd/1", "about": {"why": "test"}}
    if method == "linear":
        record = linear_path(objective, a, b, **ends)
    else:
        record = find_path(objective, a, b, method=method, steps=60, generator=seeded(0), **ends)
    check_record(record, objective, a, b)
    again = PathRecord.load(record.save(tmp_path / "path.npz"))
    check_record(again, objective, a, b)
    assert (again.method, again.start, again.end) == (method, "sgd/0", "sgd/1")
    assert again.about["why"] == "test"
    assert again.path(0.37).equal(record.path(0.37))
    assert again.height == record.height


def test_arrays_will_do_for_ends_and_nothing_is_changed():
    objective, a, b, _ = crossing("two_wells")
    kept = a.clone(), b.clone()
    array = find_path(objective, a.numpy(), b.numpy(), steps=60, generator=seeded(1))
    tensor = find_path(objective, a, b, steps=60, generator=seeded(1))
    np.testing.assert_array_equal(array.loss, tensor.loss)
    assert a.equal(kept[0])
    assert b.equal(kept[1])


@pytest.mark.parametrize("search", [linear_path, find_path])
def test_equal_ends_are_refused(search):
    with pytest.raises(InputError, match="a and b are the same point; a path needs two"):
        search(ring(), vector(1, 0), vector(1, 0))


def test_ends_that_are_no_minima_are_refused_unless_asked_for():
    objective = ring()
    with pytest.raises(
        InputError, match=r"b must be near a minimum, but one step .* lowers the loss by about .*minima=False"
    ):
        find_path(objective, vector(1, 0), vector(-1.5, 0))
    assert find_path(objective, vector(1, 0), vector(-1.5, 0), minima=False, steps=60).height >= 1.5625
    find_path(objective, vector(1, 0), vector(-1.01, 0), steps=60)  # near enough
    find_path(ring(), vector(0, 0), vector(-1, 0), steps=60)  # stationary, if no minimum: there is no slope


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("name", CROSSINGS)
def test_found_paths_cross_at_the_saddle(name, seed):
    objective, a, b, known = crossing(name)
    record = find_path(objective, a, b, generator=seeded(seed))
    line = linear_path(objective, a, b)
    assert record.converged, record.message
    assert "settled" in record.message
    allowed = 2e-5 * line.barrier  # twice what is negligible: the fall is an estimate
    assert known.height - 1e-6 * np.ptp(record.loss) <= record.height <= known.height + allowed
    assert record.gradients < 1000


@pytest.mark.parametrize(("dim", "seed"), [(2, 0), (2, 1), (9, 0)])
def test_found_paths_go_round_the_ring(dim, seed):
    a = torch.eye(dim, dtype=float64)[0]
    record = find_path(ring(dim), a, -a, generator=seeded(seed))
    assert record.height < 1e-3
    assert record.length == pytest.approx(np.pi, rel=0.05)


def test_the_search_ends_when_the_barrier_is_gone():
    a = vector(1, 0)
    record = find_path(ring(), a, -a, negligible=1e-2, generator=seeded(0))
    assert record.converged
    assert "barrier is gone" in record.message
    assert record.barrier <= 1e-2
    assert record.gradients < 400  # of 1000


def test_what_is_not_settled_says_so_and_by_how_much():
    objective, a, b, known = crossing("muller_brown")
    record = find_path(objective, a, b, steps=30, generator=seeded(0))
    assert not record.converged
    assert "the top is not settled" in record.message
    assert record.height > known.height + 1


@pytest.mark.parametrize("offset", [0.0, 0.1])
def test_the_fall_is_how_far_the_top_lies_above_the_valley(offset):
    # L = (x²−1)² + 20 y²: a path that crosses at (0, y) lies 20 y² too high.
    objective = Objective([lambda theta: (theta[0] ** 2 - 1) ** 2 + 20 * theta[1] ** 2], 2)
    survey = Survey(objective, tolerance=1e-9)
    path = FourierPath(vector(-1, 0), vector(1, 0), vector(0, offset)[None])
    found = survey.sample(path)
    assert survey.fall(found) == pytest.approx(20 * offset**2, rel=1e-5)
    assert survey.gradients == (2 if offset else 1)


def test_the_fall_from_a_ridge_is_without_bound():
    survey = Survey(ring(), tolerance=1e-6)
    found = survey.sample(FourierPath(vector(1, 0), vector(-1, 0), vector(0, 1e-3)[None]))
    assert survey.fall(found) == np.inf


def test_a_line_that_is_the_lowest_path_is_kept():
    objective = Objective([lambda theta: (theta[0] ** 2 - 1) ** 2 + 3 * theta[1] ** 2], 2)
    record = find_path(objective, vector(-1, 0), vector(1, 0), generator=seeded(0))
    assert record.converged
    assert record.height == pytest.approx(1, abs=1e-5)
    assert record.height <= linear_path(objective, vector(-1, 0), vector(1, 0)).height


def test_no_barrier_needs_no_search():
    a = torch.ones(3)
    record = find_path(Objective([lambda theta: theta.square().sum()], 3), -a, a, minima=False)
    assert record.gradients == 0
    assert record.barrier == 0
    assert record.message == "the straight line has no barrier"


@pytest.mark.parametrize("steps", [1, 7, 60])
@pytest.mark.parametrize("method", ["fourier", "fourier-published"])
def test_a_found_path_is_never_higher_than_the_line(method, steps):
    for name in CROSSINGS:
        objective, a, b, _ = crossing(name)
        record, line = (
            find_path(objective, a, b, method=method, steps=steps, generator=seeded(5)),
            linear_path(objective, a, b),
        )
        assert record.height <= line.height + 1e-6 * np.ptp(line.loss)  # to which both tops are bracketed


@pytest.mark.parametrize("method", ["fourier", "fourier-published"])
def test_evaluations_are_counted(method):
    calls = {"loss": 0, "gradient": 0}

    def f(theta):
        calls["gradient" if theta.requires_grad else "loss"] += 1
        return (theta.square().sum() - 1) ** 2

    a = vector(1, 0)
    record = find_path(Objective([f], 2), a, -a, method=method, steps=70, negligible=0, generator=seeded(0))
    assert (record.losses, record.gradients) == (calls["loss"], calls["gradient"])
    assert record.gradients >= 70


def test_the_same_generator_finds_the_same_path():
    objective, a, b, _ = crossing("four_well")
    first, second, other = (
        find_path(objective, a, b, steps=100, generator=seeded(seed)) for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(first.coefficients, second.coefficients)
    np.testing.assert_array_equal(first.loss, second.loss)
    assert not np.array_equal(first.coefficients, other.coefficients)


def test_only_the_generator_is_drawn_from():
    objective, a, b, _ = crossing("four_well")
    state = torch.get_rng_state()
    find_path(objective, a, b, steps=10, generator=seeded(0))
    assert torch.get_rng_state().equal(state)


def test_units_of_loss_and_parameters_do_not_matter():
    objective, a, b, _ = crossing("muller_brown")
    scaled = Objective([lambda theta: 8 * objective.terms[0](theta / 4)], 2)
    plain = find_path(objective, a, b, steps=200, generator=seeded(0))
    record = find_path(scaled, 4 * a, 4 * b, steps=200, generator=seeded(0))
    np.testing.assert_allclose(record.coefficients, 4 * plain.coefficients, atol=1e-4)
    assert record.height == pytest.approx(8 * plain.height, rel=1e-5)


# ---------------------------------------------------------------- the published method


def naive_published(objective, a, b, modes, steps):
    """The paper's sum, with its gradient from autograd."""
    f = objective.terms[0]
    coefficients = torch.zeros(modes, len(a), dtype=float64, requires_grad=True)
    adam = torch.optim.Adam([coefficients], lr=1e-3)
    t = torch.linspace(0, 1, 51, dtype=float64)[:, None]
    waves = torch.sin(torch.arange(1, modes + 1) * torch.pi * t)
    best = np.inf, coefficients
    for _ in range(steps):
        theta = (1 - t) * a + t * b + waves @ coefficients
        loss = torch.stack([f(row) for row in theta]).sum()
        if loss.item() < best[0]:
            best = loss.item(), coefficients.detach().clone()
        adam.zero_grad()
        (loss + 1e-4 * (theta[1:] - theta[:-1]).square().sum()).backward()
        adam.step()
    return best[1]


@pytest.mark.parametrize(("name", "modes"), [("two_wells", 10), ("four_well", 3)])
def test_the_published_method_is_the_paper_written_out(name, modes):
    objective, a, b, _ = crossing(name)
    record = find_path(objective, a, b, method="fourier-published", modes=modes, steps=25)
    expected = naive_published(objective, a, b, modes, 25)
    np.testing.assert_allclose(record.coefficients, expected.numpy(), atol=1e-7)
    assert record.gradients >= 25 * 51


# ---------------------------------------------------------------- networks


@pytest.fixture(scope="module")
def network():
    return two_minima()


class TwoWellsAtOnce(Objective):
    """two_wells with all points in one go, written out from the paper's formula."""

    def value_and_grad(self, theta):
        if theta.ndim == 1:
            return super().value_and_grad(theta)
        leaf = theta.detach().requires_grad_()
        to = [
            (leaf[:, None] - vector(*c).reshape(2, 2)).square().sum(-1)
            for c in ((-0.5, -0.5, 0.5, 0), (-0.2, -0.4, 0, 0.3))
        ]
        loss = (-3 * to[0]).exp().neg().sum(1) + (-15 * to[1]).exp().sum(1) + 1.0190055296306975
        return loss.detach(), torch.autograd.grad(loss.sum(), leaf)[0]


@pytest.mark.parametrize(("penalty", "published"), [(10, 0.646), (100, 0.640), (1000, 0.652)])
def test_the_papers_figures_in_the_plane_come_from_the_papers_options(penalty, published):
    """Of f², 100 points, Adam at 0.01 and noise of 1 on the gradient: the mean of 24 runs, which differ by .003 to .007."""
    objective = TwoWellsAtOnce(two_wells().terms, 2)
    method = PublishedFourier(points=100, penalty=penalty, rate=0.01, power=2, noise=1)
    heights = [
        find_path(
            objective, [-0.62, -0.54], [0.49, -0.02], method=method, steps=300, generator=seeded(seed)
        ).height
        for seed in range(24)
    ]
    assert np.mean(heights) == pytest.approx(published, abs=0.004)


@pytest.mark.parametrize("seed", range(2))
def test_minima_of_a_network_are_joined_far_below_the_straight_line(network, seed):
    objective, a, b = network
    line = linear_path(objective, a, b)
    record = find_path(objective, a, b, steps=600, generator=seeded(seed))
    check_record(record, objective, a, b)
    assert line.barrier > 0.3
    assert record.barrier < line.barrier / 20
    assert record.gradients < 700


def test_single_precision_does_too(network):
    objective, a, b = network
    single = Objective([lambda theta: objective.terms[0](theta.double())], objective.dim, dtype=torch.float32)
    record = find_path(single, a, b, steps=300, generator=seeded(0))
    double = find_path(objective, a, b, steps=300, generator=seeded(0))
    assert record.loss.dtype == np.float64
    assert record.points.dtype == np.float32
    assert record.barrier < linear_path(objective, a, b).barrier / 20
    assert record.losses < 2 * double.losses + 200  # rounding is not mistaken for tops


# ---------------------------------------------------------------- what cannot be done


def test_a_loss_that_is_not_finite_on_the_line_is_reported():
    objective = Objective([lambda theta: 1 / (theta[0] - 0.5).abs() + theta[1] ** 2], 2)
    a, b = vector(0, 0), vector(1, 0)
    line, found = linear_path(objective, a, b), find_path(objective, a, b)
    assert line.height == found.height == np.inf
    assert not line.converged
    assert not found.converged
    assert "not finite" in line.message
    assert "not finite" in found.message
    assert found.gradients == 0


@pytest.mark.parametrize("search", [linear_path, find_path])
def test_unusable_ends_are_refused(search):
    objective, good = curvy_valley(), vector(1, 2)
    with pytest.raises(InputError, match=r"b must have shape \(2,\).*got \(3,\)"):
        search(objective, good, torch.zeros(3))
    with pytest.raises(InputError, match=r"a must be one point \(2,\), got shape \(4, 2\)"):
        search(objective, torch.zeros(4, 2), good)
    with pytest.raises(InputError, match="b holds 1 values that are NaN or infinite"):
        search(objective, good, vector(0, np.nan))
    with pytest.raises(InputError, match=r"tolerance must be a positive.*got 0"):
        search(objective, good, -good, tolerance=0)


def test_unusable_settings_are_refused():
    objective, a = ring(), vector(1, 0)
    known = "fourier, fourier-published, bezier, polychain, neb, autoneb, string"
    with pytest.raises(InputError, match=f"no path method 'spline'; choose one of {known}"):
        find_path(objective, a, -a, method="spline")
    with pytest.raises(InputError, match=r"modes must be at least 1, got 0"):
        find_path(objective, a, -a, modes=0)
    with pytest.raises(InputError, match=r"steps must be at least 1, .*steps=0"):
        find_path(objective, a, -a, steps=0)
    with pytest.raises(InputError, match=r"negligible at least 0.*negligible=-1.0"):
        find_path(objective, a, -a, negligible=-1.0)


# ---------------------------------------------------------------- engines


def two_batches():
    """An objective of two uneven batches, and two points."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    x, y = torch.randn(50, 6, dtype=float64), torch.randint(3, (50,))
    objective = model_objective(model, nn.functional.cross_entropy, [(x[:30], y[:30]), (x[30:], y[30:])])
    return objective, *torch.randn(2, objective.dim, generator=seeded(0), dtype=float64)


@pytest.mark.parametrize("engine", ["replay", "shared", "shared x16", "auto"])
def test_every_engine_finds_the_same_tops(engine):
    objective, a, b = two_batches()
    for method in (
        linear_path,
        lambda *ends, **given: find_path(*ends, steps=100, minima=False, generator=seeded(1), **given),
    ):
        found, known = method(objective, a, b, engine=engine), method(objective, a, b)
        assert found.height == pytest.approx(known.height, rel=1e-9)
        assert found.loss[0] == pytest.approx(float(objective(a)), rel=1e-13)
        assert found.loss[-1] == pytest.approx(float(objective(b)), rel=1e-13)
        assert known.about["engine"] == {"engine": "loop"}
        assert engine == "auto" or found.about["engine"] == {"engine": engine}


def test_auto_is_measured_for_all_samplings_that_may_come():
    objective, a, b = two_batches()
    record = find_path(
        objective, a, b, engine="auto", steps=100_000_000, modes=1, negligible=1e9, minima=False
    )
    assert len(record.about["engine"]["trials"]) > 1  # one sampling alone would not be worth a trial
    assert record.gradients == 0


def test_an_unknown_engine_is_refused():
    objective, a, b = two_batches()
    with pytest.raises(InputError, match="engine must be auto, loop, replay or shared"):
        linear_path(objective, a, b, engine="jet")

"""Refined lines and planes against dense grids, exact polynomials and uniform grids of many more points."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy.interpolate import RectBivariateSpline
from torch import Tensor

from landscape import InputError, Line, Objective, Plane, load, load_problem
from landscape.adaptive import refine
from landscape.directions import random_direction
from landscape.plots.scans import plot_cells
from landscape.potentials import cardioid, curvy_valley, four_well, muller_brown, ring, two_wells
from landscape.refined import Refined, scaled


def plane(low1: float, high1: float, low2: float, high2: float) -> Plane:
    one, two = torch.eye(2, dtype=torch.float64)
    steps1, steps2 = (
        torch.linspace(a, b, 21, dtype=torch.float64) for a, b in ((low1, high1), (low2, high2))
    )
    return Plane(torch.zeros(2), one, two, steps1, steps2)


def tilted_rosenbrock() -> Objective:
    """A bent valley, narrow and oblique, whose floor is 1."""
    cos, sin = np.cos(0.5), np.sin(0.5)

    def f(theta: Tensor) -> Tensor:
        x, y = cos * theta[0] - sin * theta[1], sin * theta[0] + cos * theta[1]
        return (1 - x) ** 2 + 100 * (y - x**2) ** 2 + 1

    return Objective([f], 2)


def kink() -> Objective:
    return Objective([lambda t: (t[0] + 0.37 * t[1] - 0.11).abs() + t[1] ** 2], 2)


def grid(probe: Plane, count: int) -> tuple[np.ndarray, np.ndarray]:
    one, two = (np.linspace(float(s.min()), float(s.max()), count) for s in (probe.steps1, probe.steps2))
    return one, two


def loss_on(objective: Objective, one: np.ndarray, two: np.ndarray) -> np.ndarray:
    """(n1, n2) of a potential in two dimensions, all points at once."""
    points = torch.cartesian_prod(torch.from_numpy(one), torch.from_numpy(two))
    return torch.func.vmap(objective.terms[0])(points).numpy().reshape(len(one), len(two))


def errors(record: Refined, one: np.ndarray, two: np.ndarray, loss: np.ndarray) -> np.ndarray:
    points = np.stack(np.meshgrid(one, two, indexing="ij"), axis=-1).reshape(-1, 2)
    found = record.at(points).reshape(loss.shape)
    return np.abs(scaled(found, record.scale) - scaled(loss, record.scale))


CASES = {
    "muller_brown": (muller_brown, plane(-1.5, 1.2, -0.3, 2.1), "linear"),
    "muller_brown with walls": (muller_brown, plane(-2.5, 2, -1.5, 3), "linear"),
    "tilted_rosenbrock": (tilted_rosenbrock, plane(-1.9, 2, -1.5, 2.2), "log"),
    "curvy_valley": (curvy_valley, plane(-9, 9, -3, 3), "linear"),
    "ring": (ring, plane(-1.35, 1.45, -1.3, 1.4), "linear"),
    "cardioid": (cardioid, plane(-2.6, 0.9, -2, 1.9), "linear"),
    "two_wells": (two_wells, plane(-1.5, 1.2, -1.3, 1.1), "linear"),
    "four_well": (four_well, plane(-2, 2.1, -2, 2.2), "linear"),
    "kink": (kink, plane(-1.5, 1.2, -1.3, 1.1), "linear"),
}


RIDGES = [
    (0.47, (0.76, 0.62), 0.127, 0.77, 0.46),
    (0.03, (-0.22, -0.67), 0.105, 0.48, 1.41),
    (0.29, (0.13, -0.48), 0.125, 0.78, 1.98),
    (2.87, (-0.04, 0.58), 0.111, 0.51, 1.54),
]


@pytest.mark.parametrize("tolerance", [0.03, 0.005])
@pytest.mark.parametrize("name", CASES)
def test_the_error_that_is_reported_bounds_the_one_on_a_dense_grid(name: str, tolerance: float):
    make, probe, scale = CASES[name]
    objective = make()
    record = refine(objective, probe, tolerance=tolerance, scale=scale)
    one, two = grid(probe, 201)
    loss = loss_on(objective, one, two)
    found = errors(record, one, two, loss)
    assert record.converged
    assert found.max() <= record.error <= tolerance * np.ptp(scaled(loss, scale)) * 1.001
    assert np.quantile(found, 0.95) <= record.error_quantile(0.95) <= record.error


def test_the_error_that_is_reported_bounds_the_one_on_a_plane_of_a_network():
    problem = load_problem("digits-mlp")
    objective = problem.objective()
    theta = objective.parameters.theta(problem.build(0))
    generator = torch.Generator().manual_seed(0)
    d1, d2 = (random_direction(theta, objective.parameters, generator=generator) for _ in range(2))
    steps = torch.arange(-15, 16).double() / 15
    probe = Plane(theta, d1, d2, steps, steps)
    loss = objective(probe.family(objective).points(probe.family(objective).coordinates)).numpy()
    record = refine(objective, probe, tolerance=0.01, scale="log")
    found = np.abs(np.log(record.surface.loss.ravel()) - np.log(loss))
    assert record.converged
    assert found.max() <= record.error <= 0.01 * np.ptp(np.log(loss)) * 1.01
    assert record.surface.center_loss == pytest.approx(float(objective(theta)), rel=1e-12)


@pytest.mark.parametrize(
    ("name", "tolerance", "splined", "bilinear"),
    [("muller_brown with walls", 0.01, 49, 129), ("tilted_rosenbrock", 0.03, 65, 129)],
)
def test_narrow_valleys_and_walls_take_fewer_points_than_a_uniform_grid_of_the_same_error(
    name: str, tolerance: float, splined: int, bilinear: int
):
    make, probe, scale = CASES[name]
    objective = make()
    record = refine(objective, probe, tolerance=tolerance, scale=scale)
    one, two = grid(probe, 257)
    loss = scaled(loss_on(objective, one, two), scale)
    reached = errors(record, one, two, loss_on(objective, one, two)).max()
    for count, degree, fewer in ((splined, 3, 2.3), (bilinear, 1, 9)):
        axes = grid(probe, count)
        coarse = scaled(loss_on(objective, *axes), scale)
        uniform = RectBivariateSpline(*axes, coarse, kx=degree, ky=degree)(one, two)
        assert np.abs(uniform - loss).max() > reached
        assert count**2 > fewer * len(record.loss)


def test_cubics_are_exact_after_the_first_halving():
    generator = torch.Generator().manual_seed(0)
    c = torch.randn(4, 4, generator=generator, dtype=torch.float64)
    powers = torch.arange(4)
    objective = Objective([lambda t: (t[0] ** powers) @ c @ (t[1] ** powers)], 2)
    probe = plane(-1, 2, -1.5, 0.5)
    record = refine(objective, probe, tolerance=1e-9)
    one, two = grid(probe, 101)
    assert len(record.loss) == 169
    assert record.converged
    assert errors(record, one, two, loss_on(objective, one, two)).max() < 1e-12
    start, direction = torch.tensor([[0, 0.5], [1, 0]], dtype=torch.float64)
    steps = torch.linspace(-1, 1, 51, dtype=torch.float64)
    line = refine(objective, Line(start, direction, steps), tolerance=1e-9)
    assert len(line.loss) == 13
    assert line.converged
    np.testing.assert_allclose(line.profile.loss, objective(start + steps[:, None] * direction), atol=1e-13)


def counted(objective: Objective, seen: list[tuple[float, ...]]) -> Objective:
    def f(theta: Tensor) -> Tensor:
        seen.append(tuple(theta.tolist()))
        return objective.terms[0](theta)

    return Objective([f], objective.dim)


@pytest.mark.parametrize("probe", [plane(-1.5, 1.2, -0.3, 2.1), Line(torch.zeros(2), torch.ones(2))])
def test_no_point_is_evaluated_twice_and_the_center_is_one(probe: Line | Plane):
    seen: list[tuple[float, ...]] = []
    objective = counted(muller_brown(), seen)
    record = refine(objective, probe, engine="loop")
    assert len(seen) == len(set(seen)) == len(record.loss) == len(np.unique(record.coordinates, axis=0))
    assert (record.coordinates == 0).all(axis=1).sum() == 1
    center = record.at(np.zeros((1, record.coordinates.shape[1])))
    assert center[0] == float(objective(torch.zeros(2)))


def test_points_lie_where_the_loss_bends_and_cells_cover_the_plane():
    record = refine(two_wells(), plane(-4, 4, -4, 4), tolerance=0.005)
    inner = (np.abs(record.coordinates) < 1.5).all(axis=1).mean()
    assert inner > 0.5  # on 14 % of the area
    area = np.prod(record.cells[:, 1] - record.cells[:, 0], axis=1)
    assert area.sum() == pytest.approx(64, rel=1e-12)
    assert area.max() >= 64 * area.min()


@pytest.mark.parametrize(("angle", "center", "width", "length", "bend"), RIDGES)
def test_thin_ridges_are_followed_from_cell_to_cell(
    angle: float, center: tuple[float, float], width: float, length: float, bend: float
):
    cos, sin = np.cos(angle), np.sin(angle)

    def f(theta: Tensor) -> Tensor:
        x, y = theta[0] - center[0], theta[1] - center[1]
        along, across = cos * x + sin * y, cos * y - sin * x
        return torch.exp(-((along / length) ** 2) - ((across - bend * along**2) / width) ** 2)

    objective, probe = Objective([f], 2), plane(-1, 1.05, -1, 1.1)
    record = refine(objective, probe, tolerance=0.03, max_depth=5)
    axes = grid(probe, 151)
    assert errors(record, *axes, loss_on(objective, *axes)).max() <= record.error


def test_the_worst_cells_come_first():
    def f(theta: Tensor) -> Tensor:
        high, low = (torch.exp(-4 * (theta - c).square().sum()) for c in (1.0, -1.0))
        return high + 0.1 * low

    record = refine(Objective([f], 2), plane(-2, 2, -2, 2), tolerance=1e-4, max_points=300)
    high, low = (record.coordinates > 0).all(axis=1).sum(), (record.coordinates < 0).all(axis=1).sum()
    assert high > 2 * low


def test_points_are_interpolated_exactly_also_beside_coarser_cells():
    record = refine(two_wells(), plane(-4, 4, -4, 4), tolerance=0.005)
    np.testing.assert_allclose(record.at(record.coordinates), record.loss, atol=1e-12)


def test_the_quantile_of_the_error_is_by_area():
    record = Refined(
        steps1=np.array([0.0, 4.0]),
        steps2=np.zeros(0),
        coordinates=np.linspace(0, 4, 7)[:, None],
        loss=np.zeros(7),
        cells=np.array([[[0.0], [1.0]], [[1.0], [4.0]]]),
        nodes=np.zeros((2, 4)),
        miss=np.array([1.0, 0.1]),
        scale="linear",
        tolerance=0.1,
        converged=False,
    )
    assert [record.error_quantile(share) for share in (0.7, 0.8, 1.0)] == [0.1, 1.0, 1.0]
    assert record.error == 1.0


def test_evaluations_stop_at_max_points_with_the_worst_cells_halved_first():
    errors = []
    for most in (169, 300, 600):
        record = refine(curvy_valley(), plane(-9, 9, -3, 3), tolerance=0.001, max_points=most)
        assert most - 33 < len(record.loss) <= most
        assert not record.converged
        errors.append(record.error)
    assert errors == sorted(errors, reverse=True)


def test_the_same_call_gives_the_same_record(tmp_path):
    make: Callable[[], Refined] = lambda: refine(muller_brown(), plane(-1.5, 1.2, -0.3, 2.1), engine="loop")  # noqa: E731
    one, two = make(), load(make().save(tmp_path / "refined.npz"))
    for name in ("coordinates", "loss", "cells", "nodes", "miss"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name))
    np.testing.assert_array_equal(one.surface.loss, two.surface.loss)
    said = two.surface.about["interpolated"]
    assert said == {"evaluations": len(one.loss), "error": one.error, "scale": "linear"}


def test_losses_that_are_not_finite_are_kept_apart():
    objective = Objective([lambda t: t[0].sqrt() + t[1] ** 2], 2)
    record = refine(objective, plane(-1.1, 2, -1, 1), tolerance=0.01, max_depth=4)
    assert record.not_finite > 0
    assert not record.converged
    assert np.isinf(record.miss).any()
    assert np.isfinite(record.error)
    finest = (2 / 2**4) * 2  # beside the edge cells are of the last depth
    beside = record.cells[np.isinf(record.miss)]
    assert np.abs(beside[..., 0]).max() <= finest
    points = np.array([[1.0, 0.3], [1.7, -0.9], [-1.0, 0.2]])
    np.testing.assert_allclose(record.at(points)[:2], [1 + 0.09, 1.7**0.5 + 0.81], atol=record.error)
    assert np.isnan(record.at(points)[2])
    nothing = refine(Objective([lambda t: t[0] * torch.nan], 2), plane(-1, 1, -1, 1))
    assert len(nothing.loss) == 169
    assert np.isnan(nothing.error)
    assert not nothing.converged


def test_the_picture_outlines_every_cell_and_says_the_error():
    record = refine(ring(), plane(-1.35, 1.45, -1.3, 1.4))
    ax = plot_cells(record)
    outlines = np.array([path.vertices for path in ax.collections[0].get_paths()])
    np.testing.assert_array_equal(outlines.min(axis=1), record.cells[:, 0])
    np.testing.assert_array_equal(outlines.max(axis=1), record.cells[:, 1])
    assert ax.get_title(loc="left") + ax.get_title() == (
        f"{len(record.loss)} evaluations, error of interpolation {record.error:.2g}"
    )


def test_a_constant_loss_has_no_error():
    record = refine(Objective([lambda t: 0 * t[0] + 3], 2), plane(-1, 1, -1, 1))
    assert record.error < 1e-14
    assert (np.abs(record.surface.loss - 3) < 1e-14).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tolerance": 0.0}, "tolerance must be positive, a share of the range of the loss, got 0.0"),
        ({"max_points": 100}, "max_points must be at least 169, which the first halving takes, got 100"),
        ({"scale": "cubic"}, "scale must be 'linear' or 'log', got 'cubic'"),
        ({"max_depth": 10}, "max_depth must be from 1 to 9, got 10"),
        ({"scale": "log"}, "scale must be 'linear' where the loss is negative, got 'log' and a loss of -"),
    ],
)
def test_what_cannot_be_refined_is_refused(settings: dict, message: str):
    with pytest.raises(InputError, match=message):
        refine(muller_brown(), plane(-1.5, 1.2, -0.3, 2.1), **settings)


def test_a_line_needs_13_points():
    line = Line(torch.zeros(2), torch.ones(2))
    assert len(refine(muller_brown(), line, max_points=13).loss) == 13
    with pytest.raises(InputError, match="max_points must be at least 13"):
        refine(muller_brown(), line, max_points=12)


def test_steps_must_span_something():
    with pytest.raises(InputError, match="steps must be a vector of at least two different numbers, got"):
        refine(ring(), Line(torch.zeros(2), torch.ones(2), torch.zeros(3)))

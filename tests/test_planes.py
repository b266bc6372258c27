"""Lines and planes through points, and points as planes show them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from landscape import (
    InputError,
    Line,
    Objective,
    Parameters,
    Plane,
    line_between,
    load,
    plane_of,
    plane_through,
    project,
    random_plane,
    scan,
)
from landscape.directions import random_direction
from landscape.frames import Frame
from landscape.planes import spanning_steps

P = 40


def points(count: int, *, seed: int = 0, scale: float = 1.0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [scale * torch.randn(P, generator=generator, dtype=torch.float64) for _ in range(count)]


def bowl(seed: int = 9) -> Objective:
    weights = torch.rand(P, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.5
    return Objective([lambda t: (weights * t**2).sum()], P)


@dataclass
class Named:
    theta: np.ndarray
    label: str
    step: int = 0


# lines


@pytest.mark.parametrize(("count", "beyond"), [(41, 0.5), (25, 0.5), (10, 0.25), (2, 0.0), (51, 1.0)])
def test_a_line_between_two_points_holds_both_exactly(count, beyond):
    a, b = points(2)
    line = line_between(a, b, points=count, beyond=beyond)
    assert 0 in line.steps
    assert 1 in line.steps
    assert abs(len(line.steps) - count) <= 2
    spacing = float(line.steps[1] - line.steps[0])
    assert -spacing < line.steps[0] + beyond <= 1e-12
    assert -1e-12 <= line.steps[-1] - 1 - beyond < spacing
    objective = bowl()
    record = scan(objective, line)
    np.testing.assert_allclose(record.loss[record.steps == 0], float(objective(a)), rtol=1e-14)
    np.testing.assert_allclose(record.loss[record.steps == 1], float(objective(b)), rtol=1e-14)
    np.testing.assert_allclose(record.mark_coordinates, [[0], [1]], atol=1e-15)
    np.testing.assert_array_equal(record.mark_loss, [float(objective(a)), float(objective(b))])
    assert record.mark_labels == ("a", "b")


def test_a_line_says_whose_ends_it_has():
    a, b = points(2)
    solutions = Named(a.numpy(), "sgd/0"), Named(b.numpy(), "alto/1")
    assert tuple(line_between(*solutions).marks) == ("sgd/0", "alto/1")
    assert tuple(line_between(*solutions, labels=("x", "y")).marks) == ("x", "y")
    with pytest.raises(InputError, match=r"labels must be 2 different names, got \['x', 'x'\]"):
        line_between(a, b, labels=("x", "x"))
    with pytest.raises(InputError, match="two of the points are the same"):
        line_between(a, a.clone())
    with pytest.raises(InputError, match=r"points must have one size, got \(40,\) and \(3,\)"):
        line_between(a, b[:3])
    with pytest.raises(InputError, match=r"a line needs points ≥ 2 and beyond ≥ 0, got 1 and 0\.5"):
        line_between(a, b, points=1)


# planes through three points


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_a_plane_goes_through_its_three_points(scale):
    a, b, c = points(3, scale=scale)
    kept = [theta.clone() for theta in (a, b, c)]
    plane = plane_through(a, b, c)
    gram = torch.stack([plane.d1, plane.d2]) @ torch.stack([plane.d1, plane.d2]).T
    torch.testing.assert_close(gram, torch.eye(2, dtype=torch.float64), rtol=0, atol=1e-15)
    record = scan(bowl(), plane)
    for theta, (s, t), loss in zip((a, b, c), record.mark_coordinates, record.mark_loss, strict=True):
        again = plane.center + s * plane.d1 + t * plane.d2
        assert float((again - theta).norm()) <= 1e-14 * float(theta.norm())
        assert loss == float(bowl()(theta))
    assert (record.mark_distance <= 1e-14 * scale * 10).all()
    distances = np.linalg.norm(record.mark_coordinates[:, None] - record.mark_coordinates[None], axis=2)
    true = torch.cdist(torch.stack([a, b, c]), torch.stack([a, b, c])).numpy()
    np.testing.assert_allclose(distances, true, rtol=1e-13, atol=1e-12 * scale)
    assert record.center_loss == float(bowl()(a))  # a is a point of the grid
    for axis, steps in enumerate((record.steps1, record.steps2)):
        column = record.mark_coordinates[:, axis]
        extent = np.ptp(column)
        spacing = steps[1] - steps[0]
        assert (steps == 0).sum() == 1
        assert -1e-9 * extent <= column.min() - 0.2 * extent - steps[0] <= spacing * (1 + 1e-9)
        assert -1e-9 * extent <= steps[-1] - column.max() - 0.2 * extent <= spacing * (1 + 1e-9)
        assert len(steps) in (25, 26, 27)
    assert all(theta.equal(before) for theta, before in zip((a, b, c), kept, strict=True))


def test_the_frame_is_garipovs():
    a, b, c = points(3)
    plane = plane_through(a, b, c, labels=("w1", "w2", "w3"))
    u = b - a
    v = (c - a) - ((c - a) @ u) / (u @ u) * u
    torch.testing.assert_close(plane.d1, u / u.norm())
    torch.testing.assert_close(plane.d2, v / v.norm())
    assert "steps are distances" in plane.drawn
    assert tuple(plane.marks) == ("w1", "w2", "w3")


ON_LINE = "the points span no plane: to rounding they lie on one line"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("kept_as", ["tensor", "float64 array"])
@pytest.mark.parametrize("near", [1.0, 1e-3])
def test_points_on_a_line_span_no_plane(dtype, kept_as, near):
    """Rounded points of a line lie off it by rounding, of what they were computed in; the nearer b is to a, the further is c."""
    start, direction = points(2)
    theta = torch.stack([start + s * direction for s in (0, near, 0.3, 2.1, 1.4)]).to(dtype)
    given: Any = theta if kept_as == "tensor" else theta.numpy().astype(np.float64)
    with pytest.raises(InputError, match=ON_LINE):
        plane_of(given)
    for third in given[2:]:
        with pytest.raises(InputError, match=ON_LINE):
            plane_through(given[0], given[1], third)


@pytest.mark.parametrize(("dtype", "off"), [(torch.float64, 1e-12), (torch.float32, 1e-4)])
def test_points_a_little_off_a_line_span_a_plane(dtype, off):
    a, direction, w = points(3)
    a, b, c = (p.to(dtype) for p in (a, a + direction, a + 0.4 * direction + off * w))
    plane = plane_through(a, b, c)
    assert abs(float(plane.d1 @ plane.d2)) <= 1e-15
    assert plane_of(torch.stack([a, b, c])).steps2.abs().max() > off


def test_the_plane_of_a_record_of_points_on_a_line_is_refused():
    @dataclass
    class PCA:
        center: np.ndarray
        directions: np.ndarray
        coordinates: np.ndarray

    q = torch.linalg.qr(torch.stack(points(2)).T)[0].T.numpy()
    center, away = points(1, seed=4)[0].numpy(), np.linspace(-3, 2, 7)
    for about, rounding in ((center, 1e-15), (center.astype(np.float32).astype(np.float64), 1e-7)):
        along = PCA(about, q, np.stack([away, rounding * np.cos(9 * away)], axis=1))
        with pytest.raises(InputError, match=ON_LINE):
            plane_of(along)
    assert plane_of(PCA(center, q, along.coordinates)).steps2.abs().max() < 1e-6  # of float64, that is known


def test_points_that_span_no_plane_are_refused():
    a, b, c = points(3)
    for same in ((a, a, c), (a, b, a), (a, b, b)):
        with pytest.raises(InputError, match="two of the points are the same"):
            plane_through(*same)
    with pytest.raises(InputError, match=r"a grid needs points ≥ 3 and margin ≥ 0, got 2 and 0\.2"):
        plane_through(a, b, c, points=2)


@pytest.mark.parametrize(
    ("sign", "margin", "count", "most"),
    [(1, 0.2, 8, 6), (-1, 0.2, 8, 6), (-1, 0.1, 13, 11), (1, 0.2, 15, 12)],
)
def test_a_grid_ends_at_what_is_a_step_but_for_rounding(sign, margin, count, most):
    """A margin of one step or two: low/spacing is −1.0000000000000002, which is no reason for one more."""
    coordinates = sign * torch.tensor([0.0, 3.0], dtype=torch.float64)
    steps = sign * spanning_steps(coordinates, count, margin)
    ends = sorted(
        (round(float(steps[0] / steps.diff()[0].abs())), round(float(steps[-1] / steps.diff()[0].abs())))
    )
    assert len(steps) == count
    assert ends == [most + 1 - count, most]


def test_a_line_ends_at_what_is_a_step_but_for_rounding():
    """.28 · 25 = 7.000000000000001 in floating point, which is no reason for one more at both ends."""
    steps = line_between(*points(2), points=40, beyond=0.28).steps
    assert len(steps) == 25 + 1 + 2 * 7
    assert float(steps[0]) == pytest.approx(-0.28, rel=1e-15)


# planes of points, and at random


def test_the_plane_of_points_is_that_of_their_first_principal_components():
    thetas = torch.stack(points(8))
    kept = thetas.clone()
    plane = plane_of(thetas)
    gram = (thetas - thetas[-1]).T @ (thetas - thetas[-1])
    vectors = torch.linalg.eigh(gram)[1]
    for direction, vector in ((plane.d1, vectors[:, -1]), (plane.d2, vectors[:, -2])):
        assert abs(float(direction @ vector)) == pytest.approx(1, rel=1e-10)
        assert direction[direction.abs().argmax()] > 0
    assert plane.center.equal(thetas[-1])
    assert 0 in plane.steps1
    assert 0 in plane.steps2
    found = project(plane, thetas)
    for axis, steps in enumerate((plane.steps1, plane.steps2)):
        assert steps[0] < found.coordinates[:, axis].min()
        assert found.coordinates[:, axis].max() < steps[-1]
    assert thetas.equal(kept)


def test_the_plane_of_a_record_has_its_center_and_directions():
    @dataclass
    class PCA:
        center: np.ndarray
        directions: np.ndarray
        coordinates: np.ndarray

    q = torch.linalg.qr(torch.stack(points(3)).T)[0].T
    pca = PCA(points(1, seed=4)[0].numpy(), q.numpy(), np.array([[0.0, 3, 1], [1, -1, 2], [2, 0, 5]]))
    plane = plane_of(pca, components=(0, 2), margin=0)
    assert plane.d1.equal(q[0])
    assert plane.d2.equal(q[2])
    assert (plane.steps1[0], plane.steps2[0]) == (0, 0)
    assert float(plane.steps1[-1]) == pytest.approx(2)
    assert float(plane.steps2[-1]) == pytest.approx(5)
    assert "components 1 and 3" in plane.drawn
    with pytest.raises(InputError, match=r"components must be two of the 3 that there are, got \(0, 3\)"):
        plane_of(pca, components=(0, 3))
    flat = PCA(pca.center, pca.directions, pca.coordinates * [1, 0, 1])
    with pytest.raises(InputError, match="the points span no plane"):
        plane_of(flat)


@pytest.mark.parametrize("orthogonal", [False, True])
def test_a_random_plane_is_two_random_directions(orthogonal):
    theta = points(1)[0]
    parameters = Parameters(("w",), ((8, 5),))
    plane = random_plane(
        theta,
        parameters,
        generator=torch.Generator().manual_seed(1),
        orthogonal=orthogonal,
        points=30,
        reach=2,
    )
    generator = torch.Generator().manual_seed(1)
    d1 = random_direction(theta, parameters, generator=generator)
    d2 = random_direction(theta, parameters, generator=generator, orthogonal_to=d1 if orthogonal else None)
    assert plane.d1.equal(d1)
    assert plane.d2.equal(d2)
    assert (float(d1 @ d2) == pytest.approx(0, abs=1e-14)) == orthogonal
    assert plane.steps1[15] == 0
    assert (plane.steps1[0], plane.steps1[-1], len(plane.steps1)) == (-2, 2, 31)
    assert plane.drawn == "random, filter-normalized"


# projections


@pytest.mark.parametrize("seed", range(6))
def test_a_point_lies_on_the_span_of_nearly_parallel_directions(seed):
    """In two dimensions the span is everything: one pass leaves a distance of 1e-7."""
    generator = torch.Generator().manual_seed(seed)
    origin, d1, away, theta = torch.randn(4, 2, generator=generator, dtype=torch.float64)
    d2 = d1 + 1e-6 * away
    coordinates, distance, reach = Frame(origin, d1, d2).place(origin + 1e3 * theta)
    assert reach == pytest.approx(1e3 * float(theta.norm()), rel=1e-12)
    assert distance <= 1e-11
    again = coordinates[0] * d1 + coordinates[1] * d2
    assert float((again - 1e3 * theta).norm()) <= 1e-15 * np.abs(coordinates).max() * 10


@pytest.mark.parametrize("angle", [0.3, 2.0])
@pytest.mark.parametrize("signs", [(1, 1), (-1, 1), (1, -1)])
def test_the_norm_within_a_span_is_that_of_the_projection(angle, signs):
    """Of directions at an acute and at an obtuse angle, against a basis found another way."""
    d1, other = points(2)
    d1 = d1 / d1.norm()
    other = other - (other @ d1) * d1
    d1, d2 = signs[0] * 3 * d1, signs[1] * (np.cos(angle) * d1 + np.sin(angle) * other / other.norm())
    vectors = torch.stack(points(5, seed=8))
    basis = torch.linalg.svd(torch.stack([d1, d2]), full_matrices=False)[2]
    slopes = (vectors @ torch.stack([d1, d2]).T).numpy()
    expected = (vectors @ basis.T).norm(dim=1).numpy()
    np.testing.assert_allclose(Frame(points(1)[0], d1, d2).norm_within(slopes), expected, rtol=1e-12)


def test_a_projection_is_the_least_squares_one():
    center, d1, d2 = points(3)
    plane = Plane(center, d1, d2)  # neither orthogonal nor of one length
    thetas = torch.stack(points(6, seed=1))
    objective = bowl()
    found = project(plane, thetas, objective=objective, label="sgd/0")
    basis = torch.stack([d1, d2]).T.numpy()
    for t, theta in enumerate(thetas.numpy()):
        offset = theta - center.numpy()
        coordinates, square, _, _ = np.linalg.lstsq(basis, offset, rcond=None)
        np.testing.assert_allclose(found.coordinates[t], coordinates, rtol=1e-12)
        assert found.distance[t] == pytest.approx(np.sqrt(square[0]), rel=1e-12)
        assert found.reach[t] == pytest.approx(np.linalg.norm(offset), rel=1e-14)
        below = center + coordinates[0] * d1 + coordinates[1] * d2
        assert found.loss[t] == float(objective(theta))
        assert found.loss_on_plane[t] == pytest.approx(float(objective(below)), rel=1e-12)
    np.testing.assert_array_equal(found.gap, found.loss - found.loss_on_plane)
    np.testing.assert_allclose(found.hidden, found.distance / found.reach)
    np.testing.assert_array_equal(found.steps, np.arange(6))


def test_points_of_the_plane_have_their_coordinates_and_no_distance():
    center, d1, d2 = points(3)
    coordinates = np.array([[0, 0], [1, -2], [0.5, 3]])
    thetas = center + torch.from_numpy(coordinates) @ torch.stack([d1, d2])
    found = project(Plane(center, d1, d2), thetas.numpy(), objective=bowl())
    np.testing.assert_allclose(found.coordinates, coordinates, atol=1e-14)
    np.testing.assert_allclose(found.distance, 0, atol=1e-13)
    np.testing.assert_allclose(found.gap, 0, atol=1e-11)
    assert found.hidden[0] == 0


def test_a_line_takes_projections_too_and_losses_may_be_missing():
    start, direction = points(2)
    found = project(Line(start, direction), torch.stack([start, start + 2 * direction]))
    np.testing.assert_allclose(found.coordinates, [[0], [2]], atol=1e-14)
    assert np.isnan(found.loss).all()
    assert np.isnan(found.loss_on_plane).all()
    assert found.label == ""


def test_a_trajectory_is_read_one_point_at_a_time(tmp_path):
    held: list[int] = []

    class Trajectory:
        label = "sgd/3"

        def __iter__(self) -> Any:
            for i, theta in enumerate(points(4, seed=2)):
                held.append(i)
                yield Named(theta.numpy(), "sgd/3", step=10 * i)

    center, d1, d2 = points(3)
    plane = Plane(center, d1, d2)
    found = project(plane, Trajectory(), about={"seed": 3})
    same = project(plane, torch.stack(points(4, seed=2)), steps=[0, 10, 20, 30], label="sgd/3")
    assert held == [0, 1, 2, 3]
    for name in ("steps", "coordinates", "distance", "reach"):
        np.testing.assert_array_equal(getattr(found, name), getattr(same, name))
    assert found.label == same.label == "sgd/3"
    kept = load(found.save(tmp_path / "projection.npz"))
    np.testing.assert_array_equal(kept.coordinates, found.coordinates)
    assert kept.about == {"seed": 3}


def test_solutions_on_disk_are_points(tmp_path):
    from landscape import Solution

    thetas = points(2, seed=5)
    files = [
        Solution(problem="x", optimizer="sgd", seed=i, theta=t.numpy(), names=("w",), shapes=((P,),)).save(
            tmp_path / f"{i}.npz"
        )
        for i, t in enumerate(thetas)
    ]
    center, d1, d2 = points(3)
    found = project(Plane(center, d1, d2), files)
    same = project(Plane(center, d1, d2), torch.stack(thetas))
    np.testing.assert_array_equal(found.coordinates, same.coordinates)
    assert project(Plane(center, d1, d2), [str(files[1])]).distance[0] == same.distance[1]


def test_a_recorded_trajectory_is_points(tmp_path):
    from landscape.results import Checkpoint
    from landscape.trajectories import Trajectory

    thetas = points(3, seed=6)
    for i, theta in enumerate(thetas):
        shared: dict[str, Any] = {
            "problem": "x",
            "optimizer": "sgd",
            "seed": 4,
            "names": ("w",),
            "shapes": ((P,),),
        }
        Checkpoint(**shared, theta=theta.numpy(), step=20 * i).save(tmp_path / f"step-{20 * i:08d}.npz")
    trajectory = Trajectory(tmp_path)
    center, d1, d2 = points(3)
    found = project(Plane(center, d1, d2), trajectory)
    same = project(Plane(center, d1, d2), torch.stack(thetas))
    np.testing.assert_array_equal(found.coordinates, same.coordinates)
    assert found.label == "sgd/4"
    assert found.steps.tolist() == [0, 20, 40]
    assert plane_of(trajectory).d1.equal(plane_of(torch.stack(thetas)).d1)
    with pytest.raises(InputError, match=r"thetas must be points, got the name .*; give Trajectory\(name\)"):
        project(Plane(center, d1, d2), str(tmp_path))


def test_bad_projections_are_refused():
    center, d1, d2 = points(3)
    plane = Plane(center, d1, d2)
    with pytest.raises(InputError, match="thetas must hold at least one point"):
        project(plane, [])
    with pytest.raises(InputError, match=r"points of the probe's size \(40,\), got \(3,\)"):
        project(plane, torch.zeros(2, 3))
    with pytest.raises(InputError, match="steps must hold one number for each of the 1 points, got 2"):
        project(plane, center[None], steps=[0, 1])
    with pytest.raises(InputError, match="the 2 directions must be linearly independent"):
        project(Plane(center, d1, -2 * d1), center[None])

"""Pointwise measures: dense Hessians at points, closed forms along paths and on planes."""

import numpy as np
import pytest
import torch
from dense import dense_hessian, quadratic, reference
from model_families import family

from analysis import corridor_along, corridor_map, corridor_points
from analysis.corridors.expansion import expand
from landscape import InputError, Line, Objective, Plane, load, model_objective
from landscape.combinations import Path
from landscape.paths import FourierPath, Segment
from landscape.results import CorridorMap, PathRecord

CONE = Objective([lambda theta: theta.norm()], 3)
START = torch.tensor([3.0, -1.0, 2.0], dtype=torch.float64)


def close(found: object, expected: object, rtol: float = 1e-9) -> None:
    np.testing.assert_allclose(np.asarray(found), np.asarray(expected), rtol=rtol, atol=1e-13)


@pytest.mark.parametrize("name", ["mlp", "layernorm", "conv", "relu"])
@pytest.mark.parametrize("batches", ["objective", "whole"])
def test_points_of_a_network_against_its_dense_hessian(name, batches):
    net = reference(name)
    thetas = torch.stack([net.theta, 0.9 * net.theta, net.theta + 0.1])
    before = thetas.clone()
    found = corridor_points(getattr(net, batches), thetas, label="here")
    for k, theta in enumerate(thetas):
        loss, g = net.whole(theta), net.whole.grad(theta)
        image = dense_hessian(net.whole, theta) @ g
        close(found.loss[k], loss)
        close(found.bend[k], image.norm() / g.norm())
        close(found.corridor_rate[k], g.norm() / image.norm())
        close(found.kappa_polyak[k], loss / g.norm() ** 2 * image.norm() / g.norm())
        close(found.kappa(0.3)[k], 0.3 * image.norm() / g.norm())
        close(found.kappa_weak(0.3)[k], 0.3 * (g @ image) / g.norm() ** 2)
    assert thetas.equal(before)
    assert found.label == "here"


@pytest.mark.parametrize(
    "name", ["weight_norm", "attention", "batchnorm", "gpt, tied", "lstm", "frozen", "unused", "own loss"]
)
def test_one_graph_for_gradient_and_product_equals_the_objective(name):
    made = family(name)
    objective, theta = model_objective(made.model, made.loss_fn, [made.data], **made.settings), made.theta
    vectors = torch.randn(2, objective.dim, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert len(objective.terms) == 1
    loss, gradient, product = expand(objective, theta)
    torch.testing.assert_close(loss, objective(theta), rtol=1e-12, atol=1e-14)
    torch.testing.assert_close(gradient, objective.grad(theta), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(product(vectors), objective.hvp(theta, vectors), rtol=1e-12, atol=1e-13)
    assert not any(x.requires_grad for x in (loss, gradient, theta))


@pytest.mark.parametrize(
    ("term", "gradient"),
    [(lambda theta: torch.ones(()).double(), 0.0), (lambda theta: theta.sum(), 1.0)],
)
def test_a_constant_and_a_linear_loss_have_no_curvature(term, gradient):
    found = corridor_points(Objective([term], 3), START[None])
    assert found.gradient_norm[0] == pytest.approx(gradient * 3**0.5)
    assert found.image_norm[0] == 0
    assert found.corridor_rate[0] == np.inf if gradient else np.isnan(found.corridor_rate[0])


def test_measures_that_need_a_gradient_or_a_loss_above_0_are_missing_without():
    saddle = quadratic(torch.diag(torch.tensor([1.0, -2.0, 0.0], dtype=torch.float64)))
    found = corridor_points(saddle, [[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    assert np.isnan([found.bend[0], found.corridor_rate[0], found.kappa_polyak[0]]).all()
    assert np.isnan(found.kappa_polyak).tolist() == [True, True, False]
    assert found.kappa_polyak[2] == pytest.approx(0.5)  # a quadratic, whatever its curvature
    close(found.bend[1:], [2, 1])
    close(2 * found.corridor_rate[1:], 2 / found.bend[1:])  # DAL's, 2/(‖Hg‖/‖g‖)^p at p = 1


@pytest.mark.parametrize("p", [1.5, 3.0])
def test_kappa_at_the_corridor_rate_of_a_power_of_the_norm(p):
    """L‖Hg‖/‖g‖³ = (p − 1)/p at every point, in any scale."""
    objective = Objective([lambda theta: 7 * theta.norm() ** p], 3)
    found = corridor_points(objective, torch.stack([START, 10 * START]))
    close(found.kappa_polyak, (p - 1) / p)
    close(found.bend, 7 * p * (p - 1) * (14**0.5 * np.array([1, 10])) ** (p - 2))


def test_along_a_ray_of_a_cone_the_path_is_a_line_of_steepest_descent():
    down = corridor_along(CONE, Segment(START, 0.1 * START), points=11)
    close(down.cosine, 1)
    close(down.bend, 0)
    close(down.t, np.linspace(0, 1, 11))
    close(down.loss, np.linspace(1, 0.1, 11) * 14**0.5)
    close(corridor_along(CONE, Segment(START, 2 * START)).cosine, -1)
    a, b = (torch.tensor(v, dtype=torch.float64) for v in ([1.0, 0, 0], [-0.5, 0.75**0.5, 0]))
    chord = corridor_along(CONE, Segment(a, b), points=3)
    close(chord.cosine, [0.75**0.5, 0, -(0.75**0.5)])  # 30 degrees off at the ends, across in the middle


def test_along_a_bent_path_and_its_record():
    net = reference("mlp")
    generator = torch.Generator().manual_seed(0)
    bends = 0.2 * torch.randn(2, net.objective.dim, generator=generator, dtype=torch.float64)
    path = FourierPath(net.theta, 0.5 * net.theta, bends)
    found = corridor_along(net.objective, path, points=5)
    for k, t in enumerate(np.linspace(0, 1, 5)):
        g, along = net.whole.grad(path(t)), path.derivative(t)
        close(found.cosine[k], -(along @ g) / (along.norm() * g.norm()))
        close(found.bend[k], (dense_hessian(net.whole, path(t)) @ g).norm() / g.norm())
    same = corridor_along(net.objective, recorded(path), points=5)
    close(same.cosine, found.cosine)
    assert same.label == "a – b"


def recorded(path: Path) -> PathRecord:
    points, coefficients = path.stored()
    return PathRecord(
        method="fourier", start="a", end="b", t=np.zeros(2), loss=np.zeros(2), norm=np.zeros(2),
        path_kind=path.kind, points=points, coefficients=coefficients, length=1.0,
        gradients=0, losses=0, converged=True, message="",
    )  # fmt: skip


def test_a_map_is_its_points_and_knows_what_the_plane_shows(tmp_path):
    objective = quadratic(torch.diag(torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64)))
    d1, d2 = torch.tensor([2.0, 0, 0]).double(), torch.tensor([1.0, 1.0, 0]).double()
    steps1, steps2 = torch.linspace(-1, 1, 4), torch.linspace(0.5, 2, 3)
    plane = Plane(START, d1, d2, steps1, steps2)
    field, rows = corridor_map(objective, plane, label="m"), corridor_points(objective, plane)
    close(field.bend.ravel(), rows.bend)
    assert field.loss.shape == field.share_in_plane.shape == (4, 3)
    for i, s in enumerate(steps1):
        for j, t in enumerate(steps2):
            theta = START + s * d1 + t * d2
            g = objective.grad(theta)
            close(field.loss[i, j], objective(theta))
            close(field.slopes[i, j], [g @ d1, g @ d2])
            close(field.share_in_plane[i, j], (g[0] ** 2 + g[1] ** 2) / (g @ g))
    again = load(field.save(tmp_path / "map.npz"))
    close(again.share_in_plane, field.share_in_plane)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("angle", [1e-2, 1e-5])
def test_nearly_parallel_directions_leave_the_share_in_the_plane(dtype, angle):
    """Of the unit sphere's ‖θ‖² the gradient is 2θ: its share in the plane of the first two axes is known."""
    d1, d2 = torch.tensor([1.0, 0, 0]).double(), torch.tensor([1.0, angle, 0]).double()
    plane = Plane(START, d1, d2, torch.zeros(1), torch.zeros(1))
    field = corridor_map(Objective([lambda theta: theta @ theta], 3, dtype=dtype), plane)
    close(field.share_in_plane, 10 / 14, rtol=10 * torch.finfo(dtype).eps + 1e-15 / angle)
    close(field.norm_within, 2 * 10**0.5, rtol=10 * torch.finfo(dtype).eps + 1e-15 / angle)
    with pytest.raises(InputError, match="directions must be linearly independent"):
        corridor_map(CONE, Plane(START, d1, 2 * d1))


def test_maps_without_that_norm_still_load(tmp_path):
    eye = torch.eye(3, dtype=torch.float64)
    field = corridor_map(CONE, Plane(START, eye[0], eye[1], torch.zeros(2), torch.zeros(3)))
    told = {name: value for name, value in vars(field).items() if name != "norm_within"}
    again = load(CorridorMap(**told).save(tmp_path / "old.npz"))
    assert np.isnan(again.share_in_plane).all()
    assert again.share_in_plane.shape == (2, 3)


def test_points_of_a_line_and_refusals():
    line = Line(START, START, torch.tensor([0.0, 1.0]))
    close(corridor_points(CONE, line).loss, [14**0.5, 2 * 14**0.5])
    with pytest.raises(InputError, match=r"thetas must be at least one point \(K, 3\), got shape \(3,\)"):
        corridor_points(CONE, START)
    with pytest.raises(InputError, match=r"points must be at least 2, the path's ends, got 1"):
        corridor_along(CONE, Segment(START, 2 * START), points=1)
    with pytest.raises(InputError, match=r"the path's points must have shape"):
        corridor_along(CONE, Segment(torch.zeros(2), torch.ones(2)))

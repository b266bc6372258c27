"""Refined passes: against the known saddles, dense spectra, symmetries and what their records must not pretend."""

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from dense import dense_hessian, quadratic, rotated
from reference import CROSSINGS, LENNARD_JONES_7, STATIONARY
from scipy.optimize import linear_sum_assignment
from torch import nn

from analysis import find_path, linear_path, refine_pass
from analysis.passes.modes import Modes, _beside, some_modes
from landscape import InputError, Objective, load, model_objective
from landscape.datasets import digits
from landscape.potentials import lennard_jones, muller_brown, ring

F64 = torch.float64
SADDLES = [known for known in STATIONARY if known.index == 1]
MINIMA = [known for known in STATIONARY if known.index == 0]
ROUTES = {"dense": 500, "krylov": 0}  # the most parameters for which all modes are taken
routes = pytest.mark.parametrize("dense", ROUTES.values(), ids=ROUTES)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def vector(*values):
    return torch.tensor(values, dtype=F64)


def refined(objective, record, *, tangent=True, **settings):
    """The pass beside the top of a path."""
    path, t = record.path, record.top
    direction = path.derivative(t) if tangent else None
    return refine_pass(objective, path(t), tangent=direction, generator=seeded(), **settings)


def check(found, objective):
    """What a record says is what dense derivatives at its θ say."""
    theta = torch.from_numpy(found.theta)
    loss, gradient = objective.value_and_grad(theta)
    every, vectors = torch.linalg.eigh(dense_hessian(objective, theta))
    largest = float(every.abs().max())
    assert found.loss == float(loss)
    assert found.gradient_norm == float(gradient.norm())
    k = len(found.eigenvalues)
    np.testing.assert_allclose(found.eigenvalues, every[:k], atol=1e-5 * largest)
    assert abs(found.eigenvalues[0] - float(every[0])) <= found.errors[0]
    assert abs(float(vectors[:, 0] @ torch.from_numpy(found.direction))) == pytest.approx(1, abs=1e-5)
    assert found.index == int((every < -found.floor - found.residuals.max()).sum())


# ---------------------------------------------------------------- known saddles


@routes
@pytest.mark.parametrize("tangent", [True, False], ids=["tangent", "lowest mode"])
@pytest.mark.parametrize("bend", ["line", "coarse"])
@pytest.mark.parametrize("name", CROSSINGS)
def test_tops_of_coarse_paths_are_refined_to_the_saddle(name, bend, tangent, dense):
    known = CROSSINGS[name]
    objective, a, b = known.potential(), vector(*known.a), vector(*known.b)
    record = (
        linear_path(objective, a, b)
        if bend == "line"
        else find_path(objective, a, b, steps=50, generator=seeded())
    )
    found = refined(objective, record, tangent=tangent, dense=dense)
    assert found.converged
    assert (found.index, found.undecided) == (1, 0)
    assert found.message == "a pass: one eigenvalue is negative beyond its error."
    assert found.loss == pytest.approx(known.height, abs=1e-7)
    saddle = next(s.point for s in SADDLES if s.value == pytest.approx(known.height))
    np.testing.assert_allclose(found.theta, saddle, atol=1e-6)
    assert found.moved == pytest.approx(float(np.linalg.norm(found.theta - record.path(record.top).numpy())))
    assert len(found.gradient_norms) <= 25
    check(found, objective)


@routes
@pytest.mark.parametrize("known", SADDLES, ids=lambda s: f"{s.potential.__name__}{s.point[0]:.2f}")
def test_every_saddle_is_found_from_its_surroundings(known, dense):
    objective, saddle = known.potential(), vector(*known.point)
    for seed in range(5):
        away = torch.randn(2, generator=seeded(seed), dtype=F64)
        found = refine_pass(objective, saddle + 0.05 * away / away.norm(), dense=dense, generator=seeded())
        assert (found.converged, found.index) == (True, 1)
        np.testing.assert_allclose(found.theta, known.point, atol=1e-6)
        assert found.moved == pytest.approx(0.05, abs=1e-6)
        assert len(found.gradient_norms) <= 10


def test_the_tangent_chooses_which_way_is_uphill():
    # Between four hills: at the maximum the Hessian is −4 and −8, and each mode leads to a saddle of its own.
    objective = Objective([lambda x: x[0] ** 4 + x[1] ** 4 - 2 * x[0] ** 2 - 4 * x[1] ** 2], 2)
    start = vector(0.05, 0.05)
    along_x = refine_pass(objective, start, tangent=vector(1, 0.1))
    along_y = refine_pass(objective, start, tangent=vector(0.1, 1))
    np.testing.assert_allclose(along_x.theta, [0, np.sqrt(2)], atol=1e-8)
    np.testing.assert_allclose(along_y.theta, [1, 0], atol=1e-8)
    np.testing.assert_allclose(refine_pass(objective, start).theta, [1, 0], atol=1e-8)


@routes
def test_a_tangent_that_is_mostly_across_the_pass_does_not_mislead(dense):
    objective = Objective([lambda x: (x[0] ** 2 - 1) ** 2 + 3 * x[1] ** 2 + x[1] ** 4], 2)
    found = refine_pass(objective, vector(0.1, 0.1), tangent=vector(0.1, 1), size=1.0, dense=dense)
    assert (found.converged, found.index) == (True, 1)
    np.testing.assert_allclose(found.theta, 0, atol=1e-9)


@routes
def test_units_of_loss_and_parameters_do_not_matter(dense):
    objective, start = muller_brown(), vector(-0.5, 0.9)
    scaled = Objective([lambda theta: 1024 * objective.terms[0](theta / 64)], 2)
    plain = refine_pass(objective, start, tangent=vector(1, -1), dense=dense)
    found = refine_pass(scaled, 64 * start, tangent=vector(1, -1), dense=dense)
    assert len(found.gradient_norms) == len(plain.gradient_norms)
    np.testing.assert_allclose(found.theta, 64 * plain.theta, rtol=1e-12)
    np.testing.assert_allclose(found.eigenvalues, plain.eigenvalues / 4, rtol=1e-10)


# ---------------------------------------------------------------- symmetries


def matched(a, b):
    """b (7, 3) turned, and its atoms renamed, to be near a."""
    b, near = b - b.mean(axis=0), a - a.mean(axis=0)
    generator, best = np.random.default_rng(0), (np.inf, b)
    for _ in range(100):
        turned = b @ np.linalg.qr(generator.normal(size=(3, 3)))[0]
        for _ in range(10):
            distances = ((near[:, None] - turned[None]) ** 2).sum(axis=-1)
            turned = turned[linear_sum_assignment(distances)[1]]
            u, _, v = np.linalg.svd(turned.T @ near)
            turned = turned @ (u @ v)
        best = min(best, (float(np.linalg.norm(near - turned)), turned), key=lambda pair: pair[0])
    return near, best[1]


@cache
def clusters():
    """Capped octahedron and tricapped tetrahedron of seven atoms, the second near the first."""
    objective = lennard_jones()
    octahedron = 0.79 * np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]])
    tetrahedron = 0.4 * np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    caps = tetrahedron[[0, 1, 2]] + tetrahedron[[1, 2, 3]] + tetrahedron[[2, 3, 0]]
    caps = 1.05 * caps / np.linalg.norm(caps, axis=1, keepdims=True)
    shapes = np.concatenate([octahedron, [[0.75, 0.75, 0.75]]]), np.concatenate([tetrahedron, caps])
    relaxed = [refine_pass(objective, shape.ravel(), size=30.0) for shape in shapes]
    return relaxed


@routes
def test_the_pass_of_seven_atoms_is_found_though_turns_and_shifts_are_flat(dense):
    objective = lennard_jones()
    octahedron, tetrahedron = clusters()
    assert octahedron.loss == pytest.approx(LENNARD_JONES_7["capped octahedron"], abs=1e-6)
    assert tetrahedron.loss == pytest.approx(LENNARD_JONES_7["tricapped tetrahedron"], abs=1e-6)
    assert (octahedron.index, octahedron.undecided) == (0, 6)
    a, b = matched(octahedron.theta.reshape(7, 3), tetrahedron.theta.reshape(7, 3))
    record = linear_path(objective, a.ravel(), b.ravel())
    found = refined(objective, record, dense=dense, eigenvalues=8)
    assert found.loss == pytest.approx(-15.319864, abs=1e-6)
    assert (found.converged, found.index, found.undecided) == (True, 1, 6)
    assert found.message == "a pass: one eigenvalue is negative beyond its error; 6 too close to 0 to tell."
    check(found, objective)
    # Where the gradient is not 0 yet, turns are not quite flat, and still no way down.
    early = refined(objective, record, dense=dense, eigenvalues=8, tolerance=1e-6)
    assert early.gradient_norm > 1e-6
    assert (early.converged, early.index, early.undecided) == (True, 1, 6)


@pytest.mark.parametrize("dim", [2, 5])
@routes
def test_what_is_on_a_circle_of_minima_is_no_pass(dim, dense):
    start = torch.eye(dim, dtype=F64)[0]
    found = refine_pass(ring(dim), start, dense=dense, eigenvalues=dim)
    assert (found.converged, found.index, found.undecided, found.moved) == (True, 0, dim - 1, 0.0)
    assert found.message.startswith("no pass: no eigenvalue is negative beyond its error; ")
    found = refine_pass(ring(dim), 0 * start, dense=dense, eigenvalues=dim)  # the top of a chord: a hill
    assert (found.converged, found.index, found.moved) == (True, dim, 0.0)
    assert found.message == f"no pass: {dim} eigenvalues are negative beyond their errors."


def test_flat_directions_that_were_not_asked_for_are_said_to_be_possible():
    spectrum = torch.cat([torch.tensor([-1.0]), torch.zeros(9), torch.linspace(1, 2, 140)]).double()
    objective = quadratic(rotated(spectrum, seeded()))
    start = torch.randn(150, generator=seeded(1), dtype=F64)
    found = refine_pass(objective, start, dense=0, generator=seeded(2))
    assert (found.index, found.undecided) == (1, 3)
    assert found.message.endswith("; 3 or more too close to 0 to tell.")
    found = refine_pass(objective, start)
    assert (found.index, found.undecided, len(found.eigenvalues)) == (1, 9, 11)


# ---------------------------------------------------------------- no passes


@routes
@pytest.mark.parametrize("away", [0.0, 1e-3])
@pytest.mark.parametrize("known", MINIMA, ids=lambda s: f"{s.potential.__name__}{s.point[0]:.2f}")
def test_minima_are_called_minima(known, away, dense):
    minimum = vector(*known.point)
    start = minimum + away * torch.tensor([0.6, -0.8], dtype=F64)
    found = refine_pass(known.potential(), start, dense=dense, generator=seeded())
    assert (found.converged, found.index) == (True, 0)
    assert found.message == "no pass but a minimum."
    np.testing.assert_allclose(found.theta, known.point, atol=1e-8)
    assert found.moved == pytest.approx(away, abs=1e-8)


@routes
def test_a_path_that_is_highest_at_its_end_leads_to_that_minimum(dense):
    objective = Objective([lambda x: 3 * x[0] ** 2 - 2 * x[0] ** 3 + x[1] ** 2 + x[1] ** 4], 2)
    record = linear_path(objective, vector(0, 0), vector(0.01, 0))
    assert record.top == 1.0
    found = refined(objective, record, dense=dense, size=1.0)
    assert (found.converged, found.index) == (True, 0)
    np.testing.assert_allclose(found.theta, 0, atol=1e-10)


@routes
def test_a_slope_without_end_is_not_stationary(dense):
    objective = Objective([lambda x: x[0] + x[1] ** 2], 2)
    found = refine_pass(objective, vector(1, 1), max_steps=7, dense=dense)
    assert not found.converged
    assert found.message.startswith(
        "not stationary after 7 steps: the gradient norm is 1, and was 2.24 at the"
    )
    assert len(found.gradient_norms) == 8


@pytest.mark.parametrize("sense", [np.nan, np.inf])
@routes
def test_a_loss_that_is_not_finite_at_the_start_is_reported(sense, dense):
    objective = Objective([lambda x: x.square().sum() * sense], 3)
    found = refine_pass(objective, vector(1, 2, 3), dense=dense)
    assert not found.converged
    assert "the loss or its gradient is not finite at theta" in found.message
    assert (found.index, found.undecided, found.moved) == (-1, 0, 0.0)
    assert np.isnan(found.eigenvalues).all()


@routes
def test_curvature_that_is_not_finite_is_reported(dense):
    objective = Objective([lambda x: (x[0] - 1).abs() ** 1.5 + x[1]], 2)
    found = refine_pass(objective, vector(1, 2), tangent=vector(1, 0), dense=dense)
    assert not found.converged
    assert "products with vectors at theta are not finite" in found.message
    assert found.index == -1


def test_walls_beside_the_way_are_stepped_back_from():
    # log(x) is not a number beyond the wall at 0, which the first steps would cross.
    objective = Objective([lambda x: x[0] - 0.02 * torch.log(x[0]) - 30 * x[1] ** 2], 2)
    found = refine_pass(objective, vector(0.5, 0.3), size=100.0)
    assert (found.converged, found.index) == (True, 1)
    np.testing.assert_allclose(found.theta, [0.02, 0], atol=1e-10)
    assert found.gradients > len(found.gradient_norms)


@routes
def test_steps_that_do_not_go_as_predicted_are_taken_back(dense):
    found = refine_pass(muller_brown(), vector(-0.2, 1.0), size=50.0, dense=dense, generator=seeded())
    assert (found.converged, found.index) == (True, 1)
    assert found.gradients > len(found.gradient_norms)
    assert found.moved < 1


def test_where_negative_eigenvalues_fill_what_was_asked_for_the_index_is_unknown():
    spectrum = torch.cat([-torch.ones(6), torch.linspace(1, 2, 144)]).double()
    spectrum[:6] -= torch.arange(6) / 10
    objective = quadratic(rotated(spectrum, seeded()))
    start = torch.zeros(150, dtype=F64)
    few = refine_pass(objective, start, dense=0, eigenvalues=4, generator=seeded())
    assert (few.converged, few.index) == (True, -1)
    assert few.message.startswith("stationary, of unknown index: there may be more negative eigenvalues")
    assert refine_pass(objective, start, dense=0, eigenvalues=7, generator=seeded()).index == 6
    assert refine_pass(objective, start, eigenvalues=4).index == 6


# ---------------------------------------------------------------- networks


@cache
def network():
    """A small classifier of digits with weight decay, and the top of a coarse path between two of its minima."""
    (images, labels), _, _ = digits()
    inputs, targets = torch.as_tensor(images).double()[:300], torch.as_tensor(labels)[:300]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        models = [nn.Sequential(nn.Linear(64, 2), nn.Tanh(), nn.Linear(2, 10)).double() for _ in range(2)]
    batches = [(inputs[:200], targets[:200]), (inputs[200:], targets[200:])]
    plain = model_objective(models[0], nn.functional.cross_entropy, batches)
    objective = Objective([*plain.terms, lambda theta: 1e-3 * theta.square().sum()], plain.dim)
    ends = [_minimum(objective, plain.parameters.theta(model)) for model in models]
    return objective, find_path(objective, *ends, steps=300, generator=seeded())


def _minimum(objective, theta):
    leaf = theta.clone().requires_grad_()
    lbfgs = torch.optim.LBFGS([leaf], max_iter=300, history_size=30, line_search_fn="strong_wolfe")

    def closure():
        loss, leaf.grad = objective.value_and_grad(leaf.detach())
        return loss

    lbfgs.step(closure)
    return leaf.detach()


@cache
def pass_of_network(dense):
    return refined(*network(), dense=dense)


@routes
def test_the_pass_of_a_network_is_stationary_and_its_index_that_of_the_dense_hessian(dense):
    objective, record = network()
    found = pass_of_network(dense)
    assert found.converged, found.message
    assert found.index == 1
    assert found.gradient_norms[0] > 1e-3
    assert found.gradient_norm < 1e-8 * found.gradient_norms[0]
    assert found.loss < record.height
    check(found, objective)


def test_both_routes_lead_to_the_same_pass_of_a_network():
    dense, krylov = (pass_of_network(limit) for limit in ROUTES.values())
    np.testing.assert_allclose(krylov.theta, dense.theta, atol=1e-5)
    assert krylov.loss == pytest.approx(dense.loss, rel=1e-12)
    np.testing.assert_allclose(krylov.eigenvalues[0], dense.eigenvalues[0], rtol=1e-4)
    assert krylov.matvecs < dense.matvecs


def test_single_precision_goes_as_far_as_it_can():
    objective, record = network()
    single = Objective([lambda theta: _total(objective, theta)], objective.dim, dtype=torch.float32)
    found = refined(single, record, dense=0)
    double = pass_of_network(0)
    assert found.converged, found.message
    assert found.index == 1
    assert found.theta.dtype == np.float64
    assert np.linalg.norm(found.theta - double.theta) < 0.01 * np.linalg.norm(double.theta)
    assert found.loss == pytest.approx(double.loss, rel=1e-5)


def _total(objective, theta):
    return torch.stack([term(theta.double()) for term in objective.terms]).sum()


# ---------------------------------------------------------------- the step


def indefinite(n=30, seed=3):
    spectrum = torch.linspace(0.5, 3, n, dtype=F64)
    spectrum[0] = -1.5
    matrix = rotated(spectrum, seeded(seed))
    return matrix, torch.randn(n, generator=seeded(seed + 1), dtype=F64)


def test_without_damping_and_radius_the_step_is_newtons():
    matrix, gradient = indefinite()
    modes = Modes.of(torch.eye(30, dtype=F64), matrix, gradient, None, np.inf)
    step, change, _ = modes.step(np.inf, 1)
    torch.testing.assert_close(step, -torch.linalg.solve(matrix, gradient))
    torch.testing.assert_close(change, -gradient)
    assert modes.misfit(0.3 * gradient, 0.0) == pytest.approx(0.3)


@pytest.mark.parametrize("index", [0, 1])
@pytest.mark.parametrize("radius", [0.01, 0.5])
def test_a_short_step_is_that_of_the_image_written_out(index, radius):
    matrix, gradient = indefinite()
    modes = Modes.of(torch.eye(30, dtype=F64), matrix, gradient, None, 100.0)
    step, change, mu = modes.step(radius, index)
    values, vectors = np.linalg.eigh(matrix.numpy())
    turned = np.where(np.arange(30) < index, 1.0, -1.0)
    expected = vectors @ (turned * (vectors.T @ gradient.numpy()) / (np.abs(values) + mu))
    np.testing.assert_allclose(step, expected, atol=1e-12)
    torch.testing.assert_close(change, matrix @ step)
    assert float(step.norm()) == pytest.approx(radius, rel=0.01)


@pytest.mark.parametrize("accuracy", [0.1, 1e-6])
def test_a_krylov_space_holds_the_step_as_accurately_as_asked(accuracy):
    matrix, gradient = indefinite(200)
    start = torch.randn(200, generator=seeded(9), dtype=F64)
    modes = some_modes(
        lambda v: v @ matrix,
        gradient,
        None,
        100.0,
        start=start,
        radius=np.inf,
        index=1,
        accuracy=accuracy,
        most=200,
    )
    assert modes is not None
    torch.testing.assert_close(modes.basis @ modes.basis.T, torch.eye(len(modes.basis), dtype=F64))
    step, change, _ = modes.step(np.inf, 1)
    torch.testing.assert_close(change, matrix @ step)
    outside = change - (modes.basis @ change) @ modes.basis
    assert 0.01 * accuracy < float(outside.norm() / gradient.norm()) <= accuracy
    every = Modes.of(torch.eye(200, dtype=F64), matrix, gradient, None, 100.0).step(np.inf, 1)[0]
    assert float((step - every).norm() / every.norm()) < accuracy**0.5
    assert float((matrix @ modes.direction + 1.5 * modes.direction).norm()) < 0.3
    assert len(modes.basis) < 120


def test_a_vector_almost_in_the_basis_adds_one_that_is_orthogonal_to_it():
    basis = torch.linalg.qr(torch.randn(50, 8, generator=seeded(), dtype=F64))[0].T
    away = torch.randn(50, generator=seeded(1), dtype=F64)
    new = _beside(basis, basis.sum(0) + 1e-5 * away)
    assert new is not None
    assert float((basis @ new).abs().max()) < 1e-15
    assert float(new.norm()) == pytest.approx(1, abs=1e-14)
    assert _beside(basis, basis.sum(0)) is None
    assert _beside(basis, 0 * away) is None


# ---------------------------------------------------------------- records and input


@routes
def test_evaluations_are_counted(dense, monkeypatch):
    objective, start = muller_brown(), vector(-0.5, 0.9)
    counts = {"gradients": 0, "products": 0}
    gradients = objective.value_and_grad
    monkeypatch.setattr(
        objective,
        "value_and_grad",
        lambda x: (counts.update(gradients=counts["gradients"] + 1), gradients(x))[1],
    )

    def counted(objective, theta, of="hessian", *, count=0):
        def products(v):
            counts["products"] += v.reshape(-1, 2).shape[0]
            return objective.hvp(theta, v)

        return products

    for module in ("passes.following", "curvature.spectrum"):
        monkeypatch.setattr(f"analysis.{module}.products_of", counted)
    found = refine_pass(objective, start, dense=dense, generator=seeded())
    assert (found.gradients, found.matvecs) == (counts["gradients"], counts["products"])
    assert found.gradients >= len(found.gradient_norms)


def test_a_record_says_the_same_after_saving_and_loading(tmp_path):
    found = refine_pass(muller_brown(), vector(-0.5, 0.9), about={"why": "test"})
    again = load(found.save(tmp_path / "pass.npz"))
    assert (again.index, again.message, again.about) == (1, found.message, {"why": "test"})
    np.testing.assert_array_equal(again.theta, found.theta)
    np.testing.assert_array_equal(again.errors, found.errors)


def test_arrays_will_do_nothing_is_changed_and_only_the_generator_is_drawn_from():
    objective, theta, tangent = muller_brown(), vector(-0.5, 0.9), vector(3, -4)
    kept, state = (theta.clone(), tangent.clone()), torch.get_rng_state()
    first = refine_pass(objective, theta, tangent=tangent, dense=0, generator=seeded(1))
    second = refine_pass(objective, theta.numpy(), tangent=[3, -4], dense=0, generator=seeded(1))
    np.testing.assert_array_equal(first.theta, second.theta)
    assert theta.equal(kept[0])
    assert tangent.equal(kept[1])
    assert torch.get_rng_state().equal(state)


def test_unusable_input_is_refused():
    objective, good = muller_brown(), vector(1, 2)
    with pytest.raises(InputError, match=r"theta must have shape \(2,\).*got \(3,\)"):
        refine_pass(objective, torch.zeros(3))
    with pytest.raises(InputError, match=r"theta must be one point \(2,\), got shape \(4, 2\)"):
        refine_pass(objective, torch.zeros(4, 2))
    with pytest.raises(InputError, match="theta holds 1 values that are NaN or infinite"):
        refine_pass(objective, vector(0, np.nan))
    for bad in (torch.zeros(2), vector(0, np.inf), torch.ones(1, 2)):
        with pytest.raises(
            InputError, match=r"tangent must be one finite direction \(2,\) that is not 0, got"
        ):
            refine_pass(objective, good, tangent=bad)
    with pytest.raises(InputError, match=r"tangent must have shape \(2,\)"):
        refine_pass(objective, good, tangent=torch.ones(3))
    for value in (0, np.nan):
        with pytest.raises(InputError, match=f"tolerance must be a positive share .* got {value}"):
            refine_pass(objective, good, tolerance=value)
    with pytest.raises(InputError, match=r"size must be a positive length, got 0"):
        refine_pass(objective, good, size=0)
    for setting, least in (
        ({"max_steps": -1}, 0),
        ({"dense": -1}, 0),
        ({"basis": 2}, 3),
        ({"eigenvalues": 0}, 1),
    ):
        (name, value), given = *setting.items(), dict[str, Any](setting)
        with pytest.raises(InputError, match=f"{name} must be at least {least}, got {value}"):
            refine_pass(objective, good, **given)

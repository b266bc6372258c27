"""Potentials: stationary where they are said to be, and equal to their formulas written out naively."""

import math

import numpy as np
import pytest
import torch
from reference import LENNARD_JONES_7, STATIONARY, X0
from scipy.optimize import minimize

from landscape import InputError
from landscape.potentials import (
    cardioid,
    curvy_valley,
    four_well,
    ladder,
    lennard_jones,
    muller_brown,
    ravine,
    ring,
    two_wells,
)

float64 = torch.float64


def eigenvalues(objective, theta):
    return torch.linalg.eigvalsh(objective.hvp(theta, torch.eye(objective.dim, dtype=float64)))


@pytest.mark.parametrize("known", STATIONARY, ids=lambda k: f"{k.potential.__name__}{k.point}")
def test_stationary_points_have_no_gradient_the_known_value_and_index(known):
    objective, theta = known.potential(), torch.tensor(known.point, dtype=float64)
    assert objective.grad(theta).norm() < 1e-6
    assert float(objective(theta)) == pytest.approx(known.value, abs=1e-8)
    assert int((eigenvalues(objective, theta) < 0).sum()) == known.index


def naive_muller_brown(x, y):
    total = 0.0
    for A, a, b, c, x0, y0 in [
        (-200, -1, 0, -10, 1, 0),
        (-100, -1, 0, -10, 0, 0.5),
        (-170, -6.5, 11, -6.5, -0.5, 1.5),
        (15, 0.7, 0.6, 0.7, -1, 1),
    ]:
        total += A * math.exp(a * (x - x0) ** 2 + b * (x - x0) * (y - y0) + c * (y - y0) ** 2)
    return total


def naive_curvy_valley(x, y):
    beta = 1 / (2 * X0**2)
    return (y - math.sin(x)) ** 2 + (beta * x**4 - x**2) / (1 / (4 * beta)) + 1


def naive_two_wells(x, y):
    wells = sum(math.exp(-3 * ((x - p) ** 2 + (y - q) ** 2)) for p, q in [(-0.5, -0.5), (0.5, 0.0)])
    hills = sum(math.exp(-15 * ((x - p) ** 2 + (y - q) ** 2)) for p, q in [(-0.2, -0.4), (0.0, 0.3)])
    return -wells + hills + 1.0190055296306975


NAIVE = [
    (muller_brown, naive_muller_brown),
    (four_well, lambda x, y: x**4 + y**4 - 2 * x**2 - 4 * y**2 + x * y + 0.3 * x + 0.1 * y),
    (curvy_valley, naive_curvy_valley),
    (two_wells, naive_two_wells),
    (ring, lambda x, y: (x * x + y * y - 1) ** 2),
    (ravine, lambda x, y: y * y / 2 + 2 * x * x * y * y),
    (cardioid, lambda x, y: (x**4 + 2 * x * x * y * y + y**4 + 2 * x**3 + 2 * x * y * y - y * y) ** 2),
]


@pytest.mark.parametrize(("potential", "naive"), NAIVE, ids=lambda f: f.__name__)
def test_values_are_those_of_the_formula(potential, naive):
    points = torch.rand(50, 2, generator=torch.Generator().manual_seed(1), dtype=float64) * 2 - 1
    expected = torch.tensor([naive(x, y) for x, y in points.tolist()], dtype=float64)
    torch.testing.assert_close(potential()(points), expected, rtol=1e-12, atol=1e-12)


def test_a_valley_of_another_width_has_its_minima_at_its_own_ends():
    objective = curvy_valley(2.0)
    minima = torch.tensor([[2.0, math.sin(2.0)], [-2.0, -math.sin(2.0)]], dtype=float64)
    assert objective(minima).tolist() == [0.0, 0.0]
    assert objective.grad(minima).norm() < 1e-12


def test_every_step_of_the_ladder_is_a_minimum_and_deeper():
    objective = ladder()
    known = [(4.085332, 0.552237), (5.589321, 0.463896), (7.129593, 0.408712), (8.683623, 0.370202)]
    for x, value in known:
        theta = torch.tensor([x], dtype=float64)
        assert float(objective(theta)) == pytest.approx(
            1 / (x * math.sin(2 * x) ** 2 / 20 + math.log(x + 1)), rel=1e-14
        )
        assert float(objective(theta)) == pytest.approx(value, abs=1e-6)
        assert objective.grad(theta).abs() < 2e-6
        assert eigenvalues(objective, theta) > 0.1
    for x in (4.612052, 6.226904, 7.817499):
        theta = torch.tensor([x], dtype=float64)
        assert objective.grad(theta).abs() < 2e-6
        assert eigenvalues(objective, theta) < -0.1


@pytest.mark.parametrize("x", [-1.5, 0.0, 2.0])
def test_the_floor_of_the_ravine_narrows_away_from_its_middle(x):
    objective, theta = ravine(3.0), torch.tensor([x, 0.0], dtype=float64)
    assert float(objective(theta)) == 0
    torch.testing.assert_close(eigenvalues(objective, theta), torch.tensor([0, 1 + 3 * x * x], dtype=float64))


@pytest.mark.parametrize("phi", [0.0, 0.3, 1.0, 2.5, math.pi, 4.0])
def test_the_cardioid_is_a_valley_of_zeros_that_is_flattest_at_its_cusp(phi):
    r = 1 - math.cos(phi)
    objective, theta = cardioid(), torch.tensor([r * math.cos(phi), r * math.sin(phi)], dtype=float64)
    assert float(objective(theta)) < 1e-28
    expected = torch.tensor([0, 16 * r**3], dtype=float64)
    torch.testing.assert_close(eigenvalues(objective, theta), expected, atol=1e-12, rtol=1e-10)
    assert float(objective(1.1 * theta)) > 0 or phi == 0


@pytest.mark.parametrize("dim", [2, 7])
def test_the_ring_is_flat_along_itself_and_one_high_at_its_centre(dim):
    objective = ring(dim)
    theta = torch.randn(dim, generator=torch.Generator().manual_seed(2), dtype=float64)
    theta /= theta.norm()
    expected = torch.tensor([0.0] * (dim - 1) + [8.0], dtype=float64)  # ∇² = 8θθᵀ on the ring
    torch.testing.assert_close(eigenvalues(objective, theta), expected, atol=1e-12, rtol=0)
    assert float(objective(torch.zeros(dim))) == 1.0


def test_the_cluster_energy_is_the_sum_over_pairs_and_knows_no_place_nor_turn():
    objective = lennard_jones(5)
    generator = torch.Generator().manual_seed(3)
    atoms = 1.5 * torch.randn(5, 3, generator=generator, dtype=float64)
    distances = [float((atoms[i] - atoms[j]).norm()) for i in range(5) for j in range(i)]
    expected = 4 * sum(r**-12 - r**-6 for r in distances)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=generator, dtype=float64)).Q
    for cluster in (atoms, atoms @ turn + 2, atoms.flip(0)):
        assert float(objective(cluster.reshape(-1))) == pytest.approx(expected, rel=1e-10)


def test_two_atoms_rest_at_the_sixth_root_of_two():
    theta = torch.tensor([0.0, 0.0, 2 ** (1 / 6), 0.0], dtype=float64)
    objective = lennard_jones(2, dim=2)
    assert float(objective(theta)) == pytest.approx(-1, abs=1e-12)
    assert objective.grad(theta).norm() < 1e-12


def circle(n, radius, z=0.0, phase=0.0):
    angles = phase + 2 * np.pi * np.arange(n) / n
    return np.stack([radius * np.cos(angles), radius * np.sin(angles), np.full(n, z)], axis=1)


def capped(cluster, *faces):
    """The cluster with one atom more beyond the middle of each face, at about the resting distance from its corners."""
    beyond = []
    for face in faces:
        middle = cluster[list(face)].mean(axis=0)
        outwards = middle - cluster.mean(axis=0)
        beyond.append(middle + 0.9 * outwards / np.linalg.norm(outwards))
    return np.concatenate([cluster, beyond])


def polyhedra():
    octahedron = 0.79 * np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]])
    tetrahedron = 0.4 * np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]])
    bipyramid = np.concatenate([circle(3, 0.64), [[0, 0, 0.9], [0, 0, -0.9]]])
    return {
        "pentagonal bipyramid": np.concatenate([circle(5, 0.95), [[0, 0, 0.55], [0, 0, -0.55]]]),
        "capped octahedron": capped(octahedron, (0, 2, 4)),
        "tricapped tetrahedron": capped(tetrahedron, (0, 1, 2), (0, 1, 3), (0, 2, 3)),
        "bicapped trigonal bipyramid": capped(bipyramid, (0, 1, 3), (0, 2, 4)),
    }


@pytest.mark.parametrize("shape", LENNARD_JONES_7)
def test_seven_atoms_relax_to_the_known_minima(shape):
    objective = lennard_jones()

    def value_and_grad(theta):
        value, grad = objective.value_and_grad(torch.from_numpy(theta))
        return float(value), grad.numpy()

    found = minimize(
        value_and_grad, polyhedra()[shape].ravel(), jac=True, method="BFGS", options={"gtol": 1e-8}
    )
    assert found.fun == pytest.approx(LENNARD_JONES_7[shape], abs=1e-6)
    values = eigenvalues(objective, torch.from_numpy(found.x))
    assert values[:6].abs().max() < 1e-5  # moving and turning
    assert values[6] > 0.1


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: curvy_valley(0.0), "x0 must be positive.*got 0.0"),
        (lambda: ravine(0.0), "growth must be positive.*got 0.0"),
        (lambda: ring(1), "dim must be at least 2.*got 1"),
        (lambda: lennard_jones(1), "at least 2 atoms and 1 dimension, got atoms=1"),
    ],
)
def test_impossible_sizes_are_refused(make, sentence):
    with pytest.raises(InputError, match=sentence):
        make()

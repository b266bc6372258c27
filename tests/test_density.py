"""Spectral densities: Gauss's rules against exact spectral measures, and their error bars against the truth."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from dense import NETWORKS, quadratic, reference, rotated
from scipy.integrate import trapezoid
from torch import Tensor

from analysis import spectral_density
from analysis.density import quadrature, tridiagonal
from landscape import InputError, Objective, load
from landscape.results import SpectralDensity


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def hessian_like(n: int = 60) -> Tensor:
    """Ten outliers above an indefinite bulk in [−0.5, 0.5], with nothing in (−0.2, 0.2)."""
    bulk = torch.cat([torch.linspace(-0.5, -0.2, 20), torch.linspace(0.2, 0.5, n - 30)])
    return rotated(torch.cat([bulk, torch.linspace(1, 4, 10)]).double(), generator(5))


@cache
def repeats(steps: int) -> list[SpectralDensity]:
    """200 densities of the same matrix, from 16 probes each."""
    matrix = hessian_like()
    starts = torch.randn(200 * 16, len(matrix), generator=generator(6), dtype=torch.float64)
    nodes, weights = quadrature(*tridiagonal(lambda v: v @ matrix, starts, steps)[:2])
    groups = zip(np.split(nodes, 200), np.split(weights, 200), strict=True)
    return [SpectralDensity(nodes=n, weights=w, dim=len(matrix)) for n, w in groups]


def standardized(estimate: Callable[[SpectralDensity], Any], exact: float, *, steps: int) -> None:
    """Errors over error bars have mean 0 and standard deviation 1, over repeats."""
    found = np.array([np.ravel(estimate(record)) for record in repeats(steps)])
    scores = (found[:, 0] - exact) / found[:, 1]
    assert abs(scores.mean()) < 0.25
    assert 0.8 < scores.std() < 1.25


def measured(matrix: Tensor, seed: int = 0, **settings: int) -> SpectralDensity:
    return spectral_density(
        quadratic(matrix), torch.zeros(len(matrix)), generator=generator(seed), **settings
    )


@pytest.mark.parametrize("n", [2, 9, 40])
def test_as_many_steps_as_parameters_give_the_spectral_measure_of_each_probe(n):
    matrix = rotated(torch.randn(n, generator=generator(1), dtype=torch.float64), generator(2))
    starts = torch.randn(3, n, generator=generator(3), dtype=torch.float64)
    values, vectors = torch.linalg.eigh(matrix)
    nodes, weights = quadrature(*tridiagonal(lambda v: v @ matrix, starts, n)[:2])
    expected = ((starts / starts.norm(dim=1, keepdim=True)) @ vectors).square()
    np.testing.assert_allclose(nodes, values.expand(3, n), atol=1e-12)
    np.testing.assert_allclose(weights, expected, atol=1e-10)


def test_tridiagonal_is_what_the_textbook_gives():
    matrix, start = hessian_like().numpy(), np.random.default_rng(0).standard_normal(60)
    v, before, b, diagonal, beside = start / np.linalg.norm(start), np.zeros(60), 0.0, [], []
    for _ in range(6):  # short enough that rounding does not matter
        w = matrix @ v - b * before
        diagonal.append(v @ w)
        w -= diagonal[-1] * v
        b = float(np.linalg.norm(w))
        beside.append(b)
        v, before = w / b, v
    found = tridiagonal(lambda v: v @ torch.from_numpy(matrix), torch.from_numpy(start)[None], 6)
    np.testing.assert_allclose(found[0][0], diagonal, rtol=1e-10)
    np.testing.assert_allclose(found[1][0], beside, rtol=1e-10)
    assert found[2] == 6


def test_orthogonality_is_not_lost():
    # 80 steps on dominant outliers lose it in the textbook's recurrence; then nodes are repeated.
    eigenvalues = torch.cat([torch.tensor([1e4, 1e3]), torch.linspace(-1, 1, 198)]).double()
    matrix, seen = rotated(eigenvalues, generator(2)), []

    def products(v: Tensor) -> Tensor:
        seen.append(v)
        return v @ matrix

    starts = torch.randn(2, 200, generator=generator(), dtype=torch.float64)
    diagonal, beside, _ = tridiagonal(products, starts, 80)
    for basis in torch.stack(seen, dim=1):
        assert (basis @ basis.T - torch.eye(80, dtype=torch.float64)).abs().max() < 1e-10
    nodes, _ = quadrature(diagonal, beside)
    assert (nodes > 1.5).sum(axis=1).tolist() == [2, 2]  # no copies
    np.testing.assert_allclose(nodes[:, -2:], [[1e3, 1e4]] * 2, rtol=1e-12)


@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name):
    net = reference(name)
    before = net.theta.clone()
    found = spectral_density(net.objective, net.theta, probes=4, steps=len(net.theta), generator=generator())
    values = torch.linalg.eigvalsh(net.hessian).numpy()
    np.testing.assert_allclose([found.lowest, found.highest], values[[0, -1]], rtol=1e-8)
    np.testing.assert_allclose(found.weights.sum(axis=1), 1, rtol=1e-10)
    grid = values[-1] * np.array([-0.01, 0.003, 0.1, 0.5])
    share, stderr = found.share(high=grid)
    exact = (values[:, None] < grid).mean(axis=0)
    assert (np.abs(share - exact) < 4 * stderr + 1e-9).all()
    assert (found.dim, found.of) == (len(values), "hessian")
    assert found.matvecs <= 4 * len(
        values
    )  # less where eigenvalues are repeated: softmax has directions without effect
    assert net.theta.equal(before)


@pytest.mark.parametrize(("power", "steps"), [(1, 1), (1, 30), (2, 2), (3, 2), (3, 30)])
def test_moments_and_their_errors(power, steps):
    exact = float(torch.linalg.matrix_power(hessian_like(), power).trace()) / 60
    standardized(lambda record: record.moment(power), exact, steps=steps)


def test_shares_and_their_errors():
    standardized(lambda record: record.share(high=-0.1), 20 / 60, steps=30)
    standardized(lambda record: record.share(low=0, high=0.75), 30 / 60, steps=30)


def test_densities_and_their_errors():
    values = torch.linalg.eigvalsh(hessian_like()).numpy()

    def smooth(x: float, at: np.ndarray, width: float) -> float:
        return float(np.mean(np.exp(-(((x - at) / width) ** 2) / 2)) / (width * np.sqrt(2 * np.pi)))

    standardized(lambda record: record.density([0.3], width=0.1), smooth(0.3, values, 0.1), steps=30)
    for sign in (1, -1):
        of_sign = values[values * sign > 0]
        exact = smooth(np.log10(0.3), np.log10(np.abs(of_sign)), 0.2) * len(of_sign) / 60
        standardized(lambda r, sign=sign: r.log_density([0.3], sign=sign, width=0.2), exact, steps=30)


def test_densities_integrate_to_one():
    record = measured(hessian_like(), probes=3, steps=20)
    grid = np.linspace(-6, 10, 20_001)
    np.testing.assert_allclose(trapezoid(record.density(grid, width=0.5)[0], grid), 1, rtol=1e-6)
    decades = np.linspace(-12, 6, 20_001)
    both = sum(trapezoid(record.log_density(10**decades, sign=s)[0], decades) for s in (1, -1))
    np.testing.assert_allclose(both, 1, rtol=1e-6)
    positive = trapezoid(record.log_density(10**decades)[0], decades)
    np.testing.assert_allclose(positive, record.share(low=0)[0], rtol=1e-6)


@pytest.mark.parametrize(("curvature", "n"), [(-1.0, 30), (0.0, 30), (7e-20, 30), (1e12, 5)])
def test_a_round_quadratic_has_one_eigenvalue(curvature, n):
    record = measured(curvature * torch.eye(n, dtype=torch.float64), probes=3, steps=10)
    np.testing.assert_allclose(record.nodes[record.weights > 1e-20], curvature, rtol=1e-12)
    np.testing.assert_allclose(record.weights.sum(axis=1), 1)
    np.testing.assert_allclose(record.moment(), (curvature, 0), atol=1e-12 * abs(curvature))
    np.testing.assert_allclose([record.lowest, record.highest], curvature, rtol=1e-12)


def test_low_rank_ends_early_and_exactly():
    eigenvalues = torch.tensor([4.0, 4.0, -1.0] + [0.0] * 57, dtype=torch.float64)
    record = measured(torch.diag(eigenvalues), probes=4, steps=30)
    starts = torch.randn(4, 60, generator=generator(), dtype=torch.float64)
    v = (starts / starts.norm(dim=1, keepdim=True)).numpy()
    for low, high, columns in ((3, 5, slice(0, 2)), (-2, -0.5, slice(2, 3)), (-0.5, 3, slice(3, None))):
        exact = (v[:, columns] ** 2).sum(axis=1)
        share, stderr = record.share(low=low, high=high)
        np.testing.assert_allclose([share, stderr], [exact.mean(), exact.std(ddof=1) / 2], atol=1e-12)
    np.testing.assert_allclose([record.lowest, record.highest], [-1, 4], rtol=1e-12)
    assert record.matvecs < 4 * 10


def test_products_that_are_not_finite_are_said():
    record = spectral_density(Objective([lambda t: (t - 1).sqrt().sum()], 9), torch.zeros(9))
    assert "not finite" in record.message
    assert np.isnan(record.nodes).all()
    assert np.isnan([*record.moment(), *record.share(high=0), record.lowest]).all()


def test_single_precision():
    matrix = hessian_like()
    record = measured(matrix.float(), probes=3, steps=20)
    exact = measured(matrix, probes=3, steps=20)  # other probes, but the same outliers
    np.testing.assert_allclose(record.highest, exact.highest, rtol=1e-5)
    np.testing.assert_allclose(record.weights.sum(axis=1), 1, rtol=1e-5)


def test_saved_and_loaded(tmp_path):
    record = measured(hessian_like(), probes=3, steps=5)
    again = load(record.save(tmp_path / "density.npz"))
    np.testing.assert_array_equal(again.nodes, record.nodes)
    assert again.moment(2) == record.moment(2)


def test_bad_input_says_what_to_do():
    with pytest.raises(InputError, match=r"probes must be at least 2, got 1"):
        measured(hessian_like(), probes=1)
    with pytest.raises(InputError, match=r"steps must be at least 1, got 0"):
        measured(hessian_like(), steps=0)

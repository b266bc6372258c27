"""Spectral densities: Gauss's rules against exact spectral measures, and their error bars against the truth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from dense import NETWORKS, quadratic, reference, rotated
from scipy.integrate import trapezoid
from test_curvature import dense_gauss_newton
from torch import Tensor

from analysis import spectral_density
from analysis.curvature.density import quadrature, tridiagonal
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
    nodes, weights, residuals = quadrature(*tridiagonal(lambda v: v @ matrix, starts, steps)[:2])
    return apart(SpectralDensity(nodes=nodes, weights=weights, residuals=residuals, dim=len(matrix)), 200)


def apart(record: SpectralDensity, count: int) -> list[SpectralDensity]:
    """As many records, of as many probes each."""
    rules = zip(
        *(np.split(array, count) for array in (record.nodes, record.weights, record.residuals)), strict=True
    )
    return [replace(record, nodes=n, weights=w, residuals=r) for n, w, r in rules]


def standardized(estimate: Callable[[SpectralDensity], Any], exact: float, *, steps: int) -> None:
    """Errors over error bars have mean 0 and standard deviation 1, over repeats."""
    found = np.array([np.ravel(estimate(record)) for record in repeats(steps)])
    scores = (found[:, 0] - exact) / found[:, 1]
    assert abs(scores.mean()) < 0.25
    assert 0.8 < scores.std() < 1.25


def measured(matrix: Tensor, seed: int = 0, **settings: Any) -> SpectralDensity:
    return spectral_density(
        quadratic(matrix), torch.zeros(len(matrix)), generator=generator(seed), **settings
    )


def dominated() -> Tensor:
    """Three eigenvalues of both signs that carry every moment, above a bulk of 57 in [−0.5, 1]."""
    values = torch.cat([torch.tensor([50.0, -20.0, 30.0]), torch.linspace(-0.5, 1, 57)]).double()
    return rotated(values, generator(7))


@pytest.mark.parametrize("n", [2, 9, 40])
def test_as_many_steps_as_parameters_give_the_spectral_measure_of_each_probe(n):
    matrix = rotated(torch.randn(n, generator=generator(1), dtype=torch.float64), generator(2))
    starts = torch.randn(3, n, generator=generator(3), dtype=torch.float64)
    values, vectors = torch.linalg.eigh(matrix)
    nodes, weights, _ = quadrature(*tridiagonal(lambda v: v @ matrix, starts, n)[:2])
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
    nodes, _, _ = quadrature(diagonal, beside)
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
    assert (np.diff(record.nodes) >= 0).all()


CROWDED = rotated(torch.linspace(-1, 1, 100, dtype=torch.float64) ** 5, generator(8))


def test_intervals_hold_both_errors():
    # Standard errors miss shares in the crowd at 0 much more often than they say; intervals do not, at every bound.
    values = torch.linalg.eigvalsh(CROWDED).numpy()
    low = np.array([-np.inf, -np.inf, -np.inf, -np.inf, -np.inf, -0.1])
    high = np.array([-0.5, -1e-2, -1e-4, 0.0, 1e-3, 0.3])
    exact = ((low <= values[:, None]) & (values[:, None] < high)).mean(axis=0)
    missed, blurred = np.zeros(6), np.zeros(6)
    for record in apart(measured(CROWDED, probes=1600, steps=15), 200):
        lower, upper = record.share_bounds(low=low, high=high)
        share, stderr = record.share(low=low, high=high)
        missed += (exact < lower) | (exact > upper)
        blurred += np.abs(share - exact) > 2.4 * stderr  # Student's t of 7 degrees
        assert ((lower <= share) & (share <= upper)).all()
        assert upper[-1] - lower[-1] < 0.8
    assert (missed / 200 <= 0.05 + 3 * (0.05 / 200) ** 0.5).all()
    assert (blurred / 200).max() > 0.5


def test_intervals_for_bounds_of_any_shape():
    record = measured(CROWDED, probes=3, steps=5)
    lower, upper = record.share_bounds(low=[[-0.1], [0.0]], high=[0.1, 0.2, np.inf])
    assert lower.shape == upper.shape == (2, 3)
    assert (lower < upper).all()
    np.testing.assert_array_equal(lower[1, 1], record.share_bounds(low=0, high=0.2)[0])
    np.testing.assert_allclose(record.share_bounds(), 1, rtol=1e-12)


def test_intervals_in_gaps_are_as_narrow_as_the_probes_allow():
    steps = 25
    for record in repeats(steps)[:20]:
        for low, high, inside in ((-np.inf, 0.0, 20), (0.0, 0.75, 30), (0.75, np.inf, 10)):
            lower, upper = record.share_bounds(low=low, high=high)
            expected = (
                2 * 1.96 * (inside / 60 * (1 - inside / 60) / (16 * 31)) ** 0.5
            )  # of a mean of 16 Betas
            assert 0.8 * expected < upper - lower < 1.2 * expected
    missed = [
        not lower <= 20 / 60 <= upper for _, lower, upper in (r.negative() for r in repeats(steps)[:100])
    ]
    assert 0.005 <= np.mean(missed) <= 0.1
    share, lower, upper = repeats(steps)[0].negative(0.3, confidence=0.5)
    assert share == repeats(steps)[0].share(high=-0.3)[0]
    assert (lower, upper) == repeats(steps)[0].share_bounds(high=-0.3, confidence=0.5)


def rules_at(*nodes: list[float], residual: float = 1.0) -> SpectralDensity:
    array = np.array(nodes)
    weights = np.full(array.shape, 1 / array.shape[1])
    return SpectralDensity(nodes=array, weights=weights, residuals=np.full(array.shape, residual), dim=60)


def test_shares_hold_their_lower_bound_and_not_the_upper():
    record = rules_at([-1, 1], [-1, 1])
    for low, high, expected in (
        (-np.inf, 1, 0.5),
        (1, np.inf, 0.5),
        (-1, 1, 0.5),
        (-1, 1.1, 1),
        (-0.9, 1, 0),
    ):
        np.testing.assert_array_equal(record.share(low=low, high=high), [expected, 0])


def test_resolution_is_the_distance_of_the_nodes_about_zero():
    assert rules_at([-3, -1, 0.5, 7]).resolution == 1.5
    assert rules_at([-3, -1, 0, 7]).resolution == 1
    assert rules_at([0.25, 1, 7]).resolution == 0.75  # all above
    assert rules_at([-7, -1, -0.75]).resolution == 0.25  # all below
    assert rules_at([-1, 1], [-2, 2], [-1, 8]).resolution == 4
    assert rules_at([-1, 1], residual=0).resolution == 0
    one_found = replace(rules_at([-1, 1]), residuals=np.array([[0.0, 1.0]]))
    assert one_found.resolution == 2
    assert rules_at([2.0]).resolution == np.inf
    assert SpectralDensity(nodes=np.array([[-1, 1.5]]), weights=np.ones((1, 2)), dim=2).resolution == 2.5


def test_resolution_falls_with_the_steps():
    found = [measured(CROWDED, steps=steps).resolution for steps in (5, 10, 20, 40)]
    assert (np.diff(found) < 0).all()
    low_rank = torch.diag(torch.tensor([4.0, -1.0] + [0.0] * 58, dtype=torch.float64))
    assert measured(low_rank, steps=30).resolution == 0


def test_outliers_are_taken_out_and_the_rest_is_seen_by_the_probes():
    matrix = dominated()
    values = torch.linalg.eigvalsh(matrix).numpy()
    record = measured(matrix, deflate=3, probes=4, steps=60)
    np.testing.assert_allclose(record.outliers, [50, 30, -20], rtol=1e-9)
    np.testing.assert_allclose(record.nodes, np.tile(values[1:-2], (4, 1)), atol=1e-6)
    np.testing.assert_allclose(record.weights.sum(axis=1), 1)
    np.testing.assert_allclose([record.lowest, record.highest], values[[0, -1]], rtol=1e-9)
    np.testing.assert_allclose(record.share(low=10), [2 / 60, 0], atol=1e-12)
    np.testing.assert_allclose(record.share(high=-10), [1 / 60, 0], atol=1e-12)
    np.testing.assert_allclose(record.share(), [1, 0], atol=1e-12)
    np.testing.assert_allclose(record.share_bounds(low=10), 2 / 60, atol=3e-3)
    np.testing.assert_allclose(record.share_bounds(), 1, rtol=1e-12)
    lower, upper = record.share_bounds(high=0.25)
    assert lower < (values < 0.25).mean() < upper
    grid = np.linspace(-40, 80, 40_001)
    np.testing.assert_allclose(trapezoid(record.density(grid, width=0.5)[0], grid), 1, rtol=1e-6)
    assert measured(matrix, probes=4, steps=57, deflate=0).matvecs < record.matvecs


def test_moments_without_outliers_and_their_errors():
    matrix = dominated()
    whole = apart(measured(matrix, probes=1600, steps=4), 100)
    rest = apart(measured(matrix, probes=3200, steps=4, deflate=3), 200)
    for power in (1, 2, 3):
        exact = float(torch.linalg.matrix_power(matrix, power).trace()) / 60
        found = np.array([record.moment(power) for record in rest])
        scores = (found[:, 0] - exact) / found[:, 1]
        assert abs(scores.mean()) < 0.25
        assert 0.8 < scores.std() < 1.25
        assert found[:, 1].mean() < 0.1 * np.mean([record.moment(power)[1] for record in whole])


@pytest.mark.parametrize("of", ["gauss-newton", "residual"])
@pytest.mark.parametrize("name", ["mlp", "batchnorm"])
def test_parts_of_the_hessian(name, of):
    net = reference(name)
    part = dense_gauss_newton(net.whole, net.theta)
    part = part if of == "gauss-newton" else net.hessian - part
    values = torch.linalg.eigvalsh(part).numpy()
    found = spectral_density(
        net.objective, net.theta, of=of, probes=6, steps=len(values), deflate=2, generator=generator()
    )
    assert found.of == of
    largest = values[np.argsort(-np.abs(values))[:2]]
    np.testing.assert_allclose(found.outliers, np.sort(largest)[::-1], rtol=1e-7)
    np.testing.assert_allclose([found.lowest, found.highest], values[[0, -1]], rtol=1e-7, atol=1e-9)
    trace, stderr = found.moment()
    assert abs(trace - values.mean()) < 4 * stderr
    share, lower, upper = found.negative(1e-6)
    exact = (values < -1e-6).mean()
    assert lower <= exact <= upper
    if of == "gauss-newton":
        assert exact == 0
        assert share < 1e-12
        assert upper < 1 / len(values)
    else:
        assert lower > 0.2


def test_products_that_are_not_finite_are_said():
    record = spectral_density(Objective([lambda t: (t - 1).sqrt().sum()], 9), torch.zeros(9))
    assert "not finite" in record.message
    assert np.isnan(record.nodes).all()
    for found in (record.moment(), record.share(high=0), record.share_bounds(high=[0, 1]), record.negative()):
        assert np.isnan(np.hstack(found)).all()
    assert np.isnan([record.lowest, record.highest, record.resolution]).all()


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
    with pytest.raises(InputError, match=r"deflate must be at least 0, got -1"):
        measured(hessian_like(), deflate=-1)
    with pytest.raises(InputError, match=r"deflate must be less than the number of parameters, 60, got 60"):
        measured(hessian_like(), deflate=60)
    record = measured(hessian_like(), probes=2, steps=3)
    for confidence in (0, 1, 95):
        with pytest.raises(InputError, match=rf"confidence must lie between 0 and 1, got {confidence}"):
            record.share_bounds(confidence=confidence)
    for beyond in (-0.1, np.nan):
        with pytest.raises(InputError, match=r"beyond must be a magnitude, at least 0, got"):
            record.negative(beyond)
    old = SpectralDensity(nodes=record.nodes, weights=record.weights, dim=60)
    with pytest.raises(
        InputError, match=r"no residuals, which bounds hang on; measure it with spectral_density"
    ):
        old.share_bounds(high=0)

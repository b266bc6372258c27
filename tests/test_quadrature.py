"""Bounds from Gauss rules: against a naive transcription, exact measures without exception, and intervals by coverage."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

from analysis.curvature.density import quadrature, tridiagonal
from landscape.quadrature import distribution_bounds, share_interval

SPECTRA = {
    "crowd at 0": np.concatenate([np.linspace(-1, 1, 90) ** 5, np.geomspace(1, 30, 10)]),
    "two crowds": np.concatenate([np.linspace(-2, -1, 50), np.linspace(1, 2, 50)]),
    "zeros": np.concatenate([np.zeros(70), np.linspace(-0.1, 1, 30)]),
}
Rule = tuple[np.ndarray, np.ndarray, np.ndarray]
BOUNDS = np.concatenate([np.linspace(-2.1, 2.1, 43), np.geomspace(1e-4, 40, 20)])


@cache
def rules(name: str, steps: int, probes: int = 20) -> tuple[np.ndarray, np.ndarray, Rule, np.ndarray]:
    """T as (diagonal, beside), stacked; the measures of the probes (probes, P), eigenvalues ascending; and the rules."""
    values = torch.from_numpy(np.sort(SPECTRA[name]))
    starts = torch.randn(
        probes, len(values), generator=torch.Generator().manual_seed(steps), dtype=torch.float64
    )
    diagonal, beside, _ = tridiagonal(lambda v: v * values, starts, steps)
    measures = (starts / starts.norm(dim=1, keepdim=True)).square().numpy()
    return (
        torch.stack([diagonal, beside]).numpy(),
        measures,
        quadrature(diagonal, beside),
        values.numpy(),
    )


@pytest.mark.parametrize("steps", [1, 2, 7, 20])
def test_bounds_are_those_of_golubs_matrix_and_as_far_apart_as_christoffels_number(steps):
    (diagonal, beside), _, rule, _ = rules("crowd at 0", steps)
    lower, upper = distribution_bounds(*rule, BOUNDS)
    for i, tau in enumerate(BOUNDS[::5]):
        for k, (a, b) in enumerate(zip(diagonal, beside, strict=True)):
            jacobi = np.zeros((steps + 1, steps + 1))
            jacobi[:steps, :steps] = np.diag(a) + np.diag(b[:-1], 1) + np.diag(b[:-1], -1)
            last = np.linalg.solve(
                jacobi[:steps, :steps] - tau * np.eye(steps), b[-1] ** 2 * np.eye(steps)[-1]
            )
            jacobi[steps, steps - 1] = jacobi[steps - 1, steps] = b[-1]
            jacobi[steps, steps] = tau + last[-1]
            places, vectors = np.linalg.eigh(jacobi)
            left = places < tau - 1e-9
            np.testing.assert_allclose(lower[5 * i, k], (vectors[0] ** 2)[left].sum(), atol=1e-9)
            polynomials = [0.0, 1.0]  # orthonormal ones at τ, from the three terms
            for j in range(steps):
                before = b[j - 1] if j else 0.0
                polynomials.append(((tau - a[j]) * polynomials[-1] - before * polynomials[-2]) / b[j])
            christoffel = 1 / np.sum(np.square(polynomials))
            np.testing.assert_allclose(upper[5 * i, k] - lower[5 * i, k], christoffel, rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("steps", [1, 3, 10, 25])
@pytest.mark.parametrize("name", SPECTRA)
def test_no_measure_is_outside_and_nodes_with_weights_alone_say_less(name, steps):
    _, measures, rule, values = rules(name, steps)
    nodes, weights, _ = rule
    lower, upper = distribution_bounds(*rule, BOUNDS)
    exact = ((values < BOUNDS[:, None])[:, None] * measures).sum(axis=-1)
    assert (lower <= exact + 1e-11).all()
    assert (exact <= upper + 1e-11).all()
    sums = np.concatenate([np.zeros((len(nodes), 1)), weights.cumsum(axis=1)], axis=1)
    left = (nodes < BOUNDS[:, None, None]).sum(axis=-1)
    rows = np.arange(len(nodes))
    assert (sums[rows, np.maximum(left - 1, 0)] <= lower + 1e-11).all()
    assert (upper <= sums[rows, np.minimum(left + 1, steps)] + 1e-11).all()


def test_bounds_are_narrow_in_a_gap_and_wide_in_a_crowd():
    _, _, rule, _ = rules("two crowds", 25)
    lower, upper = distribution_bounds(*rule, np.array([0.5, 1.5]))
    assert (upper - lower)[0].max() < 1e-9
    assert (upper - lower)[1].min() > 1e-3


def test_a_space_that_ended_and_bounds_at_its_nodes_are_exact():
    values = torch.tensor([0.0, 0, 0, -1, 4], dtype=torch.float64)
    starts = torch.randn(6, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    diagonal, beside, _ = tridiagonal(lambda v: v * values, starts, 5)  # of 3 different eigenvalues
    measures = (starts / starts.norm(dim=1, keepdim=True)).square().numpy()
    rule = quadrature(diagonal, beside)
    assert not rule[2].any()
    at = np.array([-2, -0.5, 1, 4.5])
    expected = ((values.numpy() < at[:, None])[:, None] * measures).sum(axis=-1)
    for found in distribution_bounds(*rule, at):
        np.testing.assert_allclose(found, expected, atol=1e-12)
    # At a node, whose place is known to rounding only, its own weight is open.
    lower, upper = distribution_bounds(*rule, np.array([0.0, 4.0]))
    np.testing.assert_allclose(lower, [measures[:, 3], measures[:, :4].sum(axis=1)], atol=1e-12)
    np.testing.assert_allclose(upper, [measures[:, :4].sum(axis=1), np.ones(6)], atol=1e-12)


def test_residuals_are_those_of_ritz_vectors():
    values = torch.from_numpy(SPECTRA["crowd at 0"])
    basis = []

    def products(v: torch.Tensor) -> torch.Tensor:
        basis.append(v[0])
        return v * values

    start = torch.randn(1, 100, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    diagonal, beside, _ = tridiagonal(products, start, 12)
    nodes, _, residuals = quadrature(diagonal, beside)
    matrix = torch.diag(diagonal[0]) + torch.diag(beside[0, :-1], 1) + torch.diag(beside[0, :-1], -1)
    ritz = torch.linalg.eigh(matrix)[1].T @ torch.stack(basis)
    expected = (ritz * values - torch.from_numpy(nodes[0])[:, None] * ritz).norm(dim=1)
    np.testing.assert_allclose(residuals[0], expected, atol=1e-12)


def test_infinite_bounds_hold_nothing_or_all():
    _, _, rule, _ = rules("zeros", 10)
    for found in distribution_bounds(*rule, np.array([[-np.inf, np.inf]])):
        assert found.shape == (1, 2, 20)
        assert (found == np.array([0, 1])[:, None]).all()


@pytest.mark.parametrize("confidence", [0.68, 0.95])
@pytest.mark.parametrize("probes", [2, 8])
@pytest.mark.parametrize("inside", [1, 3, 30])
def test_intervals_of_shares_cover_as_often_as_they_say(inside, probes, confidence):
    count, repeats = 60, 4000
    drawn = np.random.default_rng(inside + probes).standard_normal((repeats, probes, count)) ** 2
    shares = drawn[..., :inside].sum(axis=-1) / drawn.sum(axis=-1)
    low, high = share_interval(shares, shares, count=count, probes=probes, confidence=confidence)
    for missed in (inside / count < low, inside / count > high):
        assert abs(missed.mean() - (1 - confidence) / 2) < 4 * ((1 - confidence) / 2 / repeats) ** 0.5


def test_intervals_where_nothing_or_all_is_inside():
    nothing = np.zeros((1, 8))
    low, high = share_interval(nothing, nothing, count=1000, probes=8, confidence=0.95)
    assert low[0] < 1e-12
    assert high[0] < 1e-3  # less than one of 1000
    low, high = share_interval(1 - nothing, 1 - nothing, count=1000, probes=8, confidence=0.95)
    assert low[0] > 1 - 1e-3
    assert high[0] > 1 - 1e-12

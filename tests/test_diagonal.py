"""The diagonal: against dense Hessians, XDiag as its paper states it, and errors of entries over their error bars."""

import math

import numpy as np
import pytest
import torch
from dense import quadratic, reference, rotated
from torch import Tensor

from analysis import hessian_diagonal
from analysis.curvature import diagonal
from analysis.curvature.diagonal import DiagonalMethod
from analysis.points import NOT_FINITE
from landscape import InputError, Objective
from landscape.results import Diagonal

METHODS: list[DiagonalMethod] = ["rademacher", "xdiag"]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def slow_decay(n: int = 100) -> Tensor:
    return rotated(1 / torch.arange(1, n + 1, dtype=torch.float64) - 0.02, generator(4))


def signs(count: int, dim: int, seed: int) -> Tensor:
    """What hessian_diagonal draws."""
    return torch.randn(count, dim, generator=generator(seed), dtype=torch.float64).sign()


def xdiag_of_the_paper(a: Tensor, omega: Tensor, left_out: tuple[int, ...]) -> Tensor:
    """d by the first sign vector left out, on the basis from those that are not."""
    kept = [k for k in range(len(omega)) if k not in left_out]
    basis = torch.linalg.qr(a @ omega[kept].T)[0]
    probe = omega[left_out[0]]
    image = a @ probe
    return (basis @ basis.T @ a).diagonal() + probe * (image - basis @ (basis.T @ image)) / (probe * probe)


def test_xdiag_is_the_papers_and_its_variance_counts_the_covariance():
    a, q = slow_decay(40), 8
    omega = signs(q, 40, seed=3)
    single = torch.stack([xdiag_of_the_paper(a, omega, (i,)) for i in range(q)])
    pairs = [(i, j) for i in range(q) for j in range(q) if i != j]
    delta = {(i, j): single[i] - xdiag_of_the_paper(a, omega, (i, j)) for i, j in pairs}
    covariance = torch.stack([delta[i, j] * delta[j, i] for i, j in pairs]).mean(0)
    expected = (single.var(0) / q + covariance.clamp_min(0)).sqrt()
    found = hessian_diagonal(
        quadratic(a), torch.zeros(40), method="xdiag", matvecs=2 * q, generator=generator(3)
    )
    np.testing.assert_allclose(found.values, single.mean(0), rtol=1e-9)
    np.testing.assert_allclose(found.stderr, expected, rtol=1e-6)
    np.testing.assert_allclose(found.samples, single.sum(1), rtol=1e-9)
    assert (found.method, found.matvecs, found.dim) == ("xdiag", 16, 40)


def test_error_bars_of_xdiag_do_not_hang_on_how_many_entries_are_taken_at_a_time(monkeypatch):
    def stderr() -> np.ndarray:
        a = quadratic(slow_decay())
        return hessian_diagonal(a, torch.zeros(100), method="xdiag", generator=generator(1)).stderr

    together = stderr()
    monkeypatch.setattr(diagonal, "_COLUMNS", 30)
    np.testing.assert_allclose(stderr(), together, rtol=1e-12)


def test_rademacher_is_the_mean_over_signs():
    a = slow_decay(48)
    v = signs(16, 48, seed=3)
    samples = v * (v @ a)
    found = hessian_diagonal(quadratic(a), torch.zeros(48), matvecs=16, generator=generator(3))
    np.testing.assert_allclose(found.values, samples.mean(0), rtol=1e-11)
    np.testing.assert_allclose(found.stderr, samples.std(0) / 4, rtol=1e-11)
    np.testing.assert_allclose(found.samples, [x @ a @ x for x in v], rtol=1e-11)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("matrix", ["slow decay", "network"])
def test_errors_of_entries_over_their_error_bars_are_standard(matrix, method):
    a = slow_decay() if matrix == "slow decay" else reference("conv").hessian
    n, g = len(a), generator(7)
    repeats = [hessian_diagonal(quadratic(a), torch.zeros(n), method=method, generator=g) for _ in range(200)]
    z = np.array([(r.values - a.diagonal().numpy()) / r.stderr for r in repeats])
    assert abs(z.mean()) < 0.15  # over all entries
    assert 0.9 < z.std() < 1.15
    assert np.quantile(np.abs(z.mean(0)), 0.9) < 0.35  # entry by entry: 200 repeats leave ±0.07
    assert np.mean((z.std(0, ddof=1) > 0.8) & (z.std(0, ddof=1) < 1.25)) > 0.95
    errors = np.array([r.values for r in repeats]) - a.diagonal().numpy()
    bias = errors.mean(0) / (errors.std(0, ddof=1) / math.sqrt(200))
    assert 0.8 < bias.std() < 1.25  # as of no bias
    if method == "rademacher":
        stated = (a.square().sum(0) - a.diagonal().square()) / 60
        np.testing.assert_allclose(np.mean([r.stderr**2 for r in repeats], axis=0), stated, rtol=0.1)


@pytest.mark.parametrize("name", ["mlp", "layernorm", "conv"])
def test_networks(name):
    net = reference(name)
    theta, before, dim = net.theta, net.theta.clone(), len(net.theta)
    exact = hessian_diagonal(net.objective, theta, matvecs=dim)
    np.testing.assert_allclose(exact.values, net.hessian.diagonal(), rtol=1e-9, atol=1e-12)
    assert (exact.method, exact.matvecs, float(exact.stderr.max())) == ("exact", dim, 0)
    for method in METHODS:
        found = hessian_diagonal(net.objective, theta, method=method, generator=generator(8))
        of_dense = hessian_diagonal(quadratic(net.hessian), theta, method=method, generator=generator(8))
        np.testing.assert_allclose(found.values, of_dense.values, rtol=1e-7, atol=1e-10)
        np.testing.assert_allclose(found.stderr, of_dense.stderr, rtol=1e-4, atol=1e-9)
        assert found.samples.mean() == pytest.approx(found.values.sum(), rel=1e-9)
    assert theta.equal(before)


def test_parts_of_the_hessian():
    net = reference("mlp")
    gauss_newton, residual = (
        hessian_diagonal(net.objective, net.theta, of=of, matvecs=len(net.theta))
        for of in ("gauss-newton", "residual")
    )
    np.testing.assert_allclose(gauss_newton.values + residual.values, net.hessian.diagonal(), rtol=1e-9)
    assert (gauss_newton.values > 0).all()
    assert (gauss_newton.of, residual.of) == ("gauss-newton", "residual")


def test_low_rank_is_exact_by_xdiag_and_a_diagonal_matrix_by_rademacher():
    a = rotated(torch.tensor([5.0, 2.0, -1.0] + [0.0] * 47, dtype=torch.float64), generator(9))
    found = hessian_diagonal(quadratic(a), torch.zeros(50), method="xdiag", matvecs=12, generator=generator())
    np.testing.assert_allclose(found.values, a.diagonal(), atol=1e-10)
    assert found.stderr.max() < 1e-9
    values = torch.linspace(-1, 3, 50, dtype=torch.float64)
    found = hessian_diagonal(quadratic(values.diag()), torch.zeros(50), matvecs=3, generator=generator())
    np.testing.assert_allclose(found.values, values, rtol=1e-14)
    assert found.stderr.max() == 0


@pytest.mark.parametrize("method", METHODS)
def test_single_precision_zero_and_values_that_are_not_finite(method):
    a = slow_decay()
    double = hessian_diagonal(quadratic(a), torch.zeros(100), method=method, generator=generator())
    single = hessian_diagonal(quadratic(a.float()), torch.zeros(100), method=method, generator=generator())
    assert np.abs((single.values - a.diagonal().numpy()) / single.stderr).max() < 5
    assert single.stderr.mean() == pytest.approx(double.stderr.mean(), rel=0.3)
    flat = Objective([lambda theta: theta.sum()], 50)
    zero = hessian_diagonal(flat, torch.zeros(50), method=method, matvecs=12)
    assert not zero.values.any()
    assert not zero.stderr.any()
    broken = Objective([lambda theta: (theta - 1).sqrt().sum()], 100)
    for matvecs in (60, 100):
        found = hessian_diagonal(broken, torch.zeros(100), method=method, matvecs=matvecs)
        assert np.isnan(found.values).all()
        assert np.isnan(found.stderr).all()
        assert found.message == NOT_FINITE


def test_a_record_is_saved_and_a_generator_decides(tmp_path):
    net = reference("mlp")
    state = torch.get_rng_state()
    first, second = (hessian_diagonal(net.objective, net.theta, generator=generator(1)) for _ in range(2))
    assert first.values.tolist() == second.values.tolist()
    assert state.equal(torch.get_rng_state())
    again = Diagonal.load(first.save(tmp_path / "diagonal.npz"))
    assert again.stderr.tolist() == first.stderr.tolist()


def test_bad_input_says_what_to_do():
    objective, theta = quadratic(torch.eye(9, dtype=torch.float64)), torch.zeros(9)
    with pytest.raises(InputError, match=r"method must be 'rademacher' or 'xdiag', got 'xtrace'"):
        hessian_diagonal(objective, theta, method="xtrace")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match=r"matvecs must be at least 4 for xdiag, .* got 3"):
        hessian_diagonal(objective, theta, method="xdiag", matvecs=3)
    with pytest.raises(InputError, match=r"theta must be one point \(9,\), got shape \(2, 9\)"):
        hessian_diagonal(objective, torch.zeros(2, 9))

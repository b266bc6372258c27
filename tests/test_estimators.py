"""Estimators as linear algebra: as their papers state them, exact where they should be, standard over their error bars."""

import math

import numpy as np
import pytest
import torch
from dense import reference, rotated
from torch import Tensor

from analysis.curvature.estimators import Basis, Estimator, Hutchinson, HutchPlusPlus
from analysis.curvature.xnystrace import XNysTrace
from analysis.curvature.xtrace import XTrace

F64 = torch.float64


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Probed:
    """A matrix whose products are counted, and the normal rows that were drawn for it."""

    def __init__(self, matrix: Tensor, seed: int | torch.Generator = 0) -> None:
        self.matrix, self.drawn, self.count = matrix, [], 0
        self.generator = generator(seed) if isinstance(seed, int) else seed

    def products(self, v: Tensor) -> Tensor:
        self.count += len(v)
        return v @ self.matrix

    def normals(self, count: int) -> Tensor:
        rows = torch.randn(count, len(self.matrix), generator=self.generator, dtype=self.matrix.dtype)
        self.drawn += [rows] if count else []
        return rows

    def spent(self, kind: type[Estimator], *parts: int) -> Estimator:
        estimator = kind(self.products, self.normals)
        for part in parts:
            estimator.spend(part)
        return estimator


def outliers(n: int, bulk: float, seed: int = 1) -> Tensor:
    """Ten outliers from 20 down to 1 and an indefinite bulk."""
    g = generator(seed)
    rest = bulk * torch.randn(n - 10, generator=g, dtype=F64)
    return rotated(torch.cat([torch.logspace(math.log10(20), 0, 10, dtype=F64), rest]), g)


def positive_part(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp_min(0)) @ vectors.T


MATRICES = {
    "outliers": lambda: outliers(150, 0.02),
    "network": lambda: reference("conv").hessian,
    "slow decay": lambda: rotated(1 / torch.arange(1, 151, dtype=F64), generator(4)),
    "flat": lambda: rotated(torch.linspace(1, 2, 150, dtype=F64), generator(3)),
}


def on_the_sphere(normals: Tensor) -> Tensor:
    """As columns."""
    return (math.sqrt(normals.shape[1]) * normals / normals.norm(dim=1, keepdim=True)).T


def xnystrace_of_the_paper(a: Tensor, omega: Tensor, left_out: tuple[int, ...]) -> float:
    """t of the first probe left out, on the Nyström approximation from those that are not."""
    n, q = omega.shape
    kept = omega[:, [k for k in range(q) if k not in left_out]]
    image = a @ kept
    nystrom = image @ torch.linalg.solve(kept.T @ image, image.T)
    mu = omega[:, left_out[0]]
    mu = mu - kept @ torch.linalg.lstsq(kept, mu[:, None]).solution[:, 0]
    mu = mu * math.sqrt((n - kept.shape[1]) / (mu @ mu))
    return float(nystrom.trace() + mu @ (a - nystrom) @ mu)


def test_xnystrace_is_the_papers_and_its_variance_counts_the_covariance():
    a, q = rotated(0.7 ** torch.arange(40, dtype=F64) + 0.01, generator(2)), 8
    probed = Probed(a)
    samples, stderr = probed.spent(XNysTrace, q).trace()
    omega = on_the_sphere(probed.drawn[0])
    single = np.array([xnystrace_of_the_paper(a, omega, (i,)) for i in range(q)])
    np.testing.assert_allclose(samples, single, rtol=1e-5)  # as near as the shift by sqrt(eps) leaves them
    pairs = [(i, j) for i in range(q) for j in range(q) if i != j]
    delta = {(i, j): single[i] - xnystrace_of_the_paper(a, omega, (i, j)) for i, j in pairs}
    covariance = np.mean([delta[i, j] * delta[j, i] for i, j in pairs])
    assert float(stderr) == pytest.approx(math.sqrt(single.var(ddof=1) / q + max(0, covariance)), rel=1e-3)
    assert probed.count == q


@pytest.mark.parametrize("parts", [(30,), (12, 18), (7, 7, 16)])
def test_hutch_plus_plus_is_the_papers_however_its_products_are_taken(parts):
    a = outliers(60, 0.3)
    probed = Probed(a)
    estimator = probed.spent(HutchPlusPlus, *parts)
    s = torch.cat(probed.drawn[0::2]).sign().T
    g = torch.cat(probed.drawn[1::2]).sign().T
    assert (s.shape[1], g.shape[1], probed.count, estimator.matvecs) == (10, 10, 30, 30)
    q = torch.linalg.qr(a @ s)[0]
    rest = torch.eye(60, dtype=F64) - q @ q.T
    for b, (samples, stderr) in ((a, estimator.trace()), (a @ a, estimator.square())):
        left = rest @ b @ rest
        expected = (q.T @ b @ q).trace() + torch.stack([x @ left @ x for x in g.T])
        np.testing.assert_allclose(samples, expected, rtol=1e-9)
        paper = (q.T @ b @ q).trace() + 3 / 30 * (g.T @ left @ g).trace()
        assert float(samples.mean()) == pytest.approx(float(paper), rel=1e-12)
        assert float(stderr) == pytest.approx(float(expected.std()) / math.sqrt(10), rel=1e-9)


@pytest.mark.parametrize("kind", [XTrace, XNysTrace, Hutchinson])
def test_more_products_later_are_as_good_as_all_at_once(kind):
    a = rotated(0.8 ** torch.arange(60, dtype=F64) + 0.01, generator(2))
    parts = Probed(a)
    later = parts.spent(kind, 8, 8, 14)
    once = Probed(a)
    once.normals = lambda count: torch.cat(parts.drawn)[:count]  # pyright: ignore[reportAttributeAccessIssue]
    for ours, expected in zip(
        (later.trace(), later.square()),
        (lambda e: (e.trace(), e.square()))(once.spent(kind, 30)),
        strict=True,
    ):
        np.testing.assert_allclose(ours[0], expected[0], rtol=1e-6)
        assert float(ours[1]) == pytest.approx(float(expected[1]), rel=1e-5)
    assert (parts.count, later.matvecs) == (30, 30)


def test_a_basis_that_grows_gives_the_coordinates_of_what_it_takes_in():
    a, rows = outliers(40, 0.1), torch.randn(9, 40, generator=generator(3), dtype=F64)
    rows[6] = 0
    probed = Probed(a)
    basis = Basis(probed.products, probed.normals(0))
    np.testing.assert_allclose(basis.extend(rows[:4]).T @ basis.vectors, rows[:4], atol=1e-12)
    basis.vectors[::2] *= -1  # signs that QR would not have chosen
    basis.images[::2] *= -1
    first = basis.vectors.clone()
    np.testing.assert_allclose(basis.extend(rows[4:]).T @ basis.vectors, rows[4:], atol=1e-12)
    np.testing.assert_allclose(basis.vectors[:4], first)
    np.testing.assert_allclose(basis.vectors @ basis.vectors.T, torch.eye(9), atol=1e-12)
    np.testing.assert_allclose(basis.images, basis.vectors @ a, atol=1e-12)
    assert probed.count == 9


@pytest.mark.parametrize("name", MATRICES)
@pytest.mark.parametrize("kind", [HutchPlusPlus, XNysTrace])
def test_errors_over_their_error_bars_are_standard(name, kind):
    a, g = MATRICES[name](), generator(7)
    a = positive_part(a) if kind is XNysTrace else a
    z = []
    for _ in range(200):
        estimator = Probed(a, g).spent(kind, 60)
        estimates = (estimator.trace(), estimator.square())
        exact = (float(a.trace()), float(a.square().sum()))
        z.append(
            [(float(s.mean()) - e) / float(error) for (s, error), e in zip(estimates, exact, strict=True)]
        )
    mean, spread = np.mean(z, axis=0), np.std(z, axis=0, ddof=1)
    assert abs(mean[0]) < 0.25
    assert 0.8 < spread[0] < 1.25
    assert abs(mean[1]) < 0.4  # squares are skewed, and error and error bar grow together
    assert 0.8 < spread[1] < 1.3


def test_the_papers_error_bar_of_xnystrace_is_too_small():
    a, g, ours, papers = rotated(1 / torch.arange(1, 151, dtype=F64), generator(4)), generator(5), [], []
    for _ in range(200):
        samples, stderr = Probed(a, g).spent(XNysTrace, 60).trace()
        error = float(samples.mean() - a.trace())
        ours.append(error / float(stderr))
        papers.append(error / float(samples.std() / math.sqrt(60)))
    assert np.std(papers) > 1.4
    assert 0.8 < np.std(ours) < 1.25


@pytest.mark.parametrize(
    ("kind", "errors"),
    [
        (Hutchinson, (0.115, 0.082, 0.060, 0.038)),
        (HutchPlusPlus, (0.106, 0.027, 9e-4, 7e-4)),
        (XTrace, (0.077, 0.0029, 9e-4, 5e-4)),
    ],
)
def test_mean_error_on_a_hessian_like_spectrum(kind, errors):
    a, g = outliers(1000, 0.01), generator(6)
    for matvecs, expected in zip((12, 24, 60, 120), errors, strict=True):
        values = [float(Probed(a, g).spent(kind, matvecs).trace()[0].mean()) for _ in range(30)]
        error = np.abs(np.array(values) / float(a.trace()) - 1).mean()
        assert expected / 2 < error < expected * 2, matvecs


@pytest.mark.parametrize("kind", [HutchPlusPlus, XTrace, XNysTrace])
@pytest.mark.parametrize("dtype", [F64, torch.float32])
def test_low_rank_is_exact(kind, dtype):
    values = torch.tensor([5.0, 2.0, 1.0 if kind is XNysTrace else -1.0] + [0.0] * 47, dtype=F64)
    a = rotated(values, generator(9))
    accuracy = 1e-6 if kind is XNysTrace else 1e-12
    accuracy = accuracy if dtype is F64 else 1e-3
    estimator = Probed(a.to(dtype)).spent(kind, 18)
    samples, stderr = estimator.trace()
    assert float(samples.mean()) == pytest.approx(float(values.sum()), rel=accuracy)
    assert stderr < accuracy * float(values.sum())
    if kind is not XNysTrace:
        assert float(estimator.square()[0].mean()) == pytest.approx(30, rel=accuracy)


@pytest.mark.parametrize("kind", [Hutchinson, HutchPlusPlus, XTrace, XNysTrace])
def test_zero_is_zero_and_what_is_not_finite_is_nan(kind):
    zero = Probed(torch.zeros(50, 50, dtype=F64)).spent(kind, 12)
    broken = Probed(torch.full((50, 50), math.inf, dtype=F64)).spent(kind, 12)
    for estimate in ("trace", "square"):
        samples, stderr = getattr(zero, estimate)()
        assert (float(samples.abs().max()), float(stderr)) == (0, 0)
        samples, stderr = getattr(broken, estimate)()
        assert not math.isfinite(float(samples.mean()))
        assert math.isnan(float(stderr))

"""The trace: against dense Hessians, XTrace as its paper states it, and errors of repeated estimates over their error bars."""

import math
import re

import numpy as np
import pytest
import torch
from dense import dense_hessian, quadratic, reference, rotated
from scipy.optimize import minimize
from torch import Tensor

from analysis.curvature.matrices import Of
from analysis.curvature.trace import TraceMethod, frobenius, hessian_trace, trace_and_square
from analysis.points import NOT_FINITE
from landscape import InputError, Objective
from landscape.results import Frobenius, Trace

METHODS: list[TraceMethod] = ["xtrace", "hutchinson", "hutch++"]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def hessian_like(n: int = 300) -> Tensor:
    """Ten outliers from 20 down to 1 and an indefinite bulk of standard deviation .02."""
    g = generator(1)
    bulk = 0.02 * torch.randn(n - 10, generator=g, dtype=torch.float64)
    return rotated(torch.cat([torch.logspace(math.log10(20), 0, 10, dtype=torch.float64), bulk]), g)


def trained() -> Tensor:
    """A network's Hessian after some steps of L-BFGS."""
    net = reference("mlp")

    def fun(x: np.ndarray) -> tuple[float, np.ndarray]:
        value, grad = net.objective.value_and_grad(torch.from_numpy(x))
        return float(value), grad.numpy()

    theta = minimize(fun, net.theta.numpy(), jac=True, method="L-BFGS-B", options={"maxiter": 15}).x
    return dense_hessian(net.objective, torch.from_numpy(theta))


MATRICES = {
    "hessian-like": lambda: hessian_like(150),
    "untrained": lambda: reference("conv").hessian,
    "trained": trained,
}


@pytest.fixture(scope="module", params=MATRICES)
def matrix(request):
    return MATRICES[request.param]()


def xtrace_of_the_paper(a: Tensor, omega: Tensor) -> tuple[Tensor, Tensor]:
    """(t_i, t_i without the column j): Epperly, Tropp, Webber 2024, with one basis for each estimate."""
    n, q = omega.shape

    def estimate(i: int, left_out: set[int]) -> Tensor:
        kept = [k for k in range(q) if k not in left_out]
        basis = torch.linalg.qr(a @ omega[:, kept])[0]
        mu = omega[:, i] - basis @ (basis.T @ omega[:, i])
        mu = mu * math.sqrt((n - len(kept)) / (mu @ mu))
        return (basis.T @ a @ basis).trace() + mu @ a @ mu

    single = torch.stack([estimate(i, {i}) for i in range(q)])
    pairs = torch.stack([torch.stack([estimate(i, {i, j}) for j in range(q)]) for i in range(q)])
    return single, pairs


def probes(dim: int, q: int, seed: int) -> Tensor:
    """What hessian_trace draws: normal rows, put on the sphere of radius √P; as columns."""
    omega = torch.randn(q, dim, generator=generator(seed), dtype=torch.float64)
    return (math.sqrt(dim) * omega / omega.norm(dim=1, keepdim=True)).T


def test_xtrace_is_the_papers_and_its_variance_counts_the_covariance():
    a = rotated(0.7 ** torch.arange(40, dtype=torch.float64) * 3 - 0.1, generator(2))
    q = 8
    single, pairs = xtrace_of_the_paper(a, probes(40, q, seed=3))
    delta = single[:, None] - pairs
    covariance = np.mean([float(delta[i, j] * delta[j, i]) for i in range(q) for j in range(q) if i != j])
    trace = hessian_trace(quadratic(a), torch.zeros(40), matvecs=2 * q, generator=generator(3))
    np.testing.assert_allclose(trace.samples, single, rtol=1e-9)
    assert trace.value == pytest.approx(float(single.mean()), rel=1e-12)
    assert trace.stderr == pytest.approx(math.sqrt(float(single.var()) / q + max(0.0, covariance)), rel=1e-7)
    assert (trace.method, trace.matvecs, trace.dim) == ("xtrace", 16, 40)


def test_the_square_is_xtrace_with_the_same_basis():
    a = rotated(torch.linspace(-1, 3, 40, dtype=torch.float64), generator(2))
    omega = probes(40, 6, seed=3)
    expected = []
    for i in range(6):
        basis = torch.linalg.qr(a @ omega[:, [k for k in range(6) if k != i]])[0]
        mu = omega[:, i] - basis @ (basis.T @ omega[:, i])
        expected.append(float((a @ basis).square().sum() + (40 - 5) * (a @ mu).square().sum() / (mu @ mu)))
    square = trace_and_square(quadratic(a), torch.zeros(40), matvecs=12, generator=generator(3))[1]
    np.testing.assert_allclose(square.samples, expected, rtol=1e-9)


def test_hutchinson_is_the_mean_over_signs():
    a = rotated(torch.linspace(-1, 3, 40, dtype=torch.float64), generator(2))
    v = torch.randn(10, 40, generator=generator(3), dtype=torch.float64).sign()
    first, second = trace_and_square(
        quadratic(a), torch.zeros(40), method="hutchinson", matvecs=10, generator=generator(3)
    )
    np.testing.assert_allclose(first.samples, [x @ a @ x for x in v], rtol=1e-12)
    np.testing.assert_allclose(second.samples, [(a @ x) @ (a @ x) for x in v], rtol=1e-12)
    assert first.stderr == pytest.approx(np.std(first.samples, ddof=1) / math.sqrt(10), rel=1e-12)


@pytest.mark.parametrize("method", ["xtrace", "hutchinson"])
def test_errors_over_their_error_bars_are_standard(matrix, method):
    objective, theta, g = quadratic(matrix), torch.zeros(len(matrix)), generator(7)
    repeats = [trace_and_square(objective, theta, method=method, generator=g) for _ in range(200)]
    z = np.array([(t.value - float(matrix.trace())) / t.stderr for t, _ in repeats])
    assert abs(z.mean()) < 0.25
    assert 0.8 < z.std(ddof=1) < 1.25
    z = np.array([(s.value - float(matrix.square().sum())) / s.stderr for _, s in repeats])
    assert abs(z.mean()) < 0.4  # squares are skewed, and error and error bar grow together
    assert 0.8 < z.std(ddof=1) < 1.3


def test_the_papers_error_is_too_small_where_probes_matter_to_each_other():
    a = rotated(1 / torch.arange(1, 151, dtype=torch.float64), generator(4))
    g, ours, papers = generator(5), [], []
    for _ in range(200):
        t = hessian_trace(quadratic(a), torch.zeros(150), generator=g)
        ours.append((t.value - float(a.trace())) / t.stderr)
        papers.append((t.value - float(a.trace())) / (t.samples.std(ddof=1) / math.sqrt(30)))
    assert np.std(papers) > 1.3
    assert 0.8 < np.std(ours) < 1.25


@pytest.mark.parametrize("name", ["mlp", "layernorm", "batchnorm", "conv"])
def test_networks(name):
    net = reference(name)
    theta, before = net.theta, net.theta.clone()
    exact = hessian_trace(net.objective, theta, matvecs=len(theta))
    assert exact.value == pytest.approx(float(net.hessian.trace()), rel=1e-10)
    assert (exact.stderr, exact.method, exact.matvecs, exact.of) == (0, "exact", len(theta), "hessian")
    assert exact.mean == exact.value / len(theta)
    for method in METHODS:
        found = trace_and_square(net.objective, theta, method=method, generator=generator(8))
        of_dense = trace_and_square(quadratic(net.hessian), theta, method=method, generator=generator(8))
        for ours, expected in zip(found, of_dense, strict=True):
            np.testing.assert_allclose(ours.samples, expected.samples, rtol=1e-8)
            assert ours.stderr == pytest.approx(expected.stderr, rel=1e-4)
    assert theta.equal(before)


@pytest.mark.parametrize("name", ["mlp", "conv"])
def test_parts_of_the_hessian(name):
    net = reference(name)
    dim = len(net.theta)
    parts: list[Of] = ["gauss-newton", "residual"]
    same: list[Of] = ["gauss-newton", "fisher"]  # for cross-entropy
    exact = {of: hessian_trace(net.objective, net.theta, of=of, matvecs=dim) for of in parts}
    assert sum(t.value for t in exact.values()) == pytest.approx(float(net.hessian.trace()), rel=1e-9)
    assert exact["gauss-newton"].value > 0
    assert [t.of for t in exact.values()] == parts
    norm = frobenius(net.objective, net.theta, of="residual", matvecs=dim)
    square = trace_and_square(net.objective, net.theta, of="residual", matvecs=dim)[1]
    assert (norm.of, norm.value) == ("residual", pytest.approx(square.value**0.5))
    assert abs(norm.value - float(net.hessian.norm())) > 0.01 * norm.value
    g = generator(5)
    for of in same:
        found = [
            hessian_trace(net.objective, net.theta, of=of, method="xnystrace", matvecs=30, generator=g)
            for _ in range(5)
        ]
        z = [(t.value - exact["gauss-newton"].value) / t.stderr for t in found]
        assert max(map(abs, z)) < 4
        assert (found[0].method, found[0].matvecs, found[0].of) == ("xnystrace", 30, of)


def test_low_rank_is_exact_and_zero_is_zero():
    a = rotated(torch.tensor([5.0, 2.0, -1.0] + [0.0] * 47, dtype=torch.float64), generator(9))
    trace, square = trace_and_square(quadratic(a), torch.zeros(50), matvecs=12, generator=generator())
    assert trace.value == pytest.approx(6, abs=1e-9)
    assert square.value == pytest.approx(30, abs=1e-9)
    assert trace.stderr < 1e-9
    flat = Objective([lambda theta: theta.sum()], 50)
    for method in METHODS:
        for t in trace_and_square(flat, torch.zeros(50), method=method, matvecs=12, generator=generator()):
            assert (t.value, t.stderr) == (0, 0)


def test_single_precision_and_values_that_are_not_finite():
    a = hessian_like(150)
    double = hessian_trace(quadratic(a), torch.zeros(150), generator=generator())
    single = hessian_trace(quadratic(a.float()), torch.zeros(150), generator=generator())
    assert single.value == pytest.approx(float(a.trace()), abs=5 * double.stderr + 1e-4)
    assert single.stderr == pytest.approx(double.stderr, rel=0.5)
    broken = Objective([lambda theta: (theta - 1).sqrt().sum()], 100)
    for method in METHODS:
        trace = hessian_trace(broken, torch.zeros(100), method=method, rtol=0.1, generator=generator())
        exact = hessian_trace(broken, torch.zeros(100), method=method, matvecs=100)
        assert all(math.isnan(number) for t in (trace, exact) for number in (t.value, t.stderr))
        assert exact.message == NOT_FINITE
        assert (trace.converged, trace.message) == (False, NOT_FINITE)


def test_a_generator_gives_the_same_numbers_and_leaves_the_global_one_alone():
    net = reference("mlp")
    state = torch.get_rng_state()
    first, second = (hessian_trace(net.objective, net.theta, generator=generator(1)) for _ in range(2))
    assert (first.value, first.stderr) == (second.value, second.stderr)
    assert state.equal(torch.get_rng_state())


@pytest.mark.parametrize("method", METHODS)
def test_rtol_adds_products_until_the_error_bar_obeys(method):
    a = rotated(0.97 ** torch.arange(400, dtype=torch.float64), generator(2))
    trace = hessian_trace(quadratic(a), torch.zeros(400), method=method, rtol=0.015, generator=generator(3))
    assert trace.stderr <= 0.015 * trace.value
    assert 60 < trace.matvecs < 400
    assert (trace.converged, trace.message) == (True, "")
    assert abs(trace.value - float(a.trace())) < 3 * trace.stderr


@pytest.mark.parametrize("method", METHODS)
def test_errors_are_standard_where_the_error_bar_decided_when_to_stop(method):
    a, g = rotated(0.97 ** torch.arange(300, dtype=torch.float64), generator(2)), generator(4)
    repeats = [
        hessian_trace(quadratic(a), torch.zeros(300), method=method, rtol=0.025, generator=g)
        for _ in range(200)
    ]
    z = np.array([(t.value - float(a.trace())) / t.stderr for t in repeats])
    assert len({t.matvecs for t in repeats}) > 1  # it did decide
    assert abs(z.mean()) < 0.25
    assert 0.8 < z.std(ddof=1) < 1.25


def test_rtol_out_of_reach_is_said_and_all_columns_are_taken_where_they_are_cheaper():
    a = hessian_like(150)
    short = hessian_trace(
        quadratic(a), torch.zeros(150), method="hutchinson", rtol=1e-3, max_matvecs=130, generator=generator()
    )
    assert (short.matvecs, short.converged, short.method) == (130, False, "hutchinson")
    assert re.fullmatch(
        r"the standard error is 0\.\d+ of the value after 130 products, above rtol=0.001; raise max_matvecs or rtol\.",
        short.message,
    )
    exact = hessian_trace(
        quadratic(a), torch.zeros(150), method="hutchinson", rtol=1e-3, max_matvecs=280, generator=generator()
    )
    assert (exact.matvecs, exact.converged, exact.method) == (120 + 150, True, "exact")
    assert exact.value == pytest.approx(float(a.trace()), rel=1e-12)
    between = hessian_trace(
        quadratic(a), torch.zeros(150), method="hutchinson", rtol=1e-3, max_matvecs=200, generator=generator()
    )
    assert (between.matvecs, between.converged, between.method) == (149, False, "hutchinson")


def test_error_bars_of_a_few_products_are_not_believed():
    a = hessian_like(150)
    for seed in range(20):
        trace = hessian_trace(quadratic(a), torch.zeros(150), matvecs=4, rtol=0.5, generator=generator(seed))
        assert trace.matvecs >= 30


def test_the_frobenius_norm():
    net = reference("conv")
    exact = frobenius(net.objective, net.theta, matvecs=len(net.theta))
    norm = float(net.hessian.norm())
    assert (exact.value, exact.stderr) == (pytest.approx(norm, rel=1e-10), 0)
    assert exact.typical == pytest.approx(norm / math.sqrt(len(net.theta)), rel=1e-10)
    square = trace_and_square(net.objective, net.theta, generator=generator(1))[1]
    found = frobenius(net.objective, net.theta, generator=generator(1), about={"of": "a test"})
    assert found.value**2 == pytest.approx(square.value, rel=1e-7)
    assert found.stderr == pytest.approx(square.stderr / (2 * found.value), rel=1e-5)
    assert found.about == {"of": "a test"}


def test_records_are_saved_and_old_ones_load(tmp_path):
    a = quadratic(hessian_like(150))
    trace = hessian_trace(a, torch.zeros(150), generator=generator())
    again = Trace.load(trace.save(tmp_path / "trace.npz"))
    assert (again.value, again.of, again.converged) == (trace.value, "hessian", True)
    norm = frobenius(a, torch.zeros(150), generator=generator())
    assert Frobenius.load(norm.save(tmp_path / "norm.npz")).stderr == norm.stderr


def test_bad_input_says_what_to_do():
    objective, theta = quadratic(torch.eye(9, dtype=torch.float64)), torch.zeros(9)
    with pytest.raises(InputError, match=r"method must be one of xtrace, hutchinson, .*, got 'hutch'"):
        hessian_trace(objective, theta, method="hutch")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match=r"matvecs must be at least 4 for xtrace, .* got 3"):
        hessian_trace(objective, theta, matvecs=3)
    with pytest.raises(InputError, match=r"theta must be one point \(9,\), got shape \(2, 9\)"):
        hessian_trace(objective, torch.zeros(2, 9))
    with pytest.raises(InputError, match=r"xnystrace is for positive semidefinite .* got of='hessian'"):
        hessian_trace(objective, theta, method="xnystrace")
    with pytest.raises(InputError, match=r"rtol must lie between 0 and 1, .* got -0.1"):
        hessian_trace(objective, theta, rtol=-0.1)
    with pytest.raises(InputError, match=r"max_matvecs must be at least matvecs, 30, got 20"):
        hessian_trace(objective, theta, rtol=0.1, max_matvecs=20)

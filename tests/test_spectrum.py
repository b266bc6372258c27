"""Eigenpairs against dense Hessians, also where Lanczos is known to go wrong: null spaces, tiny scales, copies."""

import numpy as np
import pytest
import torch
from dense import NETWORKS, dense_hessian, quadratic, reference, rotated
from test_curvature import dense_gauss_newton
from torch import Tensor

from analysis import layer_eigenvalues, top_eigenpairs
from analysis.curvature.lanczos import End
from landscape import HessianProducts, InputError, Objective, Parameters

ENDS: list[End] = ["LA", "SA", "LM", "BE"]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def wanted(values: np.ndarray, k: int, which: str) -> np.ndarray:
    """What SciPy's names mean, of all eigenvalues ascending; largest first."""
    n = len(values)
    chosen = {
        "LA": values[n - k :],
        "SA": values[:k],
        "LM": values[np.argsort(np.abs(values))[n - k :]],
        "BE": np.concatenate([values[: k // 2], values[n - (k + 1) // 2 :]]),
    }[which]
    return np.sort(chosen)[::-1]


def random(n: int, seed: int = 1) -> Tensor:
    g = generator(seed)
    return rotated(torch.randn(n, generator=g, dtype=torch.float64), g)


@pytest.mark.parametrize("name", ["mlp", "layernorm", "batchnorm", "conv"])
def test_the_reference_is_the_derivative_of_the_gradient(name):
    net = reference(name)
    steps = 1e-5 * torch.eye(len(net.theta), dtype=torch.float64)
    differences = (net.objective.grad(net.theta + steps) - net.objective.grad(net.theta - steps)) / 2e-5
    torch.testing.assert_close(net.hessian, differences, rtol=0, atol=1e-8)
    torch.testing.assert_close(dense_hessian(net.objective, net.theta), net.hessian, rtol=0, atol=1e-13)


@pytest.mark.parametrize("which", ENDS)
@pytest.mark.parametrize("name", NETWORKS)
def test_networks(name, which):
    net = reference(name)
    theta, before = net.theta, net.theta.clone()
    hessian = net.hessian.numpy()
    pairs = top_eigenpairs(net.objective, theta, 4, which=which, generator=generator())
    np.testing.assert_allclose(pairs.values, wanted(np.linalg.eigvalsh(hessian), 4, which), rtol=1e-5)
    np.testing.assert_allclose(pairs.vectors @ pairs.vectors.T, np.eye(4), atol=1e-9)
    residuals = np.linalg.norm(pairs.vectors @ hessian - pairs.values[:, None] * pairs.vectors, axis=1)
    np.testing.assert_allclose(pairs.residuals, residuals, rtol=1e-3, atol=1e-13)
    assert residuals.max() < 1e-5 * np.abs(hessian).max()
    assert all(vector[np.abs(vector).argmax()] > 0 for vector in pairs.vectors)
    assert (pairs.converged, pairs.message, pairs.which) == (True, "", which)
    assert theta.equal(before)


@pytest.mark.parametrize("which", ENDS)
@pytest.mark.parametrize(("n", "k"), [(15, 1), (15, 4), (15, 15), (150, 1), (150, 5), (150, 70)])
def test_every_end_of_small_and_large_matrices(n, k, which):
    a = random(n)
    pairs = top_eigenpairs(quadratic(a), torch.zeros(n), k, which=which, generator=generator())
    np.testing.assert_allclose(pairs.values, wanted(torch.linalg.eigvalsh(a).numpy(), k, which), rtol=1e-6)


def test_no_copies_of_a_dominant_eigenvalue():
    eigenvalues = torch.cat([torch.tensor([1e4, 1e3]), torch.linspace(-1, 1, 198)]).double()
    a = rotated(eigenvalues, generator(2))
    pairs = top_eigenpairs(quadratic(a), torch.zeros(200), 5, generator=generator())
    np.testing.assert_allclose(pairs.values, eigenvalues.sort(descending=True)[0][:5], rtol=1e-7)


def test_repeated_eigenvalues_have_all_their_copies():
    eigenvalues = torch.cat([torch.tensor([3.0, 3.0, 2.0]), torch.linspace(-1, 1, 147)]).double()
    pairs = top_eigenpairs(
        quadratic(rotated(eigenvalues, generator(2))), torch.zeros(150), 3, generator=generator()
    )
    np.testing.assert_allclose(pairs.values, [3, 3, 2], rtol=1e-7)
    np.testing.assert_allclose(pairs.vectors @ pairs.vectors.T, np.eye(3), atol=1e-9)


@pytest.mark.parametrize(("which", "expected"), [("SA", [0]), ("LA", [80]), ("BE", [80, 0])])
def test_dead_parameters_leave_a_zero_at_the_lower_end(which, expected):
    a = torch.diag(torch.cat([torch.zeros(20), torch.arange(1, 81)]).double())
    pairs = top_eigenpairs(quadratic(a), torch.zeros(100), len(expected), which=which, generator=generator())
    np.testing.assert_allclose(pairs.values, expected, atol=1e-6)


def test_more_eigenvalues_than_rank():
    a = rotated(torch.tensor([5.0, -3.0] + [0.0] * 98, dtype=torch.float64), generator(3))
    pairs = top_eigenpairs(quadratic(a), torch.zeros(100), 4, which="LM", generator=generator())
    np.testing.assert_allclose(pairs.values, [5, 0, 0, -3], atol=1e-9)


@pytest.mark.parametrize("which", ENDS)
@pytest.mark.parametrize("scale", [1e-18, 1e12])
def test_the_scale_of_the_loss_does_not_matter(scale, which):
    a = random(150)
    one = top_eigenpairs(quadratic(a), torch.zeros(150), 3, which=which, generator=generator())
    other = top_eigenpairs(quadratic(scale * a), torch.zeros(150), 3, which=which, generator=generator())
    np.testing.assert_allclose(other.values, scale * one.values, rtol=1e-9)
    assert other.converged


@pytest.mark.parametrize("which", ENDS)
@pytest.mark.parametrize("curvature", [1.0, -1.0])
def test_a_round_quadratic(curvature, which):
    a = curvature * torch.eye(100, dtype=torch.float64)
    pairs = top_eigenpairs(quadratic(a), torch.zeros(100), 3, which=which, generator=generator())
    np.testing.assert_allclose(pairs.values, curvature, rtol=1e-12)
    np.testing.assert_allclose(pairs.vectors @ pairs.vectors.T, np.eye(3), atol=1e-9)


def test_single_precision():
    a = random(150)
    pairs = top_eigenpairs(quadratic(a.float()), torch.zeros(150), 3, generator=generator())
    np.testing.assert_allclose(pairs.values, wanted(torch.linalg.eigvalsh(a).numpy(), 3, "LA"), rtol=1e-5)
    assert pairs.converged


@pytest.mark.parametrize("n", [12, 100])
def test_a_linear_loss_has_zeros(n):
    pairs = top_eigenpairs(Objective([lambda t: t.sum()], n), torch.zeros(n), 3, generator=generator())
    np.testing.assert_array_equal(pairs.values, 0)
    np.testing.assert_allclose(pairs.vectors @ pairs.vectors.T, np.eye(3), atol=1e-12)
    assert pairs.converged


@pytest.mark.parametrize("n", [12, 100])
def test_products_that_are_not_finite_are_said(n):
    broken = Objective([lambda t: (t - 1).sqrt().sum()], n)
    pairs = top_eigenpairs(broken, torch.zeros(n), 3, generator=generator())
    assert np.isnan(pairs.values).all()
    assert np.isnan(pairs.residuals).all()
    assert not pairs.converged
    assert "not finite" in pairs.message


def test_what_did_not_converge_is_missing_and_said():
    a = torch.diag(torch.linspace(0, 1, 3000, dtype=torch.float64) ** 0.2)  # crowded at the top
    pairs = top_eigenpairs(quadratic(a), torch.zeros(3000), 4, max_matvecs=40, generator=generator())
    assert not pairs.converged
    assert "of 4 eigenvalues converged" in pairs.message
    assert "raise max_matvecs" in pairs.message
    assert pairs.values.shape == pairs.residuals.shape == (4,)
    assert np.isnan(pairs.values[-1])
    assert pairs.matvecs < 80


def test_a_looser_tolerance_costs_less():
    objective = quadratic(random(150))
    rough, fine = (
        top_eigenpairs(objective, torch.zeros(150), 3, tolerance=tolerance, generator=generator())
        for tolerance in (1e-2, 1e-9)
    )
    assert rough.matvecs < fine.matvecs
    assert fine.residuals.max() < 1e-8 < rough.residuals.max() < 0.1


def test_products_are_counted(monkeypatch):
    spent = 0
    times = HessianProducts.__call__

    def counted(self: HessianProducts, v: Tensor) -> Tensor:
        nonlocal spent
        spent += v.reshape(-1, v.shape[-1]).shape[0]
        return times(self, v)

    monkeypatch.setattr(HessianProducts, "__call__", counted)
    for n in (15, 150):
        spent = 0
        pairs = top_eigenpairs(quadratic(random(n)), torch.zeros(n), 3, generator=generator())
        assert pairs.matvecs == spent > 0


def test_a_few_products_are_not_spent_on_choosing_an_engine():
    # Products by the graph of the gradient, which takes one evaluation; measuring engines would take more.
    evaluations = 0
    a = rotated(torch.cat([torch.arange(10.0, 15), torch.zeros(145)]).double(), generator(1))

    def loss(theta: Tensor) -> Tensor:
        nonlocal evaluations
        evaluations += 1
        return 0.5 * theta @ a @ theta

    pairs = top_eigenpairs(Objective([loss], 150), torch.zeros(150), 5, generator=generator())
    np.testing.assert_allclose(pairs.values, [14, 13, 12, 11, 10], rtol=1e-9)
    assert evaluations == 1
    assert pairs.matvecs < 10  # rank 5: six steps find all, and nothing is spent to check them


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("which", ENDS)
def test_values_and_residuals_are_those_of_products_of_the_vectors(which, dtype):
    a = random(150).to(dtype)
    for tolerance in (1e-2, 1e-6):
        pairs = top_eigenpairs(
            quadratic(a),
            torch.zeros(150),
            4,
            which=which,
            tolerance=tolerance,
            generator=generator(),
        )
        images = pairs.vectors @ a.double().numpy()
        rounding = 100 * torch.finfo(dtype).eps * float(torch.linalg.eigvalsh(a).abs().max())
        np.testing.assert_allclose(pairs.values, (images * pairs.vectors).sum(axis=1), rtol=0, atol=rounding)
        residuals = np.linalg.norm(images - pairs.values[:, None] * pairs.vectors, axis=1)
        np.testing.assert_allclose(pairs.residuals, residuals, rtol=1e-3, atol=rounding)
        assert pairs.converged


@pytest.mark.parametrize("which", ENDS)
@pytest.mark.parametrize("name", NETWORKS)
def test_layers_are_the_diagonal_blocks(name, which):
    net = reference(name)
    hessian, parameters = net.hessian.numpy(), net.objective.parameters
    found = layer_eigenvalues(net.objective, net.theta, 3, which=which, generator=generator())
    stops = np.cumsum(parameters.sizes)
    slices = [slice(int(b) - size, int(b)) for b, size in zip(stops, parameters.sizes, strict=True)]
    layers = [n.rpartition(".")[0] for n in parameters.names]
    assert list(found) == list(dict.fromkeys(layers))
    for layer, pairs in found.items():
        index = np.concatenate(
            [np.arange(len(hessian))[s] for s, n in zip(slices, layers, strict=True) if n == layer]
        )
        expected = wanted(np.linalg.eigvalsh(hessian[np.ix_(index, index)]), 3, which)
        np.testing.assert_allclose(pairs.values, expected, rtol=1e-6, atol=1e-12)
        assert not np.delete(pairs.vectors, index, axis=1).any()
        np.testing.assert_allclose(pairs.vectors @ pairs.vectors.T, np.eye(3), atol=1e-9)
        assert pairs.converged
        np.testing.assert_allclose(
            pairs.residuals,
            np.linalg.norm(
                (pairs.vectors @ hessian)[:, index] - pairs.values[:, None] * pairs.vectors[:, index], axis=1
            ),
            atol=1e-12,
            rtol=1e-3,
        )


def test_single_tensors_and_large_blocks():
    # Two tensors, one too large for a dense block; k is more than the other one holds.
    a, sizes = random(150), (3, 147)
    objective = Objective(
        [lambda t: 0.5 * t @ a @ t],
        150,
        parameters=Parameters(("w.bias", "w.weight"), tuple((n,) for n in sizes)),
    )
    found = layer_eigenvalues(objective, torch.zeros(150), 5, by="parameter", generator=generator())
    small, large = torch.linalg.eigvalsh(a[:3, :3]).numpy(), torch.linalg.eigvalsh(a[3:, 3:]).numpy()
    np.testing.assert_allclose(found["w.bias"].values, small[::-1], rtol=1e-9)
    np.testing.assert_allclose(found["w.weight"].values, large[:-6:-1], rtol=1e-9)
    assert found["w.weight"].vectors.shape == (5, 150)
    assert list(layer_eigenvalues(objective, torch.zeros(150))) == ["w"]


def test_blocks_may_be_filters_or_groups_of_parameters():
    net = reference("mlp")  # weights (8, 6) and (3, 8)
    hessian, where = net.hessian.numpy(), {}
    stop = 0
    for name, size in zip(net.objective.parameters.names, net.objective.parameters.sizes, strict=True):
        where[name], stop = np.arange(stop, stop + size), stop + size
    groups = {"ends": ["2.bias", "0.weight"], "middle": ["0.bias"]}
    expected = {name: np.sort(np.concatenate([where[n] for n in names])) for name, names in groups.items()}
    found = layer_eigenvalues(net.objective, net.theta, 2, by=groups, generator=generator())
    filters = layer_eigenvalues(net.objective, net.theta, 2, by="filter", generator=generator())
    for i in range(8):
        expected[f"0.weight[{i}]"] = np.append(where["0.weight"][6 * i : 6 * i + 6], where["0.bias"][i])
    assert list(found) == ["ends", "middle"]
    assert list(filters) == [f"0.weight[{i}]" for i in range(8)] + [f"2.weight[{i}]" for i in range(3)]
    for name, index in expected.items():
        pairs = (found | filters)[name]
        exact = np.linalg.eigvalsh(hessian[np.ix_(index, index)])
        np.testing.assert_allclose(pairs.values, exact[:-3:-1], rtol=1e-7)
        assert not np.delete(pairs.vectors, index, axis=1).any()


@pytest.mark.parametrize("of", ["gauss-newton", "residual"])
@pytest.mark.parametrize("name", ["mlp", "batchnorm"])
def test_parts_of_the_hessian(name, of):
    net = reference(name)
    part = dense_gauss_newton(net.whole, net.theta)
    part = (part if of == "gauss-newton" else net.hessian - part).numpy()
    values = np.linalg.eigvalsh(part)
    for which in ("LA", "BE"):
        pairs = top_eigenpairs(net.objective, net.theta, 4, which=which, of=of, generator=generator())
        np.testing.assert_allclose(pairs.values, wanted(values, 4, which), rtol=1e-6, atol=1e-9)
        residuals = np.linalg.norm(pairs.vectors @ part - pairs.values[:, None] * pairs.vectors, axis=1)
        np.testing.assert_allclose(pairs.residuals, residuals, rtol=1e-3, atol=1e-12)
        assert pairs.of == of
    size = sum(net.objective.parameters.sizes[:2])
    first = next(iter(layer_eigenvalues(net.objective, net.theta, 2, of=of, generator=generator()).values()))
    np.testing.assert_allclose(first.values, np.linalg.eigvalsh(part[:size, :size])[:-3:-1], rtol=1e-6)
    assert first.of == of


def test_two_directions_of_the_same_curvature_are_certain():
    eigenvalues = torch.cat([torch.tensor([3.0, 3.0]), torch.linspace(-1, 1, 298)]).double()
    objective = quadratic(rotated(eigenvalues, generator(2)))
    for seed in range(5):
        pairs = top_eigenpairs(objective, torch.zeros(300), 2, generator=generator(seed))
        np.testing.assert_allclose(pairs.values, 3, rtol=1e-9)


def test_bad_input_says_what_to_do():
    objective, theta = quadratic(torch.eye(9, dtype=torch.float64)), torch.zeros(9)
    with pytest.raises(InputError, match=r"which must be one of LA, SA, LM, BE, got 'SM'"):
        top_eigenpairs(objective, theta, 2, which="SM")  # pyright: ignore[reportArgumentType]
    for k in (0, 10):
        with pytest.raises(
            InputError, match=rf"k must be between 1 and the number of parameters, 9, got {k}"
        ):
            top_eigenpairs(objective, theta, k)
    with pytest.raises(InputError, match=r"block must be at least 1, got 0"):
        top_eigenpairs(objective, theta, 2, block=0)
    with pytest.raises(InputError, match=r"theta must be one point \(9,\)"):
        top_eigenpairs(objective, torch.zeros(2, 9), 1)
    with pytest.raises(InputError, match=r"k must be at least 1, got 0"):
        layer_eigenvalues(objective, theta, 0)
    with pytest.raises(
        InputError, match=r"of must be one of hessian, gauss-newton, fisher, residual, got 'H'"
    ):
        top_eigenpairs(objective, theta, 1, of="H")  # pyright: ignore[reportArgumentType]
    with pytest.raises(
        InputError, match=r"by must be 'layer', 'parameter', 'filter', or a mapping .* got 'row'"
    ):
        layer_eigenvalues(objective, theta, by="row")  # pyright: ignore[reportArgumentType]

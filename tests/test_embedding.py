"""Kernel PCA against scikit-learn, its controls against their plain definitions, and what norms alone do to it."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.decomposition import PCA, KernelPCA
from sklearn.metrics.pairwise import laplacian_kernel

from analysis.embeddings.kernel import kernel_pca
from landscape import InputError, Solution, load_problem
from landscape.commands import embed
from landscape.results import Embedding

RNG = np.random.default_rng(0)
X = np.concatenate(
    [RNG.standard_normal((7, 40)), 1.3 * RNG.standard_normal((5, 40)) + 0.4, RNG.standard_normal((3, 40))]
)
GROUPS = ["sgd"] * 7 + ["lbfgs"] * 5 + ["alto"] * 3


def solutions(x: np.ndarray) -> list[Solution]:
    return [
        Solution(problem="p", optimizer=g, seed=i, theta=row, names=("a", "b"), shapes=((2, 10), (20,)))
        for i, (g, row) in enumerate(zip(GROUPS, x, strict=True))
    ]


@pytest.mark.parametrize(
    ("kernel", "gamma"), [("rbf", None), ("rbf", 0.003), ("linear", None), ("cosine", None)]
)
@pytest.mark.parametrize("components", [1, 2, 14])
def test_scikit_learns_kernel_pca_to_sign(kernel, gamma, components):
    ours = kernel_pca(X, kernel=kernel, gamma=gamma, components=components)
    theirs = KernelPCA(components, kernel=kernel, gamma=gamma, eigen_solver="dense")
    expected = theirs.fit_transform(X)
    expected = expected * np.sign((expected * ours.coordinates).sum(axis=0))
    np.testing.assert_allclose(ours.coordinates, expected, atol=1e-10)
    np.testing.assert_allclose(ours.eigenvalues[:components], theirs.eigenvalues_, rtol=1e-9)
    assert ours.eigenvalues.shape == (15,)
    assert (np.diff(ours.eigenvalues) <= 0).all()
    assert ours.kernel == kernel
    np.testing.assert_equal(ours.gamma, (gamma or 1 / 40) if kernel == "rbf" else np.nan)
    for column in ours.coordinates.T:
        assert column[np.abs(column).argmax()] > 0


def test_gamma_by_the_median_distance_and_where_it_is_from():
    apart = [((x - y) ** 2).sum() for i, x in enumerate(X) for y in X[:i]]
    found = kernel_pca(X, gamma="median")
    assert found.gamma == pytest.approx(1 / np.median(apart))
    assert [kernel_pca(X, gamma=g).gamma_rule for g in (None, 0.1, "median")] == ["1/P", "given", "median"]
    assert kernel_pca(X, kernel="linear").gamma_rule == ""


def test_a_kernel_of_the_users_own():
    ours = kernel_pca(X, kernel=laplacian_kernel)
    expected = KernelPCA(2, kernel="precomputed").fit_transform(laplacian_kernel(X))
    np.testing.assert_allclose(np.abs(ours.coordinates), np.abs(expected), atol=1e-10)
    assert ours.kernel == "laplacian_kernel"


def test_the_linear_kernel_is_pca_and_explains_what_it_does():
    ours, theirs = kernel_pca(X, kernel="linear", components=3), PCA(3).fit(X)
    np.testing.assert_allclose(ours.explained, theirs.explained_variance_ratio_, rtol=1e-10)
    np.testing.assert_allclose(np.abs(ours.coordinates), np.abs(theirs.transform(X)), atol=1e-10)
    assert kernel_pca(X, components=14).explained.sum() == pytest.approx(1)


@pytest.mark.parametrize("kernel", ["rbf", "linear"])
def test_controls_are_their_plain_definitions(kernel):
    found = kernel_pca(X, kernel=kernel, groups=GROUPS, components=4)
    norms = np.array([np.sqrt((x * x).sum()) for x in X])
    np.testing.assert_allclose(found.norms, norms, rtol=1e-13)
    np.testing.assert_allclose(found.distances, [[np.linalg.norm(x - y) for y in X] for x in X], rtol=1e-13)
    centroids = {g: X[[name == g for name in GROUPS]].mean(axis=0) for g in found.group_names}
    expected = [[np.linalg.norm(x - centroids[g]) for g in found.group_names] for x in X]
    np.testing.assert_allclose(found.centroid_distances, expected, rtol=1e-12)
    expected = [
        float(np.corrcoef(column.argsort().argsort(), norms.argsort().argsort())[0, 1])
        for column in found.coordinates.T
    ]
    np.testing.assert_allclose(found.norm_correlation, expected, rtol=1e-12)
    assert found.chance == 1 / 3
    assert found.folds == 3  # the smallest group has three


def test_of_nearly_orthogonal_vectors_the_first_component_is_the_norm():
    rng = np.random.default_rng(1)
    directions = rng.standard_normal((40, 5000)) / np.sqrt(5000)
    x = directions * np.where(np.arange(40) < 20, rng.uniform(9, 11, 40), rng.uniform(60, 64, 40))[:, None]
    found = kernel_pca(x, groups=["small"] * 20 + ["large"] * 20)
    assert found.norm_accuracy == 1
    assert found.kernel_accuracy == 1
    assert abs(found.norm_correlation[0]) > 0.8
    assert found.chance == 0.5
    assert found.p_value("norm") == found.p_value("kernel") == 1 / 1000


def test_solutions_bring_their_names():
    found = kernel_pca(solutions(X))
    assert found.labels[:2] == ("sgd/0", "sgd/1")
    assert found.groups == tuple(GROUPS)
    np.testing.assert_array_equal(found.coordinates, kernel_pca(X).coordinates)
    renamed = kernel_pca(solutions(X), labels=[str(i) for i in range(15)], groups=["a"] * 10 + ["b"] * 5)
    assert renamed.labels[3] == "3"
    assert renamed.chance == 1 / 2
    assert (renamed.trajectory == -1).all()
    assert np.isnan(renamed.steps).all()


def test_distances_of_close_solutions_do_not_cancel():
    x = 1e6 + np.zeros((3, 10))
    x[1, 0] += 1e-3
    x[2, 1] += 2e-3
    shift = np.array([0, x[1, 0] - 1e6, x[2, 1] - 1e6])
    expected = np.array(
        [[0, shift[1], shift[2]], [shift[1], 0, np.hypot(*shift[1:])], [shift[2], np.hypot(*shift[1:]), 0]]
    )
    np.testing.assert_allclose(kernel_pca(x).distances, expected, rtol=1e-12)


def test_degenerate_cases_are_nan_or_not_told_apart():
    same = kernel_pca(np.ones((4, 6)), groups=["a", "a", "b", "b"])
    np.testing.assert_array_equal(same.coordinates, 0)
    assert np.isnan(same.explained).all()
    assert np.isnan(same.norm_correlation).all()
    assert same.norm_accuracy == same.centroid_accuracy == same.kernel_accuracy == 1 / 2  # all are ties
    assert np.isnan(same.p_value("centroid"))  # F = 0/0
    one = kernel_pca(X)
    assert np.isnan([one.norm_accuracy, one.centroid_accuracy, one.kernel_accuracy]).all()
    assert one.chance == 1
    assert np.isnan(one.p_value("kernel"))
    assert np.isnan(one.spread("kernel"))
    alone = kernel_pca(np.array([[0.0, 1], [0, 2], [90, 0]]), groups=["a", "a", "b"])
    assert np.isnan(alone.centroid_accuracy)  # nothing is left of b without its one member
    assert alone.p_value("centroid") > 0.25  # one of three orders, and draws
    assert kernel_pca(X, groups=GROUPS, repeats=0, permutations=0).accuracies == {}
    assert np.isfinite(kernel_pca(np.array([[0.0, 0], [1, 0], [0, 1]]), kernel="cosine").coordinates).all()


def test_bad_input_says_what_to_do():
    with pytest.raises(InputError, match=r"solutions must hold at least two, got 1"):
        kernel_pca(X[:1])
    with pytest.raises(InputError, match=r"solutions must hold at least two, got 0"):
        kernel_pca([])
    with pytest.raises(InputError, match=r"solutions must be an array \(n, P\), got shape \(40,\)"):
        kernel_pca(X[0])
    for components in (0, 15):
        with pytest.raises(
            InputError, match=rf"components must be between 1 and 14 for 15 solutions, got {components}"
        ):
            kernel_pca(X, components=components)
    other = Solution(problem="p", optimizer="sgd", seed=9, theta=X[0], names=("a",), shapes=((40,),))
    with pytest.raises(InputError, match=r"parameters of sgd/9 and sgd/0 differ in shape"):
        kernel_pca([*solutions(X), other])
    with pytest.raises(
        InputError, match=r"kernel must be 'rbf', 'linear', 'cosine' or a function, got 'poly'"
    ):
        kernel_pca(X, kernel="poly")  # pyright: ignore[reportArgumentType]
    with pytest.raises(InputError, match=r"kernel must give a symmetric and finite matrix \(15, 15\)"):
        kernel_pca(X, kernel=lambda x: x)
    with pytest.raises(InputError, match=r"gamma must be positive or 'median', got -1"):
        kernel_pca(X, gamma=-1)
    with pytest.raises(InputError, match=r"gamma must be given as a number where half of all pairs"):
        kernel_pca(np.ones((4, 3)), gamma="median")
    with pytest.raises(InputError, match=r"folds must be at least 2, got 1"):
        kernel_pca(X, groups=GROUPS, folds=1)
    with pytest.raises(InputError, match=r"permutations must be at least 0, got -1"):
        kernel_pca(X, groups=GROUPS, permutations=-1)
    with pytest.raises(InputError, match=r"groups must name each of the 15 solutions, got 2"):
        kernel_pca(X, groups=["a", "b"])
    broken = X.copy()
    broken[3, 5] = np.nan
    with pytest.raises(InputError, match=r"solutions must be finite, but 3 holds NaN or infinity"):
        kernel_pca(broken)


def test_the_command_streams_its_files(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    problem = load_problem("own_problem:small")
    about = {"problem_fingerprint": problem.fingerprint}
    saved = [replace(s, problem="own_problem:small", about=about) for s in solutions(X)]
    files = [str(s.save(tmp_path / f"{i}.npz")) for i, s in enumerate(saved)]
    loaded = []
    monkeypatch.setattr(Solution, "__post_init__", lambda self: loaded.append(self.label))
    embed(files, memory=0.01)
    found, expected = Embedding.load(tmp_path / "embedding.npz"), kernel_pca(X, groups=GROUPS)
    assert loaded == []
    np.testing.assert_array_equal(found.coordinates, expected.coordinates)
    assert (found.groups, found.labels[-1]) == (tuple(GROUPS), "alto/14")
    before = (tmp_path / "embedding.npz").stat().st_mtime_ns
    embed(files)  # what does not depend on the memory is not made again
    assert (tmp_path / "embedding.npz").stat().st_mtime_ns == before
    with pytest.raises(InputError, match=r"embedding.npz was made with other settings"):
        embed(files[:-1], out=str(tmp_path / "embedding.npz"))
    with pytest.raises(InputError, match=r"memory must be at least \d+ bytes for 14 solutions"):
        embed(files[:-1], out=str(tmp_path / "few.npz"), memory=1e-6)
    replace(saved[0], about={"problem_fingerprint": "another"}).save(files[0])
    with pytest.raises(InputError, match=r"sgd/0 belongs to the problem"):
        embed(files)

"""Cross-validated accuracies and permutation tests against plain definitions, scikit-learn, SciPy, and null data."""

import numpy as np
import pytest
import torch
from scipy.stats import f_oneway, kstest
from sklearn.decomposition import KernelPCA
from sklearn.metrics import balanced_accuracy_score
from sklearn.metrics.pairwise import rbf_kernel
from sklearn.model_selection import RepeatedStratifiedKFold
from sklearn.neighbors import NearestCentroid

from analysis import kernel_pca
from analysis.embeddings import controls
from analysis.embeddings.controls import (
    centroid_accuracies,
    kernel_accuracies,
    permuted_statistics,
    squares,
    stratified_splits,
)
from landscape import InputError

RNG = np.random.default_rng(0)
GROUPS = ["a"] * 9 + ["b"] * 7 + ["c"] * 12
X = RNG.standard_normal((28, 6)) + 0.6 * np.array([[0], [1], [2]]).repeat([9, 7, 12], axis=0)
ALONE = np.arange(28)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def folds(repeats: int = 3):
    """Test indices of each fold, as scikit-learn gives them."""
    found = list(RepeatedStratifiedKFold(n_splits=5, n_repeats=repeats, random_state=7).split(X, GROUPS))
    return [found[5 * r : 5 * r + 5] for r in range(repeats)]


def test_accuracies_are_scikit_learns_nearest_centroid_on_its_splits():
    split = stratified_splits(GROUPS, ALONE, folds=5, repeats=3, seed=7)
    assert split
    expected, kernel, y = [], [], np.array(GROUPS)
    for repeat, learned in zip(folds(), split.learned, strict=True):
        said, by_kernel = np.empty(28, dtype="<U1"), np.empty(28, dtype="<U1")
        for (train, test), known in zip(repeat, learned, strict=True):
            said[test] = NearestCentroid().fit(X[known], y[known]).predict(X[test])
            pca = KernelPCA(2, kernel="rbf", gamma=0.1, eigen_solver="dense").fit(X[train])
            fitted = NearestCentroid().fit(pca.transform(X[known]), y[known])
            by_kernel[test] = fitted.predict(pca.transform(X[test]))
        expected.append(balanced_accuracy_score(y, said))
        kernel.append(balanced_accuracy_score(y, by_kernel))
    np.testing.assert_allclose(centroid_accuracies(squares(X), GROUPS, split), expected)
    found = kernel_accuracies(rbf_kernel(X, gamma=0.1), GROUPS, split, components=2)
    np.testing.assert_allclose(found, kernel)
    assert len(set(expected) | set(kernel)) > 3


def test_centroids_are_of_as_many_of_each_outside_the_fold():
    split = stratified_splits(GROUPS, ALONE, folds=5, repeats=8, seed=7)
    assert split
    y, used = np.array(GROUPS), np.zeros(28)
    for fold, learned in zip(split.fold, split.learned, strict=True):
        for one, known in enumerate(learned):
            outside = fold != one
            assert not (known & ~outside).any()
            counts = [(known & (y == g)).sum() for g in "abc"]
            assert counts == [min((outside & (y == g)).sum() for g in "abc")] * 3
            used += known
    assert (used > 0).all()  # which are left out is drawn anew in each fold
    even = stratified_splits(["a", "b"] * 10, np.arange(20), folds=5, repeats=2, seed=0)
    assert even
    np.testing.assert_array_equal(even.learned, even.fold[:, None] != np.arange(5)[:, None])


def gaussian(n: int, dim: int, rng: np.random.Generator) -> np.ndarray:
    """Points (n, n) as far from each other and from 0 as n of a standard normal in ``dim`` dimensions (Bartlett 1933)."""
    x = np.tril(rng.standard_normal((n, n)), -1)
    x[np.arange(n), np.arange(n)] = np.sqrt(rng.chisquare(dim - np.arange(n)))
    return x


@pytest.mark.parametrize(
    ("sizes", "dim"), [((7, 7), 10**6), ((5, 6), 10**4), ((10, 6), 10**6), ((4, 7, 9), 10**6)]
)
@pytest.mark.parametrize("points", [1, 3])
def test_in_high_dimension_groups_of_any_size_are_at_chance(sizes, dim, points):
    """Also of trajectories, whose points are correlated: each is one unit."""
    rng, units = np.random.default_rng(4), np.arange(sum(sizes)).repeat(points)
    groups = [g for g, size in zip("abc", sizes, strict=False) for _ in range(size * points)]
    found = []
    for seed in range(120):
        runs, noise = gaussian(sum(sizes), dim, rng), gaussian(len(units), dim, rng)
        squared = squares(runs)[np.ix_(units, units)] + (points > 1) * squares(noise)
        norms = np.linalg.norm(runs, axis=1)[units] + (points > 1) * rng.standard_normal(len(units))
        split = stratified_splits(groups, units, folds=5, repeats=2, seed=seed)
        assert split
        found.append(
            [
                centroid_accuracies(squares(norms[:, None]), groups, split).mean(),
                centroid_accuracies(squared, groups, split).mean(),
                kernel_accuracies(np.exp(-squared / dim), groups, split, components=2).mean(),
            ]
        )
    mean, error = np.mean(found, axis=0), np.std(found, axis=0) / np.sqrt(len(found))
    assert (abs(mean - 1 / len(sizes)) < 3.5 * error).all(), (mean, error)
    assert (error < 0.02).all()


def test_a_difference_is_seen_between_groups_of_unequal_size():
    rng, groups, found = np.random.default_rng(5), ["a"] * 10 + ["b"] * 6, []
    for seed in range(8):
        x = gaussian(17, 10**4, rng)
        shifted = x[:16] + 0.2 * x[16] * np.array([[0], [1]]).repeat([10, 6], axis=0)  # by a fifth of a norm
        e = kernel_pca(shifted, groups=groups, kernel="linear", generator=seeded(seed), repeats=4)
        found.append((e.centroid_accuracy, e.p_value("centroid")))
    accuracy, p = np.mean(found, axis=0)
    assert p < 0.02
    assert accuracy > 0.75


@pytest.mark.parametrize("sizes", [(12, 12), (20, 8)])
@pytest.mark.parametrize("control", ["centroid", "kernel"])
def test_without_a_difference_accuracy_is_at_chance(control, sizes):
    rng, groups = np.random.default_rng(1), ["a"] * sizes[0] + ["b"] * sizes[1]
    split = stratified_splits(groups, np.arange(sum(sizes)), folds=4, repeats=2, seed=0)
    assert split
    assert split.folds == 4
    found = []
    for _ in range(300):
        x = rng.standard_normal((sum(sizes), 5))
        found.append(
            centroid_accuracies(squares(x), groups, split).mean()
            if control == "centroid"
            else kernel_accuracies(rbf_kernel(x), groups, split, components=2).mean()
        )
    z = (np.mean(found) - 0.5) / (np.std(found) / np.sqrt(len(found)))
    assert abs(z) < 3.5
    assert np.std(found) / np.sqrt(len(found)) < 0.008


def test_pseudo_f_of_norms_is_the_analysis_of_variance():
    values = X[:, :1]
    found = permuted_statistics(squares(values), GROUPS, ALONE, permutations=5, generator=seeded())
    by_group = [values[[g == name for g in GROUPS], 0] for name in "abc"]
    assert found[0] == pytest.approx(f_oneway(*by_group).statistic)
    draw = seeded()
    for permuted in found[1:]:
        names = np.array(GROUPS)[torch.randperm(28, generator=draw).numpy()]
        assert permuted == pytest.approx(f_oneway(*[values[names == g, 0] for g in "abc"]).statistic)


def test_pseudo_f_of_vectors_is_written_down():
    found = permuted_statistics(squares(X), GROUPS, ALONE, permutations=0, generator=seeded())
    parts = [X[[g == name for g in GROUPS]] for name in "abc"]
    within = sum(((p - p.mean(axis=0)) ** 2).sum() for p in parts)
    between = sum(len(p) * ((p.mean(axis=0) - X.mean(axis=0)) ** 2).sum() for p in parts)
    assert found.shape == (1,)
    assert found[0] == pytest.approx((between / 2) / (within / 25))


def test_p_values_are_uniform_without_a_difference_and_small_with_one():
    rng, groups, found = np.random.default_rng(2), ["a"] * 10 + ["b"] * 6, []
    for i in range(400):
        x = rng.standard_normal((16, 4)) * rng.lognormal(size=(16, 1))
        e = kernel_pca(x, groups=groups, repeats=0, permutations=99, generator=seeded(i))
        found.append([e.p_value(c) for c in ("norm", "centroid", "kernel")])
    for p in np.array(found).T:
        assert set(np.round(100 * p, 6)) <= set(range(1, 101))
        smooth = p - rng.uniform(0, 0.01, len(p))  # (b + 1)/100 less what makes it continuous
        assert kstest(smooth, "uniform").pvalue > 0.003
        assert np.mean(p <= 0.05) < 0.09
    apart = kernel_pca(X + 5 * np.array([[0], [1], [2]]).repeat([9, 7, 12], axis=0), groups=GROUPS)
    assert [apart.p_value(c) for c in ("norm", "centroid", "kernel")] == [1 / 1000] * 3
    assert apart.centroid_accuracy == 1


def test_p_value_counts_ties_and_the_observed_one():
    e = kernel_pca(X, groups=GROUPS, repeats=0, permutations=3)
    object.__setattr__(e, "statistics", {"norm": np.array([2.0, 1.0, 2.0, 3.0])})
    assert e.p_value("norm") == 3 / 4
    # 0.1 + 0.2 is 0.3 but for rounding
    object.__setattr__(e, "statistics", {"norm": np.array([0.1 + 0.2, 0.3, 0.1, 0.3 - 1e-6])})
    assert e.p_value("norm") == 2 / 4


def test_identical_points_within_groups_are_told_apart():
    x = np.repeat(np.eye(4)[:2] * [[1], [2]], 4, axis=0)
    e = kernel_pca(x, groups=list("aaaabbbb"), components=1)
    assert e.statistics["norm"][0] == e.statistics["centroid"][0] == np.inf
    for control in ("norm", "centroid", "kernel"):
        p = e.p_value(control)
        assert 1 / 1000 < p < 0.06  # 2 of 70 orders
        assert getattr(e, f"{control}_accuracy") == 1


def test_where_all_norms_are_equal_the_norm_tells_nothing():
    x = np.repeat(np.eye(4)[:2], 4, axis=0)
    e = kernel_pca(x, groups=list("aaaabbbb"), components=1)
    assert (e.norm_accuracy, e.centroid_accuracy) == (1 / 2, 1)
    assert np.isnan(e.p_value("norm"))
    thirds = kernel_pca(np.eye(9), groups=list("aaabbbccc"))
    assert thirds.norm_accuracy == pytest.approx(1 / 3)


def test_centroids_as_far_but_for_rounding_are_a_tie():
    """0.1, 0.2 and 0.3 on a line with their mirror image: to points at 0 both centroids are as far."""
    x = np.array([0.1, 0.2, 0.3, -0.3, -0.1, -0.2, 0, 0])[:, None]
    members = np.repeat(np.eye(2, dtype=bool), 3, axis=0)
    known = np.concatenate([members, np.zeros((2, 2), dtype=bool)])
    distance = controls._to_centroids(squares(x), known)[6:] + 1e-17 * np.eye(2)
    assert distance[0, 0] > distance[0, 1]
    assert distance[1, 1] > distance[1, 0]
    assert controls._told(distance, np.eye(2, dtype=bool)) == 1 / 2


def test_a_trajectory_is_in_one_group():
    rng = np.random.default_rng(6)
    runs = [rng.standard_normal((4, 5)) for _ in range(3)]
    with pytest.raises(
        InputError,
        match=r"groups must be the same for all points of one trajectory, but 1@0 is in 'b' and 1@2 in 'c'; name each",
    ):
        kernel_pca(runs, groups=["a"] * 4 + ["b"] * 2 + ["c"] * 2 + ["b"] * 4)
    with pytest.raises(InputError, match=r"but 0@0 is in 'early' and 0@2 in 'late'"):
        kernel_pca(runs, groups=["early", "early", "late", "late"] * 3)


def test_points_of_one_trajectory_stay_together():
    """Four runs of ten nearly equal points each: no four points more than four runs could tell groups apart."""
    rng = np.random.default_rng(3)
    runs = [100 * rng.standard_normal(30) + 1e-3 * rng.standard_normal((10, 30)) for _ in range(8)]
    groups = [name for name in "abababab" for _ in range(10)]
    together = kernel_pca(runs, groups=groups)
    apart = kernel_pca(np.concatenate(runs), groups=groups)
    assert apart.p_value("centroid") == 1 / 1000
    assert together.p_value("centroid") > 0.02  # 70 ways to name eight runs, 2 of them as far apart
    assert together.folds == 4
    assert apart.folds == 5
    split = stratified_splits(groups, np.arange(8).repeat(10), folds=4, repeats=6, seed=0)
    assert split
    by_run = split.fold.reshape(6, 8, 10)
    assert (by_run == by_run[:, :, :1]).all()
    for fold in by_run[:, :, 0]:
        assert sorted(fold[::2]) == sorted(fold[1::2]) == [0, 1, 2, 3]


def test_draws_hang_on_the_generator_alone():
    one, again, other = (kernel_pca(X, groups=GROUPS, generator=seeded(s)) for s in (1, 1, 2))
    for name in ("norm", "centroid", "kernel"):
        np.testing.assert_array_equal(one.statistics[name], again.statistics[name])
        np.testing.assert_array_equal(one.accuracies[name], again.accuracies[name])
        assert one.statistics[name][0] == other.statistics[name][0]
        assert not np.array_equal(one.statistics[name], other.statistics[name])
    assert one.statistics["norm"].shape == (1000,)
    assert one.accuracies["kernel"].shape == (10,)
    assert one.spread("kernel") == pytest.approx(np.std(one.accuracies["kernel"], ddof=1))


def test_all_controls_are_permuted_alike():
    """Positive numbers are their own norms."""
    e = kernel_pca(np.abs(X[:, :1]), groups=GROUPS)
    np.testing.assert_allclose(e.statistics["norm"], e.statistics["centroid"], rtol=1e-9)
    np.testing.assert_array_equal(e.accuracies["norm"], e.accuracies["centroid"])


def test_they_are_saved(tmp_path):
    e = kernel_pca(X, groups=GROUPS)
    found = type(e).load(e.save(tmp_path / "e.npz"))
    assert found.p_value("kernel") == e.p_value("kernel")
    assert found.norm_accuracy == e.norm_accuracy
    np.testing.assert_array_equal(found.trajectory, e.trajectory)
    bare = kernel_pca(X)
    assert type(e).load(bare.save(tmp_path / "b.npz")).accuracies == {}

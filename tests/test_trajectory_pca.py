"""PCA of trajectories against scikit-learn, the plain singular value decomposition, and random walks."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.decomposition import PCA

from analysis import kernel_pca, trajectory_pca
from landscape import InputError, Solution
from landscape.results import Checkpoint, TrajectoryPCA
from landscape.results.embeddings import random_walk_shares
from landscape.trajectories import Trajectory

RNG = np.random.default_rng(0)
P = 20_000
WALK = 5 + np.cumsum(RNG.standard_normal((12, P)) * RNG.uniform(0.1, 1, (12, 1)), axis=0)
OTHER = 5 + np.cumsum(RNG.standard_normal((7, P)), axis=0)


def record(folder: Path, thetas: np.ndarray, optimizer: str = "sgd", every: int = 10) -> Trajectory:
    for i, theta in enumerate(thetas):
        Checkpoint(
            problem="p", optimizer=optimizer, seed=0, theta=theta, names=("a", "b"), shapes=((2, 10), (P - 20,)), step=every * i
        ).save(folder / f"step-{every * i:08d}.npz")  # fmt: skip
    return Trajectory(folder)


def plain(seed: int, at: int = 0) -> Solution:
    shapes = ((2, 10), (P - 20,))
    return Solution(problem="p", optimizer="sgd", seed=seed, theta=WALK[at], names=("a", "b"), shapes=shapes)


def to_sign(found: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """expected (n, k) with the signs of found."""
    return expected * np.sign((found * expected).sum(axis=0))


@pytest.mark.parametrize("components", [1, 2, 5])
def test_about_the_mean_it_is_scikit_learns_pca(components):
    before = WALK.copy()
    found, theirs = (
        trajectory_pca(WALK, components=components, center="mean"),
        PCA(components, svd_solver="full").fit(WALK),
    )
    coordinates = to_sign(found.coordinates, theirs.transform(WALK))
    np.testing.assert_allclose(found.coordinates, coordinates, atol=1e-9)
    np.testing.assert_allclose(found.center, theirs.mean_, rtol=1e-13)
    directions = to_sign(found.directions.T, np.asarray(theirs.components_).T).T
    np.testing.assert_allclose(found.directions, directions, atol=1e-11)
    np.testing.assert_allclose(found.explained, theirs.explained_variance_ratio_, rtol=1e-10)
    left = np.linalg.norm(WALK - theirs.inverse_transform(theirs.transform(WALK)), axis=1)
    np.testing.assert_allclose(found.residual, left, rtol=1e-9)
    np.testing.assert_array_equal(WALK, before)


def test_about_the_last_point_it_is_a_singular_value_decomposition():
    found = trajectory_pca(WALK, components=3)
    u, s, vt = np.linalg.svd(WALK - WALK[-1], full_matrices=False)
    np.testing.assert_allclose(found.coordinates, to_sign(found.coordinates, (u * s)[:, :3]), atol=1e-9)
    np.testing.assert_allclose(found.directions.T, to_sign(found.directions.T, vt[:3].T), atol=1e-11)
    np.testing.assert_allclose(found.eigenvalues, s**2, atol=1e-10 * s[0] ** 2)
    np.testing.assert_allclose(found.explained, s[:3] ** 2 / (s**2).sum(), rtol=1e-12)
    np.testing.assert_array_equal(found.center, WALK[-1])
    np.testing.assert_array_equal(found.coordinates[-1], 0)
    rest = WALK - found.center - found.coordinates @ found.directions
    np.testing.assert_allclose(found.residual, np.linalg.norm(rest, axis=1), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.distances, np.linalg.norm(WALK - WALK[-1], axis=1), rtol=1e-12)
    np.testing.assert_allclose(found.relative_residual[:-1], found.residual[:-1] / found.distances[:-1])
    assert np.isnan(found.relative_residual[-1])
    for column in found.coordinates.T:
        assert column[np.abs(column).argmax()] > 0


def test_directions_are_orthonormal_though_one_is_a_millionth_of_the_other():
    line, bend = RNG.standard_normal((2, P))
    t = np.linspace(0, 1, 30)[:, None]
    thetas = 1e3 + t * line + 2e-6 * np.sin(9 * t) * bend
    found = trajectory_pca(thetas)
    np.testing.assert_allclose(found.directions @ found.directions.T, np.eye(2), atol=1e-14)
    np.testing.assert_allclose(found.coordinates, (thetas - thetas[-1]) @ found.directions.T, atol=1e-8)
    assert found.explained[1] < 1e-10
    assert (found.residual <= 1e-7 * found.distances.max()).all()


@pytest.mark.parametrize("memory", [3 * 12 * 8192 * 8 + 8192 * 12 * 8, 2**30])
def test_files_are_streamed_to_the_same_numbers(tmp_path, memory):
    trajectory = record(tmp_path, WALK)
    found, expected = trajectory_pca(trajectory, memory=memory), trajectory_pca(WALK)
    for name in ("center", "directions", "coordinates", "residual", "eigenvalues"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    assert found.labels[3] == "sgd/0@30"
    assert set(found.groups) == {"sgd"}
    np.testing.assert_array_equal(found.steps, 10 * np.arange(12))
    np.testing.assert_array_equal(expected.steps, np.arange(12))
    records = [Checkpoint.load(file) for file in trajectory.files]
    for single in (trajectory_pca(list(trajectory.files)), trajectory_pca(records)):
        np.testing.assert_array_equal(single.coordinates, found.coordinates)
        np.testing.assert_array_equal(single.steps, found.steps)
        np.testing.assert_array_equal(single.trajectory, 0)
    again = TrajectoryPCA.load(found.save(tmp_path / "pca.npz"))
    np.testing.assert_array_equal(again.directions, found.directions)
    assert again.centered == "last"


def test_several_trajectories_share_a_plane(tmp_path):
    pooled = np.concatenate([WALK, OTHER])
    both = [record(tmp_path / "a", WALK), record(tmp_path / "b", OTHER, "alto", every=7)]
    for center, at in (("last", WALK[-1]), ("mean", pooled.mean(axis=0))):
        found = trajectory_pca(both, center=center)  # pyright: ignore[reportArgumentType]
        u, s, _ = np.linalg.svd(pooled - at, full_matrices=False)
        np.testing.assert_allclose(found.coordinates, to_sign(found.coordinates, (u * s)[:, :2]), atol=1e-9)
        np.testing.assert_allclose(found.center, at, rtol=1e-13)
        np.testing.assert_array_equal(found.trajectory, [0] * 12 + [1] * 7)
        assert found.labels[-1] == "alto/0@42"
        assert np.isnan(found.random_walk_shares).all()
    arrays = trajectory_pca([WALK, OTHER])
    np.testing.assert_array_equal(arrays.trajectory, found.trajectory)
    np.testing.assert_allclose(arrays.steps, [*range(12), *range(7)])


def test_kernel_pca_keeps_where_on_which_trajectory_a_point_lies(tmp_path):
    both = [record(tmp_path / "a", WALK), record(tmp_path / "b", OTHER, "alto", every=7)]
    found = kernel_pca([*both, both[0].files[-1]], gamma="median")
    expected = kernel_pca(np.concatenate([WALK, OTHER, WALK[-1:]]), gamma="median")
    np.testing.assert_array_equal(found.coordinates, expected.coordinates)
    np.testing.assert_array_equal(found.trajectory, [0] * 12 + [1] * 7 + [-1])
    np.testing.assert_array_equal(found.steps, [*range(0, 120, 10), *range(0, 49, 7), 110])
    assert found.labels[12] == "alto/0@0"
    assert found.groups == ("sgd",) * 12 + ("alto",) * 7 + ("sgd",)
    alone = kernel_pca(both[0])
    assert len(alone.labels) == 12


@pytest.mark.parametrize("centered", ["mean", "last"])
def test_a_random_walk_has_the_shares_said_of_it(centered):
    rng, found = np.random.default_rng(1), []
    for _ in range(8):
        walk = np.cumsum(rng.standard_normal((60, 10_000)), axis=0)
        found.append(trajectory_pca(walk, center=centered, components=4))
    shares, expected = np.mean([f.explained for f in found], axis=0), found[0].random_walk_shares
    np.testing.assert_allclose(shares, expected[:4], rtol=0.02)
    assert expected.sum() == pytest.approx(1)
    limit = 6 / np.pi**2 if centered == "mean" else 8 / np.pi**2
    assert random_walk_shares(np.arange(500), centered=centered)[0] == pytest.approx(limit, rel=0.01)
    if centered == "mean":
        j = np.arange(1, 60)
        np.testing.assert_allclose(
            expected[:-1], 6 / (60**2 - 1) / (4 * np.sin(np.pi * j / 120) ** 2), rtol=1e-9
        )
        wave = np.cos(np.pi * (np.arange(60) + 0.5) / 60)
        assert abs(np.corrcoef(found[0].coordinates[:, 0], wave)[0, 1]) > 0.99  # a Lissajous curve


def test_steps_far_apart_weigh_more():
    rng, steps = np.random.default_rng(2), np.array([0, 1, 2, 4, 8, 16, 32, 64, 128])
    walk = np.cumsum(rng.standard_normal((129, 30_000)), axis=0)[steps]
    found = trajectory_pca(walk, center="mean", components=3).explained
    np.testing.assert_allclose(found, random_walk_shares(steps)[:3], rtol=0.05)
    assert abs(random_walk_shares(np.arange(9))[0] - found[0]) > 0.05


def test_bad_input_says_what_to_do(tmp_path):
    with pytest.raises(InputError, match=r"center must be 'last' or 'mean', got 'first'"):
        trajectory_pca(WALK, center="first")  # pyright: ignore[reportArgumentType]
    for components in (0, 12):
        with pytest.raises(
            InputError, match=rf"components must be between 1 and 11 for 12 points, got {components}"
        ):
            trajectory_pca(WALK, components=components)
    line = np.linspace(0, 1, 6)[:, None] * WALK[0]
    with pytest.raises(
        InputError, match=r"components must be at most 1, as the points span no more directions"
    ):
        trajectory_pca(line)
    with pytest.raises(InputError, match=r"components must be at most 0"):
        trajectory_pca(np.ones((3, 5)), components=1)
    trajectory = record(tmp_path, WALK)
    with pytest.raises(
        InputError, match=r"thetas must be points of one trajectory or whole trajectories, but sgd/0@0 "
    ):
        trajectory_pca([trajectory, trajectory.files[0]])
    files, other = list(trajectory.files), record(tmp_path / "other", OTHER, "alto").files
    for two in ([*files, *other], [Checkpoint.load(f) for f in (*files, *other)]):
        with pytest.raises(
            InputError,
            match=r"thetas must be points of one run where .* but sgd/0@0.* and alto/0@0.* are of two; give",
        ):
            trajectory_pca(two)
    for late in ([*files[:3], files[1]], [*files[:2], files[1]]):
        with pytest.raises(
            InputError, match=r"in the order of training, but sgd/0@10 .*comes after sgd/0@[12]0 .*; sort"
        ):
            trajectory_pca(late)
    with pytest.raises(
        InputError, match=r"must all be checkpoints or none, but sgd/0 has no step; leave it out"
    ):
        trajectory_pca([*files, plain(0)])
    with pytest.raises(InputError, match=r"but sgd/0 and sgd/1 are of two"):
        trajectory_pca([plain(0), plain(1)], components=1)
    np.testing.assert_array_equal(trajectory_pca([plain(0), plain(0, 2)], components=1).steps, [0, 1])
    for thetas in (WALK, [WALK], files):
        with pytest.raises(
            InputError,
            match=r"groups must be the same for all points of one trajectory, but .* is in 'a' and .* in 'b'",
        ):
            trajectory_pca(thetas, groups=["a"] * 6 + ["b"] * 6)
    with pytest.raises(InputError, match=r"labels must name each of the 12 solutions, got 1"):
        trajectory_pca(WALK, labels=["a"])

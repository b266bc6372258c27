"""New solutions in an embedding against scikit-learn's transform, for every kernel, from memory and from files."""

from pathlib import Path

import numpy as np
import pytest
from sklearn.decomposition import KernelPCA
from sklearn.metrics.pairwise import laplacian_kernel

from analysis import kernel_pca, project_solutions
from landscape import InputError, Solution

RNG = np.random.default_rng(0)
X = 0.3 + RNG.standard_normal((12, 9_000)) * RNG.uniform(0.5, 2, (12, 1))
NEW = np.concatenate(
    [X[3:5] + 0.1 * RNG.standard_normal((2, 9_000)), RNG.standard_normal((3, 9_000)), 1e3 + 0 * X[:1]]
)


def save(folder: Path, x: np.ndarray) -> list[Path]:
    folder.mkdir()
    return [
        Solution(problem="p", optimizer="o", seed=i, theta=row, names=("a",), shapes=((len(row),),)).save(
            folder / f"{i}.npz"
        )
        for i, row in enumerate(x)
    ]


@pytest.mark.parametrize("kernel", ["rbf", "linear", "cosine", laplacian_kernel])
@pytest.mark.parametrize("components", [1, 3, 11])
def test_scikit_learns_transform_to_sign(kernel, components):
    own = None if isinstance(kernel, str) else kernel
    found = kernel_pca(X, kernel=kernel, components=components)  # pyright: ignore[reportArgumentType]
    theirs = KernelPCA(components, kernel=kernel if own is None else "precomputed", eigen_solver="dense")
    fitted = theirs.fit_transform(X if own is None else own(X))
    signs = np.sign((fitted * found.coordinates).sum(axis=0))
    before = X.copy(), NEW.copy()
    projected = project_solutions(found, X, NEW, kernel=own)
    expected = signs * theirs.transform(NEW if own is None else own(NEW, X))
    np.testing.assert_allclose(projected, expected, atol=1e-9 * np.abs(expected).max())
    back = project_solutions(found, X, X, kernel=own)
    np.testing.assert_allclose(back, found.coordinates, atol=1e-10 * np.abs(found.coordinates).max())
    np.testing.assert_array_equal(X, before[0])
    np.testing.assert_array_equal(NEW, before[1])


def test_files_in_slices_and_one_at_a_time(tmp_path):
    fitted, new = save(tmp_path / "x", X), save(tmp_path / "new", NEW)
    found = kernel_pca(fitted, gamma=1e-4)
    memory = 4 * (18 + 2) * 8192 * 8  # the first and the last fitted one are read twice
    together = project_solutions(found, fitted, new, memory=memory)
    np.testing.assert_allclose(together, project_solutions(found, X, NEW), atol=1e-12)
    for path, coordinates in zip(new, together, strict=True):
        np.testing.assert_allclose(project_solutions(found, fitted, [path]), coordinates[None], atol=1e-12)


@pytest.mark.parametrize("other", [0, 5, 11])
def test_another_vector_of_the_same_norm_is_another_solution(other):
    changed = X.copy()
    changed[other] = X[other, ::-1]
    for kernel in ("rbf", "linear", "cosine"):
        found = kernel_pca(X, kernel=kernel)  # pyright: ignore[reportArgumentType]
        with pytest.raises(InputError, match=r"fitted must be .*, but the distance to (0|11) of \d+ was"):
            project_solutions(found, changed, NEW)
    turned, axis = X.copy(), X[0] / np.linalg.norm(X[0])
    turned[5] = 2 * (X[5] @ axis) * axis - X[5]  # as long, and as far from the first
    with pytest.raises(InputError, match=r"but the distance to 11 of 5 was"):
        project_solutions(kernel_pca(X), turned, NEW)
    swapped = X.copy()
    swapped[[3, 4]] = (
        X[[4, 3]] * (np.linalg.norm(X[[3, 4]], axis=1) / np.linalg.norm(X[[4, 3]], axis=1))[:, None]
    )
    with pytest.raises(InputError, match=r"but the distance to 0 of 3 was"):
        project_solutions(kernel_pca(X), swapped, NEW)


def test_solutions_that_are_all_equal_have_nowhere_to_go():
    found = kernel_pca(np.ones((3, 4)))
    np.testing.assert_array_equal(project_solutions(found, np.ones((3, 4)), np.eye(4)), 0)


def test_bad_input_says_what_to_do():
    found = kernel_pca(X)
    with pytest.raises(InputError, match=r"fitted must be the 12 solutions that were embedded, got 11"):
        project_solutions(found, X[:-1], NEW)
    with pytest.raises(
        InputError, match=r"fitted must be as the embedding was made with, but the norm of 0 was"
    ):
        project_solutions(found, X[::-1], NEW)
    with pytest.raises(InputError, match=r"must have the 9000 parameters of the fitted ones, got 8999"):
        project_solutions(found, X, NEW[:, 1:])
    with pytest.raises(InputError, match=r"solutions must hold at least one, got 0"):
        project_solutions(found, X, [])
    with pytest.raises(InputError, match=r"kernel must be left out, as the embedding was made with 'rbf'"):
        project_solutions(found, X, NEW, kernel=laplacian_kernel)
    own = kernel_pca(X, kernel=laplacian_kernel)
    with pytest.raises(
        InputError, match=r"kernel must be the function 'laplacian_kernel' that the embedding"
    ):
        project_solutions(own, X, NEW)
    with pytest.raises(
        InputError, match=r"kernel must be as the embedding was made with, but the mean of 0 was"
    ):
        project_solutions(own, X, NEW, kernel=lambda x: laplacian_kernel(x, gamma=1e-3))

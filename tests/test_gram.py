"""Norms, distances and kernels of files against those of memory, of wide arithmetic, and of scikit-learn."""

import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from sklearn.decomposition import KernelPCA
from sklearn.metrics.pairwise import cosine_similarity, laplacian_kernel

from analysis import kernel_pca
from analysis.embeddings import gram
from analysis.embeddings.gram import norms_and_cross_distances, norms_and_distances
from analysis.embeddings.kernels import named_kernel
from analysis.embeddings.rows import solution_rows
from landscape import InputError, Solution
from landscape.solution_files import SolutionFile

N, P = 7, 30_001  # four blocks of 8192 columns, the last one of 5425


def theta(dtype: str = "float32") -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.standard_normal((N, P)) * rng.uniform(0.5, 2, (N, 1)) + 0.3).astype(dtype)


def save(folder: Path, x: np.ndarray) -> list[Path]:
    shapes = ((3, 10_000), (1,)) if x.shape[1] == P else ((x.shape[1],),)
    names = tuple("ab"[: len(shapes)])
    return [
        Solution(problem="p", optimizer=f"o{i % 2}", seed=i, theta=row, names=names, shapes=shapes).save(
            folder / f"{i}.npz"
        )
        for i, row in enumerate(x)
    ]


def wide(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Norms and distances in the widest numbers there are, as one would write them down."""
    x = x.astype(np.longdouble)
    return np.sqrt((x * x).sum(axis=1)), np.array([[((a - b) ** 2).sum() for b in x] for a in x])


LEAST = 3 * N * 8192 * 8 + N * 8192 * 4  # three blocks in double precision, one as it is stored


@pytest.mark.parametrize(
    "memory", [LEAST, LEAST + N * 1000 * 4, LEAST + N * 8192 * 4, 2**30]
)  # slices of one block (once with a bit to spare), of two, of all
def test_files_and_arrays_and_records_give_the_same_bits(tmp_path, memory):
    x = theta()
    files = save(tmp_path, x)
    found = norms_and_distances(solution_rows(files), memory=memory)
    for other in (
        x,
        np.asfortranarray(x),
        [Solution.load(f) for f in files],
        [*files[:4], *map(str, files[4:])],
    ):
        for mine, theirs in zip(found, norms_and_distances(solution_rows(other)), strict=True):
            np.testing.assert_array_equal(mine, theirs)
    norms, squared = wide(x)
    np.testing.assert_allclose(found[0], norms.astype(float), rtol=1e-14)
    np.testing.assert_allclose(found[1], squared.astype(float), rtol=1e-14)


def test_blocks_of_any_width_make_no_difference(monkeypatch):
    x = theta("float64")[:, :1000]
    before, whole = x.copy(), norms_and_distances(solution_rows(x))
    monkeypatch.setattr(gram, "NARROWEST", 7)
    monkeypatch.setattr(gram, "WIDEST", 7)
    for mine, theirs in zip(whole, norms_and_distances(solution_rows(x)), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-14)
    np.testing.assert_array_equal(x, before)


def test_many_vectors_make_narrow_blocks():
    x = np.random.default_rng(1).standard_normal((600, 1300))  # three blocks of 512 columns
    _, found = norms_and_distances(solution_rows(x), memory=3 * 600 * 512 * 8)
    expected = (x * x).sum(axis=1)[:, None] + (x * x).sum(axis=1) - 2 * x @ x.T
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-11)


@pytest.mark.parametrize("apart", [0.3, 0.1, 1e-3, 1e-6, 1e-12])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_distances_within_and_between_clusters_are_right_to_rounding(tmp_path, apart, dtype):
    rng = np.random.default_rng(2)
    centres = rng.standard_normal((3, P)) * [[1], [50], [1]] + 20
    x = np.concatenate([centres + apart * rng.standard_normal((3, P)) for _ in range(3)]).astype(dtype)
    x = np.concatenate([x, x[:1]])  # one of them twice
    _, found = norms_and_distances(solution_rows(save(tmp_path, x)))
    np.testing.assert_allclose(found, wide(x)[1].astype(float), rtol=1e-13)
    np.testing.assert_array_equal(found, found.T)
    assert (found.diagonal() == 0).all()
    assert found[0, -1] == 0


@pytest.mark.parametrize("count", [1, 3, 6])
@pytest.mark.parametrize("apart", [1.0, 1e-6])
def test_cross_distances_are_a_part_of_all(tmp_path, count, apart):
    rng = np.random.default_rng(6)
    x = (rng.standard_normal(P) + apart * rng.standard_normal((N, P))).astype(np.float32)
    rows = solution_rows(save(tmp_path, x))
    norms, squared = norms_and_cross_distances(rows, count, memory=LEAST)
    np.testing.assert_allclose(norms, wide(x)[0].astype(float), rtol=1e-14)
    np.testing.assert_allclose(squared, wide(x)[1].astype(float)[:count, count:], rtol=1e-13)


@pytest.mark.parametrize("kernel", ["rbf", "linear", "cosine"])
def test_kernel_pca_of_files_is_scikit_learns(tmp_path, kernel):
    x = theta()
    found = kernel_pca(save(tmp_path, x), kernel=kernel, components=3, memory=LEAST)
    expected = KernelPCA(3, kernel=kernel, eigen_solver="dense").fit_transform(x.astype(np.float64))
    expected *= np.sign((expected * found.coordinates).sum(axis=0))
    np.testing.assert_allclose(found.coordinates, expected, atol=1e-10 * np.abs(expected).max())
    assert found.labels == tuple(f"o{i % 2}/{i}" for i in range(N))
    assert found.groups == tuple(f"o{i % 2}" for i in range(N))
    records = kernel_pca(
        [Solution.load(tmp_path / f"{i}.npz") for i in range(N)], kernel=kernel, components=3
    )
    np.testing.assert_array_equal(found.coordinates, records.coordinates)


def test_a_large_mean_costs_the_linear_kernel_no_accuracy():
    small = np.random.default_rng(3).integers(-8, 8, (6, 50)) / 1024
    found, expected = (kernel_pca(x, kernel="linear", components=5) for x in (small + 2.0**20, small))
    np.testing.assert_allclose(found.eigenvalues[:5], expected.eigenvalues[:5], rtol=1e-10)


def test_cosines_of_very_unequal_and_of_nearly_equal_vectors():
    rng = np.random.default_rng(4)
    x = rng.standard_normal((8, 400)) * 10.0 ** np.arange(-3, 1).repeat(2)[:, None]
    x[1] = x[0] * (1 + 1e-9 * rng.standard_normal(400))
    x[7] = 0
    rows = solution_rows(x)
    norms, squared = norms_and_distances(rows)
    found = named_kernel("cosine", squared, (norms, norms), gamma=1.0)
    np.testing.assert_allclose(found, cosine_similarity(x), atol=1e-12)


def test_memory_is_kept_to(tmp_path):
    x = np.random.default_rng(5).standard_normal((8, 600_000), dtype=np.float32)
    files, memory = save(tmp_path, x), 4 * 2**20  # of 19.2 MB
    rows = solution_rows(files)
    tracemalloc.start()
    try:
        norms_and_distances(rows, memory=memory)
        streamed = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        norms_and_distances(solution_rows(x))
        in_memory = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert 0.5 * memory < streamed < 1.02 * memory
    assert in_memory < 2 * 2**20  # no copy of what is there already


def test_every_byte_is_read_once(tmp_path, monkeypatch):
    rows = solution_rows(save(tmp_path, theta()))
    count = []
    fill = SolutionFile.slices.__globals__["_fill"]
    monkeypatch.setitem(
        SolutionFile.slices.__globals__, "_fill", lambda p, f: (count.append(p.nbytes), fill(p, f))
    )
    norms_and_distances(rows, memory=LEAST)
    assert len(count) == N * 4
    assert sum(count) == N * P * 4


def test_a_function_needs_all_of_them_at_once(tmp_path):
    x = theta()
    files, needed = save(tmp_path, x), (N + 1) * P * 4
    found = kernel_pca(files, kernel=laplacian_kernel, memory=LEAST)
    np.testing.assert_array_equal(found.coordinates, kernel_pca(x, kernel=laplacian_kernel).coordinates)
    with pytest.raises(
        InputError, match=rf"called with all of them at once; raise memory to {needed}, or name"
    ) as e:
        kernel_pca(files, kernel=laplacian_kernel, memory=needed - 1)
    assert "kernel must be 'rbf', 'linear' or 'cosine'" in str(e.value)


def test_bad_input_names_the_file(tmp_path):
    x = theta()
    files = save(tmp_path, x)
    with pytest.raises(InputError, match=rf"memory must be at least {LEAST} bytes for 7 solutions of 30001"):
        kernel_pca(files, memory=LEAST - 1)
    with pytest.raises(InputError, match="sequence of files, got the single path"):
        kernel_pca(str(files[0]))
    other = tmp_path / "other.npz"
    Solution(problem="p", optimizer="o", seed=9, theta=x[0], names=("a",), shapes=((P,),)).save(other)
    with pytest.raises(
        InputError, match=r"parameters of o/9 \(.*other.npz\) and o0/0 \(.*0.npz\) differ in shape"
    ):
        kernel_pca([*files, other])
    good = files[-1].read_bytes()
    at = good.index(x[-1, -2:].tobytes())
    files[-1].write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
    with pytest.raises(InputError, match=r"6.npz cannot be read: it is truncated or no .npz file"):
        kernel_pca(files)
    files[-1].write_bytes(good[: len(good) // 2])
    with pytest.raises(InputError, match=r"6.npz cannot be read: it is truncated or no .npz file"):
        kernel_pca(files)
    files[-1].write_bytes(good)
    x[3, 20_000] = np.inf
    header = np.load(files[3])["header"]
    np.savez(files[3], header=header, theta=x[3])
    with pytest.raises(
        InputError, match=r"must be finite, but o1/3 \(.*3.npz\) holds NaN or infinity; leave"
    ):
        kernel_pca(files, memory=LEAST)
    with pytest.raises(InputError, match="must be 'rbf', 'linear', 'cosine' or a function, got 'poly'"):
        kernel_pca(files, kernel="poly")  # pyright: ignore[reportArgumentType] (before any θ is read)

"""Kernel PCA and trajectory PCA of solutions that are larger than memory together: time and peak memory.

    python -m benchmarks.embedding                                # some ten minutes, and 8 GB of disk while it runs
    python -m benchmarks.embedding --count 50 --dim 1000000       # a minute
    python -m benchmarks.embedding --write docs/performance.md    # also puts the tables between the page's markers

Files of float32 solutions are written to a temporary directory, which is removed. Every row is a process of its own; the files
are dropped from the page cache before it; its peak is the resident memory of the whole process, imports included, with
memory=1 GiB. Beside scikit-learn, solutions are in main memory.
"""

import os
import resource
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from analysis import kernel_pca, trajectory_pca
from landscape import Checkpoint
from landscape.plots.labels import number
from scripts.study import command

from .measure import head, machine, replaced, row, turns

MEMORY = 2**30
SEVERAL, SMALL, REPEATS = 50, 1_000_000, 5  # beside scikit-learn


def main(count: int = 200, dim: int = 10_000_000, write: str | None = None) -> None:
    """
    Args:
        count: how many solutions.
        dim: parameters of each.
        write: a page whose tables are replaced.
    """
    with tempfile.TemporaryDirectory() as folder:
        files = written(Path(folder), count, dim)
        lines = [f"{machine()}; {count} solutions of {dim:,} parameters:", "", *streamed(files)]
    lines += ["", f"{SEVERAL} solutions of {SMALL:,} parameters in main memory:", "", *beside()]
    print("\n".join(lines))
    if write:
        replaced(Path(write), "embedding", "\n".join(lines))


def written(folder: Path, count: int, dim: int) -> list[Path]:
    """Files of a walk of ``count`` points, each in float32."""
    draw, files = np.random.default_rng(0), []
    theta = draw.standard_normal(dim, dtype=np.float32)
    for i in range(count):
        theta = theta + draw.standard_normal(dim, dtype=np.float32) / 10
        told = {"problem": "p", "optimizer": "a", "seed": 0, "names": ("w",), "shapes": ((dim,),)}
        one = Checkpoint(theta=theta, step=i, **told)
        files.append(one.save(folder / f"{i}.npz"))
    return files


def streamed(files: list[Path]) -> list[str]:
    lines = list(head("what", "seconds", "peak memory, GiB", "reads of each file"))
    for name, work, reads in (("kernel_pca", kernel, 1), ("trajectory_pca", trajectory, 2)):
        seconds, peak = apart(work, files)
        lines.append(row(name, number(seconds), number(peak / 2**30), str(reads)))
    return lines


def beside() -> list[str]:
    """Ours and scikit-learn's on vectors in main memory, and how far the coordinates are from those in double precision."""
    from sklearn.decomposition import KernelPCA

    x = np.cumsum(np.random.default_rng(0).standard_normal((SEVERAL, SMALL), dtype=np.float32), axis=0)
    exact = KernelPCA(2, kernel="rbf").fit_transform(x.astype(np.float64))
    works: list[Callable[[], np.ndarray]] = [
        lambda: kernel_pca(x).coordinates,
        lambda: KernelPCA(2, kernel="rbf").fit_transform(x),
    ]
    seconds = np.median(turns(works, REPEATS, warm_up=1), axis=0)
    lines = list(head("what", "seconds", "ratio", "coordinates off by"))
    for name, spent, work in zip(("kernel_pca", "scikit-learn's KernelPCA"), seconds, works, strict=True):
        found = work()
        off = np.abs(found * np.sign((found * exact).sum(axis=0)) - exact).max() / np.abs(exact).max()
        lines.append(row(name, number(spent), number(spent / seconds[1]), f"{off:.0e}"))
    return lines


def apart(work: Callable[[list[Path]], Any], files: list[Path]) -> tuple[float, float]:
    """Seconds and peak bytes of a work in a process of its own, with no file in the page cache."""
    for file in files:
        with file.open("rb") as handle:
            os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_measured, work, files).result()


def _measured(work: Callable[[list[Path]], Any], files: list[Path]) -> tuple[float, float]:
    start = time.perf_counter()
    work(files)
    return time.perf_counter() - start, 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def kernel(files: list[Path]) -> None:
    kernel_pca(files, memory=MEMORY, groups=[f"group {i % 2}" for i in range(len(files))])


def trajectory(files: list[Path]) -> None:
    trajectory_pca(files, memory=MEMORY)


if __name__ == "__main__":
    command(main)

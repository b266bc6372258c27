"""Kernel PCA in function space: of what solutions compute, which permuting their hidden units does not change."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from landscape import InputError, Problem, Solution
from landscape.outputs import Kind, outputs
from landscape.problems import Split
from landscape.results import Checkpoint, Embedding
from landscape.trajectories import Trajectory

from .kernel import Gamma, kernel_pca
from .kernels import Kernel
from .rows import One, Rows

Functions = Sequence[One | Trajectory] | Trajectory


def function_embedding(
    problem: Problem,
    solutions: Functions,
    *,
    split: Split = "test",
    count: int | None = 512,
    index: Tensor | None = None,
    kind: Kind = "probabilities",
    kernel: Kernel = "rbf",
    gamma: Gamma = "median",
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
    **options: Any,
) -> Embedding:
    """kernel_pca of the outputs of n solutions on the same probe examples, each flattened to one vector.

    Two networks that differ by a permutation of hidden units, or by any rescaling of layers that leaves the function as it
    is, are one point here and two in parameter space. The distance of two points is the root of the summed squared
    differences of their outputs, and "norms" are the lengths of the vectors of outputs: of probabilities, how confident a
    network is. ``norm_accuracy`` is so the accuracy by confidence alone.

    The RBF's width is the median distance by default, as probabilities are bounded: with scikit-learn's 1/dim the largest
    exponent would be 2/C, where an RBF is linear to a few per cent.

    Cost: one forward pass over the examples for each solution, whose parameters are in memory one at a time; (n, m·C)
    numbers. What outputs and kernel_pca say of errors holds.

    Args:
        problem: what all of them were found on.
        solutions: records, paths of files, Trajectories, or a list of these.
        split, count, index, kind, dtype, device: as in landscape.outputs.outputs.
        kernel, gamma, options: as in kernel_pca.
    """
    vectors, of = [], []
    for solution, which in _each(solutions):
        found = outputs(
            problem, solution, split=split, count=count, index=index, kind=kind, dtype=dtype, device=device
        )
        vectors.append(found.ravel())
        step = float(solution.step) if isinstance(solution, Checkpoint) else float("nan")
        of.append((solution.label, solution.optimizer, step, which))
    if len(vectors) < 2:
        raise InputError(f"solutions must hold at least two, got {len(vectors)}; train another one.")
    labels, groups, steps, trajectory = zip(*of, strict=True)
    rows = Rows(vectors, labels, groups, labels, np.array(steps), np.array(trajectory))
    about = {"outputs": kind, "split": split, "numbers": rows.dim, **(options.pop("about", None) or {})}
    return kernel_pca(rows, kernel=kernel, gamma=gamma, space="outputs", about=about, **options)


def _each(solutions: Functions) -> Iterator[tuple[Solution, int]]:
    """Solutions, one in memory at a time, and which trajectory each is of: −1 for one by itself."""
    if isinstance(solutions, str | os.PathLike):
        raise InputError(f"solutions must be a sequence of files, got the single path {solutions}.")
    count = 0
    for one in [solutions] if isinstance(solutions, Trajectory) else solutions:
        if isinstance(one, Trajectory):
            yield from ((point, count) for point in one)
            count += 1
        else:
            yield one if isinstance(one, Solution) else Solution.load(one), -1

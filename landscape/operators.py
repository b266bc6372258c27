"""The Hessian at one point as a matrix: a SciPy operator that is never formed, or dense for few parameters."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from .errors import InputError
from .objective import Objective
from .parameters import float64_array
from .products import MEMORY, HessianProducts

Array = NDArray[np.float64]


def hessian_operator(
    objective: Objective, theta: Any, *, engine: str = "auto", count: int = 0
) -> LinearOperator:
    """∇²L(θ) as a symmetric SciPy LinearOperator (P, P) in float64, for whatever SciPy offers on those.

    Products are taken in the objective's dtype and on its device. What hangs on θ is kept between them.

    Cost: one Hessian-vector product a column it is applied to; one gradient or two at the first.
    Memory: what autograd keeps of one gradient.

    Args:
        engine, count: as in HessianProducts: how products are taken, and how many are to come.

    Raises:
        InputError: theta is not one point, or an unknown engine.
    """
    products = HessianProducts(objective, theta, engine=engine, count=count)
    dim = objective.dim

    def matmat(columns: Array) -> Array:
        rows = np.ascontiguousarray(columns.T, dtype=np.float64)
        return float64_array(products(torch.from_numpy(rows))).T

    def matvec(v: Array) -> Array:
        return matmat(v.reshape(dim, 1))[:, 0]

    # As keywords in a dictionary, since SciPy's __new__ hides their names from type checkers.
    functions: dict[str, Any] = {
        "matvec": matvec,
        "rmatvec": matvec,
        "matmat": matmat,
        "rmatmat": matmat,
        "dtype": np.float64,
    }
    return LinearOperator((dim, dim), **functions)


def dense_hessian(objective: Objective, theta: Any, *, chunk: int = 64, memory: int = MEMORY) -> Tensor:
    """∇²L(θ) (P, P) on the objective's device, symmetrized: (A + Aᵀ)/2 of the rows A that products give.

    Cost: P Hessian-vector products, ``chunk`` rows at a time.
    Memory: twice P² numbers in the objective's dtype, and what autograd keeps of one gradient.

    Args:
        memory: bytes that those 2P² numbers may take; 4 GiB by default, which is P = 16,384 in double precision.

    Raises:
        InputError: they would take more, theta is not one point, or chunk is not positive.
    """
    if chunk < 1:
        raise InputError(f"chunk must be at least 1, got {chunk}.")
    dim = objective.dim
    needed = 2 * dim**2 * objective.dtype.itemsize
    if needed > memory:
        raise InputError(
            f"memory must be at least {needed:,} bytes for the dense Hessian of {dim:,} parameters, got {memory:,}; "
            "raise it, or use hessian_operator, which forms no matrix."
        )
    products = HessianProducts(objective, theta, count=dim)
    hessian = torch.empty(dim, dim, dtype=objective.dtype, device=objective.device)
    for first in range(0, dim, chunk):
        rows = hessian[first : first + chunk].zero_()
        rows.diagonal(first).fill_(1)
        rows.copy_(products(rows))
    return (hessian + hessian.T).div_(2)

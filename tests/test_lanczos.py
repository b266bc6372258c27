"""Block Lanczos on matrices that are known: copies, repeated eigenvalues, restarts, orthogonality."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from dense import NETWORKS, reference, rotated
from torch import Tensor

from analysis.curvature.lanczos import End, Ritz, chosen, lanczos

ENDS: list[End] = ["LA", "SA", "LM", "BE"]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def found(matrix: Tensor, k: int, *, seed: int = 0, **settings: Any) -> tuple[np.ndarray, Ritz, list[Tensor]]:
    """Rayleigh quotients ascending, the record, and the blocks that products were taken of."""
    blocks, g = [], generator(seed)

    def products(v: Tensor) -> Tensor:
        blocks.append(v.clone())
        return v @ matrix

    def draw(count: int) -> Tensor:
        return torch.randn(count, len(matrix), generator=g, dtype=matrix.dtype)

    usual = {"which": "LA", "block": 2, "basis": 20, "tolerance": 1e-9, "max_matvecs": 5000}
    ritz = lanczos(products, draw, k, **(usual | settings))
    return np.sort(((ritz.vectors @ matrix) * ritz.vectors).sum(1).numpy()), ritz, blocks


def spectrum(*dominant: float, n: int = 120) -> Tensor:
    """Eigenvalues: these, and the rest spread over [−1, 1]."""
    rest = torch.linspace(-1, 1, n - len(dominant), dtype=torch.float64)
    return torch.cat([torch.tensor(dominant, dtype=torch.float64), rest])


@pytest.mark.parametrize("which", ENDS)
@pytest.mark.parametrize("block", [1, 2, 4])
@pytest.mark.parametrize("name", NETWORKS)
def test_networks_with_restarts(name, block, which):
    hessian = reference(name).hessian
    exact = torch.linalg.eigvalsh(hessian)
    values, ritz, blocks = found(hessian, 3, which=which, block=block, basis=24)
    np.testing.assert_allclose(values, exact[chosen(exact, 3, which)].sort()[0], rtol=1e-9)
    np.testing.assert_allclose(ritz.vectors @ ritz.vectors.T, np.eye(3), atol=1e-12)
    assert ritz.converged.all()
    assert ritz.matvecs == sum(map(len, blocks))
    assert all(len(b) == block for b in blocks)


@pytest.mark.parametrize("k", [2, 5, 8])
@pytest.mark.parametrize("which", ENDS)
def test_selection(k, which):
    values = torch.tensor([-5.0, -2.0, -1.0, 0.5, 0.7, 3.0, 4.0, 6.0])
    expected = {
        "LA": values[8 - k :],
        "SA": values[:k],
        "LM": values[values.abs().argsort(descending=True)[:k]],
        "BE": torch.cat([values[: k // 2], values[8 - (k + 1) // 2 :]]),
    }
    torch.testing.assert_close(values[chosen(values, k, which)], expected[which])


@pytest.mark.parametrize("block", [1, 2, 4])
def test_no_copies_in_many_steps(block):
    # Tools that do not orthogonalize in full return the dominant eigenvalue several times here.
    eigenvalues = spectrum(1e4, 1e3, n=200)
    matrix = rotated(eigenvalues, generator(2))
    values, _, blocks = found(matrix, 5, block=block, basis=90, tolerance=0, max_matvecs=88)
    np.testing.assert_allclose(values, eigenvalues.sort()[0][-5:], rtol=1e-4)
    np.testing.assert_allclose(values[-2:], [1e3, 1e4], rtol=1e-12)
    basis = torch.cat(blocks)
    assert len(basis) == 88
    assert (basis @ basis.T - torch.eye(88, dtype=torch.float64)).abs().max() < 1e-10


def adverse(name: str, n: int = 200) -> Tensor:
    """Matrices whose Krylov spaces end or nearly end after a few steps, or whose products are mostly what is known."""
    few = torch.tensor([7.0, 7.0, 5.0, 5.0, -3.0, 1.0] + [0.0] * (n - 6), dtype=torch.float64)
    faint = few + 1e-9 * torch.linspace(-1, 1, n, dtype=torch.float64)
    signs = torch.ones(n, dtype=torch.float64)
    signs[::2] = -1
    return {
        "low rank": lambda: torch.diag(few),
        "low rank, rotated": lambda: rotated(few, generator(5)),
        "nearly of low rank": lambda: rotated(faint, generator(5)),
        "one dominates": lambda: rotated(spectrum(1e12, 1e3, n=n), generator(5)),
        "reflection": lambda: rotated(signs, generator(5)),
        "zero": lambda: torch.zeros(n, n, dtype=torch.float64),
    }[name]()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("block", [1, 2, 4])
@pytest.mark.parametrize(
    "name",
    ["low rank", "low rank, rotated", "nearly of low rank", "one dominates", "reflection", "zero"],
)
def test_the_basis_is_orthonormal_to_rounding(name, block, dtype):
    _, _, blocks = found(
        adverse(name).to(dtype), 5, block=block, basis=100, tolerance=torch.nan, max_matvecs=96
    )
    basis = torch.cat(blocks)
    assert len(basis) == 96
    assert (basis @ basis.T - torch.eye(96, dtype=dtype)).abs().max() < 50 * torch.finfo(dtype).eps


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("block", [1, 4])
@pytest.mark.parametrize("which", ENDS)
def test_images_are_products_after_many_restarts(which, block, dtype):
    matrix = rotated(spectrum(5.0, 4.0), generator(4)).to(dtype)
    _, ritz, blocks = found(
        matrix, 3, which=which, block=block, basis=12, tolerance=torch.nan, max_matvecs=200
    )
    assert len(blocks) * block == 200
    off = (ritz.images - ritz.vectors @ matrix).norm(dim=1)
    assert off.max() < 100 * torch.finfo(dtype).eps * 5  # of the largest |λ|
    torch.testing.assert_close(ritz.vectors @ ritz.vectors.T, torch.eye(3, dtype=dtype))


@pytest.mark.parametrize("block", [1, 2, 3, 4])
def test_repeated_eigenvalues_are_found_up_to_the_block(block):
    eigenvalues = spectrum(*[3.0] * block, 2.0)
    values, ritz, _ = found(rotated(eigenvalues, generator(3)), block + 1, block=block)
    np.testing.assert_allclose(values, [2.0] + [3.0] * block, rtol=1e-9)
    np.testing.assert_allclose(ritz.vectors @ ritz.vectors.T, np.eye(block + 1), atol=1e-12)


@pytest.mark.parametrize("block", [1, 2, 4])
def test_more_eigenvalues_than_a_low_rank_has(block):
    eigenvalues = torch.tensor([7.0] * block + [-3.0] + [0.0] * (99 - block), dtype=torch.float64)
    values, ritz, _ = found(torch.diag(eigenvalues), block + 4, which="LM", block=block)
    np.testing.assert_allclose(values, [-3.0, 0, 0, 0] + [7.0] * block, atol=1e-12)
    np.testing.assert_allclose(ritz.vectors @ ritz.vectors.T, np.eye(block + 4), atol=1e-12)


@pytest.mark.parametrize("value", [0.0, 1.0, -1.0, 3e-19])
def test_multiples_of_the_identity(value):
    values, ritz, _ = found(value * torch.eye(60, dtype=torch.float64), 7)
    np.testing.assert_allclose(values, value, rtol=1e-12)
    np.testing.assert_allclose(ritz.vectors @ ritz.vectors.T, np.eye(7), atol=1e-12)
    assert ritz.converged.all()


def test_convergence_is_that_of_true_residuals():
    matrix = rotated(spectrum(5.0, 4.0), generator(4))
    scale = float(matrix.norm()) / 120**0.5
    for tolerance in (1e-2, 1e-5, 1e-8):
        values, ritz, _ = found(matrix, 3, tolerance=tolerance)
        residual = (
            ritz.vectors @ matrix
            - ((ritz.vectors @ matrix) * ritz.vectors).sum(1, keepdim=True) * ritz.vectors
        )
        assert (residual.norm(dim=1).numpy() <= 2 * tolerance * (np.abs(values).max() + scale)).all()
    assert found(matrix, 3, tolerance=1e-2)[1].matvecs < found(matrix, 3, tolerance=1e-8)[1].matvecs


def test_products_may_run_out():
    matrix = torch.diag(torch.linspace(0, 1, 500, dtype=torch.float64) ** 0.2)
    _, ritz, blocks = found(matrix, 4, max_matvecs=30)
    assert ritz.matvecs == sum(map(len, blocks)) == 30
    assert not ritz.converged.all()
    assert ritz.finite


def test_products_that_are_not_finite_end_it():
    _, ritz, blocks = found(torch.full((60, 60), torch.inf, dtype=torch.float64), 3)
    assert not ritz.finite
    assert not ritz.converged.any()
    assert len(blocks) == 1

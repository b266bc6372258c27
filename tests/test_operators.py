"""The Hessian as an operator and as a matrix, against dense references."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from dense import NETWORKS, quadratic, reference
from scipy.sparse.linalg import eigsh

from landscape import InputError
from landscape.operators import dense_hessian, hessian_operator


@pytest.mark.parametrize("name", NETWORKS)
def test_the_operator_is_the_hessian(name):
    net = reference(name)
    before = net.theta.clone()
    operator: Any = hessian_operator(net.objective, net.theta)
    columns = np.random.default_rng(0).standard_normal((operator.shape[1], 3))
    expected = net.hessian.numpy() @ columns
    np.testing.assert_allclose(operator @ columns, expected, atol=1e-13)
    np.testing.assert_allclose(operator @ columns[:, 0], expected[:, 0], atol=1e-13)
    np.testing.assert_allclose(operator @ columns[:, :1], expected[:, :1], atol=1e-13)
    np.testing.assert_allclose(operator.rmatvec(columns[:, 1]), expected[:, 1], atol=1e-13)
    np.testing.assert_allclose(operator.H @ columns, expected, atol=1e-13)
    np.testing.assert_allclose(columns.T @ operator, expected.T, atol=1e-13)
    assert (operator.dtype, operator.shape) == (np.float64, (len(net.theta),) * 2)
    assert net.theta.equal(before)


def test_scipy_takes_it():
    net = reference("conv")
    found = eigsh(hessian_operator(net.objective, net.theta), 3, which="LA", return_eigenvectors=False)
    np.testing.assert_allclose(np.sort(found), torch.linalg.eigvalsh(net.hessian)[-3:], rtol=1e-9)


def test_single_precision_gives_double():
    matrix = torch.tensor([[2.0, 1.0], [1.0, -3.0]])
    operator: Any = hessian_operator(quadratic(matrix), [0.0, 0.0])
    product = operator @ np.array([1.0, 2.0])
    np.testing.assert_allclose(product, [4, -5], rtol=1e-6)
    assert product.dtype == np.float64


@pytest.mark.parametrize("chunk", [1, 7, 64, 1000])
@pytest.mark.parametrize("name", ["mlp", "batchnorm"])
def test_the_matrix_is_the_hessian_in_any_chunks(name, chunk):
    net = reference(name)
    hessian = dense_hessian(net.objective, net.theta, chunk=chunk)
    torch.testing.assert_close(hessian, net.hessian, rtol=0, atol=1e-13)
    assert hessian.equal(hessian.T)


def test_bad_input_says_what_to_do():
    objective = quadratic(torch.eye(9, dtype=torch.float64))
    with pytest.raises(InputError, match=r"theta must be one point \(P,\), got shape \(2, 9\)"):
        hessian_operator(objective, torch.zeros(2, 9))
    with pytest.raises(InputError, match=r"theta must be one point \(P,\), got shape \(2, 9\)"):
        dense_hessian(objective, torch.zeros(2, 9))
    with pytest.raises(InputError, match=r"engine must be auto, .* got 'magic'"):
        hessian_operator(objective, torch.zeros(9), engine="magic")
    with pytest.raises(InputError, match=r"chunk must be at least 1, got 0"):
        dense_hessian(objective, torch.zeros(9), chunk=0)
    with pytest.raises(
        InputError,
        match=r"memory must be at least 1,296 bytes for the dense Hessian of 9 parameters, got 1,295",
    ):
        dense_hessian(objective, torch.zeros(9), memory=1295)
    assert dense_hessian(objective, torch.zeros(9), memory=1296).equal(torch.eye(9, dtype=torch.float64))

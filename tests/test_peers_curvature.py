"""Traces, eigenvalues and densities beside other packages': the same numbers where they are right, where not, by name."""

from __future__ import annotations

import copy
import importlib
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from dense import dense_hessian, quadratic, rotated
from torch import Tensor, nn

from analysis import hessian_trace, spectral_density, top_eigenpairs
from analysis.curvature.split import split_trace
from benchmarks.models import Case
from benchmarks.peers import PEERS, curvlinops_of, pyhessian_of
from benchmarks.peers_curvature import (
    ALL_DENSITIES,
    ALL_EIGENVALUES,
    ALL_TRACES,
)
from landscape import Objective, model_objective

F64 = torch.float64
BATCHES = (10, 8, 5)


def installed(package: str) -> Any:
    """The package's own module; the test is skipped without it."""
    if not PEERS[package].installed:
        pytest.skip(f"{package} is not installed; {PEERS[package].install}")
    return importlib.import_module(PEERS[package].modules[0])


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@dataclass(frozen=True, eq=False)
class Network:
    """A smooth network in float64 with its data in one batch, the same in uneven ones, and the exact Hessian of the mean loss."""

    case: Case
    batches: list[tuple[Tensor, Tensor]]
    objective: Objective
    theta: Tensor
    hessian: Tensor

    @property
    def eigenvalues(self) -> np.ndarray:
        """Largest first."""
        return torch.linalg.eigvalsh(self.hessian).flip(0).numpy()


@cache
def network(norm: bool = False) -> Network:
    generator = seeded(0)
    layers = [nn.Linear(6, 8), *([nn.LayerNorm(8)] if norm else []), nn.Softplus(), nn.Linear(8, 3)]
    model = nn.Sequential(*layers).double().eval()
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(float((p == 1).all()) + torch.randn(p.shape, generator=generator, dtype=F64) / 2)
    inputs = torch.randn(sum(BATCHES), 6, generator=generator, dtype=F64)
    inputs = (
        inputs * torch.linspace(0.2, 3, sum(BATCHES), dtype=F64)[:, None]
    )  # examples that weigh differently
    targets = torch.randint(3, (sum(BATCHES),), generator=generator)
    batches = list(zip(inputs.split(BATCHES), targets.split(BATCHES), strict=True))
    case = Case("small", model, nn.CrossEntropyLoss(), (inputs, targets))
    objective = model_objective(model, case.loss_fn, batches)
    assert objective.parameters is not None
    theta = objective.parameters.theta(model)
    return Network(
        case,
        batches,
        objective,
        theta,
        dense_hessian(model_objective(model, case.loss_fn, [case.batch]), theta),
    )


class Bowl(nn.Module):
    """½wᵀAw as the output of a model, whose loss is its output: the Hessian is A."""

    def __init__(self, matrix: Tensor) -> None:
        super().__init__()
        self.w, self.matrix = nn.Parameter(torch.ones(len(matrix), dtype=matrix.dtype)), matrix

    def forward(self, inputs: Tensor) -> Tensor:
        return 0.5 * self.w @ self.matrix @ self.w


class Output(nn.Module):
    def forward(self, output: Tensor, target: Tensor) -> Tensor:
        return output


def bowl(matrix: Tensor) -> Case:
    return Case("bowl", Bowl(matrix), Output(), (torch.zeros(1), torch.zeros(1)))


@cache
def hessian_like(dtype: torch.dtype = F64) -> Tensor:
    """(400, 400), of trace 1: ten outliers far above a bulk of both signs, in no special directions."""
    generator = seeded(1)
    bulk = torch.randn(390, generator=generator, dtype=F64) / 20
    values = torch.cat([torch.logspace(0, 1, 10, dtype=F64), bulk])
    return rotated(values / values.sum(), generator).to(dtype)


def matrix_of(operator: Any, dim: int) -> Tensor:
    return torch.stack([operator @ column for column in torch.eye(dim, dtype=F64)])


def product_of(held: Any, v: Tensor) -> Tensor:
    """pyhessian's product over its batches."""
    sizes = [p.numel() for p in held.params]
    parts = [piece.view_as(p) for piece, p in zip(v.split(sizes), held.params, strict=True)]
    return torch.cat([part.reshape(-1) for part in held.dataloader_hv_product(parts)[1]])


# The same numbers where they are right: one batch of a smooth network.


@pytest.mark.parametrize("name", ALL_TRACES)
def test_traces_agree(name: str) -> None:
    """The mean over 100 seeds lies within four of its standard errors of the exact trace, as ours does, by both methods."""
    installed(name.partition(",")[0])
    small = network()
    exact = float(small.hessian.trace())
    estimate = ALL_TRACES[name](small.case)
    values = np.array([estimate(12, seed) for seed in range(100)])
    assert abs(values.mean() - exact) < 4 * values.std(ddof=1) / 10
    assert values.std(ddof=1) < 0.5 * exact  # or agreement would mean nothing
    for ours in (
        split_trace(small.objective, small.theta, matvecs=20, generator=seeded(0)),
        hessian_trace(small.objective, small.theta, matvecs=40, generator=seeded(0)),
    ):
        assert 0 < ours.stderr < 0.1 * exact
        assert abs(ours.value - exact) < 4 * ours.stderr


@pytest.mark.parametrize(
    ("name", "rtol"), [("pyhessian", 2e-3), ("curvlinops", 1e-8), ("hessian-eigenthings", 1e-8)]
)
def test_largest_eigenvalues_agree(name: str, rtol: float) -> None:
    installed(name)
    small = network()
    theirs = ALL_EIGENVALUES[name](small.case)(3, 1e-6, 0)
    np.testing.assert_allclose(theirs.values, small.eigenvalues[:3], rtol=rtol)
    ours = top_eigenpairs(small.objective, small.theta, 3, generator=seeded(0))
    np.testing.assert_allclose(ours.values, small.eigenvalues[:3], rtol=1e-10)


@pytest.mark.parametrize("name", ALL_DENSITIES)
def test_densities_agree(name: str) -> None:
    """The first two moments lie within three standard errors of the exact ones, and nodes end where the spectrum does."""
    installed(name)
    small, probes = network(), 20
    exact, dim = small.eigenvalues, len(small.theta)
    points, weights = ALL_DENSITIES[name](small.case)(probes, 30, 0)
    ours = spectral_density(small.objective, small.theta, probes=probes, steps=30, generator=seeded(0))
    assert weights.sum() == pytest.approx(1, abs=1e-2)  # curvlinops' grid cuts its bumps off
    for power in (1, 2):
        error = np.sqrt(2 * np.sum(exact ** (2 * power)) / probes) / dim  # of normal probes, the most
        assert (points**power * weights).sum() == pytest.approx(np.mean(exact**power), abs=3 * error)
        assert ours.moment(power)[0] == pytest.approx(np.mean(exact**power), abs=3 * error)
    margin = 0.1 * (exact[0] - exact[-1]) if name == "curvlinops" else 1e-4
    assert points.max() == pytest.approx(exact[0], abs=margin)
    assert points.min() == pytest.approx(exact[-1], abs=margin)
    assert ours.highest == pytest.approx(exact[0], rel=1e-10)


@pytest.mark.filterwarnings("ignore:Using backward:UserWarning")
@pytest.mark.parametrize("name", ["pyhessian", "curvlinops"])
def test_uneven_batches_are_weighted(name: str) -> None:
    """By these two, as by us: the Hessian over batches of 10, 8 and 5 is that of the 23 examples."""
    module, small = installed(name), network()
    model = copy.deepcopy(small.case.model)
    if name == "pyhessian":
        held = module.hessian(model, small.case.loss_fn, dataloader=small.batches, cuda=False)
        theirs = torch.stack([product_of(held, v) for v in torch.eye(len(small.theta), dtype=F64)])
    else:
        operator = module.HessianLinearOperator(
            model, small.case.loss_fn, list(model.parameters()), small.batches, check_deterministic=False
        )
        theirs = operator @ torch.eye(len(small.theta), dtype=F64)
    torch.testing.assert_close(theirs, small.hessian, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(
        small.objective.hvp(small.theta, torch.eye(len(small.theta), dtype=F64)), small.hessian
    )


# Where they are not right.


def test_hessian_eigenthings_averages_uneven_batches_without_weights() -> None:
    """Its Hessian over batches is the mean of theirs, whatever their sizes; ours is that of the mean loss of all examples."""
    module, small = installed("hessian-eigenthings"), network()
    loss = module.supervised_loss(small.case.loss_fn)
    theirs = matrix_of(
        module.HessianOperator(copy.deepcopy(small.case.model), small.batches, loss), len(small.theta)
    )
    each = [model_objective(small.case.model, small.case.loss_fn, [batch]) for batch in small.batches]
    torch.testing.assert_close(theirs, sum(dense_hessian(o, small.theta) for o in each) / 3)
    assert (theirs - small.hessian).norm() > 0.05 * small.hessian.norm()
    ours = hessian_trace(small.objective, small.theta, matvecs=len(small.theta))
    assert ours.value == pytest.approx(float(small.hessian.trace()), rel=1e-12)


@pytest.mark.filterwarnings("ignore:Using backward:UserWarning")
def test_pyhessian_stops_long_before_the_error_that_was_asked_for() -> None:
    """At 0.1 % it is off by several, as the error bar of its own samples says; ours goes on until the error bar is 0.1 %."""
    installed("pyhessian")
    held = pyhessian_of(bowl(hessian_like()))
    torch.manual_seed(0)
    runs = [np.array(held.trace(tol=1e-3, maxIter=1000)) for _ in range(60)]
    errors = np.array([abs(samples.mean() - 1) for samples in runs])
    bars = np.array([samples.std(ddof=1) / len(samples) ** 0.5 for samples in runs])
    assert errors.mean() > 0.03
    assert np.median(bars) > 0.03
    objective, theta = quadratic(hessian_like()), torch.ones(400, dtype=F64)
    for seed in range(5):
        ours = hessian_trace(objective, theta, rtol=1e-3, generator=seeded(seed))
        assert ours.stderr <= 1e-3
        assert abs(ours.value - 1) < max(4 * ours.stderr, 1e-12)


@pytest.mark.filterwarnings("ignore:Using backward:UserWarning")
def test_pyhessian_stops_at_the_second_sample_where_the_trace_is_negative() -> None:
    """It divides by the running mean, not its size."""
    installed("pyhessian")
    torch.manual_seed(0)
    assert len(pyhessian_of(bowl(-hessian_like())).trace(tol=1e-3, maxIter=1000)) == 2
    ours = hessian_trace(
        quadratic(-hessian_like()), torch.ones(400, dtype=F64), rtol=0.01, generator=seeded(0)
    )
    assert ours.value == pytest.approx(-1, abs=4 * ours.stderr + 1e-12)


@pytest.mark.filterwarnings("ignore:Using backward:UserWarning")
def test_pyhessian_eigenvalues_are_the_largest_in_magnitude_and_stop_early() -> None:
    """Of 3, −2, 1 and 0.99 (the rest small) it calls −2 the second; ours are the largest, in order."""
    installed("pyhessian")
    values = torch.tensor([3.0, -2.0, 1.0, 0.99] + [0.01] * 40, dtype=F64)
    matrix = rotated(values, seeded(2))
    theirs = ALL_EIGENVALUES["pyhessian"](bowl(matrix))(3, 1e-3, 0)
    assert theirs.values.min() == pytest.approx(-2, rel=1e-2)
    ours = top_eigenpairs(quadratic(matrix), torch.ones(44, dtype=F64), 3, generator=seeded(0))
    np.testing.assert_allclose(ours.values, [3, 1, 0.99], rtol=1e-10)


def test_pyhessian_density_calls_what_pytorch_no_longer_has() -> None:
    """torch.eig; in benchmarks/peers_curvature.py eigh stands in for it."""
    installed("pyhessian")
    with pytest.raises(RuntimeError, match="removed"):
        pyhessian_of(network().case).density(iter=5, n_v=1)


def test_hessian_eigenthings_returns_ghosts_and_calls_them_converged() -> None:
    """Beyond 50 steps it no longer orthogonalizes by default: one eigenvalue comes several times and others not at all."""
    module = installed("hessian-eigenthings")
    matrix = hessian_like(torch.float32)
    exact = torch.linalg.eigvalsh(hessian_like()).flip(0)[:5].numpy()
    operator = module.LambdaOperator(lambda v: matrix @ v, size=400)
    theirs = module.lanczos(operator, k=5, max_iter=60, which="LA", seed=0)
    copies = (theirs.eigenvalues - exact[0]).abs() < 1e-4 * exact[0]
    assert copies.sum() > 1
    assert theirs.converged[copies].sum() > 1
    full = module.lanczos(operator, k=5, max_iter=60, which="LA", seed=0, reorthogonalize=True)
    np.testing.assert_allclose(full.eigenvalues, exact, rtol=1e-5)
    ours = top_eigenpairs(quadratic(matrix), torch.ones(400), 5, tolerance=1e-5, block=1, generator=seeded(0))
    np.testing.assert_allclose(ours.values, exact, rtol=1e-5)


def test_curvlinops_is_wrong_in_the_weights_of_a_layernorm() -> None:
    """By its route jvp(jacrev): their rows with the layer before are 47 % off, and the matrix is not symmetric; ours is right."""
    installed("curvlinops")
    norm = network(norm=True)
    every = torch.eye(len(norm.theta), dtype=F64)
    theirs = curvlinops_of(norm.case) @ every
    start = sum(p.numel() for p in next(norm.case.model.children()).parameters())
    before, weights = slice(start), slice(start, start + 8)
    wrong = theirs - norm.hessian
    assert wrong[weights, before].norm() > 0.2 * norm.hessian[weights, before].norm()
    assert (theirs - theirs.T).norm() > 0.01 * theirs.norm()
    wrong[weights, before] = 0
    assert wrong.abs().max() < 1e-12
    torch.testing.assert_close(norm.objective.hvp(norm.theta, every), norm.hessian)

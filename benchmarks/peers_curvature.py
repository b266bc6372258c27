"""Other packages at the curvature of a loss: trace, top eigenvalues and spectral density, by each package's own public code.

    TRACES["curvlinops, xtrace"](case)(matvecs, seed)         # an estimate of tr H from so many products
    EIGENVALUES["pyhessian"](case)(k, tolerance, seed)        # Eigenvalues: k of the largest, and the products spent
    DENSITIES["hessian-eigenthings"](case)(probes, steps, seed)    # points (n,) and weights (n,), which sum to about 1

Only installed peers have an entry, as in benchmarks/peers.py, whose remarks hold. What is done once for a point is done by the
first call, with a case: a copy of the model, the operator, the gradient's graph (pyhessian). Random numbers come from the seed;
the caller's are left as they were.
"""

import contextlib
import importlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from math import inf
from unittest import mock

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator, eigsh
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from .models import Case
from .peers import PEERS, curvlinops_of, hessian_eigenthings_of, pyhessian_of

Density = tuple[np.ndarray, np.ndarray]
STEPS = (15, 20, 30, 40, 60, 80, 120, 160, 240)  # of hessian-eigenthings' Lanczos, which cannot go on


@dataclass(frozen=True, eq=False)
class Eigenvalues:
    """Eigenvalues (k,), largest first, as a package gives them; products spent; what the package says of its own success."""

    values: np.ndarray
    products: int
    converged: bool = True


def pyhessian_trace(case: Case) -> Callable[[int, int], float]:
    """``hessian.trace``, Hutchinson's; tol=−∞ keeps it from stopping on its running mean."""
    held = pyhessian_of(case)

    def trace(matvecs: int, seed: int = 0) -> float:
        with _seeded(seed):
            return float(np.mean(held.trace(maxIter=matvecs, tol=-inf)))

    return trace


def pyhessian_stopped(case: Case, seed: int = 0, tolerance: float = 1e-3) -> tuple[float, int]:
    """What ``hessian.trace`` gives where it stops by itself, as its running mean moved by less than the tolerance; its products.

    It takes at most 100, its default, and stops at once where the running mean is negative.
    """
    held = pyhessian_of(case)
    with _seeded(seed):
        samples = held.trace(tol=tolerance)
    return float(np.mean(samples)), len(samples)


def curvlinops_trace(case: Case, estimator: str) -> Callable[[int, int], float]:
    """``hutchinson_trace``, ``hutchpp_trace`` or ``xtrace``: all vectors of a stage in one call of the operator."""
    operator, function = curvlinops_of(case), getattr(importlib.import_module("curvlinops"), estimator)

    def trace(matvecs: int, seed: int = 0) -> float:
        with _seeded(seed):
            return float(function(operator, matvecs))

    return trace


def hessian_eigenthings_trace(case: Case, method: str) -> Callable[[int, int], float]:
    """``trace``, by "hutchinson" or "hutch++"."""
    module, operator = importlib.import_module("hessian_eigenthings"), hessian_eigenthings_of(case)

    def trace(matvecs: int, seed: int = 0) -> float:
        with _seeded(seed):
            return module.trace(operator, num_matvecs=matvecs, method=method, seed=seed).estimate

    return trace


def pyhessian_eigenvalues(case: Case) -> Callable[[int, float, int], Eigenvalues]:
    """``hessian.eigenvalues``: power iteration, one eigenvalue after the other, the largest in magnitude; it stops when the
    value moves by less than the tolerance from one product to the next."""
    held, module = pyhessian_of(case), sys.modules["pyhessian.hessian"]

    def eigenvalues(k: int, tolerance: float, seed: int = 0) -> Eigenvalues:
        product = mock.Mock(side_effect=module.hessian_vector_product)
        with _seeded(seed), mock.patch.object(module, "hessian_vector_product", product):
            values, _ = held.eigenvalues(tol=tolerance, top_n=k)
        return Eigenvalues(np.sort(values)[::-1], product.call_count)

    return eigenvalues


def curvlinops_eigenvalues(case: Case) -> Callable[[int, float, int], Eigenvalues]:
    """SciPy's ``eigsh`` on the operator, one product at a time."""
    operator = curvlinops_of(case).to_scipy()

    def eigenvalues(k: int, tolerance: float, seed: int = 0) -> Eigenvalues:
        product = mock.Mock(side_effect=operator.matvec)
        counted = LinearOperator(operator.shape, matvec=product, dtype=operator.dtype)  # type: ignore[call-arg]
        start = np.random.default_rng(seed).standard_normal(operator.shape[0]).astype(operator.dtype)
        with _seeded(seed):
            values = eigsh(counted, k, which="LA", tol=tolerance, v0=start, return_eigenvectors=False)  # type: ignore[arg-type]
        return Eigenvalues(np.sort(values)[::-1], product.call_count)

    return eigenvalues


def hessian_eigenthings_eigenvalues(case: Case) -> Callable[[int, float, int], Eigenvalues]:
    """``lanczos`` with full reorthogonalization and as many steps as its residuals need for the tolerance.

    Its number of steps has to be known before. The first call looks for the least of STEPS; time the second.
    """
    module, operator = importlib.import_module("hessian_eigenthings"), hessian_eigenthings_of(case)
    enough: list[int] = []

    def run(k: int, tolerance: float, seed: int, steps: int) -> Eigenvalues:
        with _seeded(seed):
            found = module.lanczos(
                operator, k=k, max_iter=steps, tol=tolerance, reorthogonalize=True, which="LA", seed=seed
            )
        return Eigenvalues(found.eigenvalues.numpy(), found.iterations, bool(found.converged.all()))

    def eigenvalues(k: int, tolerance: float, seed: int = 0) -> Eigenvalues:
        if enough:
            return run(k, tolerance, seed, enough[0])
        runs = (run(k, tolerance, seed, steps) for steps in STEPS)
        found = next((each for each in runs if each.converged), None) or run(k, tolerance, seed, STEPS[-1])
        enough.append(found.products)
        return found

    return eigenvalues


def pyhessian_density(case: Case) -> Callable[[int, int, int], Density]:
    """``hessian.density``. It calls torch.eig, which PyTorch took away in 2022; eigh stands in for it here."""
    held = pyhessian_of(case)

    def eig(matrix: Tensor, eigenvectors: bool) -> tuple[Tensor, Tensor]:
        values, vectors = torch.linalg.eigh(matrix)
        return torch.stack([values, torch.zeros_like(values)], dim=1), vectors

    def density(probes: int, steps: int, seed: int = 0) -> Density:
        with _seeded(seed), mock.patch.object(torch, "eig", eig):
            points, weights = held.density(iter=steps, n_v=probes)
        return np.ravel(points), np.ravel(weights) / probes

    return density


def curvlinops_density(case: Case) -> Callable[[int, int, int], Density]:
    """``lanczos_approximate_spectrum``: the smoothed density on a grid; it also spends products on the ends of the spectrum."""
    module, operator = importlib.import_module("curvlinops"), curvlinops_of(case)

    def density(probes: int, steps: int, seed: int = 0) -> Density:
        with _seeded(seed):
            points, heights = module.lanczos_approximate_spectrum(operator, ncv=steps, num_repeats=probes)
        points, heights = points.double().numpy(), heights.double().numpy()
        return points, heights * (points[1] - points[0])

    return density


def hessian_eigenthings_density(case: Case) -> Callable[[int, int, int], Density]:
    """``spectral_density``."""
    module, operator = importlib.import_module("hessian_eigenthings"), hessian_eigenthings_of(case)

    def density(probes: int, steps: int, seed: int = 0) -> Density:
        with _seeded(seed):
            found = module.spectral_density(operator, num_runs=probes, lanczos_steps=steps, seed=seed)
        return found.raw_eigenvalues.numpy().ravel(), found.raw_weights.numpy().ravel() / probes

    return density


@contextlib.contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """torch's default generator seeded inside and restored; attention on the math kernel, as others have no second derivative."""
    with torch.random.fork_rng(devices=[]), sdpa_kernel(SDPBackend.MATH):
        torch.manual_seed(seed)
        yield


ALL_TRACES: dict[str, Callable[[Case], Callable[[int, int], float]]] = {
    "pyhessian, hutchinson": pyhessian_trace,
    "curvlinops, hutchinson": partial(curvlinops_trace, estimator="hutchinson_trace"),
    "curvlinops, hutch++": partial(curvlinops_trace, estimator="hutchpp_trace"),
    "curvlinops, xtrace": partial(curvlinops_trace, estimator="xtrace"),
    "hessian-eigenthings, hutchinson": partial(hessian_eigenthings_trace, method="hutchinson"),
    "hessian-eigenthings, hutch++": partial(hessian_eigenthings_trace, method="hutch++"),
}
ALL_EIGENVALUES: dict[str, Callable[[Case], Callable[[int, float, int], Eigenvalues]]] = {
    "pyhessian": pyhessian_eigenvalues,
    "curvlinops": curvlinops_eigenvalues,
    "hessian-eigenthings": hessian_eigenthings_eigenvalues,
}
ALL_DENSITIES: dict[str, Callable[[Case], Callable[[int, int, int], Density]]] = {
    "pyhessian": pyhessian_density,
    "curvlinops": curvlinops_density,
    "hessian-eigenthings": hessian_eigenthings_density,
}
TRACES = {name: make for name, make in ALL_TRACES.items() if PEERS[name.partition(",")[0]].installed}
EIGENVALUES = {name: make for name, make in ALL_EIGENVALUES.items() if PEERS[name].installed}
DENSITIES = {name: make for name, make in ALL_DENSITIES.items() if PEERS[name].installed}

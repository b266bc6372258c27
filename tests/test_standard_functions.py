"""L-BFGS on standard functions: known minima, the Wolfe conditions at every step, and SciPy and torch beside it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from standard_functions import F64, PENALTY, STANDARD, Standard
from torch import Tensor, nn

from optimizers.lbfgs import LBFGS

NAMES = list(STANDARD)
SEARCHES = ["golden-section", "strong-wolfe"]
TOLERANCE = 1e-8  # of max |gᵢ|, for all that are compared

# f at the start, as published; the logistic loss of w = 0 is log 2.
STARTS = {
    "rosenbrock-2": 24.2,
    "rosenbrock-10": 5 * 24.2 + 4 * 484,
    "rosenbrock-100": 50 * 24.2 + 49 * 484,
    "beale": 14.203125,
    "powell-singular": 215.0,
    "wood": 19192.0,
    "logistic": 0.6931471805599453,
}


def ours(
    standard: Standard, line_search: str, *, tolerance: float = TOLERANCE, min_cosine: float = 1e-4
) -> tuple[LBFGS, nn.Parameter]:
    """The optimizer and where it is after one step of as many iterations as it wants."""
    x = standard.parameter()
    optimizer = LBFGS(
        [x],
        line_search=line_search,
        iterations=20_000,
        gradient_tolerance=tolerance,
        min_cosine=min_cosine,
    )
    optimizer.step(standard.closure(x), lambda: standard.f(x))
    return optimizer, x


def scipys(standard: Standard, tolerance: float = TOLERANCE) -> tuple[float, int, np.ndarray]:
    """(loss, evaluations of loss and gradient, minimum) of SciPy's L-BFGS-B with as many pairs."""

    def both(x: np.ndarray) -> tuple[float, np.ndarray]:
        theta = torch.tensor(x)
        return standard.f(theta).item(), torch.func.grad(standard.f)(theta).numpy()

    options = {"maxcor": 10, "ftol": 0.0, "gtol": tolerance, "maxfun": 20_000, "maxiter": 20_000}
    found = minimize(both, np.array(standard.start), jac=True, method="L-BFGS-B", options=options)
    return found.fun, found.nfev, found.x


def torchs(standard: Standard) -> tuple[float, int]:
    """(loss, evaluations of loss and gradient) of torch's L-BFGS with strong Wolfe and as many pairs."""
    x, calls = standard.parameter(), [0]
    closure = standard.closure(x)

    def counted() -> Tensor:
        calls[0] += 1
        return closure()

    settings = {"history_size": 10, "tolerance_grad": TOLERANCE, "tolerance_change": 0.0, "max_iter": 1000}
    torch.optim.LBFGS([x], line_search_fn="strong_wolfe", **settings).step(counted)  # type: ignore[arg-type]
    return standard.f(x).item(), calls[0]


def newton(standard: Standard) -> Tensor:
    theta = torch.tensor(standard.start, dtype=F64)
    for _ in range(20):
        hessian = torch.func.hessian(standard.f)(theta)
        theta = theta - torch.linalg.solve(hessian, torch.func.grad(standard.f)(theta))  # type: ignore[arg-type]
    return theta


def lowest(name: str) -> float:
    """The loss at the minimum: 0, or for the logistic loss what Newton's method says."""
    return STANDARD[name].f(newton(STANDARD[name])).item() if name == "logistic" else 0.0


@pytest.mark.parametrize("name", NAMES)
def test_the_functions_are_the_published_ones(name: str) -> None:
    standard = STANDARD[name]
    assert standard.f(torch.tensor(standard.start, dtype=F64)).item() == pytest.approx(STARTS[name])
    if standard.minimum is not None:
        minimum = torch.tensor(standard.minimum, dtype=F64)
        assert standard.f(minimum) == 0
        assert not torch.func.grad(standard.f)(minimum).any()


@pytest.mark.parametrize("line_search", SEARCHES)
@pytest.mark.parametrize("name", NAMES)
def test_known_minima_are_reached(name: str, line_search: str) -> None:
    standard = STANDARD[name]
    optimizer, x = ours(standard, line_search)
    assert optimizer.status == "the gradient is within its tolerance: the parameters stay"
    minimum = newton(standard) if standard.minimum is None else torch.tensor(standard.minimum, dtype=F64)
    distance = 2e-3 if name == "powell-singular" else 1e-5  # quartic: x is the cube root of the gradient
    torch.testing.assert_close(x.detach(), minimum, rtol=0, atol=distance)


def test_the_minimum_of_the_logistic_loss_is_one() -> None:
    """Newton, SciPy and both searches agree; the penalty alone gives the Hessian's smallest eigenvalue a floor."""
    standard = STANDARD["logistic"]
    theta = newton(standard)
    assert torch.func.grad(standard.f)(theta).abs().max() < 1e-15
    assert torch.linalg.eigvalsh(torch.func.hessian(standard.f)(theta)).min() >= PENALTY * (1 - 1e-9)  # type: ignore[arg-type]
    found = [torch.as_tensor(scipys(standard, 1e-9)[2])]
    found += [ours(standard, search, tolerance=1e-9)[1].detach() for search in SEARCHES]
    for x in found:
        torch.testing.assert_close(x, theta, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_beside_scipy_and_torch(name: str) -> None:
    """To the same gradient, as deep as the deeper of the two, for at most 1.2 times the gradients of the quicker one.
    The losses of golden section come on top: taken as a third of a gradient, they make it up to three times as dear."""
    standard, floor = STANDARD[name], lowest(name)
    (scipy_loss, scipy_count, _), (torch_loss, torch_count) = scipys(standard), torchs(standard)
    others, deepest = min(scipy_count, torch_count), min(scipy_loss, torch_loss)
    for line_search, dearer in {"strong-wolfe": 1.2, "golden-section": 3.0}.items():
        optimizer, x = ours(standard, line_search)
        assert standard.f(x).item() - floor <= max(deepest - floor, 1e-13)
        assert optimizer.gradient_evaluations <= 1.2 * others
        assert optimizer.gradient_evaluations + optimizer.loss_evaluations / 3 <= dearer * others
        assert (optimizer.loss_evaluations == 0) == (line_search == "strong-wolfe")


@pytest.mark.parametrize("name", NAMES)
def test_the_strong_wolfe_conditions_hold_at_every_step(name: str) -> None:
    standard = STANDARD[name]
    x = standard.parameter()
    optimizer = LBFGS([x], line_search="strong-wolfe", gradient_tolerance=1e-5)
    points = [x.detach().clone()]
    for _ in range(2000):
        optimizer.step(standard.closure(x))
        points.append(x.detach().clone())
        if optimizer.converged:
            break
    assert points.pop().equal(points[-1])
    f, gradient = standard.f, torch.func.grad(standard.f)
    for before, after in pairwise(points):
        step, slope = after - before, torch.dot(gradient(before), after - before)
        assert f(after) <= f(before) + 1e-4 * slope
        assert torch.dot(gradient(after), step).abs() <= 0.9 * slope.abs() * (
            1 + 1e-9
        )  # after − before is rounded
    assert len(points) > 10


@pytest.mark.parametrize("line_search", SEARCHES)
def test_without_a_tolerance_it_ends_at_the_rounding_of_the_loss(line_search: str) -> None:
    for name in NAMES:
        if name != "powell-singular":
            optimizer, x = ours(STANDARD[name], line_search, tolerance=0.0)
            assert optimizer.converged
            assert STANDARD[name].f(x).item() - lowest(name) < 1e-15
    # Where the Hessian is singular the paper's test of a pair throws the memory away; a weaker one does not.
    optimizer, x = ours(STANDARD["powell-singular"], line_search, tolerance=0.0, min_cosine=1e-8)
    assert optimizer.converged
    assert STANDARD["powell-singular"].f(x).item() < 1e-25

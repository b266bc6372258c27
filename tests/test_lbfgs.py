"""L-BFGS and the golden-section search against dense BFGS, the paper's loop written naively, and known minima."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from standard_functions import Function, beale, powell_singular, rosenbrock, wood
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim.lr_scheduler import ExponentialLR
from training import going_on

from landscape import InputError, Objective
from optimizers.closures import DataClosure, ObjectiveClosure, scaled_closure
from optimizers.e import E
from optimizers.golden_section import golden_section_search
from optimizers.lbfgs import LBFGS
from optimizers.line_search import SearchResult
from optimizers.strong_wolfe import strong_wolfe_search
from optimizers.two_loop import two_loop

F64 = torch.float64
SEARCHES = ["golden-section", "strong-wolfe"]


def parameter(*values: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values, dtype=F64))


def closures(f: Function, x: nn.Parameter) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    def closure() -> Tensor:
        x.grad = None
        loss = f(x)
        loss.backward()
        return loss

    return closure, lambda: f(x)


def minimize(
    f: Function, x: nn.Parameter, *, steps: int = 1000, **settings: Any
) -> tuple[LBFGS, list[float]]:
    """The optimizer after so many steps (fewer if it converges), and the loss before each and at the end."""
    optimizer = LBFGS([x], **settings)
    closure, loss = closures(f, x)
    losses = []
    for _ in range(steps):
        losses.append(optimizer.step(closure, loss).item())
        if optimizer.converged:
            break
    return optimizer, [*losses, f(x).item()]


# The search


def searched(phi: Callable[[float], float], **settings: Any) -> tuple[SearchResult, list[float]]:
    """The result and the α that were tried; every result is one of them."""
    tried: list[float] = []

    def recorded(alpha: float) -> float:
        tried.append(alpha)
        return phi(alpha)

    result = golden_section_search(recorded, phi(0.0), **settings)
    assert result.evaluations == len(tried) <= settings.get("max_evaluations", 6)
    assert result.alpha in tried
    return result, tried


def naive_search(phi: Callable[[float], float], start: float) -> float:
    """Section "L-BFGS with golden section" in the order of its words: 6 losses, tolerance 1e-4."""
    left = 6
    points = [(0.0, start), (0.2, phi(0.2))]
    left -= 1
    if points[1][1] < start:
        for alpha in (0.8, 1.6, 3.2):
            if left == 0:
                return points[-1][0]
            points.append((alpha, phi(alpha)))
            left -= 1
            if points[-1][1] >= points[-2][1]:
                break
        else:
            return points[-1][0]
        points = points[-3:]
    else:
        while points[1][1] >= start:
            if left == 0:
                return points[1][0]
            points.insert(1, (0.382 * points[1][0], phi(0.382 * points[1][0])))
            left -= 1
        points = points[:3]
    while left and points[2][0] - points[0][0] >= 1e-4 and abs(points[2][1] - points[0][1]) >= 1e-4:
        (a, _), (b, _), (c, _) = points
        alpha = b + 0.382 * (c - b) if c - b > b - a else b - 0.382 * (b - a)
        points.append((alpha, phi(alpha)))
        left -= 1
        points.sort()
        lowest = min(range(4), key=lambda i: points[i][1])
        points = points[lowest - 1 : lowest + 2]
    return points[1][0]


@pytest.mark.parametrize(
    ("minimum", "tried"),
    [
        (10.0, [0.2, 0.8, 1.6, 3.2]),
        (1.0, [0.2, 0.8, 1.6, 0.8 + 0.382 * 0.8]),
        (0.3, [0.2, 0.8, 0.2 + 0.382 * 0.6]),
        (0.06, [0.2, 0.2 * 0.382, 0.2 * 0.382 + 0.382 * (0.2 - 0.2 * 0.382)]),
        (-1.0, [0.2 * 0.382**k for k in range(6)]),
    ],
)
def test_first_trials_are_the_papers(minimum: float, tried: list[float]) -> None:
    _, found = searched(lambda alpha: (alpha - minimum) ** 2)
    assert found[: len(tried)] == pytest.approx(tried, rel=1e-12)


@pytest.mark.parametrize("minimum", [-1.0, 0.003, 0.02, 0.06, 0.13, 0.3, 0.7, 1.0, 1.3, 2.1, 10.0])
def test_all_trials_are_those_of_a_naive_search(minimum: float) -> None:
    def phi(alpha: float) -> float:
        return math.exp(alpha - minimum) - alpha

    naive: list[float] = []
    chosen = naive_search(lambda alpha: (naive.append(alpha), phi(alpha))[1], phi(0.0))
    result, tried = searched(phi)
    assert tried == pytest.approx(naive, rel=1e-12)
    assert result.alpha == pytest.approx(chosen, rel=1e-12)


@pytest.mark.parametrize("step", [1.0, 1e-3, 40.0])
@pytest.mark.parametrize("minimum", [0.011, 0.09, 0.25, 1.0, 1.9])
def test_a_bracketed_minimum_is_found(minimum: float, step: float) -> None:
    def phi(alpha: float) -> float:
        return math.exp(alpha / step - minimum) - (alpha / step - minimum)

    result, _ = searched(phi, step=step, max_evaluations=100, tolerance=1e-15)
    assert result.alpha / step == pytest.approx(
        minimum, abs=1e-7
    )  # the root of eps is all that values can say


@pytest.mark.parametrize("budget", range(1, 12))
@pytest.mark.parametrize("minimum", [0.0005, 0.1, 1.0, 1.7, 9.0])
def test_the_lowest_trial_is_returned_if_any_is_below_the_start(minimum: float, budget: int) -> None:
    def phi(alpha: float) -> float:
        return (alpha - minimum) ** 2

    result, tried = searched(phi, max_evaluations=budget)
    if min(map(phi, tried)) < phi(0):
        assert result.value == min(map(phi, tried)) == phi(result.alpha)
    else:
        assert result.alpha == tried[-1] == pytest.approx(0.2 * 0.382 ** (budget - 1))
        assert result.message == "no trial lies below φ(0)"


def test_the_tolerance_ends_a_search_at_its_bracket() -> None:
    _, tried = searched(lambda alpha: 1e-5 * (alpha - 1) ** 2)
    assert tried == pytest.approx([0.2, 0.8, 1.6])
    _, tried = searched(lambda alpha: 1e9 * (alpha - 1e-5) ** 2, step=1e-5)
    assert tried == pytest.approx([0.2e-5, 0.8e-5, 1.6e-5])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_are_not_finite_are_worse_than_any(bad: float) -> None:
    result, _ = searched(lambda alpha: bad if alpha > 0.15 else (alpha - 0.1) ** 2)
    assert result.alpha < 0.15
    assert result.value < 0.01
    result, tried = searched(lambda alpha: 1.0 if alpha == 0 else bad)
    assert result == SearchResult(tried[-1], math.inf, 6, "no trial lies below φ(0)")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"start": math.nan}, "start, the value φ(0), must be finite, got nan"),
        ({"step": 0.0}, "step must be a positive number, got 0.0."),
        ({"tolerance": -1.0}, "tolerance must be a positive number, got -1.0."),
        ({"max_evaluations": 0}, "max_evaluations must be at least 1, got 0."),
    ],
)
def test_search_settings_outside_their_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        golden_section_search(lambda alpha: alpha, **{"start": 0.0, **settings})
    assert message in str(error.value)


# The direction


def dense_inverse(steps: list[Tensor], changes: list[Tensor], offset: float) -> Tensor:
    """The BFGS inverse, one rank-two update a pair, from (s·y)/(y·y) I of the last pair."""
    identity = torch.eye(len(steps[0]), dtype=F64)
    h = identity * (steps[-1] @ changes[-1]) / (changes[-1] @ changes[-1])
    for s, y in zip(steps, changes, strict=True):
        rho = 1 / (y @ s + offset)
        v = identity - rho * torch.outer(y, s)
        h = v.T @ h @ v + rho * torch.outer(s, s)
    return h


@pytest.mark.parametrize("offset", [0.0, 1e-6, 0.3])
@pytest.mark.parametrize("pairs", [1, 2, 5, 12])
def test_two_loop_is_dense_bfgs(pairs: int, offset: float) -> None:
    generator = torch.Generator().manual_seed(pairs)
    root = torch.randn(8, 8, generator=generator, dtype=F64)
    hessian = root @ root.T + torch.eye(8, dtype=F64)
    steps = list(torch.randn(pairs, 8, generator=generator, dtype=F64))
    changes = [hessian @ s for s in steps]
    gradient = torch.randn(8, generator=generator, dtype=F64)
    inputs = [gradient, *steps, *changes]
    before = [tensor.clone() for tensor in inputs]
    found = two_loop(gradient, steps, changes, offset=offset)
    torch.testing.assert_close(
        found, dense_inverse(steps, changes, offset) @ gradient, rtol=1e-10, atol=1e-10
    )
    if not offset:  # the secant equation of the last pair
        torch.testing.assert_close(two_loop(changes[-1], steps, changes), steps[-1])
    assert all(one.equal(other) for one, other in zip(inputs, before, strict=True))


def test_two_loop_without_pairs_is_the_gradient() -> None:
    gradient = torch.tensor([1.0, -2.0], dtype=F64)
    assert two_loop(gradient, [], []).equal(gradient)


@pytest.mark.parametrize("offset", [0.0, 1e-6])
@pytest.mark.parametrize(
    ("f", "start"),
    [(rosenbrock, [-1.2, 1.0, 0.3]), (beale, [1.0, 1.0]), (powell_singular, [3.0, -1.0, 0.0, 1.0])],
)
def test_steps_are_the_papers(f: Function, start: list[float], offset: float) -> None:
    x = torch.tensor(start, dtype=F64)
    pairs: list[tuple[Tensor, Tensor]] = []
    before: tuple[Tensor, Tensor] | None = None
    p = parameter(*start)
    optimizer, (closure, loss) = LBFGS([p], 4, safeguard=False, curvature_offset=offset), closures(f, p)
    for _ in range(12):
        g = torch.func.grad(f)(x)
        if before is not None:
            pairs = [*pairs, (x - before[0], g - before[1])][-4:]
        if any(s @ y / (s.norm() * y.norm()) < 1e-4 for s, y in pairs):
            pairs = []
        before = (x, g)
        r = dense_inverse([s for s, _ in pairs], [y for _, y in pairs], offset) @ g if pairs else g
        start_x = x
        x = x - r * naive_search(lambda a, x=start_x, r=r: f(x - a * r).item(), f(x).item())
        optimizer.step(closure, loss)
        torch.testing.assert_close(p.detach(), x, rtol=1e-7, atol=1e-9)


def search_along(f: Function, x: Tensor, g: Tensor, d: Tensor, step: float) -> SearchResult:
    def phi(alpha: float) -> tuple[float, float]:
        at = x + alpha * d
        return f(at).item(), torch.dot(torch.func.grad(f)(at), d).item()

    return strong_wolfe_search(phi, (f(x).item(), torch.dot(g, d).item()), step=step)


@pytest.mark.parametrize(
    ("f", "start"),
    [(rosenbrock, [-1.2, 1.0, 0.3]), (beale, [1.0, 1.0]), (wood, [-3.0, -1.0, -3.0, -1.0])],
)
def test_strong_wolfe_steps_are_those_of_a_naive_loop(f: Function, start: list[float]) -> None:
    """The first trial has length lr in the 1-norm, the others are lr; H is dense BFGS over the last four pairs."""
    x = torch.tensor(start, dtype=F64)
    g = torch.func.grad(f)(x)
    steps, changes, lr = [], [], 0.7
    p = parameter(*start)
    optimizer = LBFGS([p], 4, "strong-wolfe", lr=lr)
    for _ in range(12):
        d = -dense_inverse(steps, changes, 0.0) @ g if steps else -g
        result = search_along(f, x, g, d, lr if steps else lr * min(1.0, 1 / g.abs().sum().item()))
        before, x = (x, g), x + result.alpha * d
        g = torch.func.grad(f)(x)
        steps, changes = [*steps, x - before[0]][-4:], [*changes, g - before[1]][-4:]
        optimizer.step(closures(f, p)[0])
        torch.testing.assert_close(p.detach(), x, rtol=1e-7, atol=1e-9)


# Depth


def test_the_papers_offset_switches_curvature_off_at_depth() -> None:
    ends = [
        minimize(powell_singular, parameter(3, -1, 0, 1), steps=300, curvature_offset=offset)[1][-1]
        for offset in (0.0, 1e-6)
    ]
    assert ends[0] < 1e-15 < 1e-8 < ends[1]


@pytest.mark.parametrize("offset", [0.0, 1e-6])
@pytest.mark.parametrize("seed", range(5))
def test_a_network_on_digits_is_fitted_to_depth(seed: int, offset: float) -> None:
    images, labels = load_digits(return_X_y=True)
    x, y = torch.as_tensor(images)[:1077] / 16, torch.as_tensor(labels)[:1077]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(64, 32), nn.Softplus(), nn.Linear(32, 10)).double()
    optimizer = LBFGS(model.parameters(), curvature_offset=offset)

    def loss() -> Tensor:
        return cross_entropy(model(x), y)

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    for _ in range(150):
        optimizer.step(closure, loss)
    assert loss().item() < 1e-8


# Several iterations a step


@pytest.mark.parametrize("line_search", SEARCHES)
@pytest.mark.parametrize("f", [rosenbrock, wood])
def test_iterations_of_one_step_are_those_of_many(f: Function, line_search: str) -> None:
    together, apart = parameter(-3.0, -1.0, -3.0, -1.0), parameter(-3.0, -1.0, -3.0, -1.0)
    first, losses = minimize(f, together, steps=3, line_search=line_search, iterations=8)
    second, all_losses = minimize(f, apart, steps=24, line_search=line_search)
    assert together.equal(apart)
    assert losses == all_losses[::8]  # a step returns the loss where it started
    assert first.loss_evaluations == second.loss_evaluations
    # The gradient where one iteration ends is the next one's: only a step's first is evaluated again.
    saved = 24 - 3 if line_search == "strong-wolfe" else 0
    assert first.gradient_evaluations == second.gradient_evaluations - saved


def test_trials_that_call_the_closure_leave_their_gradient_to_the_next_iteration() -> None:
    x, y = parameter(-1.2, 1.0), parameter(-1.2, 1.0)
    whole = LBFGS([x], iterations=10)
    whole.step(closures(rosenbrock, x)[0])
    closure, loss = closures(rosenbrock, y)
    lean = LBFGS([y], iterations=10)
    lean.step(closure, loss)
    assert x.equal(y)
    assert whole.loss_evaluations == 0
    assert whole.gradient_evaluations == 1 + lean.loss_evaluations
    assert lean.gradient_evaluations == 10


@pytest.mark.parametrize("line_search", SEARCHES)
def test_a_step_ends_where_it_has_converged(line_search: str) -> None:
    x = parameter(-1.2, 1.0)
    optimizer, losses = minimize(
        rosenbrock, x, line_search=line_search, iterations=10_000, gradient_tolerance=1e-9
    )
    assert optimizer.status == "the gradient is within its tolerance: the parameters stay"
    assert len(losses) == 2
    assert losses[0] == pytest.approx(24.2)
    assert losses[1] < 1e-18
    assert optimizer.gradient_evaluations < 100


@pytest.mark.parametrize("line_search", SEARCHES)
def test_an_interruption_leaves_the_last_iterate_and_a_run_that_can_go_on(line_search: str) -> None:
    x, other = parameter(-1.2, 1.0), parameter(-1.2, 1.0)
    optimizer = LBFGS([x], line_search=line_search, iterations=8)
    closure, _ = closures(rosenbrock, x)
    _, reached = minimize(rosenbrock, other, steps=3, line_search=line_search)
    lowest = reached[-1]

    def interrupted() -> Tensor:
        if rosenbrock(x.detach()) < lowest:  # a trial of the fourth iteration
            raise KeyboardInterrupt
        return closure()

    with pytest.raises(KeyboardInterrupt):
        optimizer.step(interrupted)
    assert x.equal(other)
    optimizer.param_groups[0]["iterations"] = 60
    optimizer.step(closure)
    assert rosenbrock(x).item() < 1e-20


# Steps that do not help


def steep(x: Tensor) -> Tensor:
    return 1e6 * (x**2).sum()


def test_no_step_goes_uphill() -> None:
    """Six shrinks of 0.2 are far too long for curvature 2e6."""
    x = parameter(1.0, -2.0)
    optimizer, losses = minimize(steep, x, steps=1)
    assert losses[1] < losses[0]
    assert optimizer.status == "the loss fell along the gradient; the memory was emptied"
    _, losses = minimize(steep, x, steps=20)
    assert losses[-1] < 1e-20


def test_without_safeguard_the_last_trial_is_taken() -> None:
    x = parameter(1.0, -2.0)
    optimizer, losses = minimize(steep, x, steps=1, safeguard=False)
    expected = torch.tensor([1.0, -2.0], dtype=F64) * (1 - 0.2 * 0.382**5 * 2e6)
    torch.testing.assert_close(x.detach(), expected)
    assert losses[1] > 1e5 * losses[0]
    assert optimizer.status == "the loss rose: the last trial was taken, since safeguard is off"


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_strong_wolfe_never_goes_uphill_even_without_safeguard(dtype: torch.dtype) -> None:
    x = nn.Parameter(torch.tensor([-1.2, 1.0] * 10, dtype=dtype))
    optimizer, losses = minimize(rosenbrock, x, steps=400, line_search="strong-wolfe", safeguard=False)
    assert all(later <= earlier for earlier, later in pairwise(losses))
    assert losses[-1] < (1e-25 if dtype == F64 else 1e-9)
    assert optimizer.converged
    assert x.dtype == dtype


def test_a_misleading_memory_is_given_up_for_the_gradient() -> None:
    """The loss becomes one with the same value and gradient here, but a curvature that the memory knows nothing of."""
    x = parameter(-1.2, 1.0)
    optimizer, _ = minimize(rosenbrock, x, steps=4)
    here = x.detach().clone()
    closure, loss = closures(lambda x: rosenbrock(x) + 1e8 * ((x - here) ** 2).sum(), x)
    found = optimizer.step(closure, loss)
    assert loss().item() < found.item()
    assert optimizer.status == "the loss fell along the gradient; the memory was emptied"
    assert optimizer.state[x]["steps"] == optimizer.state[x]["changes"] == []


def test_strong_wolfe_gives_up_a_misleading_memory_too() -> None:
    """Pairs of a flat parabola, then a steep one with the same gradient: −Hg is 10,000 times too long, −g is right."""
    x = parameter(1.0)
    optimizer, _ = minimize(
        lambda x: (x**2).sum() / 2e4, x, steps=1, line_search="strong-wolfe", max_evaluations=1
    )
    here, slope = x.detach().clone(), 1e-4 * x.detach()
    steep = closures(lambda x: (((x - here) ** 2) / 2 + slope * (x - here)).sum(), x)[0]
    optimizer.step(steep)
    assert optimizer.status == "the loss fell along the gradient; the memory was emptied"
    assert optimizer.state[x]["steps"] == optimizer.state[x]["changes"] == []
    torch.testing.assert_close(x.detach(), here - slope, rtol=1e-12, atol=0)
    assert optimizer.gradient_evaluations == 2 + 3  # a trial, and then two of them


@pytest.mark.parametrize("line_search", SEARCHES)
def test_a_memory_that_points_uphill_is_emptied(line_search: str) -> None:
    x = parameter(-1.2, 1.0)
    optimizer, _ = minimize(rosenbrock, x, steps=6, line_search=line_search, safeguard=False)
    optimizer.state[x]["changes"] = [-y for y in optimizer.state[x]["changes"]]
    optimizer.param_groups[0]["lr"] = 1e-6  # so that every trial along −g falls
    start, (closure, loss) = x.detach().clone(), closures(rosenbrock, x)
    before = optimizer.step(closure, loss).item()
    assert loss().item() < before
    assert optimizer.status == "the loss fell"
    assert optimizer.state[x]["steps"] == []
    gradient = torch.func.grad(rosenbrock)(start)
    moved = start - x.detach()
    torch.testing.assert_close(moved / moved.norm(), gradient / gradient.norm(), rtol=1e-6, atol=0)


@pytest.mark.parametrize(("line_search", "trials"), [("golden-section", 6 * 6), ("strong-wolfe", 20)])
def test_where_nothing_falls_the_parameters_stay_and_it_says_so(line_search: str, trials: int) -> None:
    x = parameter(2.0)

    def f(x: Tensor) -> Tensor:  # a gradient that is wrong: uphill is down
        return (x**2).sum() - 2 * (x**2 - x.detach() ** 2).sum()

    optimizer, (closure, loss) = LBFGS([x], line_search=line_search), closures(f, x)
    assert optimizer.status == "no step taken yet"
    assert not optimizer.converged
    optimizer.step(closure, loss)
    assert optimizer.converged
    assert optimizer.status == "no step along the gradient lowers the loss: the parameters stay"
    assert x.item() == 2
    spent = optimizer.gradient_evaluations + optimizer.loss_evaluations
    assert 6 < spent <= 1 + trials
    optimizer.step(closure, loss)
    again = optimizer.gradient_evaluations + optimizer.loss_evaluations
    assert again == spent + 1  # not searched again
    closure, loss = closures(lambda x: (x**2).sum(), x)
    optimizer.step(closure, loss)  # another loss, another search
    assert not optimizer.converged
    assert abs(x.item()) < 2


def test_a_zero_gradient_needs_no_search() -> None:
    x = parameter(0.0, 0.0)
    optimizer, losses = minimize(steep, x)
    assert optimizer.converged
    assert optimizer.loss_evaluations == 0
    assert losses == [0.0, 0.0]


@pytest.mark.parametrize("line_search", SEARCHES)
def test_trials_that_are_not_finite_are_survived(line_search: str) -> None:
    def f(x: Tensor) -> Tensor:  # defined for |x| < 1; the first trials leave that
        return -torch.log(1 - x**2).sum() - 5 * x.sum()

    x = parameter(0.0, -0.5)
    optimizer, losses = minimize(f, x, steps=60, line_search=line_search)
    torch.testing.assert_close(x.detach(), torch.full((2,), (26**0.5 - 1) / 5, dtype=F64), rtol=1e-7, atol=0)
    assert all(math.isfinite(value) for value in losses)
    assert optimizer.converged


@pytest.mark.parametrize("line_search", SEARCHES)
@pytest.mark.parametrize("safeguard", [True, False])
def test_a_start_that_is_not_finite_is_refused_and_can_be_left(safeguard: bool, line_search: str) -> None:
    def f(x: Tensor) -> Tensor:
        return x.log().sum() ** 2 + ((x - 1) ** 4).sum()

    x = parameter(2.0, 3.0)
    optimizer = LBFGS([x], line_search=line_search, safeguard=safeguard)
    closure, loss = closures(f, x)
    for _ in range(3):
        optimizer.step(closure, loss)
    for bad, message in (
        (-1.0, "the loss is nan where an iteration starts"),
        (0.0, "the loss is inf where an iteration starts"),
    ):
        with torch.no_grad():
            x[0] = bad
        with pytest.raises(InputError, match=message):
            optimizer.step(closure, loss)
        assert optimizer.state[x]["steps"] == []
    with torch.no_grad():
        x[0] = 0.5
    for _ in range(60):
        optimizer.step(closure, loss)
    assert f(x).item() < 1e-8


def test_a_gradient_that_is_not_finite_is_refused() -> None:
    x = parameter(0.0)
    closure, loss = closures(lambda x: (x**2).sqrt().sum(), x)
    with pytest.raises(
        InputError, match="the gradient is not finite where an iteration starts; go on from parameters where"
    ):
        LBFGS([x]).step(closure, loss)
    assert x.item() == 0


@pytest.mark.parametrize("f", [lambda x: x.sum(), lambda x: -(x**2).sum()], ids=["linear", "concave"])
def test_pairs_without_curvature_empty_the_memory(f: Function) -> None:
    x = parameter(1.0, 2.0)
    optimizer, (closure, loss) = LBFGS([x]), closures(f, x)
    for _ in range(3):
        before, g = x.detach().clone(), torch.func.grad(f)(x.detach())
        optimizer.step(closure, loss)
        assert optimizer.state[x]["steps"] == optimizer.state[x]["changes"] == []
        assert optimizer.status == "the loss fell"
        torch.testing.assert_close(x.detach(), before - 3.2 * g)


def scripted(x: nn.Parameter, given: list[list[float]]) -> Callable[[], float]:
    """A closure with given gradients, one a step, and a loss that falls at every call."""
    state = {"loss": 0.0, "calls": 0}

    def closure() -> float:
        if state["calls"] % 5 == 0:  # one call for the gradient, four trials
            x.grad = torch.tensor(given[int(state["calls"]) // 5], dtype=F64)
        state["calls"] += 1
        state["loss"] -= 1
        return state["loss"]

    return closure


@pytest.mark.parametrize(("cosine", "kept"), [(1.1e-4, 1), (0.9e-4, 0), (-0.5, 0)])
def test_a_pair_is_kept_if_its_cosine_is_large_enough(cosine: float, kept: int) -> None:
    x = parameter(0.0, 0.0)
    optimizer = LBFGS([x])
    closure = scripted(x, [[1.0, 0.0], [1.0 - cosine, (1 - cosine**2) ** 0.5]])  # s = (−3.2, 0)
    optimizer.step(closure)
    optimizer.step(closure)
    assert len(optimizer.state[x]["steps"]) == kept


def test_a_direction_that_is_not_finite_empties_the_memory() -> None:
    x = parameter(0.0)
    optimizer = LBFGS([x])
    closure = scripted(x, [[1e-165], [-1e-156]])  # y·s is so small that ρ overflows
    optimizer.step(closure)
    optimizer.step(closure)
    assert optimizer.state[x]["steps"] == []
    assert x.item() == pytest.approx(3.2e-156)


# The contract of an optimizer


@pytest.mark.parametrize("given", [True, False], ids=["loss given", "closure only"])
def test_how_the_closures_are_called(given: bool) -> None:
    x = parameter(-1.2, 1.0)
    modes: dict[str, list[bool]] = {"closure": [], "loss": []}
    closure, loss = closures(rosenbrock, x)

    def recorded(name: str, inner: Callable[[], Tensor]) -> Callable[[], Tensor]:
        def call() -> Tensor:
            modes[name].append(torch.is_grad_enabled())
            return inner()

        return call

    optimizer = LBFGS([x])
    with torch.no_grad():
        for _ in range(5):
            before = rosenbrock(x).item()
            found = optimizer.step(recorded("closure", closure), recorded("loss", loss) if given else None)
            assert found.item() == before
    assert all(modes["closure"])
    assert not any(modes["loss"])
    assert optimizer.gradient_evaluations == len(modes["closure"])
    assert optimizer.loss_evaluations == len(modes["loss"])
    assert len(modes["closure"]) == 5 if given else len(modes["closure"]) > 15

    other = parameter(-1.2, 1.0)
    minimize(rosenbrock, other, steps=5)
    assert x.equal(other)


def test_an_interrupted_search_leaves_the_parameters_where_they_were() -> None:
    x = parameter(-1.2, 1.0)
    closure, _ = closures(rosenbrock, x)

    def interrupted() -> Tensor:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        LBFGS([x]).step(closure, interrupted)
    assert x.tolist() == [-1.2, 1.0]


def test_many_tensors_are_one_vector() -> None:
    start = torch.tensor([-1.2, 1.0, 0.5, -0.3, 2.0, 1.5], dtype=F64)
    whole = nn.Parameter(start.clone())
    minimize(rosenbrock, whole, steps=15)
    parts = [nn.Parameter(part) for part in (start[:4].view(2, 2).T.contiguous().T, start[4:5], start[5])]
    parts = [nn.Parameter(part.detach().clone()) for part in parts]
    unused = parameter(7.0)
    optimizer = LBFGS([*parts, unused])

    def loss() -> Tensor:
        return rosenbrock(torch.cat([p.reshape(-1) for p in parts]))

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    for _ in range(15):
        optimizer.step(closure, loss)
    torch.testing.assert_close(
        torch.cat([p.detach().reshape(-1) for p in parts]), whole.detach(), rtol=1e-9, atol=0
    )
    assert unused.item() == 7


def test_the_learning_rate_is_the_unit_of_the_trials() -> None:
    x = parameter(1.0)
    optimizer, tried = LBFGS([x], max_evaluations=1, safeguard=False), []
    scheduler = ExponentialLR(optimizer, 0.5)
    closure, loss = closures(lambda x: x.sum(), x)
    for _ in range(3):
        before = x.item()
        optimizer.step(closure, loss)
        tried.append(before - x.item())
        scheduler.step()
    assert tried == pytest.approx([0.2, 0.1, 0.05])


def test_the_memory_is_limited_and_recent() -> None:
    x = parameter(*[-1.2, 1.0] * 3)
    optimizer, (closure, loss) = LBFGS([x], history_size=3), closures(rosenbrock, x)
    points = []
    for _ in range(9):
        points.append(x.detach().clone())
        optimizer.step(closure, loss)
    steps = optimizer.state[x]["steps"]
    assert len(steps) == len(optimizer.state[x]["changes"]) == 3
    for s, before, after in zip(steps, points[-4:], points[-3:], strict=False):
        assert s.equal(after - before)


@pytest.mark.parametrize("copied", ["file", "deepcopy"])
@pytest.mark.parametrize("line_search", SEARCHES)
def test_a_state_resumes_bit_for_bit(copied: str, line_search: str) -> None:
    settings = {"history_size": 4, "curvature_offset": 1e-9, "max_evaluations": 5, "iterations": 2}
    settings["line_search"] = line_search
    start = [-1.2, 1.0] * 3
    whole, first = parameter(*start), parameter(*start)
    all_along, _ = minimize(rosenbrock, whole, steps=15, **settings)
    stopped, _ = minimize(rosenbrock, first, steps=4, **settings)
    # The state dict brings the settings.
    second, resumed = going_on(copied, first, stopped, lambda second: LBFGS([second]))
    assert resumed.status == stopped.status
    closure, loss = closures(rosenbrock, second)
    for _ in range(11):
        resumed.step(closure, loss)
    assert second.equal(whole)
    for name in ("gradient_evaluations", "loss_evaluations", "status"):
        assert getattr(resumed, name) == getattr(all_along, name)


@pytest.mark.parametrize("line_search", SEARCHES)
def test_maximizing_is_minimizing_the_negative(line_search: str) -> None:
    x, y = parameter(-1.2, 1.0), parameter(-1.2, 1.0)
    settings = {"line_search": line_search, "iterations": 3}
    _, down = minimize(rosenbrock, x, steps=8, **settings)
    _, up = minimize(lambda x: -rosenbrock(x), y, steps=8, maximize=True, **settings)
    assert x.equal(y)
    assert up == [-value for value in down]
    assert down[-1] < 1e-2 * down[0]


def test_the_loss_of_a_closure_that_has_one_is_taken() -> None:
    images, labels = load_digits(return_X_y=True)
    data = torch.as_tensor(images)[:200] / 16, torch.as_tensor(labels)[:200]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        first = nn.Sequential(nn.Linear(64, 8), nn.Softplus(), nn.Linear(8, 10)).double()
    second = copy.deepcopy(first)
    closure, other = DataClosure(first, cross_entropy, data), DataClosure(second, cross_entropy, data)
    given, found = LBFGS(first.parameters()), LBFGS(second.parameters())
    for _ in range(5):
        given.step(closure, closure.loss)
        found.step(other)
    assert all(p.equal(q) for p, q in zip(first.parameters(), second.parameters(), strict=True))
    assert found.gradient_evaluations == 5
    assert other.spent == {"gradients": 5 * 200, "losses": found.loss_evaluations * 200}

    theta = parameter(2.0, 1.0)
    objective = ObjectiveClosure(Objective([rosenbrock], 2), theta)
    LBFGS([theta], line_search="strong-wolfe", iterations=50).step(objective)
    assert rosenbrock(theta).item() < 1e-20


@pytest.mark.parametrize("line_search", SEARCHES)
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_autocast_around_a_step_changes_nothing_of_ours(line_search: str, dtype: torch.dtype) -> None:
    """Under autocast a product of matrices has the precision of bfloat16; our inner products must not."""
    ends = []
    for around in (False, True):
        x = nn.Parameter(torch.tensor([-1.2, 1.0] * 3, dtype=dtype))
        optimizer = LBFGS([x], line_search=line_search, iterations=40)
        with torch.autocast("cpu", torch.bfloat16, enabled=around):
            optimizer.step(*closures(rosenbrock, x))
        ends.append(x.detach())
    assert ends[0].equal(ends[1])


def test_a_model_under_autocast_is_fitted() -> None:
    images, labels = load_digits(return_X_y=True)
    x, y = torch.as_tensor(images[:200] / 16, dtype=torch.float32), torch.as_tensor(labels[:200])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 16), nn.Softplus(), nn.Linear(16, 10))
    optimizer = LBFGS(model.parameters(), iterations=20)

    def closure() -> Tensor:
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            loss = cross_entropy(model(x), y)
        loss.backward()
        return loss.detach()

    start = optimizer.step(closure).item()
    assert closure().item() < 0.1 < 1 < start


def test_gradients_scaled_for_half_precision_are_unscaled_before_they_are_seen() -> None:
    x, y = parameter(-1.2, 1.0), parameter(-1.2, 1.0)
    settings = {"line_search": "strong-wolfe", "iterations": 12}
    plain, scaled = LBFGS([x], **settings), LBFGS([y], **settings)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for _ in range(2):
        plain.step(closures(rosenbrock, x)[0])
        scaled.step(scaled_closure(lambda: rosenbrock(y), scaler, scaled))
        scaler.update()
    assert x.equal(y)


def test_hooks_run_once_a_step() -> None:
    x = parameter(-1.2, 1.0)
    optimizer, calls = LBFGS([x], iterations=3), []
    optimizer.register_step_pre_hook(lambda *_: calls.append("before"))
    optimizer.register_step_post_hook(lambda *_: calls.append("after"))
    for _ in range(2):
        optimizer.step(*closures(rosenbrock, x))
    assert calls == ["before", "after"] * 2


def test_gradients_clipped_in_the_closure_shorten_the_step() -> None:
    x = parameter(3.0, 4.0)

    def closure() -> Tensor:
        x.grad = None
        loss = 10 * x.square().sum()
        loss.backward()
        nn.utils.clip_grad_norm_([x], 1e-3)
        return loss.detach()

    LBFGS([x], max_evaluations=4).step(closure)
    torch.testing.assert_close(x.detach(), torch.tensor([3.0, 4.0], dtype=F64) * (1 - 3.2e-3 / 5))


# Errors


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"history_size": 0}, "history_size must be a whole number of at least 1, got 0."),
        ({"max_evaluations": 2.5}, "max_evaluations must be a whole number of at least 1, got 2.5."),
        ({"lr": 0.0}, "lr, the unit of the trial steps, must be positive, got 0.0."),
        ({"curvature_offset": -1e-6}, "curvature_offset must be in [0, inf), got -1e-06."),
        (
            {"line_search": "wolfe"},
            "line_search must be one of 'golden-section', 'strong-wolfe', got 'wolfe'.",
        ),
        ({"min_cosine": 1.0}, "min_cosine must be in [0, 1), got 1.0."),
        ({"gradient_tolerance": math.nan}, "gradient_tolerance must be in [0, inf), got nan."),
        ({"iterations": 0}, "iterations must be a whole number of at least 1, got 0."),
    ],
)
def test_settings_outside_their_range(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        LBFGS([parameter(1.0)], **settings)
    assert str(error.value) == message


def test_parameters_that_make_no_vector_are_refused() -> None:
    p, q = parameter(1.0), parameter(2.0)
    with pytest.raises(InputError, match="params must be one group, since L-BFGS sees one vector"):
        LBFGS([{"params": [p]}, {"params": [q]}])
    with pytest.raises(InputError, match="params must be one group"):
        LBFGS([p]).add_param_group({"params": [q]})
    with pytest.raises(
        InputError, match=r"one dtype on one device, got torch.float32 on cpu, torch.float64 on cpu"
    ):
        LBFGS([p, nn.Parameter(torch.ones(1))])
    with pytest.raises(
        InputError, match=r"floating-point tensors of one dtype on one device, got torch.complex128"
    ):
        LBFGS([nn.Parameter(torch.ones(1, dtype=torch.complex128))])


def test_it_needs_a_closure_and_is_no_base_for_an_adaptor() -> None:
    with pytest.raises(InputError, match="LBFGS evaluates the gradient itself: step must be given a closure"):
        LBFGS([parameter(1.0)]).step(None)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="but LBFGS calls a closure several times a step"):
        E(LBFGS([parameter(1.0)]))


def test_a_closure_must_return_the_loss() -> None:
    with pytest.raises(InputError, match="closure must return the loss, got None; end it with `return loss`"):
        LBFGS([parameter(1.0)]).step(lambda: None)


def test_sparse_gradients_are_refused() -> None:
    table = nn.Embedding(4, 2, sparse=True)

    def closure() -> Tensor:
        loss = table(torch.tensor([1])).sum()
        loss.backward()
        return loss

    with pytest.raises(InputError, match="gradients must be dense, got a sparse one"):
        LBFGS(table.parameters()).step(closure)


def test_a_gradient_within_its_tolerance_ends_the_run():
    x = torch.tensor([3.0, -2.0], dtype=torch.float64, requires_grad=True)
    optimizer = LBFGS([x], gradient_tolerance=1e-3)

    def closure():
        optimizer.zero_grad()
        loss = (x**4).sum()
        loss.backward()
        return loss

    for _ in range(200):
        optimizer.step(closure)
        if optimizer.converged:
            break
    assert optimizer.status == "the gradient is within its tolerance: the parameters stay"
    assert 0 < (4 * x**3).abs().max() <= 1e-3
    kept = x.detach().clone()
    optimizer.step(closure)
    assert x.equal(kept)
    with pytest.raises(InputError, match="gradient_tolerance must be in"):
        LBFGS([x], gradient_tolerance=-1.0)

"""Captured functions against the functions themselves, and what of them is left on an affine family."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from landscape import Objective, model_objective
from landscape.capturing import Captured, capture, capture_loss
from landscape.graphs import Residual, cut

aten: Any = torch.ops.aten
Function = Callable[[Tensor], Tensor]


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


C = numbers(6, seed=9)
WRITTEN = torch.zeros(6, dtype=torch.float64)


def value(rest: Residual, coordinates: Tensor) -> Tensor:
    rows = [rest.graph(state, *rest.constants) for state in rest.states(coordinates)]
    return torch.stack(rows)


def check(function: Function, captured: Captured, *, k: int = 2) -> None:
    """The rest, shared or not, at several points and twice over, against the function."""
    origin, directions, coordinates = numbers(6, seed=1), numbers(k, 6, seed=2), numbers(4, k, seed=3)
    expected = torch.stack([function(origin + a @ directions) for a in coordinates])
    for share in (True, False):
        rest = cut(captured, origin, directions, share=share)
        for _ in range(2):
            torch.testing.assert_close(value(rest, coordinates), expected, rtol=1e-12, atol=1e-14)


def in_place(t: Tensor) -> Tensor:
    u = t * 2
    u[:3] += C[:3]
    u.view(2, 3)[0].mul_(t[3:])
    return u.square().sum()


def filled(t: Tensor) -> Tensor:
    out = torch.zeros(2, 3, dtype=t.dtype)
    out[0], out[1] = t[:3], t[3:] * C[3:]
    return out.prod(0).sum()


def accumulated(t: Tensor) -> Tensor:
    total = torch.zeros((), dtype=t.dtype)
    for one in t:
        total += one**2
    return total


def several(t: Tensor) -> Tensor:
    values, order = t.sort()
    return (values * C).sum() + (order * t).sum() + t.topk(2).values.prod()


def masked(t: Tensor) -> Tensor:
    u = t.clone()
    u[t > 0] = 2.0
    return (torch.where(u < 0, u**2, C) * C[C > 0].sum()).sum()


def gradient(t: Tensor) -> Tensor:
    return torch.func.grad(lambda x: (x**3 * C).sum())(t).square().sum()


def awkward_views(t: Tensor) -> Tensor:
    one = t[:2].expand(2, 2) + t[2:].view(2, 2).t()
    return (one.t().view(4) * C[:4]).square().sum()


RIGHT: list[Function] = [
    in_place,
    filled,
    accumulated,
    several,
    masked,
    gradient,
    awkward_views,
    lambda t: (torch.div(t, 0.3, rounding_mode="floor") * C).sum(),
    lambda t: torch.fft.fft(t).abs().sum(),
    lambda t: torch.view_as_complex(t.view(3, 2)).abs().prod(),
    lambda t: (t.float() * C.float()).sum().double(),
    lambda t: (t * C + torch.tensor([0, 0, -torch.inf, 0, 0, 0], dtype=t.dtype)).softmax(0)[0],
    lambda t: torch.vmap(lambda x: (x * t).sum())(torch.eye(6, dtype=t.dtype)).square().sum(),
    lambda t: torch.tensor(3.0, dtype=t.dtype),
    lambda t: t.sum(),
]


@pytest.mark.parametrize("function", RIGHT)
def test_what_is_captured_gives_what_the_function_gives(function: Function) -> None:
    check(function, capture_loss(function, numbers(6, seed=1)))


@pytest.mark.parametrize("zero", [0, 2])
def test_parts_that_a_direction_leaves_alone_may_be_viewed(zero: int) -> None:
    origin, directions, coordinates = numbers(6, seed=1), numbers(1, 6, seed=2), numbers(3, 1)
    directions[0, zero : zero + 2 + zero] = 0
    rest = cut(capture_loss(awkward_views, origin), origin, directions)
    expected = torch.stack([awkward_views(origin + a @ directions) for a in coordinates])
    torch.testing.assert_close(value(rest, coordinates), expected, rtol=1e-13, atol=0)


def mutated(t: Tensor) -> Tensor:
    weight = torch.ones_like(C)
    first = (t * weight).sum()
    weight.fill_(3.0)
    return first + (t**2 * weight).sum()


def number_of_masked(t: Tensor) -> Tensor:
    chosen = t[t > 0]
    return chosen.sum() / chosen.numel()


NUMBERS = "reads a number that hangs on the argument"
REFUSED: list[tuple[Function, str]] = [
    (lambda t: t.sum() if t[0] > 0 else t.prod(), NUMBERS),
    (lambda t: t.sum() * float(t[0]), NUMBERS),
    (lambda t: t.sum() * t[0].item(), NUMBERS),
    (lambda t: t[torch.where(t > 0)[0]].sum(), NUMBERS),
    (lambda t: t.masked_select(t > 0).sum(), NUMBERS),
    (lambda t: t.sum() if torch.equal(t, C) else t.prod(), NUMBERS),
    (lambda t: t.sum() if torch.allclose(t, C) else t.prod(), NUMBERS),
    (lambda t: t.round().unique().sum(), NUMBERS),
    (number_of_masked, NUMBERS),
    (lambda t: torch.tensor((t.numpy() ** 2).sum()), "numpy reads numbers that hang"),
    (lambda t: torch.tensor(np.asarray(t).sum()), "__array__ reads numbers that hang"),
    (lambda t: torch.tensor(sum(t.tolist())), "tolist reads numbers that hang"),
    (
        lambda t: torch.as_strided(t * C, (3,), (2,)).sum(),
        "reads the layout in memory of what hangs on the argument",
    ),
    (lambda t: torch.tensor(list(t)).square().sum(), "tensor reads numbers that hang"),
    (
        lambda t: nn.Parameter(2 * t).square().sum(),
        "a tensor hangs on the argument although no operator made it",
    ),
    (
        lambda t: t.as_subclass(nn.Parameter).square().sum(),
        "a tensor hangs on the argument although no operator",
    ),  # type: ignore[type-var]
    (
        lambda t: copy.copy(2 * t).square().sum(),
        "a tensor hangs on the argument although no operator made it",
    ),
    (mutated, "a tensor is written to that was read as a constant"),
    (
        lambda t: WRITTEN.copy_(t).square().sum(),
        "non-functional|functionalization|INTERNAL ASSERT",
    ),  # PyTorch's words
]


@pytest.mark.parametrize(("function", "message"), REFUSED)
def test_what_operators_do_not_tell_is_refused(function: Function, message: str) -> None:
    with pytest.raises(RuntimeError, match=message):
        capture_loss(function, numbers(6, seed=1))


def test_a_constant_that_what_hangs_on_the_argument_is_written_to_is_refused() -> None:
    def written(t: Tensor) -> Tensor:
        out = torch.zeros(2, dtype=t.dtype)
        out[0] = t.sum()
        return out.sum()

    def added(t: Tensor) -> Tensor:
        return torch.zeros(6, dtype=t.dtype).add_(t).sum()

    with pytest.raises(RuntimeError, match=r"no operator made it, or wrote to all of it"):
        capture(written, numbers(6))
    with pytest.raises(RuntimeError, match="written to that was read as a constant"):
        capture(added, numbers(6))


def test_masks_and_shapes_that_do_not_hang_on_the_argument_are_constants() -> None:
    def function(t: Tensor) -> Tensor:
        return t[C > 0].sum() * float(C[0]) if torch.equal(C, C) else t.prod()

    check(function, capture_loss(function, numbers(6, seed=1)))


def test_constants_of_inference_mode_are_read() -> None:
    with torch.inference_mode():
        weight = C.clone()
    check(lambda t: (t**2 * weight).sum(), capture_loss(lambda t: (t**2 * weight).sum(), numbers(6)))


def test_capturing_leaves_its_point_as_it_was() -> None:
    """An embedding with max_norm writes to its weights."""
    words = torch.tensor([0, 1])

    def function(t: Tensor) -> Tensor:
        return (F.embedding(words, t.view(2, 3), max_norm=0.5) * C.view(2, 3)).sum()

    origin = 3 * numbers(6, seed=1)
    kept = origin.clone()
    captured = capture_loss(function, origin)
    assert origin.equal(kept)
    coordinates, directions = numbers(3, 2), numbers(2, 6)
    expected = torch.stack([function(origin + a @ directions) for a in coordinates])
    for share in (True, False):
        rest = cut(captured, origin, directions, share=share)
        torch.testing.assert_close(value(rest, coordinates), expected, rtol=1e-13, atol=0)
    assert origin.equal(kept)


def test_the_point_may_be_a_constant_of_the_function_as_well() -> None:
    anchor = numbers(6, seed=1)  # the origin in check
    check(
        lambda t: ((t - anchor) ** 2 * C).sum(), capture_loss(lambda t: ((t - anchor) ** 2 * C).sum(), anchor)
    )


@pytest.mark.parametrize("inplace", [False, True])
def test_capture_records_derivatives_too(inplace: bool) -> None:
    def loss(x: Tensor) -> Tensor:
        return (F.relu(x * C[2], inplace=inplace) ** 4).sum() + (x**3).sum()

    hessian = torch.func.hessian(loss)(C)
    captured = capture(lambda v: torch.func.jvp(torch.func.grad(loss), (C,), (v,))[1], C)
    rest = cut(captured, C, C[None], share=False)
    v = numbers(6, seed=4)
    torch.testing.assert_close(rest.graph(v, *rest.constants), hessian @ v, rtol=1e-13, atol=0)


X, Y = numbers(5, 6), torch.tensor([0, 1, 2, 0, 1])
IMAGES, WORDS = numbers(5, 2, 6, 6), torch.tensor([[0, 3, 1], [2, 2, 6], [4, 5, 6], [0, 0, 0], [1, 2, 3]])


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.words, self.middle = nn.Embedding(7, 3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.middle(self.words(x)).tanh().mean(1) @ self.words.weight[:3].t()


def objective(model: nn.Module, x: Tensor) -> Objective:
    return model_objective(model.double().eval(), nn.functional.cross_entropy, [(x, Y)])


def mlp() -> Objective:
    return objective(
        nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)), X
    )


def convnet() -> Objective:
    return objective(
        nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Conv2d(3, 1, 2), nn.Flatten(), nn.Linear(9, 3)),
        IMAGES,
    )


def operators(rest: Residual, *kinds: Any) -> int:
    return sum(getattr(n.target, "overloadpacket", None) in kinds for n in rest.graph.graph.nodes)


def residual(given: Objective, directions: Tensor, *, share: bool = True) -> Residual:
    origin = numbers(given.dim, seed=5)
    rest = cut(capture_loss(given.terms[0], origin), origin, directions, share=share)
    coordinates = numbers(3, len(directions), seed=6)
    expected = torch.stack([given(origin + a @ directions) for a in coordinates])
    torch.testing.assert_close(value(rest, coordinates), expected, rtol=1e-12, atol=1e-14)
    return rest


PRODUCTS = (aten.addmm, aten.mm, aten.bmm, aten.convolution)
LAYERS: list[tuple[Callable[[], Objective], int, int, list[int]]] = [
    # products of the whole, of the rest, and what the rest reads of the family
    (mlp, 3, 2, [5 * 4, 5 * 4, 5, 3 * 5, 3]),
    (convnet, 3, 2, [5 * 3 * 4 * 4, 3 * 4, 1, 3 * 9, 3]),
    # the first linear layer's embedded words are a family, but it multiplies them with another one
    (lambda: objective(Tied(), WORDS), 2, 2, [15 * 3, 9, 3, 9]),
]


@pytest.mark.parametrize(("given", "all_of_them", "left", "state"), LAYERS)
def test_what_the_first_layer_gives_is_shared(
    given: Callable[[], Objective], all_of_them: int, left: int, state: list[int]
) -> None:
    loss = given()
    directions = numbers(2, loss.dim)
    assert operators(residual(loss, directions, share=False), *PRODUCTS) == all_of_them
    rest = residual(loss, directions)
    assert operators(rest, *PRODUCTS) == left
    assert operators(rest, aten.embedding) == 0
    assert rest.origin.numel() == sum(state)
    assert rest.directions.shape == (2, sum(state))


@pytest.mark.parametrize(
    ("changing", "left"),
    [("0.weight", 2), ("0.bias", 2), ("2.weight", 1), ("2.bias", 1), ("4.weight", 0), ("4.bias", 0)],
)
def test_layers_before_the_first_that_the_directions_change_are_shared(changing: str, left: int) -> None:
    loss = mlp()
    assert loss.parameters is not None
    directions = torch.zeros(2, loss.dim, dtype=torch.float64)
    for i, row in enumerate(directions):
        loss.parameters.unpack(row)[changing].copy_(
            numbers(*loss.parameters.unpack(row)[changing].shape, seed=i)
        )
    rest = residual(loss, directions)
    assert operators(rest, *PRODUCTS) == left
    assert operators(rest, aten.tanh) == left


def test_directions_may_change_different_layers() -> None:
    loss = mlp()
    directions = torch.zeros(3, loss.dim, dtype=torch.float64)
    directions[0, :24], directions[2, 28:48] = numbers(24), numbers(20)
    assert operators(residual(loss, directions), *PRODUCTS) == 2  # what goes into the third differs


def test_where_nothing_changes_nothing_is_left() -> None:
    loss = mlp()
    rest = residual(loss, torch.zeros(2, loss.dim, dtype=torch.float64))
    assert not [n for n in rest.graph.graph.nodes if n.op == "call_function"]
    assert rest.states(numbers(4, 2)).shape == (4, 0)


def test_directions_of_zeros_are_none() -> None:
    origin, directions = numbers(6), torch.zeros(2, 6, dtype=torch.float64)
    assert operators(cut(capture_loss(lambda t: t.exp().sum(), origin), origin, directions), aten.exp) == 0
    directions[1, 0] = 1
    assert operators(cut(capture_loss(lambda t: t.exp().sum(), origin), origin, directions), aten.exp) == 1


def test_assignments_to_parts_have_rules_for_many_points() -> None:
    """PyTorch's vmap knows no slice to the end, and copies one after another with a warning."""

    def function(t: Tensor) -> Tensor:
        u = t * 2
        u[2:] = t[0]
        u[:2] = C[:2]
        v = torch.zeros(6, dtype=torch.float32)
        v[1:] = u[1:]
        return (u.exp() * C).sum() + v.sum()

    origin, directions, coordinates = numbers(6), numbers(2, 6), numbers(4, 2)
    expected = torch.stack([function(origin + a @ directions) for a in coordinates])
    for share in (True, False):
        rest = cut(capture_loss(function, origin), origin, directions, share=share)
        many = torch.vmap(rest.graph, in_dims=(0, *(None,) * len(rest.constants)))
        torch.testing.assert_close(
            many(rest.states(coordinates), *rest.constants), expected, rtol=1e-7, atol=0
        )
        assert operators(rest, aten.copy) == 1  # into another dtype, which converts


def test_of_an_affine_loss_one_number_is_left() -> None:
    rest = residual(Objective([lambda t: 3 * (t * C).sum() - t[0] / 2 + 1], 6), numbers(2, 6))
    assert rest.origin.shape == (1,)
    assert operators(rest, aten.mul, aten.sum, aten.add, aten.div) == 0


def test_a_family_without_directions_is_its_origin() -> None:
    given, origin = mlp(), numbers(mlp().dim)
    rest = cut(capture_loss(given.terms[0], origin), origin, origin.new_zeros(0, given.dim))
    torch.testing.assert_close(
        value(rest, origin.new_zeros(2, 0)), given(origin).expand(2), rtol=1e-13, atol=0
    )


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("given", [mlp, convnet])
def test_at_coordinates_zero_the_state_is_exactly_the_origin(
    given: Callable[[], Objective], share: bool
) -> None:
    rest = residual(given(), 1e3 * numbers(2, given().dim), share=share)
    coordinates = numbers(7, 2)
    coordinates[[2, 5]] = 0
    states = rest.states(coordinates)
    assert states[2].equal(rest.origin)
    assert states[5].equal(rest.origin)


def test_a_graph_is_cut_anew_for_every_family() -> None:
    loss = mlp()
    captured = capture_loss(loss.terms[0], numbers(loss.dim, seed=5))
    for seed in range(3):
        origin, directions, coordinates = (
            numbers(loss.dim, seed=seed),
            numbers(2, loss.dim, seed=seed + 3),
            numbers(2, 2),
        )
        expected = torch.stack([loss(origin + a @ directions) for a in coordinates])
        rest = cut(captured, origin, directions)
        torch.testing.assert_close(value(rest, coordinates), expected, rtol=1e-12, atol=0)

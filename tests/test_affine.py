"""The table of affine operators by its definition: an operator of families, at any coordinates, is the family that comes out."""

import operator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.fx.node import map_aggregate

from landscape.affine import LINEAR, PRODUCTS, SUMS, Affine, NotAffine, affine

aten: Any = torch.ops.aten


def numbers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@dataclass(frozen=True)
class F:
    """Stands for a family in arguments: of three directions, along one of which it does not change."""

    shape: tuple[int, ...]
    still: int = 2
    seed: int = 10

    def family(self) -> Affine:
        parts = [numbers(*self.shape, seed=self.seed + i) for i in range(4)]
        return Affine(tuple(None if i == self.still else part for i, part in enumerate(parts)))


def f(*shape: int, still: int = 2, seed: int = 10) -> F:
    return F(shape, still, seed)


C = numbers
INDEX = torch.tensor([[2, 0], [1, 2]])
CASES: list[tuple[Any, tuple[Any, ...], dict[str, Any]]] = [
    (aten.view.default, (f(2, 6), [3, 4]), {}),
    (aten._unsafe_view.default, (f(2, 6), [12]), {}),
    (aten.reshape.default, (f(2, 6), [4, -1]), {}),
    (aten.t.default, (f(2, 6),), {}),
    (aten.transpose.int, (f(2, 3, 4), 0, 2), {}),
    (aten.permute.default, (f(2, 3, 4), [2, 0, 1]), {}),
    (aten.expand.default, (f(1, 3), [4, -1]), {}),
    (aten.squeeze.default, (f(1, 3),), {}),
    (aten.squeeze.dim, (f(1, 3), 0), {}),
    (aten.squeeze.dims, (f(1, 3, 1), [0, 2]), {}),
    (aten.unsqueeze.default, (f(2, 3), 1), {}),
    (aten.alias.default, (f(2, 3),), {}),
    (aten.clone.default, (f(2, 3),), {"memory_format": torch.contiguous_format}),
    (aten.detach.default, (f(2, 3),), {}),
    (aten.contiguous.default, (f(2, 3),), {}),
    (aten._to_copy.default, (f(2, 3),), {"dtype": torch.float64}),
    (aten.split.Tensor, (f(5, 3), 2), {}),
    (aten.split_with_sizes.default, (f(5, 3), [1, 4]), {}),
    (aten.unbind.int, (f(3, 2), 1), {}),
    (aten.slice.Tensor, (f(5, 3), 0, 1, 4, 2), {}),
    (aten.select.int, (f(5, 3), 1, -1), {}),
    (aten.index_select.default, (f(3, 4), 0, INDEX[0]), {}),
    (aten.sum.default, (f(2, 3),), {}),
    (aten.sum.dim_IntList, (f(2, 3), [1], True), {}),
    (aten.sum.default, (f(2, 3),), {"dtype": torch.float64}),
    (aten.mean.default, (f(2, 3),), {}),
    (aten.mean.dim, (f(2, 3), [0]), {}),
    (aten.neg.default, (f(2, 3),), {}),
    (aten.div.Tensor, (f(2, 3), C(3)), {}),
    (aten.div.Scalar, (f(2, 3), 3), {}),
    (aten.div.Tensor_mode, (f(2, 3), C(3)), {"rounding_mode": None}),
    (aten.flip.default, (f(2, 3), [0, 1]), {}),
    (aten.repeat.default, (f(2, 3), [2, 1, 2]), {}),
    (aten.embedding.default, (f(3, 4), INDEX), {}),
    (aten.embedding.default, (f(3, 4), INDEX, 0, True), {}),
    (aten.avg_pool2d.default, (f(1, 2, 4, 4), [2, 2], [1, 1], [1, 1], True, False), {}),
    (aten._adaptive_avg_pool2d.default, (f(1, 2, 4, 4), [2, 2]), {}),
    (aten.add.Tensor, (f(2, 3), C(2, 3)), {}),
    (aten.add.Tensor, (f(2, 3), C(3)), {"alpha": 2.5}),
    (aten.add.Tensor, (C(2, 3), f(3)), {"alpha": 2.5}),
    (aten.add.Tensor, (f(2, 3), f(2, 3, still=1, seed=20)), {"alpha": -2}),
    (aten.add.Tensor, (f(2, 3), f(3, still=2, seed=20)), {}),
    (aten.add.Tensor, (f(2, 3), 1.5), {"alpha": 2}),
    (aten.add.Scalar, (f(2, 3), 1.5), {}),
    (aten.add.Scalar, (f(2, 3), 1.5, 2), {}),
    (aten.add.Tensor, (f(2, 3), torch.arange(3)), {}),
    (aten.sub.Tensor, (f(2, 3), C(3)), {}),
    (aten.sub.Tensor, (C(2, 3), f(2, 3)), {"alpha": 3}),
    (aten.sub.Tensor, (f(3), f(2, 3, still=3, seed=20)), {}),
    (aten.sub.Scalar, (f(2, 3), 2), {}),
    (aten.cat.default, ([f(2, 3), C(4, 3), f(1, 3, still=1, seed=20)],), {}),
    (aten.cat.default, ([C(2, 1), f(2, 3)], 1), {}),
    (aten.stack.default, ([f(2, 3), C(2, 3)], 1), {}),
    (aten.mul.Tensor, (f(2, 3), C(3)), {}),
    (aten.mul.Tensor, (C(2, 1), f(2, 3)), {}),
    (aten.mul.Tensor, (f(2, 3), 4), {}),
    (aten.mul.Scalar, (f(2, 3), -0.5), {}),
    (aten.mm.default, (f(2, 3), C(3, 4)), {}),
    (aten.mm.default, (C(2, 3), f(3, 4)), {}),
    (aten.bmm.default, (f(2, 3, 4), C(2, 4, 1)), {}),
    (aten.bmm.default, (C(2, 3, 4), f(2, 4, 1)), {}),
    (aten.mv.default, (f(2, 3), C(3)), {}),
    (aten.mv.default, (C(2, 3), f(3)), {}),
    (aten.dot.default, (f(3), C(3)), {}),
    (aten.dot.default, (C(3), f(3)), {}),
    (aten.addmm.default, (f(4), C(2, 3), f(3, 4, still=1, seed=20)), {}),
    (aten.addmm.default, (f(2, 4), f(2, 3, still=1, seed=20), C(3, 4)), {"beta": 2, "alpha": 3}),
    (aten.addmm.default, (C(4), C(2, 3), f(3, 4)), {"beta": 2, "alpha": 3}),
    (aten.addmm.default, (f(4), C(2, 3), C(3, 4)), {"beta": 2, "alpha": 3}),
    (aten.baddbmm.default, (C(2, 3, 1), C(2, 3, 4), f(2, 4, 1)), {"beta": -1, "alpha": 2}),
    (aten.baddbmm.default, (f(2, 3, 1), C(2, 3, 4), C(2, 4, 1)), {}),
    (aten.baddbmm.default, (f(2, 3, 1), f(2, 3, 4, still=3, seed=20), C(2, 4, 1)), {"alpha": 2}),
    (aten.addmv.default, (C(2), C(2, 3), f(3)), {"beta": 3}),
    (aten.addmv.default, (f(2), C(2, 3), C(3)), {"beta": 3}),
    (aten.linear.default, (C(2, 3), f(4, 3), f(4, still=1, seed=20)), {}),
    (aten.linear.default, (C(2, 3), f(4, 3), C(4)), {}),
    (aten.linear.default, (C(2, 3), f(4, 3)), {}),
    (aten.linear.default, (C(2, 3), C(4, 3), f(4)), {}),
    (aten.linear.default, (f(2, 3), C(4, 3), C(4)), {}),
]
# transposed?, groups, and which of input, weight and bias are families
for transposed, groups, shape in (
    (False, 1, (4, 2, 3, 3)),
    (False, 2, (4, 1, 3, 3)),
    (True, 1, (2, 4, 3, 3)),
    (True, 2, (2, 2, 3, 3)),
):
    settings = (
        [2, 1],
        [1, 1],
        [1, 1] if transposed else [1, 2],
        transposed,
        [1, 0] if transposed else [0, 0],
        groups,
    )
    image, weight, bias = (1, 2, 6, 6), shape, (4,)
    CASES += [
        (aten.convolution.default, (C(*image), f(*weight), f(*bias, still=1, seed=20), *settings), {}),
        (aten.convolution.default, (C(*image), f(*weight), C(*bias), *settings), {}),
        (aten.convolution.default, (C(*image), f(*weight), None, *settings), {}),
        (aten.convolution.default, (C(*image), C(*weight), f(*bias), *settings), {}),
        (aten.convolution.default, (f(*image), C(*weight), C(*bias), *settings), {}),
    ]


def families(arguments: Any) -> Any:
    def made(leaf: Any) -> Any:
        return leaf.family() if isinstance(leaf, F) else leaf

    return map_aggregate(arguments, made)


def at(family: Affine, a: Tensor) -> Any:
    """x₀ + Σ aᵢ xᵢ, by the definition; of a tuple, of each of its tensors."""
    if not isinstance(family.parts[0], Tensor):
        one = [
            Affine(tuple(p if p is None else p[i] for p in family.parts)) for i in range(len(family.parts[0]))
        ]
        return [at(f, a) for f in one]
    total = family.parts[0].clone()
    for coordinate, part in zip(a, family.parts[1:], strict=True):
        total += 0 if part is None else coordinate * part
    return total


def said(case: Any) -> str:
    shapes: list[str] = []
    map_aggregate(
        case[1],
        lambda x: shapes.append("F" if isinstance(x, F) else "C") if isinstance(x, F | Tensor) else None,
    )
    return f"{case[0]}-{''.join(shapes)}-{case[2]}"


@pytest.mark.parametrize(("target", "args", "kwargs"), CASES, ids=map(said, CASES))
def test_an_operator_of_families_is_the_family_of_its_results(
    target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    given = families(args)
    kept = map_aggregate(given, lambda x: x.clone() if isinstance(x, Tensor) else x)
    found = affine(target, given, kwargs)
    assert not found.is_constant
    for seed in range(3):
        a = 10 ** (seed - 1) * numbers(3, seed=seed)
        there = map_aggregate(given, lambda x: at(x, a) if isinstance(x, Affine) else x)  # noqa: B023
        torch.testing.assert_close(at(found, a), target(*there, **kwargs), rtol=1e-12, atol=1e-12)
    for mine, theirs in zip(given, kept, strict=True):
        assert not isinstance(mine, Tensor) or mine.equal(theirs)


def test_every_operator_of_the_table_is_tested() -> None:
    tested = {target.overloadpacket for target, _, _ in CASES}
    assert tested == (LINEAR | SUMS | set(PRODUCTS)) - {operator.getitem}


def test_along_a_direction_that_changes_no_argument_nothing_is_computed() -> None:
    found = affine(aten.addmm.default, families((f(4), C(2, 3), f(3, 4, seed=20))), {})
    assert found.parts[2] is None
    assert found.parts[1] is not None


def test_one_of_several_results_is_a_family() -> None:
    pieces = affine(aten.split.Tensor, families((f(5, 3), 2)), {})
    a = numbers(3)
    torch.testing.assert_close(at(affine(operator.getitem, (pieces, 1), {}), a), at(f(5, 3).family(), a)[2:4])


@pytest.mark.parametrize(
    ("target", "args"),
    [(operator.getitem, (1,)), (aten.slice.Tensor, (0, 2, 4)), (aten.select.int, (0, 3))],
)
def test_a_part_that_a_direction_leaves_alone_is_constant_along_it(
    target: Any, args: tuple[Any, ...]
) -> None:
    base, direction = numbers(4, 2), torch.zeros(4, 2, dtype=torch.float64)
    direction[:2] = 1
    halves = target is operator.getitem
    whole = Affine((base.split(2), direction.split(2)) if halves else (base, direction))
    found = affine(target, (whole, *args), {})
    assert found.is_constant
    torch.testing.assert_close(found.parts[0], base[3] if target is aten.select.int else base[2:])


@pytest.mark.parametrize(
    ("target", "args", "kwargs"),
    [
        (aten.mul.Tensor, (f(2, 3), f(2, 3)), {}),
        (aten.mm.default, (f(2, 3), f(3, 4)), {}),
        (aten.bmm.default, (f(2, 3, 4), f(2, 4, 3)), {}),
        (aten.mv.default, (f(2, 3), f(3)), {}),
        (aten.dot.default, (f(3), f(3)), {}),
        (aten.addmm.default, (C(4), f(2, 3), f(3, 4)), {}),
        (aten.linear.default, (f(2, 3), f(4, 3), C(4)), {}),
        (
            aten.convolution.default,
            (f(1, 2, 4, 4), f(3, 2, 2, 2), None, [1, 1], [0, 0], [1, 1], False, [0, 0], 1),
            {},
        ),
        (aten.div.Tensor, (C(2, 3), f(2, 3)), {}),
        (aten.div.Tensor, (f(2, 3), f(2, 3)), {}),
        (aten.div.Tensor_mode, (f(2, 3), C(3)), {"rounding_mode": "floor"}),
        (aten.div.Scalar_mode, (f(2, 3), 2), {"rounding_mode": "trunc"}),
        (aten.relu.default, (f(2, 3),), {}),
        (aten.pow.Tensor_Scalar, (f(2, 3), 2), {}),
        (aten.abs.default, (f(2, 3),), {}),
        (aten.amax.default, (f(2, 3),), {}),
        (aten.embedding_renorm.default, (f(3, 4), INDEX, 1.0, 2.0), {}),
        (aten._to_copy.default, (f(2, 3),), {"dtype": torch.float32}),
        (aten._to_copy.default, (f(2, 3),), {"dtype": torch.int64}),
        (aten.sum.default, (f(2, 3),), {"dtype": torch.float32}),
        (aten.mean.default, (f(2, 3),), {"dtype": torch.float32}),
        (aten.view.dtype, (f(2, 3), torch.int64), {}),
        (aten.mul.Tensor, (f(2, 3), torch.ones(3, dtype=torch.complex128)), {}),
        (aten.as_strided.default, (f(2, 3), [3], [1], 0), {}),
    ],
)
def test_what_is_not_affine_is_refused(target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    with pytest.raises(NotAffine):
        affine(target, families(args), kwargs)


def test_a_family_among_the_settings_is_refused() -> None:
    with pytest.raises(NotAffine):
        affine(aten.add.Tensor, (C(3),), {"other": f(3).family()})
    with pytest.raises(NotAffine):
        affine(aten.index_select.default, (C(3), 0, f(2).family()), {})

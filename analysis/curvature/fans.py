"""The directions in which a loss bends in its outputs: factors S of its Hessian there, row by row.

A row is what the loss takes apart: an example, or a token or pixel of one. Two kinds of loss are known by what they do to a few
vectors, and have their factors in closed form; w is the row's weight:

    squares      ∇²ℓ = w I                    S = √w I
    softmax      ∇²ℓ = w (diag p − ppᵀ)       S = √w (I − p1ᵀ) diag √p, as Σ p = 1; p the softmax of the row

Others are assembled, C products with the rows' Hessians at once, and taken apart by eigenvalues, negative ones on their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from landscape import InputError
from landscape.objective import double_backward

from .estimators import signs

MEMORY = 2**28  # numbers that assembled Hessians may take
_SLACK = 1e3  # times the rounding: how far a Hessian may be from what is taken for it

Factor = Callable[[Tensor], Tensor]  # u (rows, C) -> Su
Loss = Callable[[Tensor], Tensor]  # z -> ()


@dataclass(frozen=True, eq=False)
class Fan:
    """∇²ℓ in outputs z (N, …) as Σ sign SSᵀ over factors (sign, S) on rows (R, C), R a multiple of the N examples.

    place: (R, C) -> like z, in which the rows of an example are one after another.
    """

    factors: tuple[tuple[int, Factor], ...]
    shape: tuple[int, int]
    place: Callable[[Tensor], Tensor]
    examples: int
    like: Tensor

    @classmethod
    def of(cls, loss: Loss, z: Tensor) -> Fan:
        """Of a loss at outputs z (N, …); InputError if it couples rows, whether classes come last or second."""
        ways = [_Rows(loss, z, axis) for axis in dict.fromkeys((z.ndim - 1, min(1, z.ndim - 1)))]
        for known in (_Rows.scaled, _Rows.softmax, _Rows.assembled):
            for rows in ways:
                if factors := known(rows):
                    return cls(factors, (len(rows.rows), rows.rows.shape[1]), rows.place, len(z), z)
        raise InputError(
            "the loss couples rows of the outputs, so its Gauss–Newton diagonal is no sum over examples; "
            "use another method than 'split'."
        )

    @property
    def count(self) -> int:
        """Backward passes that ``each`` takes, at most."""
        return len(self.factors) * self.shape[1] * (self.shape[0] // self.examples)

    def each(self) -> Iterator[tuple[int, Tensor]]:
        """Signs and seeds like z, for one column of S and one row of every example at a time."""
        every = self.shape[0] // self.examples
        for sign, factor in self.factors:
            for k in range(self.shape[1]):
                for row in range(every):
                    u = self.like.new_zeros(self.shape)
                    u[row::every, k] = 1
                    seeds = factor(u)
                    if seeds.any():
                        yield sign, self.place(seeds)

    def drawn(self, generator: torch.Generator | None) -> Iterator[tuple[int, Tensor]]:
        """Signs and seeds like z, all rows and columns at once, with independent signs."""
        device = generator.device if generator is not None else self.like.device
        for sign, factor in self.factors:
            normal = torch.randn(self.shape, generator=generator, device=device).to(self.like)
            yield sign, self.place(factor(signs(normal)))


class _Rows:
    """Outputs as rows (R, C), and the loss's Hessian there as products, beside one at neutral outputs near 0.

    What kind a loss is, and its weights, are read off at the neutral ones: where a loss is fitted its curvature is a small
    difference of large numbers. Rounding is as large as it is for curvature at either.
    """

    def __init__(self, loss: Loss, z: Tensor, axis: int) -> None:
        self.times, self.z, self.axis = double_backward(loss, z), z, axis
        generator = torch.Generator(z.device).manual_seed(0)
        *v, neutral = torch.randn(3, *z.shape, generator=generator, device=z.device, dtype=z.dtype)
        self.v, neutral = torch.stack(v), neutral / 10
        self.rows, self.neutral = self.back(z), self.back(neutral)
        self.images, self.neutral_images = self.times(self.v), double_backward(loss, neutral)(self.v)
        size = max(float(self.images.abs().max()), float(self.neutral_images.nan_to_num(0, 0, 0).abs().max()))
        self.rounding = self.rows.shape[1] * torch.finfo(z.dtype).eps * size

    def back(self, z: Tensor) -> Tensor:
        """(R, C)."""
        return z[:, None] if z.ndim == 1 else z.movedim(self.axis, -1).reshape(-1, z.shape[self.axis])

    def place(self, rows: Tensor) -> Tensor:
        if self.z.ndim == 1:
            return rows[:, 0]
        return rows.reshape(self.z.movedim(self.axis, -1).shape).movedim(-1, self.axis)

    def scaled(self) -> tuple[tuple[int, Factor], ...]:
        """Of w I; empty if it is not."""
        weight = self._weight(lambda u, rows: u, torch.ones_like)
        if weight is None:
            return ()
        return _by_sign(weight, lambda u, root: root * u)

    def softmax(self) -> tuple[tuple[int, Factor], ...]:
        """Of w (diag p − ppᵀ), w ≥ 0; empty if it is not."""

        def product(u: Tensor, rows: Tensor) -> Tensor:
            shares = rows.softmax(1) * u
            return shares - rows.softmax(1) * shares.sum(1, keepdim=True)

        weight, p = self._weight(product, lambda rows: rows.softmax(1)), self.rows.softmax(1)
        if weight is None or (weight < 0).any():
            return ()

        def factor(u: Tensor) -> Tensor:
            shares = p.sqrt() * u
            return weight.sqrt() * (shares - p * shares.sum(1, keepdim=True))

        return ((1, factor),)

    def _weight(self, product: Callable[[Tensor, Tensor], Tensor], metric: Factor) -> Tensor | None:
        """w (R, 1) such that ∇²ℓ u = w product(u), read off at neutral outputs; None if that is not so, there or at z."""
        at = [(self.neutral_images, self.neutral), (self.images, self.rows)]
        pairs = [
            (self.back(image), product(self.back(v), rows))
            for images, rows in at
            for image, v in zip(images, self.v, strict=True)
        ]
        found, known = pairs[0]
        over = metric(self.neutral)
        weight = (found * known / over).sum(1, keepdim=True) / (known.square() / over).sum(1, keepdim=True)
        weight = weight.nan_to_num(0, 0, 0)
        off = max(float((found - weight * known).abs().max()) for found, known in pairs)
        return weight if off <= _SLACK * self.rounding else None

    def assembled(self) -> tuple[tuple[int, Factor], ...]:
        """Of blocks (R, C, C), if the Hessian is those and nothing else; empty if rows are coupled."""
        count, classes = self.rows.shape
        if count * classes**2 > MEMORY:
            raise InputError(
                f"the loss's Hessian in {tuple(self.z.shape)} outputs takes {count * classes**2:.2g} numbers, more than "
                f"{MEMORY:.2g}, and it is no softmax cross-entropy; use another method than 'split', or smaller batches."
            )
        columns = []
        for c in range(classes):
            unit = torch.zeros_like(self.rows)
            unit[:, c] = 1
            columns.append(self.back(self.times(self.place(unit)[None])[0]))
        hessian = torch.stack(columns, dim=2)
        hessian = (hessian + hessian.mT) / 2
        expected = (hessian @ self.back(self.v[0])[..., None])[..., 0]
        if float((self.back(self.images[0]) - expected).abs().max()) > _SLACK * self.rounding:
            return ()
        values, vectors = torch.linalg.eigh(hessian)
        values = values.where(values.abs() > self.rounding, 0.0)
        return _by_sign(values, lambda u, root: (vectors @ (root * u)[..., None])[..., 0])


def _by_sign(values: Tensor, apply: Callable[[Tensor, Tensor], Tensor]) -> tuple[tuple[int, Factor], ...]:
    """Factors of the positive part of values and of the negative one, where there is any: u -> apply(u, √|values|)."""

    def factor(root: Tensor) -> Factor:
        return lambda u: apply(u, root)

    roots = [(sign, (sign * values).clamp(min=0).sqrt()) for sign in (1, -1)]
    return tuple((sign, factor(root)) for sign, root in roots if root.any() or sign > 0)

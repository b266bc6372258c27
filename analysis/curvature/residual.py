"""The trace of the residual part of the Hessian from products with it, of the whole and of blocks, by the same probes."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from landscape import HessianProducts, Objective

from ..points import draw_normal
from .estimators import Mean, Products, signs
from .matrices import residual_objective
from .partition import Partition
from .xtrace import XTrace

_AT_ONCE = 16  # vectors
_XTRACE = 40  # products from which on XTrace's error bar is right
_GAIN = 0.8  # of the error of as many signs: the most that XTrace may have to be kept, since its linear algebra costs too


class ResidualProbes:
    """tr R from products: by signs where they are few, by XTrace where they are more; its blocks by the same probes."""

    def __init__(
        self,
        objective: Objective,
        theta: Tensor,
        bent: Tensor,
        generator: torch.Generator | None,
        blocks: Partition,
    ) -> None:
        self.objective, self.theta, self.bent = objective, theta, bent.to(theta)
        self.generator, self.blocks = generator, blocks
        self.xtrace: XTrace | None = None
        self.plain = False  # XTrace was tried in vain
        self.exact: Tensor | None = None
        self.samples = torch.zeros(0, 1 + len(blocks.names), dtype=torch.float64)  # of probes
        self.spent = 0

    def spend(self, count: int) -> None:
        """Takes so many products, at most as many again."""
        if not self.bent.any():
            return
        count, dim = min(count, self.spent or count), len(self.bent)
        if self.spent + count >= dim:  # all columns, so no error
            columns = self.times(torch.eye(dim).to(self.normals(0)))
            self.exact, count = sums_of(columns.diagonal()[None], self.blocks)[0], dim
        elif self.xtrace or (self.spent + count >= _XTRACE and not self.plain):
            count = self._by_xtrace(count)
        else:
            for start in range(0, count, _AT_ONCE):
                v = signs(self.normals(min(_AT_ONCE, count - start)))
                self._take(v, self.times(v))
        self.spent += count

    def _by_xtrace(self, count: int) -> int:
        """Products spent. The first time XTrace is only tried, and left where it gains little over as many signs."""
        first = self.xtrace is None
        self.xtrace = self.xtrace or XTrace(self.times, self.normals)
        count = max(count, _XTRACE) if first else count
        before = len(self.xtrace.probes)
        self.xtrace.spend(count)
        self._take(self.xtrace.probes[before:], self.xtrace.images[before:])
        if first and self.xtrace.trace()[1] > _GAIN * self.samples[:, 0].std() / count**0.5:
            self.xtrace, self.plain = None, True
        return count

    @cached_property
    def times(self) -> Products:
        """v -> Rv of the parameters that have something to tell."""
        products = HessianProducts(residual_objective(self.objective, self.theta), self.theta)
        return lambda v: self.bent * products(self.bent * v)

    def normals(self, count: int) -> Tensor:
        return draw_normal(self.objective, count, self.generator)

    def estimate(self) -> Mean:
        """Of the whole and the blocks, (1 + B,)."""
        if self.exact is not None:
            return Mean.known(self.exact)
        if not self.spent:  # there is nothing to estimate
            return Mean.known(self.samples.sum(0))
        mean = Mean.of(self.samples)
        if self.xtrace:
            found, error = self.xtrace.trace()
            mean.value[0], mean.variance[0] = found.mean(), error.square()
        return mean

    def _take(self, v: Tensor, image: Tensor) -> None:
        self.samples = torch.cat([self.samples, sums_of(v * image, self.blocks)])


def sums_of(rows: Tensor, blocks: Partition) -> Tensor:
    """(K, P) -> (K, 1 + B) in double precision: the sum over all, and over each block."""
    return torch.cat([rows.double().sum(1, keepdim=True).cpu(), blocks.sums(rows)], dim=1)

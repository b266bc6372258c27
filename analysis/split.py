"""The trace of the Hessian as tr G + tr R: the Gauss–Newton part without probes, and few probes for what is left."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from math import ceil, isfinite
from typing import Any

import torch
from torch import Tensor

from landscape import HessianProducts, InputError, Objective
from landscape.parameters import float64_array
from landscape.results import SplitTrace

from .curvature import residual_objective
from .estimators import Products, signs
from .gauss_newton import DIRECTIONS, GaussNewtonDiagonal
from .partition import Groups, Partition, partition_of
from .points import NOT_FINITE, draw_normal, one_point
from .xtrace import XTrace

_FEWEST = 4  # samples, of which the error has a variance
_AT_ONCE = 16  # vectors
_XTRACE = 40  # products from which on XTrace's error is the smaller one, and its error bar is right


def split_trace(
    objective: Objective,
    theta: Any,
    *,
    by: Groups = "layer",
    matvecs: int = 10,
    rtol: float | None = None,
    max_matvecs: int = 2000,
    directions: int = DIRECTIONS,
    generator: torch.Generator | None = None,
    about: Mapping[str, Any] | None = None,
) -> SplitTrace:
    """tr ∇²L(θ), θ (P,), of the whole and of its diagonal blocks, with standard errors: tr H = tr G + tr R.

    G, the Gauss–Newton part, has a trace of squared first derivatives, one backward pass for each direction in which the
    loss bends in the outputs of an example (10 for 10 classes), and is exact then (gauss_newton.py). Where outputs are
    many (tokens, segmentation), or parameters are used by operators without a rule, samples take their place, of which every
    one sums over examples without cross terms. R, the residual part, has Rademacher probes v_bᵀ(Rv)_b, joint for all
    blocks (Hutchinson 1990). It is small where the loss is nearly stationary in the outputs, as at a minimum that fits
    the data. For parameters in which the outputs are piecewise affine, as in networks of linear layers, convolutions and
    ReLU, its diagonal is 0 and they have no probes (piecewise.py): where that is all of them tr H has no error. From 40
    products on the whole trace of R is XTrace's, which errs less then (xtrace.py); the blocks are those of its probes, and
    need not add up to it. Error bars count that few samples do not tell their own spread well.

    With rtol, samples are added to the part with the larger error, at most doubled at a time, until stderr ≤ rtol·|value|.

    Cost: ``passes`` backward passes and ``matvecs`` products with R, in the record. Memory: that of HessianProducts and of
    a gradient of one batch.

    Args:
        by: the blocks, as for block_traces.
        matvecs: samples of each part that is not exact, at least 4; with rtol, before the error is first looked at.
        rtol: the standard error of the whole trace to reach, relative to its value.
        max_matvecs: of each part; where they do not suffice for rtol, ``converged`` is False and ``message`` says so.
        directions: the most backward passes to take for an exact tr G of a batch, instead of samples.
        generator: of the probes; torch's default one if None.
        about: provenance for the record's header.

    Raises:
        InputError: the objective does not tell outputs and loss apart, the loss couples examples, or a setting is out of range.
    """
    theta = one_point(objective, theta)
    if matvecs < _FEWEST or max_matvecs < matvecs:
        raise InputError(
            f"matvecs must be at least {_FEWEST} and max_matvecs as much, got {matvecs} and {max_matvecs}."
        )
    if rtol is not None and not 0 < rtol < 1:
        raise InputError(
            f"rtol must lie between 0 and 1, or be None for a fixed number of samples, got {rtol}."
        )
    blocks = partition_of(objective.parameters, by)
    diagonal = GaussNewtonDiagonal(objective, theta, lambda rows: _sums(rows, blocks), directions=directions)
    parts = (
        _Drawn(diagonal, generator, blocks),
        _Probed(objective, theta, ~diagonal.affine, generator, blocks),
    )
    parts[0].spend(0 if diagonal.known.all() else matvecs)
    parts[1].spend(0 if diagonal.affine.all() else matvecs)
    while rtol is not None and (more := _needed(diagonal.exact, parts, rtol, max_matvecs)):
        parts[more[0]].spend(more[1])
    return _record(blocks, diagonal, *parts, rtol=rtol, about=about)


class _Drawn:
    """Samples of what is left of tr G: of the whole and the blocks (n, 1 + B)."""

    def __init__(
        self, diagonal: GaussNewtonDiagonal, generator: torch.Generator | None, blocks: Partition
    ) -> None:
        self.diagonal, self.generator = diagonal, generator
        self.samples = torch.zeros(0, 1 + len(blocks.names), dtype=torch.float64)

    @property
    def spent(self) -> int:
        return len(self.samples)

    def spend(self, count: int) -> None:
        self.samples = torch.cat([self.samples, self.diagonal.samples(count, self.generator).cpu()])

    def estimate(self) -> tuple[Tensor, Tensor]:
        """Values and standard errors (1 + B,); 0 where nothing was left to samples."""
        if not self.spent:
            return self.samples.sum(0), self.samples.sum(0)
        return self.samples.mean(0), _stderr(self.samples)


class _Probed:
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
        self.exact: Tensor | None = None
        self.samples = torch.zeros(0, 1 + len(blocks.names), dtype=torch.float64)  # of probes
        self.spent = 0

    def spend(self, count: int) -> None:
        if not count:
            return
        before, dim = len(self.xtrace.probes) if self.xtrace else 0, self.normals(0).shape[1]
        if self.spent + count >= dim:  # all columns, so no error
            columns = self.times(torch.eye(dim).to(self.normals(0)))
            self.exact, count = _sums(columns.diagonal()[None], self.blocks)[0], dim
        elif self.spent + count >= _XTRACE:
            if self.xtrace is None:
                self.xtrace, count = XTrace(self.times, self.normals), max(count, _XTRACE)
            self.xtrace.spend(count)
            self._take(self.xtrace.probes[before:], self.xtrace.images[before:])
        else:
            for start in range(0, count, _AT_ONCE):
                v = signs(self.normals(min(_AT_ONCE, count - start)))
                self._take(v, self.times(v))
        self.spent += count

    @cached_property
    def times(self) -> Products:
        """v -> Rv of the parameters that have something to tell."""
        products = HessianProducts(residual_objective(self.objective, self.theta), self.theta)
        return lambda v: self.bent * products(self.bent * v)

    def normals(self, count: int) -> Tensor:
        return draw_normal(self.objective, count, self.generator)

    def estimate(self) -> tuple[Tensor, Tensor]:
        """Values and standard errors (1 + B,)."""
        if self.exact is not None:
            return self.exact, torch.zeros_like(self.exact)
        if not self.spent:  # there is nothing to estimate
            return self.samples.sum(0), self.samples.sum(0)
        value, stderr = self.samples.mean(0), _stderr(self.samples)
        if self.xtrace:
            found, error = self.xtrace.trace()
            value[0], stderr[0] = found.mean(), error
        return value, stderr

    def _take(self, v: Tensor, image: Tensor) -> None:
        self.samples = torch.cat([self.samples, _sums(v * image, self.blocks)])


def _stderr(samples: Tensor) -> Tensor:
    """std/√n of samples (n, …), by √((n−1)/(n−3)) more, so that the error over it, which has Student's t, has variance 1."""
    n = len(samples)
    return samples.std(0) * ((n - 1) / (n - 3) / n) ** 0.5


def _sums(rows: Tensor, blocks: Partition) -> Tensor:
    """(K, P) -> (K, 1 + B) in double precision: the sum over all, and over each block."""
    return torch.cat([rows.double().sum(1, keepdim=True).cpu(), blocks.sums(rows)], dim=1)


def _needed(exact: Tensor, parts: tuple[_Drawn, _Probed], rtol: float, most: int) -> tuple[int, int] | None:
    """Which part to add samples to, and how many; None where the error is within rtol or the samples are spent."""
    values, errors = (
        torch.stack(found)[:, 0] for found in zip(*(part.estimate() for part in parts), strict=True)
    )
    excess = float(errors.square().sum() / (rtol * (exact[0].cpu() + values.sum())).square())
    if not excess > 1:
        return None
    for which in errors.argsort(descending=True).tolist():
        spent = parts[which].spent
        more = min(ceil(spent * (min(2.0, max(1.25, excess)) - 1)), most - spent)
        if errors[which] > 0 and more > 1:
            return which, more
    return None


def _record(
    blocks: Partition,
    diagonal: GaussNewtonDiagonal,
    drawn: _Drawn,
    probed: _Probed,
    *,
    rtol: float | None,
    about: Mapping[str, Any] | None,
) -> SplitTrace:
    (left, left_error), (residual, residual_error) = drawn.estimate(), probed.estimate()
    gauss_newton = diagonal.exact.cpu() + left
    value, stderr = gauss_newton + residual, (left_error.square() + residual_error.square()).sqrt()
    message = ""
    if not isfinite(value[0]):
        message = NOT_FINITE
    elif rtol is not None and stderr[0] > rtol * value[0].abs():
        message = (
            f"the standard error is {float(stderr[0] / value[0].abs()):.2g} of the value, above rtol={rtol:g}; "
            "raise max_matvecs or rtol."
        )
    return SplitTrace(
        value=float(value[0]),
        stderr=float(stderr[0]),
        samples=float64_array(gauss_newton[0] + probed.samples[:, 0]),
        method="split",
        matvecs=probed.spent,
        dim=len(diagonal.known),
        names=blocks.names,
        sizes=float64_array(blocks.sizes),
        values=float64_array(value[1:]),
        stderrs=float64_array(stderr[1:]),
        gauss_newton=float64_array(gauss_newton),
        gauss_newton_stderr=float64_array(left_error),
        residual=float64_array(residual),
        residual_stderr=float64_array(residual_error),
        known=float(diagonal.known.double().mean()),
        affine=float(diagonal.affine.double().mean()),
        passes=diagonal.passes,
        converged=not message,
        message=message,
        about=dict(about or {}),
    )

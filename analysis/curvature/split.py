"""The trace of the Hessian as tr G + tr R: the Gauss–Newton part without probes, and few probes for what is left."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from math import ceil, inf, isfinite
from typing import Any

import torch
from torch import Tensor

from landscape import InputError, Objective
from landscape.parameters import float64_array
from landscape.results import SplitTrace

from ..points import NOT_FINITE, one_point
from .estimators import Mean, small_sample_stderr
from .gauss_newton import DIRECTIONS, GaussNewtonDiagonal
from .partition import Groups, Partition, partition_of
from .residual import ResidualProbes, sums_of

_FEWEST = 4  # samples, of which the error has a variance
_PROBES = 6  # of R, whose samples are not so close to normal ones, before the error is first believed
_SPREAD = (
    0.87  # times 1/√N: the error bar of tr G from one sample over N examples, measured, and at four samples
)


def split_trace(
    objective: Objective,
    theta: Any,
    *,
    by: Groups = "layer",
    matvecs: int | None = None,
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
    products on the whole trace of R is XTrace's where that errs less than as many signs (xtrace.py); the blocks are those of its
    probes, and need not add up to it. Error bars count that few samples do not tell their own spread well.

    With rtol, samples are added to the part with the larger error, at most doubled at a time, until stderr ≤ rtol·|value|. Where
    examples are so many that four samples of G should do, they come first, and the exact passes when they would be fewer.

    Cost: ``passes`` backward passes and ``matvecs`` products with R, in the record. Memory: that of HessianProducts and of
    a gradient of one batch.

    Args:
        by: the blocks, as for block_traces.
        matvecs: samples of each part that is not exact, at least 4; with rtol, before the error is first looked at. By default
            10, and with rtol 4 of G and 6 of R.
        rtol: the standard error of the whole trace to reach, relative to its value.
        max_matvecs: of each part; where they do not suffice for rtol, ``converged`` is False and ``message`` says so.
        directions: the most backward passes to take for an exact tr G of a batch, instead of samples.
        generator: of the probes; torch's default one if None.
        about: provenance for the record's header.

    Raises:
        InputError: the objective does not tell outputs and loss apart, the loss couples examples, or a setting is out of range.
    """
    theta = one_point(objective, theta)
    first, probes = (10, 10) if rtol is None else (_FEWEST, _PROBES)
    if matvecs is not None:
        first = probes = matvecs
    if first < _FEWEST or max_matvecs < probes:
        raise InputError(
            f"matvecs must be at least {_FEWEST} and max_matvecs as much, got {matvecs} and {max_matvecs}."
        )
    if rtol is not None and not 0 < rtol < 1:
        raise InputError(
            f"rtol must lie between 0 and 1, or be None for a fixed number of samples, got {rtol}."
        )
    blocks = partition_of(objective.parameters, by)
    drawn = _Drawn(objective, theta, generator, blocks, directions, rtol)
    probed = ResidualProbes(objective, theta, ~drawn.diagonal.affine, generator, blocks)
    drawn.spend(first)
    probed.spend(probes)
    while rtol is not None and (more := _needed(drawn, probed, rtol, max_matvecs)):
        more[0].spend(more[1])
    return _record(blocks, drawn, probed, rtol=rtol, about=about)


class _Drawn:
    """tr G of the whole and the blocks: what is exact of it (1 + B,), and samples (n, 1 + B) of what is left."""

    def __init__(
        self,
        objective: Objective,
        theta: Tensor,
        generator: torch.Generator | None,
        blocks: Partition,
        directions: int,
        rtol: float | None,
    ) -> None:
        self.generator, self.passes = generator, 0  # of diagonals no longer in use

        def made(examples: float) -> GaussNewtonDiagonal:
            reduce = partial(sums_of, blocks=blocks)
            return GaussNewtonDiagonal(objective, theta, reduce, directions=directions, examples=examples)

        self.exactly = partial(made, inf)
        self.diagonal = made(inf if rtol is None else (_SPREAD / rtol) ** 2 / _FEWEST)
        self.samples = torch.zeros(0, 1 + len(blocks.names), dtype=torch.float64)

    @property
    def spent(self) -> int:
        return len(self.samples)

    def spend(self, count: int) -> None:
        """Takes so many samples of what is left, at most as many again; or the exact passes instead, if they are fewer."""
        if self.diagonal.known.all():
            return
        if self.spent and self.diagonal.enumerable <= count * self.diagonal.each:
            self.passes, self.diagonal = self.passes + self.diagonal.passes, self.exactly()
            self.samples = self.samples[:0]
        else:
            new = self.diagonal.samples(min(count, self.spent or count), self.generator)
            self.samples = torch.cat([self.samples, new.cpu()])

    def estimate(self) -> Mean:
        """Of the whole and the blocks, (1 + B,)."""
        exact = self.diagonal.exact.cpu()
        if not self.spent:
            return Mean.known(exact)
        mean = Mean.of(self.samples)
        return mean._replace(value=exact + mean.value)


def _needed(
    drawn: _Drawn, probed: ResidualProbes, rtol: float, most: int
) -> tuple[_Drawn | ResidualProbes, int] | None:
    """Which part to add samples to, and how many would do; None where the error is within rtol or the samples are spent."""
    means = drawn.estimate(), probed.estimate()
    excess = float(small_sample_stderr(*means)[0] / (rtol * (means[0].value + means[1].value)[0])) ** 2
    if not excess > 1:
        return None
    for part, mean in sorted(
        zip((drawn, probed), means, strict=True), key=lambda each: float(each[1].variance[0]), reverse=True
    ):
        more = min(max(2, ceil(part.spent * (max(1.25, excess) - 1))), most - part.spent)
        if mean.variance[0] > 0 and more > 1:
            return part, more
    return None


def _record(
    blocks: Partition,
    drawn: _Drawn,
    probed: ResidualProbes,
    *,
    rtol: float | None,
    about: Mapping[str, Any] | None,
) -> SplitTrace:
    diagonal = drawn.diagonal
    gauss_newton, residual = drawn.estimate(), probed.estimate()
    value, stderr = gauss_newton.value + residual.value, small_sample_stderr(gauss_newton, residual)
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
        samples=float64_array(gauss_newton.value[0] + probed.samples[:, 0]),
        method="split",
        matvecs=probed.spent,
        dim=len(diagonal.known),
        names=blocks.names,
        sizes=float64_array(blocks.sizes),
        values=float64_array(value[1:]),
        stderrs=float64_array(stderr[1:]),
        gauss_newton=float64_array(gauss_newton.value),
        gauss_newton_stderr=float64_array(small_sample_stderr(gauss_newton)),
        residual=float64_array(residual.value),
        residual_stderr=float64_array(small_sample_stderr(residual)),
        known=float(diagonal.known.double().mean()),
        affine=float(diagonal.affine.double().mean()),
        passes=drawn.passes + diagonal.passes,
        converged=not message,
        message=message,
        about=dict(about or {}),
    )

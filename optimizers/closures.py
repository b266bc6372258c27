"""Closures: the loss over data, or an Objective, as optimizers want to call it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Optimizer

from landscape import InputError, Objective
from landscape.networks import LossFn, batch_loss
from landscape.problems import Data, batches, examples, select

from .contract import check_count


class DataClosure:
    """The mean loss of a model over data, and its gradient in p.grad: what ``optimizer.step(closure)`` calls.

    Data pass through the model in pieces whose gradients add up, weighted by their share of the examples, so they may
    be larger than what fits at once (tensors mapped from disk among them). The model's mode is respected.

    Args:
        model: gradients are written to its parameters.
        loss_fn: (output, target) -> mean over the batch; None if the model's output carries its ``loss``.
        data: (inputs, targets), or a mapping of tensors; examples along the first dimension.
        piece: how many examples pass at a time; None for all.
    """

    def __init__(
        self, model: nn.Module, loss_fn: LossFn | None, data: Data, *, piece: int | None = None
    ) -> None:
        self.model, self.loss_fn, self.data = model, loss_fn, data
        self.count = examples(data)
        if not self.count:
            raise InputError("the data hold no example; give at least one.")
        if piece is not None:
            check_count("piece", piece)
        self.piece = piece or self.count
        self.spent = {"gradients": 0, "losses": 0}  # in examples

    def __call__(self) -> Tensor:
        """The loss, after zeroing the gradients and filling them in. Cost: one gradient."""
        self.model.zero_grad()
        return self._loss(backward=True)

    def loss(self) -> Tensor:
        """The loss alone, without gradients. Cost: one loss evaluation."""
        with torch.no_grad():
            return self._loss(backward=False)

    def sample(self, count: int, generator: torch.Generator) -> DataClosure:
        """The closure of ``count`` examples drawn uniformly, without replacement; all of them if there are no more."""
        check_count("count", count)
        if count >= self.count:
            return self
        if count == 1:
            index = torch.randint(self.count, (1,), generator=generator, device=generator.device)
        else:
            index = torch.randperm(self.count, generator=generator, device=generator.device)[:count]
        device = next(self.model.parameters()).device
        part = DataClosure(self.model, self.loss_fn, select(self.data, index.to(device)), piece=self.piece)
        part.spent = self.spent
        return part

    def _loss(self, *, backward: bool) -> Tensor:
        self.spent["gradients" if backward else "losses"] += self.count
        parts = []
        for piece in batches(self.data, self.piece):
            loss = batch_loss(self.model, self.loss_fn, piece) * (examples(piece) / self.count)
            if backward:
                loss.backward()
            parts.append(loss.detach())
        return torch.stack(parts).sum()


class ObjectiveClosure:
    """An Objective at a parameter θ (P,), and its gradient in θ.grad: any torch optimizer on any Objective.

    The objective's batches pass one after another. Its terms are the examples that ``sample`` draws from.
    """

    def __init__(self, objective: Objective, theta: nn.Parameter) -> None:
        point = objective.point(theta)
        if theta.ndim != 1 or (theta.dtype, theta.device) != (point.dtype, point.device):
            raise InputError(
                f"theta must be one point ({objective.dim},) in {point.dtype} on {point.device}, as the objective is, got "
                f"shape {tuple(theta.shape)} in {theta.dtype} on {theta.device}."
            )
        self.objective, self.theta = objective, theta

    def __call__(self) -> Tensor:
        """The loss, after writing the gradient. Cost: one gradient."""
        value, self.theta.grad = self.objective.value_and_grad(self.theta.detach())
        return value

    def loss(self) -> Tensor:
        """The loss alone. Cost: one loss evaluation."""
        return self.objective(self.theta.detach())

    def sample(self, count: int, generator: torch.Generator) -> ObjectiveClosure:
        """The closure of ``count`` terms drawn uniformly without replacement, scaled so that its mean is the whole."""
        check_count("count", count)
        terms = self.objective.terms
        if count >= len(terms):
            return self
        chosen = torch.randperm(len(terms), generator=generator, device=generator.device)[:count].tolist()
        scale = len(terms) / count
        part = Objective(
            [_scaled_term(terms[i], scale) for i in chosen],
            self.objective.dim,
            dtype=self.objective.dtype,
            device=self.objective.device,
        )
        return ObjectiveClosure(part, self.theta)


def scaled_closure(
    loss: Callable[[], Tensor], scaler: torch.amp.GradScaler, optimizer: Optimizer
) -> Callable[[], Tensor]:
    """A closure with loss scaling, for optimizers that evaluate several gradients a step (GradScaler.step takes none).

        optimizer.step(scaled_closure(loss, scaler, optimizer))  # in place of scaler.step(optimizer)
        scaler.update()

    ``loss`` evaluates the loss, under autocast if wanted. Gradients reach the optimizer unscaled; where they overflow,
    it skips the step, and ``scaler.update()`` lowers the scale.
    """
    kept: list[Optimizer] = []  # GradScaler knows optimizers by their id until its next update

    def closure() -> Any:
        optimizer.zero_grad()
        value = loss()
        scaler.scale(value).backward()
        if scaler.is_enabled():
            # The scaler unscales an optimizer's gradients only once a step, so each evaluation gets one of its own.
            kept.append(SGD([p for group in optimizer.param_groups for p in group["params"]]))
            scaler.unscale_(kept[-1])
        return value.detach()

    return closure


def _scaled_term(term: Callable[[Tensor], Tensor], scale: float) -> Callable[[Tensor], Tensor]:
    return lambda theta: term(theta) * scale

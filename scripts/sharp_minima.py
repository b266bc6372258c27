"""Sharp minima made to generalize badly, and what is measured around them: where scripts.escape starts."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam

from analysis import hessian_trace
from landscape import Parameters, Problem
from landscape.networks import placed
from optimizers import DataClosure


def sharp_minimum(task: Problem, seed: int, generator: torch.Generator) -> nn.Module:
    """A model with every training label right, which came there from knowing random labels by heart.

    Adam fits random labels of inputs with half their pixels gone; then descent on the true data goes on from there.
    """
    model = task.build(seed).float()
    inputs, labels = closure_of(task, model).data
    half = inputs * (torch.rand(inputs.shape, generator=generator) < 0.5)
    wrong = half, labels[torch.randperm(len(labels), generator=generator)]
    optimizers = Adam(model.parameters(), 0.01), SGD(model.parameters(), 0.05, momentum=0.9)
    for data, optimizer in zip((wrong, (inputs, labels)), optimizers, strict=True):
        errors = DataClosure(model, _error, data)
        descend(optimizer, DataClosure(model, task.loss_fn, data), errors, 0.0)
    return model


def descend(optimizer: Any, closure: DataClosure, watched: DataClosure, level: float) -> None:
    """Steps until what is watched is at most the level; looks every 20 steps, and gives up after 100,000."""
    for _ in range(5000):
        if watched.loss() <= level:
            return
        for _ in range(20):
            optimizer.step(closure)


def measured(task: Problem, model: nn.Module, generator: torch.Generator) -> dict[str, float]:
    """Losses, test accuracy, and the trace of the train loss's Hessian with its standard error, also per loss."""
    trace = hessian_trace(task.objective(), Parameters.of(model).theta(model), generator=generator)
    loss = float(closure_of(task, model).loss())
    return {
        "train loss": loss,
        "validation loss": float(closure_of(task, model, "validation").loss()),
        "test accuracy": float(closure_of(task, model, "test", task.metric).loss()),
        "trace": trace.value,
        "trace error": trace.stderr,
        "trace / loss": trace.value / loss,
    }


def closure_of(task: Problem, model: nn.Module, split: str = "train", measure: Any = None) -> DataClosure:
    """The mean loss, or another measure, over a split in single precision."""
    data = placed(getattr(task, split), torch.float32, torch.device("cpu"))
    return DataClosure(model, measure or task.loss_fn, data)


def _error(output: Tensor, target: Tensor) -> Tensor:
    return (output.argmax(dim=1) != target).float().mean()

"""Small problems of a user's own, for tests of studies and commands."""

import torch
from torch import nn

from landscape import Problem
from landscape.catalog import accuracy

_GENERATOR = torch.Generator().manual_seed(0)
_X = torch.randn(90, 5, generator=_GENERATOR)
_Y = (_X[:, 0] + 0.5 * _X[:, 1] > 0).long()
_SPLITS = ((_X[:40], _Y[:40]), (_X[40:60], _Y[40:60]), (_X[60:], _Y[60:]))


def small(epochs: int = 30, batchnorm: bool = False) -> Problem:
    def model() -> nn.Module:
        between = [nn.BatchNorm1d(4)] if batchnorm else []
        return nn.Sequential(nn.Linear(5, 4), *between, nn.Softplus(), nn.Linear(4, 2))

    return Problem("small", model, nn.functional.cross_entropy, *_SPLITS, accuracy, epochs, 64)


def train_only() -> Problem:
    """No validation or test data, no metric."""
    return Problem("bare", lambda: nn.Linear(5, 2), nn.functional.cross_entropy, _SPLITS[0], epochs=3)


class Keywords(nn.Module):
    """Takes a mapping and computes its own loss."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(5, 2)

    def forward(self, inputs: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.inner(inputs)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


def keywords() -> Problem:
    return Problem("keywords", Keywords, None, {"inputs": _X, "labels": _Y}, epochs=3)


number = 3

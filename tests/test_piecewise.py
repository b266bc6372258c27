"""Where outputs are piecewise affine in a tensor of parameters, against the blocks of the dense residual part."""

from __future__ import annotations

import pytest
import torch
from test_curvature import assembled
from test_examples import MODELS, N, double
from torch import Tensor, nn

from analysis.curvature.gauss_newton import GaussNewtonDiagonal
from landscape import model_objective


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(torch.relu(self.layer(x)))


class Gated(nn.Module):
    """A product of two layers, a quotient, a square, and a choice by size."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Linear(6, 4) for _ in range(4))
        self.e, self.f = nn.Parameter(double(4, seed=1)), nn.Parameter(double(4, seed=2))

    def forward(self, x: Tensor) -> Tensor:
        product = self.a(x) * self.b(x) / (1 + self.e.exp())
        chosen = torch.where(self.c(x) > self.f, self.c(x).abs(), self.f)
        return product + chosen + self.d(x).square()


def residual(block: nn.Module) -> nn.Module:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = block

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x + self.block(x))

    return Residual()


def norm() -> nn.Module:
    return nn.BatchNorm2d(3).eval()


IMAGES = double(N, 3, 6, 6)
NETWORKS = {
    **{
        name: MODELS[name]
        for name in ("mlp", "conv", "layer norm", "transformer", "twice", "outside layers", "lstm")
    },
    "relu": (
        lambda: nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4), nn.LeakyReLU(), nn.Linear(4, 3)),
        double(N, 6),
    ),
    "prelu": (lambda: nn.Sequential(nn.Linear(6, 5), nn.PReLU(5), nn.Linear(5, 3)), double(N, 6)),
    "resnet": (
        lambda: nn.Sequential(
            residual(
                nn.Sequential(
                    nn.Conv2d(3, 3, 3, padding=1), norm(), nn.ReLU(), nn.Conv2d(3, 3, 3, padding=1), norm()
                )
            ),
            nn.MaxPool2d(2),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(3, 3),
        ),
        IMAGES,
    ),
    "tied": (Tied, double(N, 6)),
    "gated": (Gated, double(N, 6)),
}
AFFINE = {  # parameters; all of those not named here
    "mlp": ["2.weight"],
    "conv": ["3.weight", "3.bias"],
    "layer norm": ["3.weight", "3.bias"],
    "transformer": ["down.weight", "down.bias"],
    "twice": ["b.weight", "b.bias"],
    "outside layers": ["head.weight", "head.bias"],
    "lstm": ["head.weight", "head.bias"],
    "tied": ["layer.bias"],
    "gated": ["f", "a.weight", "a.bias", "b.weight", "b.bias", "c.weight", "c.bias"],
}


@pytest.mark.parametrize("name", NETWORKS)
def test_there_the_residual_part_has_no_diagonal(name: str) -> None:
    torch.manual_seed(0)
    build, x = NETWORKS[name]
    model = build().double()
    model(x)
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            p += 0.3 * double(*p.shape, seed=i)
    objective = model_objective(model, lambda z, _: z.sin().sum(), [(x, x)])
    assert objective.parameters is not None
    theta, parameters = objective.parameters.theta(model), objective.parameters
    affine = GaussNewtonDiagonal(objective, theta, lambda rows: rows, directions=0).affine
    found = [
        n for n, part in zip(parameters.names, affine.split(parameters.sizes), strict=True) if part.all()
    ]
    assert found == AFFINE.get(name, list(parameters.names))
    blocks = assembled(objective, theta, "residual")
    start = 0
    for tensor, size in zip(parameters.names, parameters.sizes, strict=True):
        block = blocks[start : start + size, start : start + size]
        if tensor in found:
            assert block.abs().max() <= 1e-12 * blocks.abs().max()
        else:  # the transformer's table is linear in its rows only one way
            assert block.abs().max() > 1e-6 * blocks.abs().max(), tensor
        start += size

"""Functions that optimizers are compared on, with their usual starts and what is known of their minima.

Rosenbrock (1960), Beale (1958), Powell's singular function (1962) and Wood as numbered 1, 5, 13 and 14 by Moré,
Garbow and Hillstrom (ACM TOMS 7, 1981); logistic regression on scikit-learn's breast_cancer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from sklearn.datasets import load_breast_cancer
from torch import Tensor, nn
from torch.nn.functional import softplus

F64 = torch.float64
Function = Callable[[Tensor], Tensor]
PENALTY = 1e-3  # of the logistic regression: ½ PENALTY ‖w‖² makes its minimum unique


@dataclass(frozen=True)
class Standard:
    """f: (n,) -> scalar, the start (n,), and the minimum (n,) if there is a formula for it."""

    f: Function
    start: tuple[float, ...]
    minimum: tuple[float, ...] | None

    def parameter(self) -> nn.Parameter:
        """The start, as a parameter."""
        return nn.Parameter(torch.tensor(self.start, dtype=F64))

    def closure(self, x: nn.Parameter) -> Callable[[], Tensor]:
        """What L-BFGS calls: the loss, after writing its gradient."""

        def closure() -> Tensor:
            x.grad = None
            loss = self.f(x)
            loss.backward()
            return loss.detach()

        return closure


def rosenbrock(x: Tensor) -> Tensor:
    return (100 * (x[1:] - x[:-1] ** 2) ** 2 + (1 - x[:-1]) ** 2).sum()


def beale(x: Tensor) -> Tensor:
    terms = [c - x[0] * (1 - x[1] ** k) for k, c in ((1, 1.5), (2, 2.25), (3, 2.625))]
    return torch.stack(terms).square().sum()


def powell_singular(x: Tensor) -> Tensor:
    """Singular: the Hessian at the minimum has rank 2, and the loss is quartic along the rest."""
    first = (x[0] + 10 * x[1]) ** 2 + 5 * (x[2] - x[3]) ** 2
    return first + (x[1] - 2 * x[2]) ** 4 + 10 * (x[0] - x[3]) ** 4


def wood(x: Tensor) -> Tensor:
    a, b, c, d = x
    valleys = 100 * (b - a**2) ** 2 + (1 - a) ** 2 + 90 * (d - c**2) ** 2 + (1 - c) ** 2
    return valleys + 10 * (b + d - 2) ** 2 + (b - d) ** 2 / 10


def logistic() -> Function:
    """(31,) -> the mean logistic loss on breast_cancer, features standardized, plus a constant one; + ½ 1e-3 ‖w‖²."""
    features, labels = load_breast_cancer(return_X_y=True)
    x, sign = torch.as_tensor(features), 2 * torch.as_tensor(labels, dtype=F64) - 1
    x = (x - x.mean(0)) / x.std(0, correction=0)
    signed = sign[:, None] * torch.cat([x, torch.ones(len(x), 1, dtype=F64)], 1)

    def f(w: Tensor) -> Tensor:
        return softplus(-(signed @ w)).mean() + PENALTY / 2 * (w @ w)

    return f


STANDARD = {
    "rosenbrock-2": Standard(rosenbrock, (-1.2, 1.0), (1.0,) * 2),
    "rosenbrock-10": Standard(rosenbrock, (-1.2, 1.0) * 5, (1.0,) * 10),
    "rosenbrock-100": Standard(rosenbrock, (-1.2, 1.0) * 50, (1.0,) * 100),
    "beale": Standard(beale, (1.0, 1.0), (3.0, 0.5)),
    "powell-singular": Standard(powell_singular, (3.0, -1.0, 0.0, 1.0), (0.0,) * 4),
    "wood": Standard(wood, (-3.0, -1.0, -3.0, -1.0), (1.0,) * 4),
    "logistic": Standard(logistic(), (0.0,) * 31, None),
}

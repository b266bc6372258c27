"""The loss, its gradient and Hessian-vector products at one point, of one graph where that is possible."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from landscape import Objective
from landscape.objective import expanded

Product = Callable[[Tensor], Tensor]


def expand(objective: Objective, theta: Tensor) -> tuple[Tensor, Tensor, Product]:
    """L () and ∇L (P,) at θ (P,), and v (K, P) -> ∇²L v (K, P), as the objective has them, to rounding.

    With one term the graph of the gradient serves both: a quarter to a third less time than apart on digits-mlp. It is let
    go with the product. Several terms are evaluated one after another, so that one graph is in memory at a time.
    """
    if len(objective.terms) == 1:
        return expanded(objective.terms[0], theta)
    loss, gradient = objective.value_and_grad(theta)
    return loss, gradient, lambda vectors: objective.hvp(theta, vectors)

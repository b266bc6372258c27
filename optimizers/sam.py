"""SAM: descends the gradient found a short way uphill (Foret et al., ICLR 2021, arXiv 2010.01412).

    g = ∇L(θ),    ε = ρ g / ‖g‖                             SAM (eq. 2 and Algorithm 1, p = 2)
                  ε = ρ θ²∘g / ‖|θ|∘g‖                      adaptive: ASAM (Kwon et al., ICML 2021, arXiv 2102.11600)
    the base steps from θ with ∇L(θ + ε).

Norms run over all parameters together. ε is where the linear model of L is highest in the ball ‖ε‖ ≤ ρ, or, adaptive,
in the ellipsoid ‖ε/|θ|‖ ≤ ρ, which does not change when a weight grows and its input shrinks by the same factor.
"""

# pyright: reportPrivateImportUsage=false
# torch._foreach_*: see contract.py

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from .adaptor import Adaptor
from .contract import (
    check_range,
    dense_gradients,
    evaluated,
    norm,
    parameters_of,
    required,
    usable,
    with_gradient,
)
from .perturbation import displaced

NO_LENGTH = 1e-30  # of ‖g‖/ρ, below which g counts as zero: ρ/‖g‖ must be a number in float32


class SAM(Adaptor):
    """A base optimizer that sees the gradient at θ + ε, the highest point nearby, instead of that at θ.

    Full batch it lowers the largest Hessian eigenvalue, with one example a step the trace. ``step`` needs a closure
    and returns the loss at θ, its first evaluation. In groups that the base maximizes ε goes downhill. Where
    ∇L = 0 there is no ε. A step with a loss or gradient that is not finite, at θ or at θ + ε, is skipped, with a
    RuntimeWarning. p.grad keeps the gradient at θ + ε. Cost: two gradients a step, both readings waited for;
    memory: two tensors of each parameter's size during the step, none between steps.

    The adaptive form is the paper's with its constant η = 0, for every parameter, biases too; one that is zero is
    not perturbed. The authors' code has |θ| + 0.01 for parameters named "weight", and 1 for all others.

    Random layers draw anew at θ + ε, and BatchNorm in train mode counts both points in its running statistics.

    Args:
        base_optimizer: any torch optimizer that steps on p.grad (SGD, AdamW, E(SGD(…)), ALTO, Lamb, …).
        rho: ρ, the length of ε; 0 is the base, at twice its cost. Adaptive values are about ten times larger.
        adaptive: ASAM.

    Raises:
        InputError: rho outside [0, ∞), a base that evaluates its closure itself, a step without closure, a sparse
            gradient.
    """

    evaluates_closure = True
    rho: float
    adaptive: bool
    _settings = ("rho", "adaptive")

    def __init__(self, base_optimizer: Optimizer, rho: float = 0.05, *, adaptive: bool = False) -> None:
        check_range("rho", rho)
        super().__init__(base_optimizer, rho=rho, adaptive=adaptive)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """The closure's loss at θ, after one step of the base. The closure is called at θ, then at θ + ε."""
        closure = required(closure, self)
        loss = evaluated(closure)
        held = with_gradient(parameters_of(self))
        if not usable(loss, dense_gradients(held)) or not held:
            return loss
        direction, distance = self._uphill()
        for p in held:
            p.grad = None
        with displaced(held, direction, distance):
            loss_there = evaluated(closure)
        if usable(loss_there, dense_gradients(parameters_of(self))):
            self.base.step()
        return loss

    def _uphill(self) -> tuple[list[Tensor], float]:
        """ε of the parameters that have a gradient, group after group, as a direction and a distance."""
        thetas: list[Tensor] = []
        direction: list[Tensor] = []
        for group in self.param_groups:
            some = with_gradient(group["params"])
            gradients = dense_gradients(some)
            climbed = group.get("maximize", False)  # then −L is minimized, and uphill is along −g
            direction += torch._foreach_neg(gradients) if some and climbed else gradients
            thetas += some
        if self.adaptive:
            direction = list(torch._foreach_mul(direction, thetas))
        length = float(norm(direction))
        if self.adaptive:
            torch._foreach_mul_(direction, thetas)
        return direction, self.rho / length if length > NO_LENGTH * self.rho else 0.0

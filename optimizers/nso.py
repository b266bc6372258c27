"""NSO: descends the loss smoothed by Gaussian noise in the parameters (Ju, Li and Zhang, arXiv 2306.08553).

    F(θ) = E f(θ + U),    U ~ N(0, σ²I);    F = f + (σ²/2) tr ∇²f + O(σ⁴)
    the base steps with   (1/k) Σ_j ½ [∇f(θ + U_j) + ∇f(θ − U_j)],    an unbiased estimate of ∇F(θ).

The pair ±U cancels every odd order in U: on a quadratic each pair gives ∇f(θ) exactly, where one point alone is off by HU.
"""

# pyright: reportPrivateImportUsage=false
# torch._foreach_*: see contract.py

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from landscape import InputError

from .adaptor import Adaptor
from .contract import (
    Closure,
    check_count,
    check_range,
    dense_gradients,
    evaluated,
    parameters_of,
    required,
    usable,
    with_gradient,
)
from .perturbation import displaced, normal, own_generator, resume


class NSO(Adaptor):
    """A base optimizer that sees an estimate of the gradient of the smoothed loss F (the paper's Algorithm 1).

    It trades loss for a smaller trace of the Hessian. ``step`` needs a closure and returns the mean of its 2k losses,
    an unbiased estimate of F(θ), which is what is minimized; f(θ) itself would cost one evaluation more, and lies
    below it by about (σ²/2) tr ∇²f. U covers every parameter that requires a gradient. Where a parameter gets a
    gradient in some evaluations only, it counts as zero in the others; where it gets none, the base does not see it.
    p.grad keeps the mean. Cost: 2k gradients a step; memory: four tensors of each parameter's size during the step.

    A step with a loss or gradient that is not finite in any evaluation is skipped, with a RuntimeWarning; its noise is
    spent, so that the next step does not meet it again. Random layers draw anew at every point, and BatchNorm in
    train mode counts all of them in its running statistics.

    Args:
        base_optimizer: any torch optimizer that steps on p.grad (SGD, AdamW, E(SGD(…)), ALTO, Lamb, …).
        sigma: σ, the standard deviation of each number's noise; ‖U‖ is about σ√P. 0 is the base, at 2k times its cost.
        samples: k, how many pairs ±U a step takes.
        generator: draws U; its state is part of the state dict. Without one, a new one seeded from PyTorch's random state.

    Raises:
        InputError: a setting outside its range, a base that evaluates its closure itself, a step without closure, a
            sparse gradient, a state dict without a generator.
    """

    evaluates_closure = True
    sigma: float
    samples: int
    generator: torch.Generator
    _settings = ("sigma", "samples")

    def __init__(
        self,
        base_optimizer: Optimizer,
        sigma: float = 0.01,
        *,
        samples: int = 1,
        generator: torch.Generator | None = None,
    ) -> None:
        check_range("sigma", sigma)
        check_count("samples", samples)
        super().__init__(base_optimizer, sigma=sigma, samples=samples)
        self.generator = own_generator(generator)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """The mean of the closure's losses at the points θ ± U, after one step of the base."""
        closure = required(closure, self)
        held = [p for p in parameters_of(self) if p.requires_grad]
        loss, sums = 0.0, {}
        for _ in range(self.samples):
            noise = normal(held, self.generator)
            for sign in (1.0, -1.0):
                with displaced(held, noise, sign * self.sigma):
                    loss = loss + _add_gradients(closure, held, sums)
        count = 2 * self.samples
        loss = loss / count
        if not usable(loss, list(sums.values())):
            return loss
        for p, total in sums.items():
            p.grad = total.div_(count)
        self.base.step()
        return loss

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "generator": self.generator.get_state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if "generator" not in state_dict:
            raise InputError(
                f"state_dict must hold the state of NSO's 'generator', but it holds {list(state_dict)}; load one of NSO."
            )
        super().load_state_dict(state_dict)
        resume(self.generator, state_dict["generator"])

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "generator": self.generator}


def _add_gradients(closure: Closure, parameters: list[Tensor], sums: dict[Tensor, Tensor]) -> Any:
    """The loss where the parameters are now; its gradients are added to sums, where those found for the first time begin."""
    for p in parameters:
        p.grad = None
    loss = evaluated(closure)
    found = with_gradient(parameters)
    for p in found:
        if p not in sums:  # a tensor of its own: DistributedDataParallel may reuse a gradient's memory
            sums[p] = torch.zeros_like(p)
    if found:
        torch._foreach_add_([sums[p] for p in found], dense_gradients(found))
    return loss.detach() if isinstance(loss, Tensor) else loss

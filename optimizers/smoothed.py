"""Randomly smoothed perturbation: Algorithm 1 of Ahn, Jadbabaie, Sra (ICML 2024, arXiv 2305.15659)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from .contract import Closure, required, usable
from .perturbation import displaced, gradient, sphere
from .perturbed_descent import Iterate, PerturbedDescent


class SmoothedPerturbation(PerturbedDescent):
    """Descent along the valley floor to a smaller trace of the Hessian, by gradients at random points nearby (RS).

        g = ∇f(x)
        if ‖g‖ ≤ gate:  u uniform on the unit sphere of all parameters,  v = Proj⊥_g ∇f(x + ρu),  x ← x − η (g + v)
        else:           x ← x − η′ g

    On average ∇f(x + ρu) is ∇f + (ρ²/2) ∇(tr ∇²f/P) + O(ρ³), of which the projection leaves the part along the valley.
    Cost: two gradients a step, one where the gate is closed; memory: three vectors like θ during a step, and one more
    with iterate="random". After a step p.grad is g. A step with a loss or gradient that is not finite is skipped, with a
    RuntimeWarning; only the generator has moved on, so that the next step looks elsewhere.

    Args:
        params: tensors or groups; lr, descent_lr and maximize may differ between groups, the others may not.
        lr: η, for steps with v. Schedulers change this rate.
        rho: ρ, how far away the second gradient is taken.
        gate: ε₀; math.inf looks aside at every step.
        descent_lr: η′, for steps without v; None for lr.
        project: False leaves v whole. Then g is followed twice, with noise that drives x away from the valley's floor.
        iterate: what ``finish`` leaves in the parameters: "last", or "random", one of the iterates drawn uniformly, of
            which the theorem speaks.
        maximize: climb instead.
        generator: of u and of the drawn iterate; None for one of its own, seeded from PyTorch's random state.

    ``smoothed_settings`` gives lr, rho, gate and descent_lr as in the theorem.

    Raises:
        InputError: a setting outside its range or differing between groups, no closure, a sparse gradient.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        rho: float,
        gate: float = math.inf,
        descent_lr: float | None = None,
        *,
        project: bool = True,
        iterate: Iterate = "last",
        maximize: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        defaults = {
            "lr": lr,
            "rho": rho,
            "gate": gate,
            "descent_lr": descent_lr,
            "project": project,
            "iterate": iterate,
            "maximize": maximize,
        }
        super().__init__(params, defaults, generator=generator)

    def step(self, closure: Closure | None = None) -> Any:
        """The closure's loss at x, after one step. It must evaluate the full gradient, as a DataClosure does; it is called
        once or twice, with gradients enabled."""
        closure = required(closure, self)

        def aside(parameters: list[Tensor], g: list[Tensor]) -> list[Tensor] | None:
            u = sphere(parameters, self.generator)
            with displaced(parameters, u, self.param_groups[0]["rho"]):
                loss, h = gradient(closure, parameters)
            return h if usable(loss, h) else None

        return self._descend(closure, aside)

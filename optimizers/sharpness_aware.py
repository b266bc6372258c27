"""Sharpness-aware perturbation: Algorithm 2 of Ahn, Jadbabaie, Sra (ICML 2024, arXiv 2305.15659)."""

# pyright: reportPrivateImportUsage=false
# torch._foreach_*: see contract.py

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from landscape import InputError

from .contract import Closure, check_count, norm, required, usable
from .perturbation import displaced, gradient, sphere
from .perturbed_descent import Iterate, PerturbedDescent

Sample = Callable[[int, torch.Generator], Closure]
# Where ∇f_i is zero, its direction is taken this share of ρ away: far above rounding, and near enough for a direction that
# is off by one part in a hundred of what ρ itself changes.
TINY = 0.01


class SharpnessAwarePerturbation(PerturbedDescent):
    """Descent along the valley floor to a smaller trace of the Hessian, by single examples' gradients (SA).

    For a mean f of many f_i, with the full gradient g = ∇f(x):

        if ‖g‖ ≤ gate:  i uniform,  σ = ±1,  v = Proj⊥_g ∇f_i(x + ρσ ∇f_i(x)/‖∇f_i(x)‖),  x ← x − η (g + v)
        else:           x ← x − η′ g

    Where all f_i are at a minimum, each ∇²f_i has rank one and ∇f_i points along it: v then lowers the trace P times
    faster than that of SmoothedPerturbation at the same ρ. Larger batches work and are slower. Where ∇f_i(x) = 0, the
    direction is that of ∇f_i at a random point ρ/100 away (and if it is zero there too, the way to that point).

    Cost: a full gradient and two of the batch a step, one full gradient where the gate is closed; memory and skipped
    steps as in SmoothedPerturbation. Models that normalize by batch statistics need them frozen, or a larger batch.

    Args:
        params: tensors or groups; lr, descent_lr and maximize may differ between groups, the others may not.
        lr: η, for steps with v. Schedulers change this rate.
        rho: ρ, how far away the second gradient is taken.
        gate: ε₀; math.inf looks aside at every step.
        descent_lr: η′, for steps without v; None for lr.
        batch_size: examples in place of the one i; None takes all of them, for two full gradients a step.
        project, iterate, maximize, generator: as in SmoothedPerturbation.

    ``sharpness_aware_settings`` gives lr, rho, gate and descent_lr as in the theorem.

    Raises:
        InputError: a setting outside its range or differing between groups, no closure, no sample, a sparse gradient.
    """

    _common = (*PerturbedDescent._common, "batch_size")

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        rho: float,
        gate: float = math.inf,
        descent_lr: float | None = None,
        *,
        batch_size: int | None = 1,
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
            "batch_size": batch_size,
            "project": project,
            "iterate": iterate,
            "maximize": maximize,
        }
        super().__init__(params, defaults, generator=generator)

    def step(self, closure: Closure | None = None, sample: Sample | None = None) -> Any:
        """The closure's loss at x, after one step.

        Args:
            closure: evaluates the full gradient, as DataClosure and ObjectiveClosure do.
            sample: (count, generator) -> the closure of so many examples drawn at random, which is called twice or three
                times; by default ``closure.sample``.
        """
        closure = required(closure, self)
        sample = sample or getattr(closure, "sample", None)
        if sample is None and self.param_groups[0]["batch_size"] is not None:
            raise InputError(
                "sample must be given, since the closure has none: a function (count, generator) that returns the closure of "
                "so many random examples; or give a DataClosure, or make the optimizer with batch_size=None."
            )

        def aside(parameters: list[Tensor], g: list[Tensor]) -> list[Tensor] | None:
            return self._aside(closure, sample, parameters, g)

        return self._descend(closure, aside)

    def _aside(
        self, closure: Closure, sample: Sample | None, parameters: list[Tensor], g: list[Tensor]
    ) -> list[Tensor] | None:
        count, rho = self.param_groups[0]["batch_size"], self.param_groups[0]["rho"]
        batch = closure if sample is None or count is None else sample(count, self.generator)
        toss = torch.randint(2, (), generator=self.generator, device=self.generator.device)
        # Either sign of σ is as likely; so chosen, climbing f takes the very steps of descending −f.
        sigma = 1 - 2 * int(toss) if self.param_groups[0]["maximize"] else 2 * int(toss) - 1
        direction = self._direction(batch, parameters, known=g if batch is closure else None)
        if direction is None:
            return None
        with displaced(parameters, direction, rho * sigma):
            loss, h = gradient(batch, parameters)
        return h if usable(loss, h) else None

    def _direction(
        self, batch: Closure, parameters: list[Tensor], *, known: list[Tensor] | None
    ) -> list[Tensor] | None:
        """∇f_i/‖∇f_i‖ of the batch, whose gradient may be known; None if it is not finite."""
        loss, found = gradient(batch, parameters) if known is None else (None, known)
        if not usable(loss, found):
            return None
        if not (length := float(norm(found))):
            away = sphere(parameters, self.generator)
            with displaced(parameters, away, TINY * self.param_groups[0]["rho"]):
                loss, found = gradient(batch, parameters)
            if not usable(loss, found):
                return None
            if not (length := float(norm(found))):
                return away
        return list(torch._foreach_div(found, length))

    def _check(self, settings: dict[str, Any]) -> None:
        super()._check(settings)
        if settings["batch_size"] is not None:
            check_count("batch_size", settings["batch_size"])

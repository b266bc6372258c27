"""Lamb: Adam with layer-wise trust ratios (You et al., ICLR 2020, arXiv 1904.00962), here with bias correction.

In the notation of ALTO's Algorithm 2, with φ(x) = x + ε₃, for every tensor θ with gradient g at its k-th step:

    m = β₂ m + (1−β₂) g,    v = β₃ v + (1−β₃) g²,    m̂ = m/(1−β₂ᵏ),    v̂ = v/(1−β₃ᵏ)
    r = m̂/(√v̂ + ε₁) + λ θ
    θ ← θ − η r φ(‖θ‖) / (‖r‖ + ε₂ φ(‖θ‖))
"""

# pyright: reportPrivateImportUsage=false
# torch._foreach_*: see contract.py

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, get_args

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from landscape import InputError

from .contract import (
    blocks,
    check_one_of,
    check_range,
    dense_gradients,
    evaluated,
    norm,
    parameters_of,
    usable,
    with_gradient,
)
from .lamb_rule import LambRule, TrustRatio, wide

CLIP_EPS = 1e-6  # as in torch.nn.utils.clip_grad_norm_


class LayerwiseAdam(Optimizer, ABC):
    """What Lamb and ALTO share: everything but what the moments see. Abstract."""

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        _check_settings({**self.defaults, **param_group}, self.param_groups)
        self._check({**self.defaults, **param_group})
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The closure's loss (None without one), after one step. It is called once, with gradients enabled."""
        loss = None if closure is None else evaluated(closure)
        gradients = dense_gradients(parameters_of(self))
        clip_norm = self.param_groups[0]["clip_norm"]
        length = math.nan
        if clip_norm is not None and gradients:
            length = float(norm(gradients, dtype=wide(gradients)))
        if not usable(loss, [] if math.isfinite(length) else gradients):  # a finite norm has no other terms
            return loss
        factor = 1.0 if clip_norm is None else min(1.0, clip_norm / (length + CLIP_EPS))
        for group in self.param_groups:
            thetas = with_gradient(group["params"])
            for kind in dict.fromkeys((p.device, p.dtype) for p in thetas):
                self._step_group(group, [p for p in thetas if (p.device, p.dtype) == kind], factor)
        return loss

    def _step_group(self, group: dict[str, Any], thetas: list[Tensor], factor: float) -> None:
        factor = -factor if group["maximize"] else factor
        shared = {key: group[key] for key in ("eps", "weight_decay", "bias_correction", "trust_ratio")}
        rule = LambRule(lr=float(group["lr"]), betas=tuple(group["betas"][-2:]), **shared)
        for some in blocks(thetas):
            states = [self._state(p) for p in thetas[some]]
            u = self._seen(group, states, dense_gradients(thetas[some]), factor)
            m, v, steps = ([state[key] for state in states] for key in ("m", "v", "step"))
            rule.step(thetas[some], u, m, v, steps)

    def _state(self, theta: Tensor) -> dict[str, Any]:
        """The state of one tensor, made at its first gradient, with its steps counted, this one included."""
        state = self.state[theta]
        if not state:
            state.update(step=0, m=torch.zeros_like(theta), v=torch.zeros_like(theta))
        state["step"] += 1
        return state

    def _seen(
        self, group: dict[str, Any], states: list[dict[str, Any]], gradients: list[Tensor], factor: float
    ) -> list[Tensor]:
        """What the moments see: here factor times the gradients, which stay as they are."""
        return gradients if factor == 1 else list(torch._foreach_mul(gradients, factor))

    @abstractmethod
    def _check(self, settings: dict[str, Any]) -> None:
        """InputError if a setting of the subclass's own, or its betas, cannot be used."""


class Lamb(LayerwiseAdam):
    """Lamb with bias correction: ALTO without E, and so the baseline that shows what E adds.

    Cost: one gradient a step; memory: two buffers the size of the parameters. Steps with a loss or gradient that
    is not finite are skipped, with a RuntimeWarning.

    Args:
        params: tensors or groups; every setting but ``clip_norm`` may differ between groups.
        lr: η.
        betas: of the first and the second moment.
        eps: ε₁ = ε₂; ε₃ is 1e-10.
        weight_decay: λ, inside r and so inside the trust ratio.
        bias_correction: False takes m and v in place of m̂ and v̂.
        clip_norm: the largest norm of the gradient over all parameters; a longer one is shortened first (p.grad
            keeps it whole). None clips nothing.
        trust_ratio: "all" scales every tensor as above. "decayed" takes ‖θ‖/‖r‖ (1 if either is zero) in groups with
            weight_decay ≠ 0 and plain steps of η r in the others: give biases and normalization layers a group
            with weight_decay=0.
        maximize: climb instead.

    Raises:
        InputError: a setting outside its range, clip_norm differing between groups, a sparse gradient.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        betas: tuple[float, ...] = (0.9, 0.99),
        eps: float = 1e-6,
        weight_decay: float = 1e-4,
        *,
        bias_correction: bool = True,
        clip_norm: float | None = None,
        trust_ratio: TrustRatio = "all",
        maximize: bool = False,
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "bias_correction": bias_correction,
            "clip_norm": clip_norm,
            "trust_ratio": trust_ratio,
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def _check(self, settings: dict[str, Any]) -> None:
        check_betas(settings["betas"], ("first moment", "second moment"))


def check_betas(betas: Any, of: tuple[str, ...]) -> None:
    """InputError unless there is one number in [0, 1) for each name in ``of``."""
    if not isinstance(betas, tuple | list) or len(betas) != len(of):
        raise InputError(
            f"betas must be {('two', 'three')[len(of) - 2]} numbers ({', '.join(of)}), got {betas!r}."
        )
    for i, value in enumerate(betas):
        check_range(f"betas[{i}]", value, below=1)


def _check_settings(settings: dict[str, Any], groups: Sequence[dict[str, Any]]) -> None:
    for name in ("lr", "eps", "weight_decay"):
        check_range(name, settings[name])
    check_one_of("trust_ratio", settings["trust_ratio"], get_args(TrustRatio))
    clip_norm = settings["clip_norm"]
    if clip_norm is not None and not clip_norm > 0:
        raise InputError(f"clip_norm must be positive, or None for no clipping, got {clip_norm}.")
    if groups and clip_norm != groups[0]["clip_norm"]:
        raise InputError(
            f"clip_norm is taken over all parameters and must be the same in every group, got {clip_norm} "
            f"after {groups[0]['clip_norm']}; pass it once, to the optimizer."
        )

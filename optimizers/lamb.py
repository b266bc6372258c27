"""Lamb: Adam with layer-wise trust ratios (You et al., ICLR 2020, arXiv 1904.00962), here with bias correction.

In the notation of ALTO's Algorithm 2, with φ(x) = x + ε₃, for every tensor θ with gradient g at its k-th step:

    m = β₂ m + (1−β₂) g,    v = β₃ v + (1−β₃) g²,    m̂ = m/(1−β₂ᵏ),    v̂ = v/(1−β₃ᵏ)
    r = m̂/(√v̂ + ε₁) + λ θ
    θ ← θ − η r φ(‖θ‖) / (‖r‖ + ε₂ φ(‖θ‖))
"""

# pyright: reportPrivateImportUsage=false
# torch._foreach_*: see contract.py

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from landscape import InputError

from .contract import (
    blocks,
    check_one_of,
    check_range,
    dense_gradients,
    evaluated,
    parameters_of,
    usable,
    with_gradient,
)

TrustRatio = Literal["all", "decayed"]
PHI_EPS = 1e-10  # ε₃: lets a tensor that is zero move
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
        if not usable(loss, gradients):
            return loss
        factor = _clip_factor(gradients, self.param_groups[0]["clip_norm"])
        for group in self.param_groups:
            thetas = with_gradient(group["params"])
            for some in blocks(thetas):
                self._step_block(group, thetas[some], factor)
        return loss

    def _step_block(self, group: dict[str, Any], thetas: list[Tensor], factor: float) -> None:
        sign = -1.0 if group["maximize"] else 1.0
        gradients = [g * (factor * sign) for g in dense_gradients(thetas)]  # own tensors, p.grad stays
        states = [self.state[p] for p in thetas]
        for state, gradient in zip(states, gradients, strict=True):
            state.setdefault("m", torch.zeros_like(gradient))
            state.setdefault("v", torch.zeros_like(gradient))
            state["step"] = state.get("step", 0) + 1
        self._adapt(group, states, gradients)
        lamb_update(
            thetas,
            gradients,
            [state["m"] for state in states],
            [state["v"] for state in states],
            [state["step"] for state in states],
            betas=tuple(group["betas"][-2:]),
            **{key: group[key] for key in ("lr", "eps", "weight_decay", "bias_correction", "trust_ratio")},
        )

    def _adapt(self, group: dict[str, Any], states: list[dict[str, Any]], gradients: list[Tensor]) -> None:
        """Change the gradients in place before the moments see them; by default they stay."""
        return

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


def lamb_update(
    thetas: list[Tensor],
    gradients: list[Tensor],
    m: list[Tensor],
    v: list[Tensor],
    steps: list[int],
    *,
    lr: float,
    betas: tuple[float, ...],
    eps: float,
    weight_decay: float,
    bias_correction: bool,
    trust_ratio: TrustRatio,
) -> None:
    """One step on lists of tensors; thetas, m and v change in place, gradients do not.

    ``steps`` counts each tensor's steps, this one included.
    """
    beta2, beta3 = betas
    torch._foreach_lerp_(m, gradients, 1 - beta2)
    torch._foreach_mul_(v, beta3)
    torch._foreach_addcmul_(v, gradients, gradients, 1 - beta3)

    # Without bias correction m̂ and v̂ are m and v.
    r = list(torch._foreach_div(m, [1 - beta2**k if bias_correction else 1.0 for k in steps]))
    root = torch._foreach_div(v, [1 - beta3**k if bias_correction else 1.0 for k in steps])
    torch._foreach_sqrt_(root)
    torch._foreach_add_(root, eps)
    torch._foreach_div_(r, root)
    torch._foreach_add_(r, thetas, alpha=weight_decay)

    if trust_ratio == "all":
        torch._foreach_mul_(r, _trust_ratios(thetas, r, eps))
    elif weight_decay != 0:
        torch._foreach_mul_(r, _plain_trust_ratios(thetas, r))
    torch._foreach_add_(thetas, r, alpha=-float(lr))


def check_betas(betas: Any, of: tuple[str, ...]) -> None:
    """InputError unless there is one number in [0, 1) for each name in ``of``."""
    if not isinstance(betas, tuple | list) or len(betas) != len(of):
        raise InputError(
            f"betas must be {('two', 'three')[len(of) - 2]} numbers ({', '.join(of)}), got {betas!r}."
        )
    for i, value in enumerate(betas):
        check_range(f"betas[{i}]", value, below=1)


def _trust_ratios(thetas: list[Tensor], r: list[Tensor], eps: float) -> list[Tensor]:
    """φ(‖θ‖) / (‖r‖ + ε₂ φ(‖θ‖)) for every tensor."""
    phi = torch._foreach_add(torch._foreach_norm(thetas), PHI_EPS)
    return list(torch._foreach_div(phi, torch._foreach_add(torch._foreach_norm(r), phi, alpha=eps)))


def _plain_trust_ratios(thetas: list[Tensor], r: list[Tensor]) -> list[Tensor]:
    """‖θ‖/‖r‖ for every tensor, 1 where either is zero."""
    norms = zip(torch._foreach_norm(thetas), torch._foreach_norm(r), strict=True)
    return [torch.where((w > 0) & (s > 0), w / s, torch.ones_like(w)) for w, s in norms]


def _clip_factor(gradients: list[Tensor], clip_norm: float | None) -> float:
    """What shortens the gradients together so that their common norm is at most clip_norm."""
    if clip_norm is None or not gradients:
        return 1.0
    return min(1.0, clip_norm / (float(get_total_norm(gradients)) + CLIP_EPS))


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

"""ALTO: E with layer-wise trust ratios, for large batches (Zhao et al., NeurIPS 2025, arXiv 2510.27153).

Algorithm 2, with u from E (see e.py) and φ(x) = x + ε₃, for every tensor θ at its k-th step:

    m = β₂ m + (1−β₂) u,    v = β₃ v + (1−β₃) u²,    m̂ = m/(1−β₂ᵏ),    v̂ = v/(1−β₃ᵏ)
    r = m̂/(√v̂ + ε₁) + λ θ
    θ ← θ − η r φ(‖θ‖) / (‖r‖ + ε₂ φ(‖θ‖))
"""

# pyright: reportPrivateImportUsage=false
# torch._foreach_*: see e.py

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer
from torch.optim.optimizer import ParamsT

from landscape import InputError

from .e import Init, adapt, average_of, check_adaptor, check_range, dense_gradients

TrustRatio = Literal["all", "decayed"]
PHI_EPS = 1e-10  # ε₃: lets a tensor that is zero move
CLIP_EPS = 1e-6  # as in torch.nn.utils.clip_grad_norm_


class ALTO(Optimizer):
    """Lamb on E's adapted gradients, with bias correction (Algorithm 2).

    Cost: one gradient a step; memory: three buffers the size of the parameters.

    Args:
        params: tensors or groups; every setting but ``clip_norm`` may differ between groups.
        lr: η.
        betas: (β₁, β₂, β₃) for E, the first and the second moment.
        alpha: E's α, with |α| < 1/(1−β₁); negative explores.
        eps: ε₁ = ε₂; ε₃ is 1e-10.
        weight_decay: λ, inside r and so inside the trust ratio.
        init: E's start, "zero" or "first" (see E).
        bias_correction: False is ALTO Vanilla (Algorithm 1): m and v in place of m̂ and v̂.
        clip_norm: the largest norm of the gradient over all parameters; a longer one is shortened before E
            sees it (p.grad keeps it whole). None, the paper's, clips nothing; the authors' code clips to 1.
        trust_ratio: "all", the paper's, scales every tensor as above. "decayed", the authors' code, takes
            ‖θ‖/‖r‖ (1 if either is zero) in groups with weight_decay ≠ 0 and plain steps of η r in the others:
            give biases and normalization layers a group with weight_decay=0.

    Raises:
        InputError: a setting outside its range, clip_norm differing between groups, a sparse gradient.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float,
        betas: tuple[float, float, float] = (0.99, 0.9, 0.99),
        alpha: float = -5.0,
        eps: float = 1e-6,
        weight_decay: float = 1e-4,
        *,
        init: Init = "zero",
        bias_correction: bool = True,
        clip_norm: float | None = None,
        trust_ratio: TrustRatio = "all",
    ) -> None:
        defaults = {
            "lr": lr,
            "betas": betas,
            "alpha": alpha,
            "eps": eps,
            "weight_decay": weight_decay,
            "init": init,
            "bias_correction": bias_correction,
            "clip_norm": clip_norm,
            "trust_ratio": trust_ratio,
        }
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        _check_settings({**self.defaults, **param_group}, self.param_groups)
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The closure's loss (None without one), after one step. It is called once, with gradients enabled."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        groups = [[p for p in group["params"] if p.grad is not None] for group in self.param_groups]
        gradients = [dense_gradients(thetas) for thetas in groups]
        clipped = _clipped(gradients, self.param_groups[0]["clip_norm"])
        for group, thetas, g in zip(self.param_groups, groups, clipped, strict=True):
            if thetas:
                self._step_group(group, thetas, g)
        return loss

    def _step_group(self, group: dict[str, Any], thetas: list[Tensor], gradients: list[Tensor]) -> None:
        states = [self.state[p] for p in thetas]
        for state, gradient in zip(states, gradients, strict=True):
            average_of(state, gradient, group["init"])
            state.setdefault("m", torch.zeros_like(gradient))
            state.setdefault("v", torch.zeros_like(gradient))
            state["step"] = state.get("step", 0) + 1
        alto_update(
            thetas,
            gradients,
            [state["average"] for state in states],
            [state["m"] for state in states],
            [state["v"] for state in states],
            [state["step"] for state in states],
            **{key: value for key, value in group.items() if key in _UPDATE_SETTINGS},
        )


_UPDATE_SETTINGS = ("lr", "betas", "alpha", "eps", "weight_decay", "bias_correction", "trust_ratio")


def alto_update(
    thetas: list[Tensor],
    gradients: list[Tensor],
    averages: list[Tensor],
    m: list[Tensor],
    v: list[Tensor],
    steps: list[int],
    *,
    lr: float,
    betas: tuple[float, float, float],
    alpha: float,
    eps: float,
    weight_decay: float,
    bias_correction: bool,
    trust_ratio: TrustRatio,
) -> None:
    """Algorithm 2 for one step on lists of tensors; thetas, averages, m and v change in place, gradients do not.

    ``steps`` counts each tensor's steps, this one included.
    """
    beta1, beta2, beta3 = betas
    u = adapt(gradients, averages, alpha=alpha, beta=beta1)
    torch._foreach_lerp_(m, u, 1 - beta2)
    torch._foreach_mul_(v, beta3)
    torch._foreach_addcmul_(v, u, u, 1 - beta3)

    # Without bias correction (Algorithm 1) m̂ and v̂ are m and v.
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


def _trust_ratios(thetas: list[Tensor], r: list[Tensor], eps: float) -> list[Tensor]:
    """φ(‖θ‖) / (‖r‖ + ε₂ φ(‖θ‖)) for every tensor."""
    phi = torch._foreach_add(torch._foreach_norm(thetas), PHI_EPS)
    return list(torch._foreach_div(phi, torch._foreach_add(torch._foreach_norm(r), phi, alpha=eps)))


def _plain_trust_ratios(thetas: list[Tensor], r: list[Tensor]) -> list[Tensor]:
    """‖θ‖/‖r‖ for every tensor, 1 where either is zero."""
    norms = zip(torch._foreach_norm(thetas), torch._foreach_norm(r), strict=True)
    return [torch.where((w > 0) & (s > 0), w / s, torch.ones_like(w)) for w, s in norms]


def _clipped(gradients: list[list[Tensor]], clip_norm: float | None) -> list[list[Tensor]]:
    """The gradients, shortened together (as new tensors) so that their common norm is at most clip_norm."""
    flat = [g for of_group in gradients for g in of_group]
    if clip_norm is None or not flat:
        return gradients
    factor = (clip_norm / (get_total_norm(flat) + CLIP_EPS)).clamp(max=1.0)
    return [[g * factor.to(g.device) for g in of_group] for of_group in gradients]


def _check_settings(settings: dict[str, Any], groups: Sequence[dict[str, Any]]) -> None:
    betas = settings["betas"]
    if not isinstance(betas, tuple | list) or len(betas) != 3:
        raise InputError(f"betas must be three numbers (E, first moment, second moment), got {betas!r}.")
    for name, value in zip(("betas[0]", "betas[1]", "betas[2]"), betas, strict=True):
        check_range(name, value, below=1)
    check_adaptor(settings["alpha"], betas[0], settings["init"])
    for name in ("lr", "eps", "weight_decay"):
        check_range(name, settings[name])
    if settings["trust_ratio"] not in get_args(TrustRatio):
        raise InputError(f"trust_ratio must be 'all' or 'decayed', got {settings['trust_ratio']!r}.")
    clip_norm = settings["clip_norm"]
    if clip_norm is not None and not clip_norm > 0:
        raise InputError(f"clip_norm must be positive, or None for no clipping, got {clip_norm}.")
    if groups and clip_norm != groups[0]["clip_norm"]:
        raise InputError(
            f"clip_norm is taken over all parameters and must be the same in every group, got {clip_norm} "
            f"after {groups[0]['clip_norm']}; pass it once, to ALTO."
        )

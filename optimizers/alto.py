"""ALTO: E with layer-wise trust ratios, for large batches (Zhao et al., NeurIPS 2025, arXiv 2510.27153).

Algorithm 2 is Lamb with bias correction (see lamb.py) on the gradients u of E (see e.py):

    e' = β₁ e + (1−β₁) g,    u = g + α a = (1−c) g + c e,    c = −α(1−β₁)
    m = β₂ m + (1−β₂) u,     v = β₃ v + (1−β₃) u²,     and on as Lamb does.
"""

# pyright: reportPrivateImportUsage=false
# torch._foreach_*: see contract.py

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from .e import Init, adapt, average_of, check_adaptor
from .lamb import LayerwiseAdam, check_betas
from .lamb_rule import TrustRatio


class ALTO(LayerwiseAdam):
    """Lamb on E's adapted gradients, with bias correction (Algorithm 2).

    Cost: one gradient a step; memory: three buffers the size of the parameters. Steps with a loss or gradient that
    is not finite are skipped, with a RuntimeWarning.

    Args:
        params, lr, eps, weight_decay, maximize: as in Lamb.
        betas: (β₁, β₂, β₃) for E, the first and the second moment.
        alpha: E's α, with |α| < 1/(1−β₁); negative explores.
        init: E's start, "zero" or "first" (see E).
        bias_correction: False is ALTO Vanilla (Algorithm 1): m and v in place of m̂ and v̂.
        clip_norm: as in Lamb, before E. The paper clips nothing; the authors' code clips to 1.
        trust_ratio: as in Lamb. "all" is the paper's, "decayed" the authors' code.

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
        maximize: bool = False,
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
            "maximize": maximize,
        }
        super().__init__(params, defaults)

    def _seen(
        self, group: dict[str, Any], states: list[dict[str, Any]], gradients: list[Tensor], factor: float
    ) -> list[Tensor]:
        u = list(torch._foreach_mul(gradients, factor))
        averages = [average_of(state, g, group["init"]) for state, g in zip(states, u, strict=True)]
        adapt(u, averages, alpha=group["alpha"], beta=group["betas"][0])
        return u

    def _check(self, settings: dict[str, Any]) -> None:
        check_betas(settings["betas"], ("E", "first moment", "second moment"))
        check_adaptor(settings["alpha"], settings["betas"][0], settings["init"])

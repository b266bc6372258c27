"""The step of Lamb and ALTO on plain tensors (the formula is in lamb.py)."""

# pyright: reportPrivateImportUsage=false
# torch._foreach_*, torch._fused_*: see contract.py

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, Literal

import torch
from torch import Tensor

from .contract import fusable

TrustRatio = Literal["all", "decayed"]
PHI_EPS = 1e-10  # ε₃: lets a tensor that is zero move


@dataclass(frozen=True)
class LambRule:
    """The settings of a step; betas are β₂ and β₃. Parameters, m and v change in place, gradients do not."""

    lr: float
    betas: tuple[float, float]
    eps: float
    weight_decay: float
    bias_correction: bool
    trust_ratio: TrustRatio

    def step(
        self,
        thetas: list[Tensor],
        gradients: list[Tensor],
        m: list[Tensor],
        v: list[Tensor],
        steps: list[int],
    ) -> None:
        """One step of tensors of one dtype on one device; each has its own number of steps, this one included."""
        if self.trust_ratio == "decayed" and self.weight_decay == 0:
            self.add_direction(thetas, gradients, m, v, steps, scale=-self.lr)
            return
        r = list(torch._foreach_mul(thetas, self.weight_decay))
        self.add_direction(r, gradients, m, v, steps)
        if thetas[0].device.type == "cpu":
            self.move_each(thetas, r)
        else:
            self.move_together(thetas, r)

    def move_each(self, thetas: list[Tensor], r: list[Tensor]) -> None:
        """Every tensor along its r, on a CPU, where a norm is a number without waiting for it."""
        weights, lengths = (torch._foreach_norm(t, 2, dtype=wide(thetas)) for t in (thetas, r))
        largest = finite_max(thetas)
        for theta, one, weight, length in zip(thetas, r, weights, lengths, strict=True):
            above, below = self._fraction(float(weight), float(length))
            ratio = above / below if above > 0 and below > 0 else 1.0
            theta.add_(one, alpha=-self.lr * min(ratio, largest))

    def move_together(self, thetas: list[Tensor], r: list[Tensor]) -> None:
        """The same with few launches and without waiting for the device. Changes r."""
        weights, lengths = (torch.stack(torch._foreach_norm(t, 2, dtype=wide(thetas))) for t in (thetas, r))
        above, below = self._fraction(weights, lengths)
        ratio = torch.where((above > 0) & (below > 0), above / below, 1.0)
        torch._foreach_mul_(r, list(ratio.clamp(max=finite_max(thetas)).unbind()))
        torch._foreach_add_(thetas, r, alpha=-self.lr)

    def add_direction(
        self,
        to: list[Tensor],
        gradients: list[Tensor],
        m: list[Tensor],
        v: list[Tensor],
        steps: list[int],
        *,
        scale: float = 1.0,
    ) -> None:
        """m and v take the gradients in, and scale m̂/(√v̂ + ε₁) is added to every tensor of `to`: Adam's update."""
        beta2, beta3 = self.betas
        if fusable(to, gradients, m, v):
            counts = [float(k) if self.bias_correction else math.inf for k in steps]  # 1 − β^∞ = 1
            torch._fused_adam_(
                to,
                gradients,
                m,
                v,
                [],
                list(torch.tensor(counts, device=to[0].device).unbind()),
                lr=-scale,
                beta1=beta2,
                beta2=beta3,
                eps=self.eps,
                weight_decay=0.0,
                amsgrad=False,
                maximize=False,
            )
            return
        torch._foreach_lerp_(m, gradients, 1 - beta2)
        torch._foreach_mul_(v, beta3)
        torch._foreach_addcmul_(v, gradients, gradients, 1 - beta3)
        b2, b3 = ([1 - beta**k if self.bias_correction else 1.0 for k in steps] for beta in self.betas)
        root = torch._foreach_sqrt(v)  # √v + ε₁√b₃, that is √v̂ + ε₁ times √b₃
        torch._foreach_add_(root, [self.eps * math.sqrt(x) for x in b3])
        torch._foreach_addcdiv_(to, m, root, [scale * math.sqrt(y) / x for x, y in zip(b2, b3, strict=True)])

    def _fraction(self, weight: Any, length: Any) -> tuple[Any, Any]:
        """The trust ratio as (numerator, denominator) from ‖θ‖ and ‖r‖; where either is zero it counts as 1."""
        if self.trust_ratio == "decayed":
            return weight, length
        phi = weight + PHI_EPS
        return phi, length + self.eps * phi


def wide(tensors: Sequence[Tensor]) -> torch.dtype:
    """What norms are taken in, single precision at least: in half precision they overflow, and ε₃ is 0."""
    return reduce(torch.promote_types, {t.dtype for t in tensors}, torch.float32)


def finite_max(tensors: Sequence[Tensor]) -> float:
    """The largest factor that every tensor's numbers can take: float16 knows none above 65,504."""
    return min(torch.finfo(t.dtype).max for t in tensors)

"""The step of Lamb and ALTO on plain tensors (the formula is in lamb.py): one tensor on a CPU, many on an accelerator.

With bᵢ = 1 − βᵢᵏ (1 without bias correction) and the number s = √b₃/b₂ the formula's r is s q,

    q = m/(√v + ε₁√b₃) + (λ/s) θ,

which reads m and v once less than m̂ and v̂ would.
"""

# pyright: reportPrivateImportUsage=false
# torch._foreach_*: see contract.py

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any, Literal

import torch
from torch import Tensor

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

    def one(self, theta: Tensor, gradient: Tensor, m: Tensor, v: Tensor, k: int) -> None:
        """The k-th step of one tensor on the CPU, where a norm is a number without waiting for it."""
        beta2, beta3 = self.betas
        m.lerp_(gradient, 1 - beta2)
        v.mul_(beta3).addcmul_(gradient, gradient, value=1 - beta3)
        s, root_b3 = self._corrections(k)
        root = v.sqrt().add_(self.eps * root_b3)
        if self._plain:
            theta.addcdiv_(m, root, value=-self.lr * s)
            return
        q = torch.div(m, root, out=root).add_(theta, alpha=self.weight_decay / s)
        dtype = wide([theta])
        weight, length = (float(torch.linalg.vector_norm(t, dtype=dtype)) for t in (theta, q))
        above, below = self._fraction(weight, s * length)
        scale = s * (above / below if above > 0 and below > 0 else 1.0)
        theta.add_(q, alpha=-self.lr * min(scale, largest([theta])))

    def together(
        self,
        thetas: list[Tensor],
        gradients: list[Tensor],
        m: list[Tensor],
        v: list[Tensor],
        steps: list[int],
    ) -> None:
        """``one`` for every tensor in lists on one device, with few launches and without waiting for it."""
        beta2, beta3 = self.betas
        torch._foreach_lerp_(m, gradients, 1 - beta2)
        torch._foreach_mul_(v, beta3)
        torch._foreach_addcmul_(v, gradients, gradients, 1 - beta3)
        s, root_b3 = zip(*map(self._corrections, steps), strict=True)
        root = torch._foreach_sqrt(v)
        torch._foreach_add_(root, [self.eps * x for x in root_b3])
        if self._plain:
            torch._foreach_addcdiv_(thetas, m, root, [-self.lr * x for x in s])
            return
        q = torch._foreach_mul(thetas, [self.weight_decay / x for x in s])
        torch._foreach_addcdiv_(q, m, root)
        dtype = wide(thetas)
        weights, lengths = (torch.stack(torch._foreach_norm(t, 2, dtype=dtype)) for t in (thetas, q))
        scale = torch.tensor(s, dtype=dtype, device=lengths.device)
        above, below = self._fraction(weights, scale * lengths)
        scale *= torch.where((above > 0) & (below > 0), above / below, 1.0)
        torch._foreach_mul_(q, list(scale.clamp(max=largest(thetas)).unbind()))
        torch._foreach_add_(thetas, q, alpha=-self.lr)

    @property
    def _plain(self) -> bool:
        return self.trust_ratio == "decayed" and self.weight_decay == 0

    def _corrections(self, k: int) -> tuple[float, float]:
        """(s, √b₃) at the k-th step."""
        b2, b3 = (1 - beta**k if self.bias_correction else 1.0 for beta in self.betas)
        return math.sqrt(b3) / b2, math.sqrt(b3)

    def _fraction(self, weight: Any, length: Any) -> tuple[Any, Any]:
        """The trust ratio as (numerator, denominator) from ‖θ‖ and ‖r‖; where either is zero it counts as 1."""
        if self.trust_ratio == "decayed":
            return weight, length
        phi = weight + PHI_EPS
        return phi, length + self.eps * phi


def wide(tensors: Sequence[Tensor]) -> torch.dtype:
    """What norms are taken in, single precision at least: in half precision they overflow, and ε₃ is 0."""
    return reduce(torch.promote_types, {t.dtype for t in tensors}, torch.float32)


def largest(tensors: Sequence[Tensor]) -> float:
    """The largest factor that every tensor's numbers can take: float16 knows none above 65,504."""
    return min(torch.finfo(dtype).max for dtype in {t.dtype for t in tensors})

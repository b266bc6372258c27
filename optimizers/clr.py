"""CLR: the corridor learning rate (Dherin and Rosca, arXiv 2402.08818), which is Polyak's step with the lower bound 0.

    h = (L − ℓ*) / (c ‖∇L‖²),    at most max_lr,    θ ← θ − h ∇L

L and ∇L are of the current batch, ‖∇L‖ runs over all parameters. In a corridor, where steepest descent goes straight, the loss
falls linearly, and h with ℓ* = 0 and c = 1 is the rate that brings it to 0 in one step. With max_lr = γ_b this is
SPS_max (Loizou et al., AISTATS 2021, arXiv 2002.10542).
"""

# pyright: reportPrivateImportUsage=false
# torch._foreach_*: see contract.py

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Optimizer
from torch.optim.optimizer import ParamsT

from landscape import InputError

from .adaptor import Adaptor
from .contract import check_range, dense_gradients, evaluated, number, parameters_of, usable, with_gradient

SAFE = 1e15  # of a gradient whose norm lies between 1/SAFE and this, float32 holds the squares that matter


class CLR(Adaptor):
    """Gradient descent, or the optimizer given, at the corridor learning rate h.

    The paper's rule is ``CLR(params)``. Where the least loss is positive it never settles, since h → ∞ as ∇L → 0; where
    the loss only nears 0 at infinity (cross-entropy of separable data) h and θ grow without end; and it has diverged on
    a network that can fit its data (docs/optimizers/clr.md). max_lr bounds h, and lower_bound takes away what cannot be
    reached. Both come from the Polyak family, not from the paper; give max_lr.

        optimizer = CLR(model.parameters(), max_lr=1.0)
        optimizer.step(closure)                 # or, after loss.backward():  optimizer.step(loss=loss)
        CLR(SGD(model.parameters(), lr=0.1, momentum=0.9), max_lr=1.0)

    Each group's own lr is a factor: the base steps with h · lr, and lr is put back afterwards, so that schedulers act
    relative to h. Make the base with lr=1, or 1 − μ with momentum μ, where every gradient is added 1/(1 − μ) times.
    The formula is exact for steps along −∇L; for any other base it is the same number.

    The loss must be the one that the gradients belong to, not scaled; ``scaler.step(optimizer, loss=loss)`` works with
    GradScaler. Clipping makes steps longer, not shorter, since h grows as 1/‖∇L‖²: use max_lr. Weight decay inside
    the base is no part of L. With data in parallel give every rank the same loss, the mean of them all.

    ``rate`` is the h of the last step, NaN before the first. It is 0, and the base steps with lr 0, where ∇L = 0
    and where L is below lower_bound (said once, by a RuntimeWarning). Steps with a loss or gradient that is not
    finite, or with a rate too large for the parameters' dtype, are skipped, with a RuntimeWarning.

    Cost: the base's one gradient, one more reading of it, and one wait for the device; memory: the base's.

    Args:
        params: tensors or groups, for plain SGD; or an optimizer that steps on p.grad (SGD, E(SGD(…)), AdamW, …).
        max_lr: the largest h, γ_b of SPS_max; None for no bound.
        lower_bound: ℓ*, at or below the least loss of any batch.
        c: divides the rate. On λ‖θ‖²/2 the rate is 1/(2cλ): c = 1/2 steps to the minimum, c ≤ 1/4 comes no nearer.
        maximize: climb instead: −L is what is minimized and lower_bound bounds. For a base say so in the base.

    Raises:
        InputError: a setting outside its range, a base without lr, groups of which only some maximize, a sparse gradient,
            a step without a loss or with two.
    """

    needs_loss = True
    max_lr: float | None
    lower_bound: float
    c: float
    rate: float
    _settings = ("max_lr", "lower_bound", "c", "rate")
    _told_bound = False

    def __init__(
        self,
        params: ParamsT | Optimizer,
        max_lr: float | None = None,
        lower_bound: float = 0.0,
        *,
        c: float = 1.0,
        maximize: bool = False,
    ) -> None:
        _check_settings(max_lr, lower_bound, c)
        if isinstance(params, Optimizer):
            if maximize:
                raise InputError(
                    "maximize must be said to the base optimizer, got maximize=True beside a "
                    f"{type(params).__name__}; make that one with maximize=True."
                )
            base = params
        else:
            base = SGD(params, lr=1.0, maximize=maximize)
        super().__init__(base, max_lr=max_lr, lower_bound=lower_bound, c=c, rate=math.nan)
        _check_groups(self.param_groups)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        _check_groups([*self.param_groups, {**self.defaults, **param_group}])
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None, *, loss: Any = None) -> Any:
        """The loss, after one step of the base at the rate h.

        It comes from the closure, called once with gradients enabled, or is given after ``loss.backward()``.
        """
        loss = _the_loss(closure, loss)
        held = with_gradient(parameters_of(self))
        value, norm = _values(loss, dense_gradients(held))
        if not usable(value, [torch.tensor(norm)]):
            return loss
        if self.param_groups[0].get("maximize", False):
            value = -value
        gap = value - self.lower_bound
        if gap < 0:
            self._tell_bound(value)
        rate = polyak_rate(gap, norm, c=self.c, max_lr=self.max_lr)
        if not _representable(rate, self.param_groups, held):
            warnings.warn(
                f"step skipped: the rate {rate:.3g}, from a loss {gap:.3g} above lower_bound and a gradient norm of "
                f"{norm:.3g}, overflows; parameters and state stay as they are; give max_lr, or raise lower_bound",
                RuntimeWarning,
                stacklevel=4,
            )
            return loss
        with _rates(self.param_groups, rate):
            self.base.step()
        self.rate = rate
        return loss

    def _tell_bound(self, value: float) -> None:
        if not self._told_bound:
            warnings.warn(
                f"lower_bound={self.lower_bound} is too high: the loss to minimize is {value}; the rate is 0 wherever it "
                "lies below (said once)",
                RuntimeWarning,
                stacklevel=5,
            )
        self._told_bound = True


def polyak_rate(gap: float, gradient_norm: float, *, c: float = 1.0, max_lr: float | None = None) -> float:
    """min{gap / (c‖∇L‖²), max_lr} for gap = L − ℓ*; 0 where the gap is not positive or the gradient is 0; inf on overflow."""
    if gap <= 0 or gradient_norm == 0:
        return 0.0
    rate = gap / gradient_norm / gradient_norm / c  # ‖∇L‖² itself may be too small or too large for a float
    return rate if max_lr is None else min(rate, max_lr)


def _the_loss(closure: Callable[[], Any] | None, loss: Any) -> Any:
    if (closure is None) == (loss is None):
        raise InputError(
            f"step must be given the loss in one way, got {'neither' if loss is None else 'both'}: a closure that zeroes the "
            "gradients, calls backward and returns the loss, or loss=loss after loss.backward()."
        )
    loss = loss if closure is None else evaluated(closure)
    if isinstance(loss, Tensor) and loss.numel() != 1:
        raise InputError(
            f"the loss must be one number, got shape {tuple(loss.shape)}; reduce it, for example by its mean."
        )
    return loss


def _values(loss: Any, gradients: Sequence[Tensor]) -> tuple[float, float]:
    """Loss and norm of all gradients. Waits for the device once."""
    if not gradients:
        return number(loss), 0.0
    value = torch.as_tensor(loss, dtype=torch.float64, device=gradients[0].device).detach().reshape(())
    halves = any(g.dtype.itemsize < 4 for g in gradients)
    value, norm = torch.stack([value, _norm(gradients, torch.float64 if halves else None)]).tolist()
    if not 1 / SAFE < norm < SAFE:
        norm = float(_norm(gradients, torch.float64))
    return value, norm


def _norm(gradients: Sequence[Tensor], dtype: torch.dtype | None) -> Tensor:
    """In float64, from norms of the tensors computed in dtype (None for their own)."""
    norms = torch._foreach_norm(list(gradients), 2, dtype)
    return torch.linalg.vector_norm(torch.stack([n.to(gradients[0].device, torch.float64) for n in norms]))


def _representable(rate: float, groups: Sequence[dict[str, Any]], held: Sequence[Tensor]) -> bool:
    """Whether every group's rate is a number of the parameters' dtype: infinity times a gradient of 0 would be NaN."""
    largest = min((torch.finfo(dtype).max for dtype in {p.dtype for p in held}), default=math.inf)
    return all(abs(rate * float(group["lr"])) <= largest for group in groups)


@contextmanager
def _rates(groups: Sequence[dict[str, Any]], rate: float) -> Iterator[None]:
    """Every group's lr times the rate inside the block; what it was after it, whatever happens inside."""
    kept = [group["lr"] for group in groups]
    try:
        for group in groups:
            group["lr"] = rate * group["lr"]
        yield
    finally:
        for group, lr in zip(groups, kept, strict=True):
            group["lr"] = lr


def _check_settings(max_lr: float | None, lower_bound: float, c: float) -> None:
    if max_lr is not None and not max_lr > 0:
        raise InputError(f"max_lr must be positive, or None for no bound, got {max_lr}.")
    if not math.isfinite(lower_bound):
        raise InputError(
            f"lower_bound must be a finite number, got {lower_bound}; 0 suits losses that cannot be negative."
        )
    check_range("c", c, positive=True)


def _check_groups(groups: Sequence[dict[str, Any]]) -> None:
    if any("lr" not in group for group in groups):
        raise InputError(
            "the base optimizer must have an lr in every group, got one without; CLR chooses it."
        )
    if len({bool(group.get("maximize", False)) for group in groups}) > 1:
        raise InputError(
            "maximize must be the same in every group, since one loss gives the rate for all; got both."
        )

"""What all optimizers here do alike: call closures, refuse what cannot be stepped on, go through many tensors, check settings."""

# pyright: reportPrivateImportUsage=false
# torch.optim itself is built on torch._foreach_*, one kernel launch for all tensors instead of one for each, and on
# torch._fused_*, one pass over memory for a whole update.

from __future__ import annotations

import math
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from landscape import InputError

Closure = Callable[[], Any]
_CACHED = (
    2**18
)  # numbers: a few buffers of so many stay in a core's cache (measured, benchmarks/optimizers.py)


def evaluated(closure: Closure) -> Any:
    """The closure's loss, evaluated with gradients enabled; InputError if it returns none."""
    with torch.enable_grad():
        loss = closure()
    if loss is None:
        raise InputError("closure must return the loss, got None; end it with `return loss`.")
    return loss


def required(closure: Closure | None, optimizer: Optimizer) -> Closure:
    """The closure; InputError if there is none, for optimizers that evaluate it themselves."""
    if closure is None:
        raise InputError(
            f"{type(optimizer).__name__} evaluates the gradient itself: step must be given a closure that zeroes the "
            "gradients, evaluates the loss, calls backward and returns the loss."
        )
    return closure


def parameters_of(optimizer: Optimizer) -> list[Tensor]:
    """All parameters, group after group."""
    return [p for group in optimizer.param_groups for p in group["params"]]


def with_gradient(parameters: Sequence[Tensor]) -> list[Tensor]:
    """The parameters that have one."""
    return [p for p in parameters if p.grad is not None]


def dense_gradients(parameters: Sequence[Tensor]) -> list[Tensor]:
    """The gradients of parameters that have one; InputError if any is sparse."""
    gradients = [p.grad for p in parameters if p.grad is not None]
    for g in gradients:
        if g.layout != torch.strided:
            raise InputError(
                f"gradients must be dense, got a sparse one for a parameter of shape {tuple(g.shape)}; "
                "make it dense, for example with sparse=False in nn.Embedding."
            )
    return gradients


def usable(loss: Any, gradients: Sequence[Tensor]) -> bool:
    """Whether loss and gradients are finite. If not, a RuntimeWarning says so, and the caller skips its step.

    loss may be None, for unknown. Reads every gradient once and waits for the device once.
    """
    if loss is not None and not math.isfinite(number(loss)):
        what = f"the loss is {number(loss)}"
    elif not _all_finite(gradients):
        what = "a gradient is not finite"
    else:
        return True
    warn(f"step skipped: {what}; parameters and state stay as they are")
    return False


def warn(message: str) -> None:
    """A RuntimeWarning at the line that called the optimizer: the first outside PyTorch, which wraps ``step`` in hooks,
    schedulers and more, and outside this package."""
    frame, level = sys._getframe(1), 2
    while frame and frame.f_globals.get("__name__", "").partition(".")[0] in (
        "torch",
        __name__.partition(".")[0],
    ):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, RuntimeWarning, stacklevel=level)


def number(loss: Any) -> float:
    """The loss, a tensor or a number, as a number."""
    return float(loss.detach() if isinstance(loss, Tensor) else loss)


def norm(tensors: Sequence[Tensor], *, dtype: torch.dtype | None = None) -> Tensor:
    """The Euclidean norm of all tensors as one vector, a 0-dimensional tensor, taken in dtype (None for their own)."""
    norms = torch._foreach_norm(list(tensors), 2, dtype)
    return torch.linalg.vector_norm(torch.stack([n.to(tensors[0].device) for n in norms]))


def blocks(tensors: Sequence[Tensor]) -> Iterator[slice]:
    """Which tensors to update together: all on an accelerator, where launches cost; as many as stay in the cache from one
    operation to the next on a CPU, and a larger one alone."""
    if any(t.device.type != "cpu" for t in tensors):
        yield slice(None)
        return
    start = size = 0
    for i, t in enumerate(tensors):
        if size and size + t.numel() > _CACHED:
            yield slice(start, i)
            start, size = i, 0
        size += t.numel()
    if start < len(tensors):
        yield slice(start, len(tensors))


def fusable(*lists: Sequence[Tensor]) -> bool:
    """Whether torch's fused kernels can take these lists of tensors: of one kind, and contiguous, as those kernels go
    through memory and know no strides."""
    first = next((t for some in lists for t in some), None)
    if first is None or not first.is_floating_point() or first.device.type not in ("cpu", "cuda"):
        return False
    dtype, device = first.dtype, first.device
    return all(t.dtype == dtype and t.device == device and t.is_contiguous() for some in lists for t in some)


def check_range(name: str, value: Any, *, below: float = math.inf, positive: bool = False) -> None:
    """InputError unless value is a number with 0 ≤ value < below (0 < value if positive)."""
    interval = f"{'(' if positive else '['}0, {below:g})"
    try:
        inside = 0 < value < below if positive else 0 <= value < below
    except TypeError:
        raise InputError(f"{name} must be a number in {interval}, got {value!r}.") from None
    if not inside:
        raise InputError(f"{name} must be in {interval}, got {value}.")


def check_count(name: str, value: Any) -> None:
    """InputError unless value is a whole number of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"{name} must be a whole number of at least 1, got {value!r}.")


def check_one_of(name: str, value: Any, known: Sequence[str]) -> None:
    """InputError unless value is one of the known names."""
    if value not in known:
        raise InputError(f"{name} must be one of {', '.join(map(repr, known))}, got {value!r}.")


def _all_finite(gradients: Sequence[Tensor]) -> bool:
    gradients = [g for g in gradients if g.numel()]
    if not gradients:
        return True
    if all(g.device.type == "cpu" for g in gradients):
        # A sum is finite only if all its terms are. One that overflows says nothing, and then the terms are looked at.
        sums = torch.stack([g.sum() for g in gradients])
        return bool(sums.sum().isfinite()) or all(bool(g.isfinite().all()) for g in gradients)
    # On an accelerator launches cost, and the loop inside this one is there.
    largest = torch._foreach_norm(gradients, math.inf)
    return bool(torch.stack([x.to(gradients[0].device) for x in largest]).isfinite().all())

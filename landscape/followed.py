"""A model followed while it is trained: where it was before the last step, how far it moves, its gradient and constants, and
the rate of its optimizer."""

# pyright: reportPrivateImportUsage=false
# torch._foreach_*, as torch.optim itself uses it: one kernel launch for all tensors instead of one for each

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim import Optimizer

from .errors import InputError
from .parameters import Parameters
from .records import NAN, Array


class Followed:
    """The trainable parameters of a model under their plain names, and one copy of them.

    Names are those of the bare model, without what torch.compile and data parallelism put before them. 16-bit types are held as
    float32, since NumPy has no bfloat16 and differences would be rounded. ``dtype`` is that of θ in main memory, None for the
    one it is held in. Parameters may lie on several devices. The model is never changed.

    Raises:
        InputError: nothing to train, or parameters that are sharded over processes.
    """

    def __init__(self, model: nn.Module, *, dtype: str | None = None) -> None:
        self.model = _bare(model)
        Parameters.of(self.model)  # refuses a model without any
        named = [(n, p) for n, p in self.model.named_parameters() if p.requires_grad]
        self.trained: list[Tensor] = [p for _, p in named]
        self.parameters = Parameters(
            tuple(_plain(n) for n, _ in named), tuple(tuple(p.shape) for _, p in named)
        )
        sharded = [n for n, p in named if hasattr(p, "full_tensor")]
        if sharded:
            raise InputError(
                f"the parameter {sharded[0]!r} is sharded over processes, of which none holds θ; gather the model, or record "
                "under data parallelism."
            )
        self.held = [p.detach().to(_stored(p.dtype), copy=True) for p in self.trained]
        first = self.held[0]
        self.dtype = np.dtype(dtype) if dtype else self._cat(self.held[:1]).dtype
        # Lengths add up in float64, or in float32 where a device has no other.
        self.nothing = torch.zeros(
            (), device=first.device, dtype=torch.float32 if first.device.type == "mps" else torch.float64
        )

    def theta(self) -> Array:
        """The point that is held, (P,)."""
        return self._cat(self.held).astype(self.dtype, copy=False)

    def gradient(self) -> Array | None:
        """p.grad of all parameters, (P,), with zeros where there is none; None where none has any."""
        gradients = [p.grad for p in self.trained]
        if all(g is None for g in gradients):
            return None
        dense = [
            torch.zeros_like(p) if g is None else g.to_dense()
            for p, g in zip(self.trained, gradients, strict=True)
        ]
        return self._cat(dense).astype(self.dtype, copy=False)

    @torch.no_grad()
    def move(self) -> Tensor:
        """Hold the point where the model is now; how far that is from the one held before, (), on the device."""
        torch._foreach_sub_(self.held, self.trained)
        norms = torch._foreach_norm(self.held)
        torch._foreach_copy_(self.held, self.trained)
        return torch.linalg.vector_norm(torch.stack([n.to(self.nothing) for n in norms]))

    def unmoved(self) -> bool:
        """Whether the model is where it is held."""
        return all(h.equal(p.to(h.dtype)) for h, p in zip(self.held, self.trained, strict=True))

    def buffers(self) -> dict[str, Tensor]:
        """Copies of the model's buffers as they are now."""
        return {_plain(n): b.detach().clone() for n, b in self.model.named_buffers()}

    def frozen(self) -> dict[str, Tensor]:
        return {_plain(n): p for n, p in self.model.named_parameters() if not p.requires_grad}

    def _cat(self, tensors: Sequence[Tensor]) -> Array:
        return torch.cat([t.detach().reshape(-1).to("cpu", _stored(t.dtype)) for t in tensors]).numpy()


def rate_of(optimizer: Optimizer) -> float:
    """The learning rate of an optimizer's last step, in its first group; where it chose a rate itself (CLR), times that.

    NaN where every step has a length of its own that the optimizer does not say: a line search's (LBFGS, PyTorch's too, which
    besides makes many iterations a step), or one of two (RS and SA with ``descent_lr``).
    """
    group = optimizer.param_groups[0]
    own = "line_search" in group or "line_search_fn" in group or group.get("descent_lr") is not None
    return float(group.get("lr", NAN)) * getattr(optimizer, "rate", NAN if own else 1.0)


def stored(tensor: Tensor) -> Array:
    """A tensor as records keep it: in main memory, 16-bit floating-point types as float32."""
    return tensor.detach().to("cpu", _stored(tensor.dtype)).numpy()


def _stored(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype.is_floating_point and dtype.itemsize < 4 else dtype


def _bare(model: nn.Module) -> nn.Module:
    while True:
        inner = getattr(model, "_orig_mod", None)  # torch.compile's
        if isinstance(model, DataParallel | DistributedDataParallel):
            inner = model.module
        if not isinstance(inner, nn.Module):
            return model
        model = inner


def _plain(name: str) -> str:
    return name.replace("_orig_mod.", "")  # of compiled parts

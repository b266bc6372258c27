"""Names and shapes beside the flat parameter vector θ: where tensors are packed and unpacked, and nowhere else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from .errors import InputError


@dataclass(frozen=True)
class Parameters:
    """Names and shapes of the tensors that θ (P,) is made of, in order."""

    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, model: nn.Module) -> Parameters:
        """The trainable parameters of a model: frozen ones are left out, tied ones appear once."""
        named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
        if not named:
            raise InputError(
                "the model has no trainable parameter; at least one must have requires_grad=True."
            )
        return cls(tuple(name for name, _ in named), tuple(tuple(p.shape) for _, p in named))

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(prod(shape) for shape in self.shapes)

    @property
    def dim(self) -> int:
        return sum(self.sizes)

    def pack(self, tensors: Mapping[str, Tensor] | Sequence[Tensor]) -> Tensor:
        """θ (P,) from tensors by name (a state dict may hold more) or in order; a copy, without gradient history."""
        if isinstance(tensors, Mapping):
            missing = [name for name in self.names if name not in tensors]
            if missing:
                raise InputError(
                    f"the parameter {missing[0]!r} is missing from the given tensors; they hold {list(tensors)[:5]}."
                )
            tensors = [tensors[name] for name in self.names]
        for name, shape, tensor in zip(self.names, self.shapes, tensors, strict=True):
            if tuple(tensor.shape) != shape:
                raise InputError(
                    f"the parameter {name!r} must have shape {shape}, got {tuple(tensor.shape)}."
                )
        return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])

    def unpack(self, theta: Tensor) -> dict[str, Tensor]:
        """Views of θ (P,) by name."""
        parts = theta.split(self.sizes)
        return {n: part.view(s) for n, part, s in zip(self.names, parts, self.shapes, strict=True)}

    def theta(self, model: nn.Module) -> Tensor:
        """θ (P,) as it stands in a model with these parameters."""
        return self.pack(dict(model.named_parameters()))


def float64_array(values: Any) -> np.ndarray:
    """A tensor's values, or a sequence's, as records keep them: float64 in main memory, detached."""
    return torch.as_tensor(values).detach().cpu().numpy().astype(np.float64)

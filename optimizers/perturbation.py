"""Steps aside: gradients at points near θ, for the optimizers that look around before they go."""

# pyright: reportPrivateImportUsage=false
# torch._foreach_*: see contract.py

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from landscape import InputError

from .contract import Closure, dense_gradients, evaluated, norm


def gradient(closure: Closure, parameters: Sequence[Tensor]) -> tuple[Any, list[Tensor]]:
    """(loss, gradients) of a closure where the parameters are now: zeros where it left none. p.grad is taken away, so that
    the next evaluation cannot write over these."""
    loss = evaluated(closure)
    dense_gradients(parameters)
    found = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    for p in parameters:
        p.grad = None
    return loss, found


@contextmanager
def displaced(
    parameters: Sequence[Tensor], direction: Sequence[Tensor], distance: float | Tensor = 1.0
) -> Iterator[None]:
    """θ + distance · direction inside the block; exactly θ again after it, whatever happens inside."""
    parameters = list(parameters)
    kept = [p.detach().clone() for p in parameters]
    try:
        with torch.no_grad():
            torch._foreach_add_(parameters, torch._foreach_mul(list(direction), distance))
        yield
    finally:
        with torch.no_grad():
            torch._foreach_copy_(parameters, kept)


def inner(first: Sequence[Tensor], second: Sequence[Tensor]) -> Tensor:
    """The inner product of two lists of tensors as vectors, a 0-dimensional tensor."""
    parts = [(a * b).sum().to(first[0].device) for a, b in zip(first, second, strict=True)]
    return torch.stack(parts).sum()


def normal(parameters: Sequence[Tensor], generator: torch.Generator) -> list[Tensor]:
    """Independent standard normal numbers in the shape of the parameters."""
    return [
        torch.randn(p.shape, generator=generator, dtype=p.dtype, device=generator.device).to(p.device)
        for p in parameters
    ]


def sphere(parameters: Sequence[Tensor], generator: torch.Generator) -> list[Tensor]:
    """A direction uniform on the unit sphere of R^P, in the shape of the parameters."""
    direction = normal(parameters, generator)
    length = norm(direction)
    return [d / length.to(d.device) for d in direction]


def own_generator(generator: torch.Generator | None) -> torch.Generator:
    """The generator given; without one, a new one on the CPU, seeded from PyTorch's random state."""
    if generator is not None:
        return generator
    return torch.Generator().manual_seed(int(torch.randint(2**62, ()).item()))


def resume(generator: torch.Generator, state: Tensor) -> None:
    """Set a generator to a state; InputError if that is of another device's."""
    try:
        generator.set_state(state.cpu())
    except RuntimeError as error:
        raise InputError(
            f"state_dict holds random numbers of another device than {generator.device}; make the optimizer "
            "with a generator on the device that it had."
        ) from error

"""Directions to scan along, each a vector shaped like θ."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from .errors import InputError
from .parameters import Parameters

Normalization = Literal["filter", "layer", "none"]


def random_direction(
    theta: Tensor, parameters: Parameters, *, generator: torch.Generator, normalize: Normalization = "filter"
) -> Tensor:
    """A Gaussian direction (P,), scaled to θ (P,) as a random direction must be to compare networks.

    "filter" (Li et al. 2018, section 4): every filter of a weight (first dimension of a tensor with two or more) gets the norm
    of that filter in θ, and one-dimensional tensors (biases, normalization) are set to zero. "layer": every
    tensor gets its norm in θ. "none": the whole direction gets the norm of θ.
    """
    noise = torch.randn(theta.shape, generator=generator, dtype=theta.dtype, device=generator.device)
    noise = noise.to(theta.device)
    if normalize == "none":
        return noise * (theta.norm() / noise.norm())
    if normalize not in ("filter", "layer"):
        raise InputError(f"normalize must be 'filter', 'layer' or 'none', got {normalize!r}.")
    of_theta, of_noise = parameters.unpack(theta), parameters.unpack(noise)
    return parameters.pack({n: _scaled(of_noise[n], of_theta[n], normalize) for n in parameters.names})


def _scaled(noise: Tensor, weight: Tensor, normalize: Normalization) -> Tensor:
    if weight.ndim < 2 and normalize == "filter":
        return torch.zeros_like(noise)
    if normalize == "layer":
        return noise * (weight.norm() / noise.norm())
    rows, weights = noise.flatten(1), weight.flatten(1)
    return (rows * (weights.norm(dim=1, keepdim=True) / rows.norm(dim=1, keepdim=True))).view(noise.shape)

"""Directions to scan along, each a vector shaped like θ."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from .errors import InputError
from .parameters import Parameters

Normalization = Literal["filter", "layer", "whole", "none"]
_PARALLEL = 1e-6  # of a group's noise: what is left of it after orthogonalizing below this share is rounding


def random_direction(
    theta: Tensor,
    parameters: Parameters,
    *,
    generator: torch.Generator,
    normalize: Normalization = "filter",
    transposed: Mapping[str, int] | None = None,
    orthogonal_to: Tensor | None = None,
) -> Tensor:
    """A Gaussian direction d (P,), scaled to θ (P,) as a random direction must be to compare networks.

    "filter" is d_{i,j} ← d_{i,j} ‖θ_{i,j}‖ / ‖d_{i,j}‖ of Li et al. (2018, arXiv 1712.09913, section 4) for filter j of
    layer i. A filter is what makes one output: an entry of the first axis of a weight, a row of a linear layer or of an
    embedding (the vector of one token). One-dimensional tensors (biases, normalization) are set to zero, as in their figures.
    "layer": every tensor, biases included, gets its norm in θ. "whole": the direction gets the norm of θ.
    "none": d ~ N(0, I), nothing scaled: of norm about √P whatever θ is. What is zero in θ is zero in d, but for the last two.

    Args:
        generator: of the noise.
        normalize: as above.
        transposed: names of weights of transposed convolutions with their groups, as ``transposed_weights(model)`` gives them:
            torch keeps them as (in, out/groups, …), and shapes alone do not tell. Without it their filters are taken
            along the first axis, as Li et al.'s program does, which is the input's.
        orthogonal_to: another direction (P,). The noise is made orthogonal to it in every group that is scaled, so that the
            norms stay exact; a group of one number is zero then. Random directions are nearly orthogonal anyway, to about 1/√P.

    Raises:
        InputError: an unknown ``normalize``, or a name in ``transposed`` that is no such weight.
    """
    if normalize not in get_args(Normalization):
        raise InputError(f"normalize must be 'filter', 'layer', 'whole' or 'none', got {normalize!r}.")
    noise = torch.randn(theta.shape, generator=generator, dtype=theta.dtype, device=generator.device)
    noise = noise.to(theta.device)
    other = torch.zeros_like(theta) if orthogonal_to is None else orthogonal_to.to(theta)
    if normalize in ("whole", "none"):
        free = _orthogonal(noise[None], other[None])
        return (free if normalize == "none" else _scaled(free, theta[None]))[0]
    groups = dict(transposed or {})
    of_theta, of_noise, of_other = (parameters.unpack(vector) for vector in (theta, noise, other))
    _check_transposed(groups, of_theta)
    scaled = {}
    for name, weight in of_theta.items():
        if weight.ndim < 2 and normalize == "filter":
            scaled[name] = torch.zeros_like(weight)
            continue
        rows = [_rows(t, normalize, groups.get(name, 0)) for t in (of_noise[name], weight, of_other[name])]
        scaled[name] = _unrows(_scaled(_orthogonal(rows[0], rows[2]), rows[1]), weight, groups.get(name, 0))
    return parameters.pack(scaled)


def transposed_weights(model: nn.Module) -> dict[str, int]:
    """Groups of every transposed convolution in a model by the name of its weight, for ``random_direction``."""
    kinds = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
    found = {name: module.groups for name, module in model.named_modules() if isinstance(module, kinds)}
    return {f"{name}.weight" if name else "weight": groups for name, groups in found.items()}


def _rows(tensor: Tensor, normalize: Normalization, groups: int) -> Tensor:
    """A tensor as (n, m): what is scaled together in a row."""
    if normalize == "layer":
        return tensor.reshape(1, -1)
    if groups:  # (in, out/groups, …) -> (groups, out/groups, in/groups, …): one row an output
        split = tensor.reshape(groups, tensor.shape[0] // groups, *tensor.shape[1:])
        return split.transpose(1, 2).reshape(groups * tensor.shape[1], -1)
    return tensor.reshape(tensor.shape[0], -1)


def _unrows(rows: Tensor, like: Tensor, groups: int) -> Tensor:
    """The inverse of _rows."""
    if not groups or len(rows) == 1:
        return rows.reshape(like.shape)
    split = rows.reshape(groups, like.shape[1], like.shape[0] // groups, *like.shape[2:])
    return split.transpose(1, 2).reshape(like.shape)


def _scaled(noise: Tensor, weights: Tensor) -> Tensor:
    """Rows of noise (n, m) with the norms of those of the weights; zero where either is."""
    own, wanted = noise.norm(dim=1, keepdim=True), weights.norm(dim=1, keepdim=True)
    return noise * torch.where(own > 0, wanted / own, 0)


def _orthogonal(noise: Tensor, other: Tensor) -> Tensor:
    """Rows of noise (n, m) without their parts along those of another (n, m), zero where nothing else is left."""
    square = other.square().sum(dim=1, keepdim=True)
    left = noise
    for _ in range(2):  # the second time removes what rounding left
        along = (left * other).sum(dim=1, keepdim=True)
        left = left - torch.where(square > 0, along / square, 0) * other
    kept = left.norm(dim=1, keepdim=True) > _PARALLEL * noise.norm(dim=1, keepdim=True)
    return torch.where(kept, left, 0)


def _check_transposed(groups: Mapping[str, int], tensors: Mapping[str, Tensor]) -> None:
    for name, count in groups.items():
        if name in tensors and (tensors[name].ndim < 2 or count < 1 or tensors[name].shape[0] % count):
            raise InputError(
                f"transposed[{name!r}] must be the groups of a transposed convolution's weight (in, out/groups, …), "
                f"got {count} for shape {tuple(tensors[name].shape)}."
            )

"""Third derivatives of a loss by three backward passes, also through normalization layers, whose fused ones are wrong there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from landscape import Objective
from landscape.objective import PlainWeightNorm, scalar


def third_derivatives(objective: Objective, theta: Tensor, vectors: Tensor) -> Tensor:
    """D³L(θ)[v, v, ·] = ∇(vᵀ∇²L v) for every row v of (m, P), by three backward passes.

    In PyTorch 2.13 the third derivatives of LayerNorm, InstanceNorm and BatchNorm with batch statistics are silently wrong (by
    11 %, 68 % and 113 % on small networks), the first two right. So these run in elementary operations here. Attention
    runs on the math kernel.

    Cost: a few Hessian-vector products a row. Memory: the graph of two backward passes on one term.
    """
    total = torch.zeros_like(vectors)
    for term in objective.terms:
        leaf = theta.detach().requires_grad_()
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), PlainWeightNorm(), _PlainNorms():
            gradient = _gradient(scalar(term(leaf)), leaf)
            rows = [_gradient(_gradient(gradient @ v, leaf) @ v, leaf).detach() for v in vectors]
        total += torch.stack(rows)
    return total


def _gradient(value: Tensor, leaf: Tensor) -> Tensor:
    """∇value, with a graph; 0 where value does not hang on leaf."""
    if not value.requires_grad:
        return torch.zeros_like(leaf)
    return torch.autograd.grad(value, leaf, create_graph=True, materialize_grads=True)[0]


class _PlainNorms(TorchFunctionMode):
    """In this context layers that normalize by their input's own statistics are made of elementary operations."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        plain = {F.layer_norm: _layer_norm, F.instance_norm: _instance_norm, F.batch_norm: _batch_norm}
        return plain.get(func, func)(*args, **(kwargs or {}))


def _layer_norm(
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    return _normal(input, range(-len(normalized_shape), 0), weight, bias, eps)


def _instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if not use_input_stats:
        return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    return _normal(input, range(2, input.ndim), _channels(weight, input), _channels(bias, input), eps)


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if not training:
        return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    axes = [axis for axis in range(input.ndim) if axis != 1]
    return _normal(input, axes, _channels(weight, input), _channels(bias, input), eps)


def _normal(
    input: Tensor, axes: Sequence[int], weight: Tensor | None, bias: Tensor | None, eps: float
) -> Tensor:
    centered = input - input.mean(tuple(axes), keepdim=True)
    normal = centered / (centered.square().mean(tuple(axes), keepdim=True) + eps).sqrt()
    normal = normal if weight is None else normal * weight
    return normal if bias is None else normal + bias


def _channels(parameter: Tensor | None, input: Tensor) -> Tensor | None:
    """One number a channel (C,), to be multiplied with an input (N, C, …)."""
    return None if parameter is None else parameter.reshape(-1, *[1] * (input.ndim - 2))

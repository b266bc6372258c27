"""The one abstraction: a loss as a function on R^P, with its gradient and Hessian-vector products.

A network with data and an analytic potential look the same from here on:

    objective(theta)            (P,) -> ();     (K, P) -> (K,)
    objective.grad(theta)       (P,) -> (P,);   (K, P) -> (K, P)
    objective.hvp(theta, v)     v (P,) or (K, P) -> same shape

An objective is a sum of terms. For a network each term is one batch, weighted by its share of the
examples, so the sum is the exact mean over the data however the batches fall.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from .errors import InputError
from .parameters import Parameters

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator

Term = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Composed:
    """A term ℓ(z(θ)): a network's outputs z, and their loss. Its Hessian has a Gauss–Newton part Jᵀ ∇²ℓ J and a residual one.

    output: θ (P,) -> z, a tensor or a structure of tensors; loss: z -> scalar tensor. likelihood: whether the loss is a
    −log likelihood in its natural parameters z, for which the Gauss–Newton part is the Fisher matrix.
    """

    output: Callable[[Tensor], Any]
    loss: Callable[[Any], Tensor]
    likelihood: bool = False

    def __call__(self, theta: Tensor) -> Tensor:
        return self.loss(self.output(theta))


class Objective:
    """L(θ) = Σ terms(θ) on R^dim.

    Args:
        terms: functions θ (P,) -> scalar tensor, differentiable by autograd; Composed where outputs and their loss are told
            apart, as for networks.
        dim: P.
        dtype, device: of θ; inputs are converted.
        parameters: names and shapes of the tensors in θ; without them θ is one tensor, "theta".
        shares: of each term in the data, together 1; equal by default.
        settings: what a record should say about this objective (BatchNorm policy and the like).
        streamed: its terms read their data anew, so what would keep them between evaluations is not worth its time.

    One evaluation of the loss, the gradient or one Hessian-vector product runs every term once.
    Second derivatives go by double backward: several torch.func compositions are silently wrong on
    normalization layers (pytorch issues 196699 and 196700).
    """

    def __init__(
        self,
        terms: Iterable[Term],
        dim: int,
        *,
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
        parameters: Parameters | None = None,
        shares: Iterable[float] | None = None,
        settings: Mapping[str, Any] | None = None,
        streamed: bool = False,
    ) -> None:
        self.terms: tuple[Term, ...] = tuple(terms)
        if not self.terms:
            raise InputError("an objective needs at least one term, got none.")
        if dim < 1:
            raise InputError(f"dim must be at least 1, got {dim}.")
        self.dim = dim
        self.dtype = dtype
        self.device = torch.device(device)
        self.parameters = parameters or Parameters(("theta",), ((dim,),))
        self.shares = tuple(shares or (1 / len(self.terms) for _ in self.terms))
        self.settings: dict[str, Any] = dict(settings or {})
        self.streamed = streamed
        self.engines: dict[Any, Any] = {}  # what choosing.py remembers: graphs, compiled code, choices

    def __call__(self, theta: Tensor) -> Tensor:
        """L at θ (P,) -> (), or at K points (K, P) -> (K,). Cost: one loss evaluation a point."""
        theta = self.point(theta)
        with torch.no_grad():
            if theta.ndim == 1:
                return self._sum(theta)
            return torch.stack([self._sum(row) for row in theta])

    def grad(self, theta: Tensor) -> Tensor:
        """∇L at θ (P,) -> (P,), or at K points (K, P) -> (K, P). Cost: one gradient a point."""
        return self.value_and_grad(theta)[1]

    def value_and_grad(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """L and ∇L at θ (P,) -> (), (P,), or at K points (K, P) -> (K,), (K, P). Cost: one gradient a point."""
        theta = self.point(theta)
        if theta.ndim == 1:
            return self._value_and_grad(theta)
        values, grads = zip(*(self._value_and_grad(row) for row in theta), strict=True)
        return torch.stack(values), torch.stack(grads)

    def hvp(self, theta: Tensor, v: Tensor) -> Tensor:
        """∇²L(θ) v for v (P,) or (K, P), same shape back.

        Cost: one gradient with graph a term, then about one backward pass for each of the K vectors.
        Attention runs on PyTorch's math kernel here, since the fused ones have no second derivative.
        """
        theta = self.point(theta)
        if theta.ndim != 1:
            raise InputError(f"hvp takes one point theta (P,), got shape {tuple(theta.shape)}.")
        v = self.point(v, name="v")
        vectors = v.reshape(-1, self.dim)
        product = torch.zeros_like(vectors)
        for term in self.terms:
            product += double_backward(term, theta)(vectors)
        return product.reshape(v.shape)

    def hessian(self, theta: Any) -> LinearOperator:
        """∇²L at θ (P,) as a symmetric SciPy LinearOperator (P, P) in float64. Cost: a Hessian-vector product a column."""
        from .operators import hessian_operator  # which is about objectives

        return hessian_operator(self, theta)

    def point(self, theta: Any, *, name: str = "theta") -> Tensor:
        """θ, a tensor, array or list, on this objective's device and dtype; checks that its shape is (P,) or (K, P)."""
        given = theta if isinstance(theta, Tensor) else torch.from_numpy(np.array(theta, dtype=np.float64))
        theta = given.detach().to(device=self.device, dtype=self.dtype)
        if theta.ndim not in (1, 2) or theta.shape[-1] != self.dim:
            raise InputError(
                f"{name} must have shape ({self.dim},) or (K, {self.dim}), got {tuple(theta.shape)}."
            )
        return theta

    def _sum(self, theta: Tensor) -> Tensor:
        return torch.stack([scalar(term(theta)) for term in self.terms]).sum()

    def _value_and_grad(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        # One term's graph at a time, so memory does not grow with the number of batches.
        values, grad = [], torch.zeros_like(theta)
        for term in self.terms:
            leaf = theta.requires_grad_()
            with torch.enable_grad():
                value = scalar(term(leaf))
            if value.requires_grad:
                grad += torch.autograd.grad(value, leaf, materialize_grads=True)[0]
            values.append(value.detach())
            theta = theta.detach()
        return torch.stack(values).sum(), grad


def double_backward(term: Term, theta: Tensor) -> Callable[[Tensor], Tensor]:
    """v (K, P) -> ∇²term(θ) v (K, P), by one backward pass a vector through the graph of the gradient, made here and kept."""
    return expanded(term, theta)[2]


def expanded(term: Term, theta: Tensor) -> tuple[Tensor, Tensor, Callable[[Tensor], Tensor]]:
    """The value of a term at θ (P,), its gradient (P,), and double_backward's product, all of one graph."""
    leaf = theta.detach().requires_grad_()
    gradient = torch.zeros_like(theta)
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH), PlainWeightNorm():
        value = scalar(term(leaf))
        if value.requires_grad:
            (gradient,) = torch.autograd.grad(value, leaf, create_graph=True, materialize_grads=True)
    if not gradient.requires_grad:  # a constant or linear term
        return value.detach(), gradient.detach(), torch.zeros_like

    def product(vectors: Tensor) -> Tensor:
        rows = [
            torch.autograd.grad(gradient, leaf, v, retain_graph=True, materialize_grads=True)[0]
            for v in vectors
        ]
        return torch.stack(rows)

    return value.detach(), gradient.detach(), product


_FUSED: Any = getattr(torch, "_weight_norm")  # noqa: B009 (it is not exported)


class PlainWeightNorm(TorchFunctionMode):
    """In this context weight normalization is made of elementary operations: the fused one's second derivatives are wrong."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return (_weight_norm if func is _FUSED else func)(*args, **(kwargs or {}))


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    axes = [axis for axis in range(v.ndim) if axis != dim]  # all of them where dim is -1
    return v * (g / v.square().sum(axes, keepdim=True).sqrt())


def scalar(value: Tensor) -> Tensor:
    """The loss as a 0-dimensional tensor; InputError if it is more than one number."""
    if not isinstance(value, Tensor) or value.numel() != 1:
        shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise InputError(
            f"the loss must be one number, got {shape}; reduce it, for example with reduction='mean'."
        )
    return value.reshape(())

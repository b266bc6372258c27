"""Which matrix: the Hessian, its Gauss–Newton part, the Fisher matrix, or the residual part, as products with vectors.

Where a loss is ℓ(z(θ)), outputs z of a network and their loss ℓ (landscape.objective.Composed), with J = ∂z/∂θ:

    ∇²L = G + R,    G = Jᵀ ∇²ℓ(z) J  (Gauss–Newton),    R = Σ_i ∂ℓ/∂z_i ∇²z_i  (residual; 0 where ℓ is stationary in z)

Both are exact. G hangs on first derivatives of the network alone, and is positive semidefinite where ℓ is convex in z.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._pytree import tree_flatten, tree_is_leaf, tree_unflatten

from landscape import HessianProducts, InputError, Objective
from landscape.objective import Composed, double_backward
from landscape.products import MEMORY, SavedBytes

Of = Literal["hessian", "gauss-newton", "fisher", "residual"]
Products = Callable[[Tensor], Tensor]  # vectors (K, P) -> (K, P)


def products_of(objective: Objective, theta: Tensor, of: Of = "hessian", *, count: int = 0) -> Products:
    """v -> Av for v (K, P), with A one of the parts of ∇²L at θ (P,).

    "hessian" ∇²L; "gauss-newton" G; "residual" R = ∇²L − G, as the Hessian of θ ↦ ⟨∂ℓ/∂z, z(θ)⟩ with ∂ℓ/∂z held; "fisher" the
    Fisher matrix with labels drawn from the model, which is G for the losses that are −log likelihoods in their natural
    parameters (cross-entropy of logits, binary or not; mean squared error, of unit or any fixed variance up to that factor),
    and refused for others.

    Objectives of one's own say so by Composed(…, likelihood=True).

    What hangs on θ alone is kept between calls. Cost of a product: "hessian", "residual" one to three gradients;
    "gauss-newton" three backward passes. Memory: what autograd keeps of the gradient on all data, or as much of it as fits
    4 GiB.

    Args:
        count: how many products are to come; it decides what measuring their engine is worth.

    Raises:
        InputError: an unknown matrix, or a part of an objective that does not tell outputs and loss apart.
    """
    if of == "hessian":
        return HessianProducts(objective, theta, count=count)
    if of not in get_args(Of):
        raise InputError(f"of must be one of {', '.join(get_args(Of))}, got {of!r}.")
    terms = composed_terms(objective, of)
    if of == "residual":
        return HessianProducts(residual_objective(objective, theta), theta, count=count)
    if of == "fisher" and not all(term.likelihood for term in terms):
        raise InputError(
            "the Fisher matrix needs the likelihood that the loss stands for, which is known of torch's cross_entropy, "
            "binary_cross_entropy_with_logits and mse_loss without weights; ask for of='gauss-newton' otherwise."
        )
    return _GaussNewton(terms, theta)


def residual_objective(objective: Objective, theta: Tensor) -> Objective:
    """Σ ⟨c, z(θ)⟩ with c = ∂ℓ/∂z at this θ (P,) held: its Hessian at θ is the residual part R. Its values mean nothing."""
    theta = objective.point(theta)

    def held(term: Composed) -> Callable[[Tensor], Tensor]:
        with torch.no_grad():
            outputs = Outputs.of(term, theta)
        slope = outputs.slope()
        return lambda point: (Outputs.of(term, point).values * slope).sum()

    return Objective(
        map(held, composed_terms(objective, "residual")),
        objective.dim,
        dtype=objective.dtype,
        device=objective.device,
        parameters=objective.parameters,
        shares=objective.shares,
    )


def composed_terms(objective: Objective, of: str) -> list[Composed]:
    """The objective's terms, all of which tell outputs and loss apart; InputError otherwise."""
    terms = [term for term in objective.terms if isinstance(term, Composed)]
    if len(terms) < len(objective.terms):
        raise InputError(
            f"the {of} part needs outputs and loss apart: pass loss_fn(output, target) to model_objective, "
            "or Composed terms to Objective."
        )
    return terms


@dataclass(frozen=True, eq=False)
class Outputs:
    """All numbers that a network puts out, values (Z,), and their loss as a function of them."""

    values: Tensor
    leaves: list[Any]
    rebuilt: Callable[[list[Any]], Any]
    loss_of: Callable[[Any], Tensor]

    @classmethod
    def of(cls, term: Composed, theta: Tensor) -> Outputs:
        leaves, rebuilt = opened(term.output(theta))
        values = [leaf.reshape(-1) for leaf in leaves if _is_number(leaf)]
        if not values:
            raise InputError(
                "the model puts out no floating-point tensor, so its loss has no Gauss–Newton part."
            )
        return cls(torch.cat(values), leaves, rebuilt, term.loss)

    def loss(self, values: Tensor) -> Tensor:
        """ℓ of values (Z,), as a scalar."""
        return self.loss_of(self.unflat(values))

    def unflat(self, values: Tensor) -> Any:
        """Values (Z,) in the structure that the loss takes."""
        sizes = [leaf.numel() for leaf in self.leaves if _is_number(leaf)]
        parts = iter(values.split(sizes))
        leaves = [next(parts).view(leaf.shape) if _is_number(leaf) else leaf for leaf in self.leaves]
        return self.rebuilt(leaves)

    def slope(self) -> Tensor:
        """∂ℓ/∂z (Z,)."""
        values = self.values.detach().requires_grad_()
        with torch.enable_grad():
            loss = self.loss(values)
            if not loss.requires_grad:
                return torch.zeros_like(values)
            return torch.autograd.grad(loss, values, materialize_grads=True)[0]


def opened(output: Any) -> tuple[list[Any], Callable[[list[Any]], Any]]:
    """The leaves of a model's output, a structure or an object with tensors as attributes, and the same with other leaves."""
    if isinstance(output, Tensor) or not tree_is_leaf(output) or not hasattr(output, "__dict__"):
        leaves, spec = tree_flatten(output)
        return leaves, lambda others: tree_unflatten(others, spec)
    leaves, spec = tree_flatten(vars(output))

    def rebuilt(others: list[Any]) -> Any:
        other = copy.copy(output)
        vars(other).update(tree_unflatten(others, spec))
        return other

    return leaves, rebuilt


class _GaussNewton:
    """v -> Jᵀ ∇²ℓ J v at one θ, the graphs of as many terms kept as fit MEMORY."""

    def __init__(self, terms: list[Composed], theta: Tensor) -> None:
        self.terms, self.theta = terms, theta
        self._kept: list[Products] = []
        self._bytes = 0

    def __call__(self, v: Tensor) -> Tensor:
        vectors = v.reshape(-1, len(self.theta))
        total = torch.zeros_like(vectors)
        for i, term in enumerate(self.terms):
            total += self._product(i, term)(vectors)
        return total.reshape(v.shape)

    def _product(self, index: int, term: Composed) -> Products:
        if index < len(self._kept):
            return self._kept[index]
        with SavedBytes() as saved:
            product = _gauss_newton(term, self.theta)
        if self._bytes < MEMORY:
            self._kept.append(product)
            self._bytes += saved.total
        return product


def _gauss_newton(term: Composed, theta: Tensor) -> Products:
    """One term's products. Jv is the derivative of Jᵀu in u: two backward passes, which every layer has."""
    leaf = theta.detach().requires_grad_()
    with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
        outputs = Outputs.of(term, leaf)
        if not outputs.values.requires_grad:
            return torch.zeros_like
        dual = torch.zeros_like(outputs.values).requires_grad_()
        (back,) = torch.autograd.grad(
            outputs.values, leaf, dual, create_graph=True, materialize_grads=True
        )  # Jᵀ dual
    curvature = double_backward(outputs.loss, outputs.values.detach())

    def product(vectors: Tensor) -> Tensor:
        rows = []
        for v in vectors:
            (along,) = torch.autograd.grad(back, dual, v, retain_graph=True, materialize_grads=True)  # Jv
            bent = curvature(along[None])[0]
            rows.append(
                torch.autograd.grad(outputs.values, leaf, bent, retain_graph=True, materialize_grads=True)[0]
            )
        return torch.stack(rows)

    return product


def _is_number(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and leaf.is_floating_point()

"""The diagonal of the Gauss–Newton matrix from first derivatives: exact where outputs are few, by signs where they are many.

With the loss's Hessian in the outputs of each row (an example, or a token of one) ∇²ℓ = SSᵀ (fans.py) and J the rows'
Jacobian, G = Jᵀ∇²ℓJ has

    G_pp = Σ_rows Σ_k (∂⟨z, s_k⟩/∂θ_p)²,   s_k the columns of S,

a sum of squared gradients of single examples (examples.py), with one backward pass for each k and row of an example. Where
these are many, the rows and k of an example share a pass, with independent signs u: E (Σ u_k ∂⟨z, s_k⟩/∂θ_p)² is the same.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf

import torch
from torch import Tensor

from landscape import InputError, Objective
from landscape.objective import Composed

from .examples import ExampleSquares
from .fans import Fan
from .matrices import composed_terms, opened
from .piecewise import affine_parameters

Reduce = Callable[[Tensor], Tensor]  # diagonals (K, P) -> sums of their parts (K, B)
DIRECTIONS = 32  # at most, for which each has a pass


class GaussNewtonDiagonal:
    """Sums over parts of the diagonal of G at θ (P,): ``exact`` (B,), and ``samples`` of what is not.

    known (P,): the parameters of which all is in exact; affine (P,): those in which outputs are piecewise affine, so that the
    residual part has no diagonal; passes: backward passes so far; each: those of a sample; enumerable: those that would make
    all of it exact which was left to samples for its examples, infinite if nothing would. Attention runs on the math kernel.

    Cost to make: for each batch one forward pass, two backward ones, and one for each direction, unless they are more than
    ``directions`` or the examples of all batches, if these are alike, more than ``examples``; a sample costs a backward pass for
    each batch that has something left to it. Memory: that of a gradient of one batch, and the loss's Hessians in the outputs.
    """

    def __init__(
        self,
        objective: Objective,
        theta: Tensor,
        reduce: Reduce,
        *,
        directions: int = DIRECTIONS,
        examples: float = inf,
    ) -> None:
        self.theta, self.reduce, self.directions, self.examples = theta, reduce, directions, examples
        self.terms = composed_terms(objective, "gauss-newton")
        self.known = torch.ones(objective.dim, dtype=torch.bool, device=objective.device)
        self.exact, self.passes = reduce(torch.zeros_like(theta)[None])[0], 0
        self.affine = torch.ones_like(self.known)
        self.each, self.enumerable = 0, 0.0
        self._kept: tuple[ExampleSquares, Fan] | None = None
        for term in self.terms:
            squares, fan = self._visited(term)
            if squares.captured is None:
                self.affine &= False
            elif self.affine.any():
                self.affine &= affine_parameters(squares.captured, theta, objective.parameters)
            here = self._enumerated(squares, fan)
            self.known &= here
            self.each += len(fan.factors)
            self.enumerable += fan.count if fan.count <= self.directions and squares.known.all() else inf
            if here.any():
                total = torch.zeros_like(theta)
                for sign, seeds in fan.each():
                    total += sign * squares(seeds)
                    self.passes += 1
                self.exact += reduce((total * here)[None])[0]

    def samples(self, count: int, generator: torch.Generator | None) -> Tensor:
        """Independent samples (count, B), whose mean is what is not in exact; 0 where nothing is left."""
        found = self.exact.new_zeros(count, len(self.exact))
        for term in self.terms if not self.known.all() else ():
            squares, fan = self._visited(term)
            left = ~self._enumerated(squares, fan)
            for i in range(count if left.any() else 0):
                for sign, seeds in fan.drawn(generator):
                    found[i] += self.reduce((sign * squares(seeds) * left)[None])[0]
                    self.passes += 1
        return found

    def _enumerated(self, squares: ExampleSquares, fan: Fan) -> Tensor:
        few = fan.count <= self.directions and fan.examples * len(self.terms) <= self.examples
        return squares.known if few else torch.zeros_like(squares.known)

    def _visited(self, term: Composed) -> tuple[ExampleSquares, Fan]:
        if self._kept is not None:
            return self._kept
        output, loss = bearing(term, self.theta)
        squares = ExampleSquares(output, self.theta)
        fan = Fan.of(loss, squares.z.detach())
        self.passes += 2
        if len(self.terms) == 1:
            self._kept = squares, fan
        return squares, fan


def bearing(term: Composed, theta: Tensor) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """The one output tensor that the loss hangs on as a function θ -> z (N, …), and the loss of it z -> ().

    InputError if there are several such tensors, or none.
    """
    with torch.no_grad():
        leaves, rebuilt = opened(term.output(theta))
    numbers = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor) and leaf.is_floating_point()]
    with torch.enable_grad():
        held = [leaf.detach().requires_grad_() if i in numbers else leaf for i, leaf in enumerate(leaves)]
        loss = term.loss(rebuilt(held))
    slopes = (
        torch.autograd.grad(loss, [held[i] for i in numbers], allow_unused=True) if loss.requires_grad else ()
    )
    found = [i for i, slope in zip(numbers, slopes, strict=False) if slope is not None]
    if len(found) != 1 or not leaves[found[0]].ndim:
        raise InputError(
            f"the loss must hang on one output tensor whose first dimension counts examples, it hangs on {len(found)}; "
            "use another method than 'split'."
        )
    index = found[0]

    def loss_of(z: Tensor) -> Tensor:
        return term.loss(rebuilt([z if i == index else leaf for i, leaf in enumerate(leaves)]))

    return lambda point: opened(term.output(point))[0][index], loss_of

"""The quadratic model of a loss around a point, in the modes of its Hessian, and its step towards a pass.

The model lives in a subspace, spanned by an orthonormal basis V with its images HV. All of R^P is
one: then the modes are the eigenvectors. A subspace is grown from the gradient and the mode followed last, until the
step and the mode hardly leave it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Products = Callable[[Tensor], Tensor]  # vectors (K, P) -> (K, P)

# How far, as a share of its eigenvalue, the mode followed may leave the subspace.
_LOOSE = 0.1
# The radius is met to this share of it, in a few iterations.
_NEAR, _ROUNDS = 0.01, 30
# What is left of a unit vector that lies in the subspace, at most, in single precision too.
_NOTHING = 1e-6


@dataclass(frozen=True, eq=False)
class Modes:
    """Eigenvalues (m,), ascending, of the Hessian in a subspace, with eigenvectors as columns (m, m) in its basis (m, P).

    images (m, P) is what the Hessian makes of the basis; slopes (m,) the gradient along the modes; ``followed`` the mode to go
    up along; damping what is added to every |λ|.
    """

    basis: Tensor
    images: Tensor
    values: Tensor
    columns: Tensor
    slopes: Tensor
    followed: int
    damping: float

    @classmethod
    def of(
        cls, basis: Tensor, images: Tensor, gradient: Tensor, direction: Tensor | None, size: float
    ) -> Modes:
        """The modes in a subspace that holds the gradient and, if there is one, the direction of last time.

        The damping ‖∇L‖/size keeps steps along flat modes short and vanishes at a stationary point, so that convergence stays
        quadratic where the Hessian is singular (Li, Fukushima, Qi and Yamashita 2004, Computational Optimization and
        Applications 28, 131).
        """
        inner = basis @ images.T
        values, columns = torch.linalg.eigh((inner + inner.T) / 2)
        damping = float(gradient.norm()) / size
        overlaps = None if direction is None else columns.T @ (basis @ direction)
        return cls(
            basis=basis,
            images=images,
            values=values,
            columns=columns,
            slopes=columns.T @ (basis @ gradient),
            followed=_followed(values, overlaps, damping),
            damping=damping,
        )

    @property
    def direction(self) -> Tensor:
        """The mode followed, (P,)."""
        return self.columns[:, self.followed] @ self.basis

    @property
    def largest(self) -> float:
        """The largest |λ| seen."""
        return float(self.values.abs().max())

    def near_minimum(self, radius: float) -> bool:
        """Whether no mode is negative beyond the damping and Newton's step down ends within the radius."""
        step = self.slopes / (self.values.abs() + self.damping)
        return not bool((self.values < -self.damping).any()) and float(step.norm()) <= radius

    def step(self, radius: float, index: int) -> tuple[Tensor, Tensor, float]:
        """The step s (P,) to a point of index 1 or 0, no longer than the radius, Hs (P,), by which ∇L should change, and μ.

        Along mode i it is −g_i/(|λ_i| + μ), for index 1 with the sign turned along the mode followed: Newton's step for the image
        of the loss, which has its minimum where the loss has its pass (trust-region image minimization: Helgaker 1991, Chemical
        Physics Letters 182, 503). μ is the damping, or more to keep to the radius.
        """
        sizes, mu = self.values.abs(), self.damping
        lengths = self.slopes / (sizes + mu)
        for _ in range(_ROUNDS):  # Newton's method for 1/‖s‖ = 1/radius, which stays below the root
            norm = float(lengths.norm())
            if not norm > (1 + _NEAR) * radius:
                break
            fall = float((lengths**2 / (sizes + mu)).sum())
            mu += (norm / radius - 1) * norm**2 / fall
            lengths = self.slopes / (sizes + mu)
        lengths[self.followed] *= (-1) ** index
        coordinates = -(self.columns @ lengths)
        return coordinates @ self.basis, coordinates @ self.images, mu

    def misfit(self, miss: Tensor, mu: float) -> float:
        """By how much ``miss`` (P,), what the gradient after a step differs by from ∇L + Hs, spoils it, as a share of ∇L.

        Both in the norm of (|H| + μ)⁻¹, in which a slope counts by the step that undoes it, so that what a bend of a narrow
        valley does to its steep sides does not make steps along it short. Outside of the subspace |H| is taken to be the
        mean of that inside.
        """
        inside = self.basis @ miss
        outside = (miss - inside @ self.basis).square().sum() / (self.values.abs().mean() + mu)
        sizes = self.values.abs() + mu
        spoilt = ((self.columns.T @ inside) ** 2 / sizes).sum() + outside
        return float((spoilt / (self.slopes**2 / sizes).sum()) ** 0.5)

    def unfinished(self, radius: float, index: int, accuracy: float) -> list[Tensor]:
        """What leaves the subspace of Hs, if more than accuracy·‖∇L‖, and of the image of the mode followed, if much."""
        change, image = self.step(radius, index)[1], self.columns[:, self.followed] @ self.images
        limits = accuracy * self.slopes.norm(), _LOOSE * self.values[self.followed].abs()
        rests = [vector - (self.basis @ vector) @ self.basis for vector in (change, image)]
        return [rest for rest, limit in zip(rests, limits, strict=True) if rest.norm() > limit]


def all_modes(products: Products, gradient: Tensor, direction: Tensor | None, size: float) -> Modes | None:
    """The eigenvectors of the dense Hessian; None if it is not finite. Cost: P products."""
    everything = torch.eye(len(gradient), dtype=gradient.dtype, device=gradient.device)
    hessian = products(everything)
    return Modes.of(everything, hessian, gradient, direction, size) if hessian.isfinite().all() else None


def some_modes(
    products: Products,
    gradient: Tensor,
    direction: Tensor | None,
    size: float,
    *,
    start: Tensor,
    radius: float,
    index: int,
    accuracy: float,
    most: int,
) -> Modes | None:
    """The modes of a subspace grown from the gradient and a start until it holds the step, to this accuracy, and the mode.

    It grows by what leaves it of Hs and of the Hessian's image of the mode: a Krylov space of both starts, in which the step
    is that of conjugate gradients and the mode that of Lanczos. The step is good when Hs leaves the subspace by no more than
    accuracy·‖∇L‖. None if a product is not finite. Cost: ``most`` products at most. Memory: 2·most vectors (P,).
    """
    most = min(most, len(gradient))
    basis, images = gradient.new_empty(2, most, len(gradient))
    count, waiting = 0, [start, gradient]
    while True:
        before = count
        for vector in waiting[: most - count]:
            new = _beside(basis[:count], vector)
            if new is not None:
                basis[count], images[count] = new, products(new[None])[0]
                count += 1
        if not images[:count].isfinite().all():
            return None
        modes = Modes.of(basis[:count], images[:count], gradient, direction, size)
        if count in (before, most):
            return modes
        waiting = modes.unfinished(radius, index, accuracy)


def _followed(values: Tensor, overlaps: Tensor | None, damping: float) -> int:
    """Which mode to go up along: that from which the last direction has most of its negative curvature λ_i overlap_i².

    It is the one with the greatest overlap where the loss curves up along that direction and no mode is negative beyond the
    damping (which those of symmetries are not), and the lowest one where there is no direction.
    """
    if overlaps is None:
        return 0
    shares = overlaps**2
    curvature = values * shares
    down = bool(curvature.sum() < 0) or bool(values[0] < -damping)
    return int(curvature.argmin() if down else shares.argmax())


def _beside(basis: Tensor, vector: Tensor) -> Tensor | None:
    """The unit vector (P,) along what a vector has outside of a basis (m, P); None where that is rounding."""
    norm = vector.norm()
    if not norm > 0:
        return None
    rest = vector / norm
    rest = rest - (basis @ rest) @ basis
    if not rest.norm() > _NOTHING:
        return None
    rest = rest / rest.norm()
    rest = rest - (basis @ rest) @ basis
    return rest / rest.norm()

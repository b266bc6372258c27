"""XTrace: the trace of A and of A² from a basis of its images, every probe used both for the basis and against it."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from .estimators import Basis, Estimate, Normals, Products, correlated, small, unknown

_PAIRED = 128  # probes whose pairs are looked at for the covariance: their 16,256 products say enough of it
_NUMBERS = 2**16  # in the directions of the pairs that are looked at together


class XTrace:
    """XTrace of Epperly, Tropp, Webber 2024 (arXiv 2301.07825, section 2.1 with the residual normalized, section 2.3).

    q = matvecs/2 probes ω_i on the sphere of radius √P, and for each the basis Q_(i) of the other q − 1 columns of AΩ:

        t_i = tr(Q_(i)ᵀAQ_(i)) + (P − q + 1) μᵀAμ/‖μ‖²,   μ = (I − Q_(i)Q_(i)ᵀ) ω_i.

    For A² the same with the same bases. The error bars count the covariance of the t_i: see estimators.correlated.
    ``probes`` and ``images`` are Ω and AΩ, as rows.
    """

    fewest: ClassVar[int] = 4

    def __init__(self, products: Products, normals: Normals) -> None:
        self.products, self.normals, self.matvecs = products, normals, 0
        self._basis = Basis(products, normals(0))
        self.probes = self.images = normals(0)
        self._triangle = torch.zeros(0, 0, dtype=torch.float64)  # R of AΩ = QR

    def spend(self, matvecs: int) -> None:
        count = (self.matvecs + matvecs) // 2 - len(self.probes)
        if count < 1:
            return
        omega = on_the_sphere(self.normals(count))
        image = self.products(omega)
        new = small(self._basis.extend(image))
        below = self._triangle.new_zeros(count, len(self._triangle))
        self._triangle = torch.cat([torch.cat([self._triangle, below]), new], dim=1)
        self.probes, self.images = torch.cat([self.probes, omega]), torch.cat([self.images, image])
        self.matvecs += 2 * count

    def trace(self) -> Estimate:
        inner = self._basis.images @ self._basis.vectors.T
        return self._left_out(inner, self._triangle, (self.probes * self.images).sum(1))

    def square(self) -> Estimate:
        of_basis, image = self._basis.images, self.images
        return self._left_out(of_basis @ of_basis.T, of_basis @ image.T, image.square().sum(1))

    def _left_out(self, inner: Tensor, cross: Tensor, square: Tensor) -> Estimate:
        """From QᵀBQ, QᵀBΩ and ω_iᵀBω_i: the estimates (q,) of tr B, and the standard error of their mean."""
        if not (self._basis.finite and self.images.isfinite().all()):
            return unknown(len(self.probes))
        inner, cross, square = small(inner), small(cross), small(square)
        coordinates = small(self.probes @ self._basis.vectors.T)  # of ω_i in the basis, rows
        lost = lost_directions(self._triangle, torch.finfo(self.images.dtype).eps).T  # rows
        q, dim = len(square), self.probes.shape[1]

        def without(i: Tensor, directions: Tensor) -> Tensor:
            """t of the probes i (...), their basis short of orthonormal directions (..., d, q)."""
            left = coordinates[i]
            left = left - ((directions @ left[..., None]) * directions).sum(-2)
            captured = inner.trace() - ((directions @ inner) * directions).sum((-2, -1))
            residual = square[i] - 2 * (left * cross.T[i]).sum(-1) + (left @ inner * left).sum(-1)  # μᵀBμ
            length = dim - left.square().sum(-1)  # ‖μ‖²
            return captured + (dim - q + directions.shape[-2]) * residual / length

        samples = without(torch.arange(q), lost[:, None])
        k = min(q, _PAIRED)
        delta = torch.zeros(k, k, dtype=torch.float64)
        for some in torch.arange(k).split(max(1, _NUMBERS // (k * q))):
            first = lost[some, None].expand(-1, k, -1)
            pairs = torch.stack([first, second_directions(first, lost[:k])], dim=2)
            delta[some] = samples[some, None] - without(some[:, None].expand(-1, k), pairs)
        delta.fill_diagonal_(0)
        return correlated(samples, delta)


def on_the_sphere(normals: Tensor) -> Tensor:
    """Normal rows (K, P), put on the sphere of radius √P."""
    return normals * (normals.shape[1] ** 0.5 / normals.norm(dim=1, keepdim=True))


def lost_directions(triangle: Tensor, eps: float) -> Tensor:
    """Columns s_i (q, q): the unit direction, in coordinates of Q, that the basis loses without column i of AΩ = QR.

    They are the columns of R⁻ᵀ, normalized. Singular values below the rounding of the products are raised to
    it, so that a matrix of low rank loses directions in which there is nothing.
    """
    u, s, vt = torch.linalg.svd(triangle)
    floor = (10 * len(s) * eps * s[0]).clamp_min(torch.finfo(s.dtype).tiny)
    directions = (u / s.clamp_min(floor)) @ vt
    return directions / directions.norm(dim=0)


def second_directions(first: Tensor, rows: Tensor) -> Tensor:
    """The unit directions (..., q) that the basis loses without a second column too, whose own are rows, beside the first."""
    for _ in range(2):  # twice is enough, as for Gram and Schmidt
        rows = rows - (rows * first).sum(-1, keepdim=True) * first
        rows = rows / rows.norm(dim=-1, keepdim=True).clamp_min(torch.finfo(rows.dtype).tiny)
    return rows

"""Estimators of tr A and of tr A² = ‖A‖_F² for a symmetric A (P, P) that is known by its products: Hutchinson and Hutch++.

An estimator is given products v -> Av of rows (K, P) and a source of normal rows (K, P). It can go on from where it is:
``spend`` takes more products, and those of before stay in use.
"""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import ClassVar, NamedTuple, Protocol

import torch
from torch import Tensor

Products = Callable[[Tensor], Tensor]  # vectors (K, P) -> (K, P)
Normals = Callable[[int], Tensor]  # K -> independent standard normal vectors (K, P)
Estimate = tuple[Tensor, Tensor]  # samples (n,) in double precision, and the standard error of their mean ()


class Estimator(Protocol):
    """fewest: products without which there is no error bar; matvecs: products spent so far."""

    fewest: ClassVar[int]
    matvecs: int
    products: Products
    normals: Normals

    def __init__(self, products: Products, normals: Normals) -> None: ...

    def spend(self, matvecs: int) -> None:
        """Takes up to so many products more."""
        ...

    def trace(self) -> Estimate: ...

    def square(self) -> Estimate: ...


def independent(samples: Tensor) -> Estimate:
    """Independent samples (n,) and std/√n."""
    samples = samples.cpu().double()
    return samples, samples.std() / len(samples) ** 0.5


def correlated(samples: Tensor, delta: Tensor) -> Estimate:
    """Leave-one-out samples t_i (q,) with the standard error of their mean, which counts their covariance.

    t_i is unbiased whatever the other probes are. With delta_ij = t_i − (t_i with probe j left out too), (k, k) for the
    first k probes and 0 on the diagonal,

        E delta_ij delta_ji = cov(t_i, t_j),   since given the other probes the mean of delta_ji over probe i is 0, so that
        stderr² = var(t)/q + max(0, mean over i ≠ j of delta_ij delta_ji)

    is unbiased before it is cut at 0.
    """
    q, k = len(samples), len(delta)
    covariance = (delta * delta.T).sum() / (k * (k - 1))
    return samples, (samples.var() / q + covariance.clamp_min(0)).sqrt()


class Mean(NamedTuple):
    """Means of samples, the variances of these means as the samples have them, and how many degrees of freedom those have."""

    value: Tensor
    variance: Tensor
    freedom: float

    @classmethod
    def of(cls, samples: Tensor) -> Mean:
        """Of the rows of samples (n, …)."""
        return cls(samples.mean(0), samples.var(0) / len(samples), len(samples) - 1)

    @classmethod
    def known(cls, value: Tensor) -> Mean:
        return cls(value, torch.zeros_like(value), inf)


def small_sample_stderr(*means: Mean) -> Tensor:
    """The standard error of a sum of means of few samples, which do not tell their own spread well.

    The error over the estimated spread √v, v = Σ v_i, has Student's t, about, of ν = v²/Σ (v_i²/ν_i) degrees of freedom
    (Satterthwaite 1946, Welch 1947) and so a variance of ν/(ν − 2): √(v ν/(ν − 2)) is what makes it 1. ν is at least the
    least ν_i, which must exceed 2.
    """
    variance = torch.stack([mean.variance for mean in means])
    freedom = torch.tensor([mean.freedom for mean in means], dtype=variance.dtype).unsqueeze(1)
    total = variance.sum(0)
    inverse = (variance.square() / freedom).sum(0) / total.square().clamp_min(torch.finfo(total.dtype).tiny)
    return (total / (1 - 2 * inverse)).sqrt()


def unknown(count: int) -> Estimate:
    """What is said where products are not finite."""
    samples = torch.full((count,), float("nan"), dtype=torch.float64)
    return samples, samples.new_tensor(float("nan"))


def signs(normals: Tensor) -> Tensor:
    """Rademacher vectors: the signs of normal ones."""
    return torch.ones_like(normals).copysign(normals)


def small(matrix: Tensor) -> Tensor:
    """In main memory and double precision, which cost nothing for what has no dimension P."""
    return matrix.cpu().double()


class Exact:
    """tr A and tr A² from the P columns of A, whatever is to be spent."""

    fewest: ClassVar[int] = 1

    def __init__(self, products: Products, normals: Normals) -> None:
        self.products, self.normals, self.matvecs = products, normals, 0
        self._matrix = normals(0).double()

    def spend(self, matvecs: int) -> None:
        none = self.normals(0)
        self.matvecs = none.shape[1]
        self._matrix = small(self.products(torch.eye(self.matvecs, dtype=none.dtype, device=none.device)))

    def trace(self) -> Estimate:
        return _without_error(self._matrix.trace())

    def square(self) -> Estimate:
        return _without_error(self._matrix.square().sum())


class Hutchinson:
    """vᵀAv and ‖Av‖² over Rademacher v (Hutchinson 1990): variance 2(‖A‖_F² − Σ a_ii²) a sample of the trace."""

    fewest: ClassVar[int] = 2

    def __init__(self, products: Products, normals: Normals) -> None:
        self.products, self.normals, self.matvecs = products, normals, 0
        self._samples = torch.zeros(2, 0, dtype=torch.float64)

    def spend(self, matvecs: int) -> None:
        v = signs(self.normals(matvecs))
        image = self.products(v)
        new = torch.stack([(v * image).sum(1), image.square().sum(1)])
        self._samples = torch.cat([self._samples, small(new)], dim=1)
        self.matvecs += matvecs

    def trace(self) -> Estimate:
        return independent(self._samples[0])

    def square(self) -> Estimate:
        return independent(self._samples[1])


class Basis:
    """An orthonormal basis of images AΩ as rows (k, P), and its own images; both grow and are never made again."""

    def __init__(self, products: Products, none: Tensor) -> None:
        self.products = products
        self.vectors = self.images = none  # (0, P)

    def extend(self, rows: Tensor) -> Tensor:
        """Takes rows (n, P) in; their coordinates, as columns (k + n, n). Cost: n products."""
        # Of orthonormal columns QR changes no more than signs, and the new ones are orthogonal to them even where rows are 0.
        columns, triangle = torch.linalg.qr(torch.cat([self.vectors, rows]).T)
        k = len(self.vectors)
        new = columns[:, k:].T.contiguous()
        self.vectors = torch.cat([self.vectors, new])
        self.images = torch.cat([self.images, self.products(new)])
        triangle[:k] *= triangle.diagonal()[:k, None].sign()
        return triangle[:, k:]

    @property
    def finite(self) -> bool:
        return bool(self.images.isfinite().all())


class HutchPlusPlus:
    """tr A on a basis Q of the range of AS, exactly, and Hutchinson on what is left: S, G signs, a third of the products each.

        t_j = tr(QᵀAQ) + g_jᵀ(I − QQᵀ)A(I − QQᵀ)g_j          (Meyer, Musco, Musco, Woodruff 2021, Algorithm 1)

    Given Q the samples t_j are independent and unbiased, so their standard error is std/√n. The same Q serves A².
    The products are those of G, not of (I − QQᵀ)G, which follow from them; so Q may grow.
    """

    fewest: ClassVar[int] = 6

    def __init__(self, products: Products, normals: Normals) -> None:
        self.products, self.normals, self.matvecs = products, normals, 0
        self._basis = Basis(products, normals(0))
        self._probes = self._images = normals(0)

    def spend(self, matvecs: int) -> None:
        total = self.matvecs + matvecs
        sketch = total // 3 - len(self._basis.vectors)
        if sketch > 0:
            self._basis.extend(self.products(signs(self.normals(sketch))))
        g = signs(self.normals(total - 2 * len(self._basis.vectors) - len(self._probes)))
        self._probes = torch.cat([self._probes, g])
        self._images = torch.cat([self._images, self.products(g)])
        self.matvecs = total

    def trace(self) -> Estimate:
        q, of_q, image = self._basis.vectors, self._basis.images, self._images
        return self._left(of_q @ q.T, q @ image.T, (self._probes * image).sum(1))

    def square(self) -> Estimate:
        of_q, image = self._basis.images, self._images
        return self._left(of_q @ of_q.T, of_q @ image.T, image.square().sum(1))

    def _left(self, inner: Tensor, cross: Tensor, square: Tensor) -> Estimate:
        """From QᵀBQ, QᵀBG and g_jᵀBg_j: tr B on Q, and the form of B at (I − QQᵀ)g_j."""
        if not (self._basis.finite and self._images.isfinite().all()):
            return unknown(len(self._probes))
        inner, cross, square = small(inner), small(cross), small(square)
        on = small(self._basis.vectors @ self._probes.T)  # Qᵀg_j, columns
        return independent(inner.trace() + square - 2 * (on * cross).sum(0) + (on * (inner @ on)).sum(0))


def _without_error(value: Tensor) -> Estimate:
    return value[None], value - value  # NaN where the value is not finite

"""Count sketches: vectors of any length as k numbers that keep inner products, so that gradients of many steps can be compared.

    (Sv)_j = Σ_{i: h(i) = j} s(i) v_i,    h(i) uniform in {0, …, k−1},  s(i) uniform in {−1, 1}

(Charikar, Chen, Farach-Colton, ICALP 2002; as feature hashing Weinberger et al., ICML 2009, arXiv 0902.2206, Lemma 2.)
S is linear, and over the draw of h and s

    E⟨Sa, Sb⟩ = ⟨a, b⟩,    Var⟨Sa, Sb⟩ = (‖a‖²‖b‖² + ⟨a, b⟩² − 2 Σ a_i² b_i²) / k.

h and s are hashes of the index and a seed (SplitMix64: Steele, Lea, Flood, OOPSLA 2014), not draws of a generator: every
machine and every version makes the same sketch, and no table is kept.
"""

from __future__ import annotations

import math

import numpy as np

from .errors import InputError
from .records import Array

BLOCK = 2**16  # entries hashed at a time: a few arrays of so many stay in a core's cache


def count_sketch(vector: Array, k: int, *, seed: int = 0) -> Array:
    """The sketch (k,) of a vector (P,), in float64. Sketches of one seed and one k can be compared.

    Cost: one pass over the vector, some 10 ns an entry; memory O(k).

    Raises:
        InputError: k below 1, or a vector that is not one-dimensional.
    """
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise InputError(f"k, the length of a sketch, must be a whole number of at least 1, got {k!r}.")
    if vector.ndim != 1:
        raise InputError(f"a vector to be sketched must have shape (P,), got {vector.shape}.")
    found = np.zeros(k)
    for start in range(0, len(vector), BLOCK):
        block = vector[start : start + BLOCK]
        bits = _hashed(np.arange(start, start + len(block), dtype=np.uint64), seed)
        signs = np.where(bits & np.uint64(1), 1.0, -1.0)
        places = ((bits >> np.uint64(1)) % np.uint64(k)).astype(np.intp)  # uneven by at most k/2⁶³
        found += np.bincount(places, weights=signs * block, minlength=k)
    return found


def sketched_inner(a: Array, b: Array) -> tuple[float, float]:
    """⟨a, b⟩ of two vectors from their sketches (k,): (value, standard error). Unbiased.

    The error is √((‖a‖²‖b‖² + ⟨a, b⟩²)/k) at the estimated norms and product: that of vectors of many entries of like size,
    and at most too large for others.
    """
    k = _common_length(a, b)
    value = float(a @ b)
    return value, math.sqrt((float(a @ a) * float(b @ b) + value**2) / k)


def sketched_cosine(a: Array, b: Array) -> tuple[float, float]:
    """cos(a, b) of two vectors from their sketches (k,): (value, standard error), the cosine c of the sketches ± (1 − c²)/√k.

    To first order in 1/√k, norms and product err together, which leaves the variance (1 − c²)²/k (at most, as above): far less
    than dividing ``sketched_inner`` by norms known exactly, (1 + c²)/k, where c is near 1. The bias is of order 1/k.
    NaN where one of them is zero.
    """
    k = _common_length(a, b)
    norms = float(np.linalg.norm(a)) * float(np.linalg.norm(b))
    if not norms > 0:
        return math.nan, math.nan
    value = min(1.0, max(-1.0, float(a @ b) / norms))
    return value, (1 - value**2) / math.sqrt(k)


def _hashed(index: Array, seed: int) -> Array:
    """SplitMix64's output function of the index-th state after the seed's; uint64 arithmetic wraps as it must."""
    z = (index + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15) + _mixed(np.array([seed % 2**64], np.uint64))
    return _mixed(z)


def _mixed(z: Array) -> Array:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _common_length(a: Array, b: Array) -> int:
    if a.ndim != 1 or a.shape != b.shape or not len(a):
        raise InputError(
            f"two sketches must have one shape (k,) with k of at least 1, got {a.shape} and {b.shape}; record both with the "
            "same sketch=."
        )
    return len(a)

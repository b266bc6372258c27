"""Measures that a rescaling of layers does not change: relative flatness of a layer, and the Fisher–Rao norm."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor

from landscape import InputError, Objective
from landscape.objective import Composed
from landscape.parameters import float64_array
from landscape.results import RelativeFlatness

from ..curvature.matrices import Of, products_of
from ..points import one_point

# Vectors (P,) held at a time.
_CHUNK = 16


def relative_flatness(
    objective: Objective,
    theta: Any,
    *,
    layer: str | None = None,
    of: Of = "hessian",
    probes: int = 60,
    generator: torch.Generator | None = None,
    about: Mapping[str, Any] | None = None,
) -> RelativeFlatness:
    """The relative flatness of a layer, κ = Σ_{s,s′} ⟨w_s, w_s′⟩ tr H_{ss′}, with its standard error.

    Petzka et al. 2021 (arXiv 2001.00939, Definition 3): w_s (n,) are the rows of the weight W (m, n), and H_{ss′} (n, n) is the
    block of the Hessian of the mean loss between two of them. In terms of single products it is

        κ = Σ_k Σ_j (W e_k ⊗ e_j)ᵀ H (W e_k ⊗ e_j) = E (Wa ⊗ b)ᵀ H (Wa ⊗ b)

    over independent random signs a and b (n,): one product a probe, unbiased since E aaᵀ = E bbᵀ = 1. Instead of W e_k the
    columns of UΣ are taken, W = UΣVᵀ, which are no more than m; where rank·n products are no more than the probes, they are all
    made, and κ is exact. Scaling W by α and what follows by 1/α divides H by α² and leaves κ.

    Cost: ``probes`` Hessian-vector products at most. Memory: a few vectors (P,). Samples are skewed, the more so in small layers:
    with 20 probes the error bar is too small where the value came out too small (a mean error of −.3 of it on a 3 × 8 weight).

    Args:
        layer: name of the weight; by default the last one with two axes. Of more axes (convolutions), all but the first
            make one row.
        of: which matrix stands for H.

    Raises:
        InputError: theta is not one point, there is no such weight, or fewer than 2 probes.
    """
    theta = one_point(objective, theta)
    name, weight, offset = _weight(objective, theta, layer)
    if probes < 2:
        raise InputError(f"probes must be at least 2, of which an error bar can be made, got {probes}.")
    u, s, _ = torch.linalg.svd(weight, full_matrices=False)
    columns = u * s  # (m, r)
    count, width = columns.shape[1], weight.shape[1]
    exact = count * width <= probes
    total = count * width if exact else probes
    products = products_of(objective, theta, of, count=total)
    samples = []
    for done in range(0, total, _CHUNK):
        some = min(_CHUNK, total - done)
        if exact:
            index = torch.arange(done, done + some, device=theta.device)
            a = torch.eye(count, dtype=theta.dtype, device=theta.device)[index // width]
            b = torch.eye(width, dtype=theta.dtype, device=theta.device)[index % width]
        else:
            a, b = (_signs(some, n, theta, generator) for n in (count, width))
        inside = torch.einsum("mr,pr,pn->pmn", columns, a, b).reshape(some, -1)
        vectors = theta.new_zeros(some, objective.dim)
        vectors[:, offset : offset + weight.numel()] = inside
        samples.append((vectors * products(vectors)).sum(1).double())
    forms = torch.cat(samples)
    value = forms.sum() if exact else forms.mean()
    return RelativeFlatness(
        value=float(value),
        stderr=0.0 if exact else float(forms.std() / total**0.5),
        samples=float64_array(forms),
        layer=name,
        of=of,
        matvecs=total,
        about=dict(about or {}),
    )


def fisher_rao(objective: Objective, theta: Any) -> float:
    """The Fisher–Rao norm ⟨θ, Iθ⟩ of a network (the square ‖θ‖²_fr of Liang et al. 2019, arXiv 1711.01530, Definition 2).

    I is the Fisher matrix of the mean loss with labels from the model itself, taken in expectation, so the number is exact. It
    does not change under any rescaling that leaves the network's function, and its label distribution, as they are.

    Cost: one product of the Fisher matrix with a vector.

    Raises:
        InputError: theta is not one point, or the objective is not that of a network whose loss has a Fisher matrix.
    """
    theta = one_point(objective, theta)
    return float(theta @ products_of(objective, theta, "fisher", count=1)(theta[None])[0])


def has_fisher(objective: Objective) -> bool:
    """Whether the loss of every term is known as a −log likelihood of a network's outputs."""
    return all(isinstance(term, Composed) and term.likelihood for term in objective.terms)


def default_layer(objective: Objective) -> str | None:
    """The last weight with two axes, or None if there is none."""
    named = zip(objective.parameters.names, objective.parameters.shapes, strict=True)
    return next((name for name, shape in reversed(list(named)) if len(shape) == 2), None)


def _weight(objective: Objective, theta: Tensor, layer: str | None) -> tuple[str, Tensor, int]:
    """The name of a weight, its rows (m, n), and where it begins in θ."""
    shapes = dict(zip(objective.parameters.names, objective.parameters.shapes, strict=True))
    if layer is None:
        layer = default_layer(objective)
        if layer is None:
            raise InputError(
                f"layer must name a weight, as no parameter has two axes; there are {_some(shapes)}."
            )
    if layer not in shapes or len(shapes[layer]) < 2:
        named = [name for name, shape in shapes.items() if len(shape) > 1]
        raise InputError(
            f"layer must name a weight with two or more axes, got {layer!r}; there are {_some(named)}."
        )
    offset = 0
    for name, shape in shapes.items():
        if name == layer:
            break
        offset += prod(shape)
    rows = theta[offset : offset + prod(shapes[layer])].reshape(shapes[layer][0], -1)
    return layer, rows, offset


def _some(names: Any) -> str:
    return ", ".join(list(names)[-5:]) or "none"


def _signs(count: int, size: int, theta: Tensor, generator: torch.Generator | None) -> Tensor:
    device = generator.device if generator is not None else theta.device
    bits = torch.randint(0, 2, (count, size), generator=generator, device=device)
    return (2 * bits - 1).to(theta)

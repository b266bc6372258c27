"""A solution in the coordinates of another one: hidden units permuted, and rescaled, until the two networks are near.

Permuting a layer's units and what reads them leaves a network the function that it is. So two networks may be far apart, with a
barrier between them, although they compute the same. Which units may be permuted is found by tracing the model
(symmetries.py), which permutation is best by linear assignments (matching.py), scales as in rescaling.py. That the outputs have
stayed the same is checked each time, on data, by the model itself.
"""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from landscape import InputError, Parameters, Problem, Solution
from landscape.networks import placed
from landscape.parameters import float64_array
from landscape.problems import select
from landscape.results import Alignment

from .matching import activation_pairs, matched, weight_pairs
from .rescaling import Balanced, balanced, scalings
from .symmetries import Symmetries, outputs, state_of, symmetries

EXAMPLES = 100  # of a problem's training data, where no batch is given
_SAME = 1e-9  # a larger change of the outputs, relative to the largest one, is not rounding


def align(
    model: nn.Module | Problem,
    reference: Solution | Mapping[str, Tensor],
    other: Solution | Mapping[str, Tensor],
    *,
    batch: Any = None,
    method: Literal["weights", "activations"] = "weights",
    scaling: bool = False,
    restarts: int = 1,
    generator: torch.Generator | None = None,
    about: Mapping[str, Any] | None = None,
) -> Alignment:
    """``other`` with its hidden units permuted so that they match those of ``reference``; its outputs stay the same.

    "weights" makes the distance of the two in parameters least, ‖a − πb‖² (Ainsworth et al. 2022, "Git Re-Basin", arXiv
    2209.04836, Algorithm 1); "activations" the sum of correlations between units, over the data, in all that layers read
    (Li et al. 2015, arXiv 1511.07543; Git Re-Basin, Section 3.1). Both are ascents over one group of units at a time, and find a
    local optimum where there is more than one group; the best of ``restarts`` is taken.

    With scaling=True the scales that the outputs do not see (of what enters and leaves a ReLU unit, say) are set to the same
    in both, those of least Σ θ², before matching; then ``other`` gets the scales that ``reference`` has. Since permutations
    and scales are linear in θ and leave the loss as it is, the line to ``reference``, which stays as it was, has the losses of
    the line between the two balanced networks.

    Units that are told apart by data or outputs stay: inputs, classes, pixels, words. What is equal in both solutions and not
    trained (frozen parameters, tables of positions) stays too.

    Cost: four forward passes ("activations": six), products of matrices of the layers' sizes and an assignment, O(n³), for
    every group of n units, sweep and restart; with scaling 16 backward passes, and two forward passes a group. All in float64
    on the CPU. Memory: a few copies of the parameters; "activations": those of the batch that layers read.

    Args:
        model: a module, or a problem; it is copied, put in eval mode, and not touched.
        reference, other: solutions of it, or its state dicts.
        batch: (inputs, targets) or a mapping of keywords, on which the model is traced, activations are taken and outputs are
            compared; for a problem by default the first 100 training examples.
        restarts: ascents, the first over the groups in order, the others in random orders.
        generator: for these orders, and for the directions in which scales are sought.
        about: provenance for the record's header.

    Raises:
        InputError: solutions of another model, no batch, an unknown method, a model of which no unit may be permuted, or one
            that runs operators which do not tell its outputs at another θ.
    """
    if method not in ("weights", "activations"):
        raise InputError(f"method must be 'weights' or 'activations', got {method!r}.")
    if restarts < 1:
        raise InputError(f"restarts must be at least 1, got {restarts}.")
    own, batch = _traced_model(model, batch)
    generator = generator or torch.Generator().manual_seed(0)
    sides = _Sides.of(own, reference, other)
    found = symmetries(own, batch, names=sides.names)
    if not any(group.free for group in found.groups):
        raise InputError(
            "the model must have hidden units that may be permuted, and none was found; either it has none, or an operator "
            "without a rule reads them (rules are in analysis/alignment/axis_rules.py)."
        )
    a, b = (found.layout.pack(tensors) for tensors in (sides.reference, sides.other))
    scaled = _Scaled.of(found, own, batch, a, b, generator) if scaling else _Scaled.none(a, b)
    if method == "weights":
        weights = {name for name, _ in own.named_parameters()}
        pairs = weight_pairs(found, weights, scaled.a.state, scaled.b.state)
    else:
        pairs = activation_pairs(found, scaled.a.state, scaled.b.state)
    best = matched(found, pairs, restarts=restarts, generator=generator)
    state = found.apply(best.permutations, scaled.b.state) * (-scaled.a.factors).exp()
    change = _change(own, found, batch, b, state)
    tensors = {**sides.other, **found.layout.unpack(state)}
    converged, message = _said(best.converged, scaled, change)
    return Alignment(
        reference=_label(reference),
        other=_label(other),
        method=method,
        theta=sides.theta(tensors),
        names=sides.parameters.names,
        shapes=sides.parameters.shapes,
        buffers=sides.buffers(tensors, other),
        permutations=_by_label(found, best.permutations),
        similarity_before=float(sum((pair.a * pair.b).sum() for pair in pairs)),
        similarity=best.similarity,
        distance_before=float(np.linalg.norm(sides.theta(sides.reference) - sides.theta(sides.other))),
        distance=float(np.linalg.norm(sides.theta(sides.reference) - sides.theta(tensors))),
        change=change,
        scales=scaled.count,
        converged=converged,
        message=message,
        about=dict(about or {}),
    )


@dataclass(frozen=True, eq=False)
class _Sides:
    """The tensors of both solutions by name, the names of those that may be permuted, and those of θ."""

    reference: dict[str, Tensor]
    other: dict[str, Tensor]
    names: tuple[str, ...]
    parameters: Parameters

    @classmethod
    def of(cls, own: nn.Module, reference: Any, other: Any) -> _Sides:
        """Leaves in ``own`` what stays as it is."""
        parameters = Parameters.of(own)
        a, b = (
            _tensors(own, parameters, given, name)
            for given, name in ((reference, "reference"), (other, "other"))
        )
        trained = set(parameters.names)
        own.load_state_dict(a, strict=False)
        return cls(a, b, tuple(n for n in a if n in trained or not a[n].equal(b[n])), parameters)

    def theta(self, tensors: Mapping[str, Tensor]) -> np.ndarray:
        return float64_array(self.parameters.pack(tensors))

    def buffers(self, tensors: Mapping[str, Tensor], other: Any) -> dict[str, np.ndarray]:
        """All that ``other`` holds beside θ, with what was permuted."""
        held = other.buffers if isinstance(other, Solution) else other
        return {
            name: float64_array(tensors[name]) if name in tensors else np.asarray(value)
            for name, value in held.items()
            if name not in self.parameters.names
        }


@dataclass(frozen=True, eq=False)
class _Scaled:
    """Both states in one choice of scales."""

    a: Balanced
    b: Balanced
    count: int

    @classmethod
    def none(cls, a: Tensor, b: Tensor) -> _Scaled:
        one, other = (Balanced(x, torch.zeros_like(x), True) for x in (a, b))
        return cls(one, other, 0)

    @classmethod
    def of(
        cls, found: Symmetries, own: nn.Module, batch: Any, a: Tensor, b: Tensor, generator: torch.Generator
    ) -> _Scaled:
        trained = {name for name, _ in own.named_parameters()}
        held = {name: t for name, t in found.layout.unpack(a).items() if name not in trained}

        def numbers(x: Tensor) -> Tensor:  # running statistics have no derivative
            return outputs(own, {**found.layout.unpack(x), **held}, batch)

        scales = scalings(found, numbers, a, generator=generator)
        count = sum(scaling.exponents.shape[1] for scaling in scales)
        return cls(balanced(found, scales, a), balanced(found, scales, b), count)


def _traced_model(model: nn.Module | Problem, batch: Any) -> tuple[nn.Module, Any]:
    if isinstance(model, Problem):
        batch = select(model.train, slice(EXAMPLES)) if batch is None else batch
        model = model.build(0)
    if batch is None:
        raise InputError(
            "batch is missing; give (inputs, targets) or a mapping of keywords, on which the model is traced."
        )
    own = copy.deepcopy(model).to(device="cpu", dtype=torch.float64).eval()
    return own, placed(batch, torch.float64, torch.device("cpu"))


def _tensors(own: nn.Module, parameters: Parameters, given: Any, name: str) -> dict[str, Tensor]:
    """All parameters and floating-point buffers of a solution; what it does not hold is the model's."""
    held: Mapping[str, Any] = given
    if isinstance(given, Solution):
        theta = torch.from_numpy(given.theta)
        held = {**given.parameters.unpack(theta), **given.buffer_tensors()}
    missing = [n for n in parameters.names if n not in held]
    if missing:
        raise InputError(
            f"{name} has no parameter {missing[0]!r}, which the model has; give solutions of this very model."
        )
    tensors = {}
    for n, default in state_of(own).items():
        tensors[n] = torch.as_tensor(held.get(n, default)).detach().to(default)
        if tensors[n].shape != default.shape:
            raise InputError(
                f"{name} has {n!r} of shape {tuple(tensors[n].shape)}, the model of shape {tuple(default.shape)}; "
                "give solutions of this very model."
            )
        if not tensors[n].isfinite().all():
            raise InputError(f"{name} holds values in {n!r} that are NaN or infinite; train it anew.")
    return tensors


def _change(own: nn.Module, found: Symmetries, batch: Any, before: Tensor, after: Tensor) -> float:
    """The largest change of an output, relative to the largest output."""
    with torch.no_grad():
        was, now = (outputs(own, found.layout.unpack(x), batch) for x in (before, after))
    return float((was - now).abs().max() / was.abs().max())


def _said(settled: bool, scaled: _Scaled, change: float) -> tuple[bool, str]:
    """Whether the alignment is what it claims to be, and what it is."""
    if not change <= _SAME:
        return (
            False,
            f"the outputs changed by {change:.2g} of the largest: what was applied is no symmetry, do not use it",
        )
    if not settled:
        return False, "matching went on changing groups until its sweeps were spent"
    if not (scaled.a.converged and scaled.b.converged):
        return False, "the scales of least norm had not settled when their sweeps were spent"
    return True, "the outputs are the same, and no assignment of one more group matches better"


def _label(given: Solution | Mapping[str, Tensor]) -> str:
    return given.label if isinstance(given, Solution) else ""


def _by_label(found: Symmetries, permutations: Sequence[Tensor]) -> dict[str, np.ndarray]:
    """Permutations of the groups that may be permuted; groups of one label are numbered."""
    seen: Counter[str] = Counter()
    named = {}
    for group, permutation in zip(found.groups, permutations, strict=True):
        if group.free:
            seen[group.label] += 1
            number = f" ({seen[group.label]})" if seen[group.label] > 1 else ""
            named[group.label + number] = np.asarray(permutation)
    return named

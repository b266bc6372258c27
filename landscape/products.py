"""Hessian-vector products at one point, many of them, by the engine that measuring chooses.

At a fixed θ the product ∇²L(θ) v is linear in v, and all that hangs on θ alone need be done once. Engines, by name:

    double-backward          the graph of the gradient is kept, and every vector pushed back through it: the reference
    replay                   the operators of that backward pass, captured once (graphs.py), without autograd's part of it
    tangent                  those of forward over reverse, the tangent of the gradient (Pearlmutter 1994), captured likewise
    … x8                     8 vectors at once, by torch.vmap
    … compiled               by torch.compile
    rebuild                  double backward with the graph made anew for every block of vectors: least memory
    differences              central differences of the gradient, where nothing exact exists: not exact, and only where named
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from .capturing import capture
from .engines import runnable
from .errors import InputError
from .graphs import Residual, cut
from .measuring import Choice, Measurement
from .objective import Objective, PlainWeightNorm, Term, double_backward

Product = Callable[[Tensor], Tensor]  # vectors (K, P) -> (K, P)
MEMORY = 4 * 2**30  # bytes that what is kept of all terms may take
_WORTH = 80  # products: for fewer, those by which the reference and another engine are timed are more than measuring may take
_SOME, _FEW = 16, 4  # vectors at once
_NEAR = 1.25  # times the fastest kind's seconds, one vector after another: slower kinds are not tried on several at once
_KINDS = ("double-backward", "replay", "tangent", "rebuild", "differences")


@dataclass(frozen=True)
class Engine:
    """The parts of a name. vectors: how many at once, 1 for one after another."""

    kind: str = "double-backward"
    vectors: int = 1
    compiled: bool = False

    @classmethod
    def named(cls, name: str) -> Engine:
        """The engine of a name; InputError if there is none of that name."""
        kind, *parts = name.split() or [""]
        counts = [int(part[1:]) for part in parts if part[0] == "x" and part[1:].isdecimal()]
        engine = cls(kind, counts[0] if counts else 1, "compiled" in parts)
        known = kind in ("replay", "tangent") or (kind in _KINDS and not parts)
        if not known or engine.vectors < 1 or engine.name != " ".join(name.split()):
            raise InputError(
                "engine must be auto, double-backward, rebuild, differences, replay or tangent, the last two also with "
                f"x8 (vectors at once) or compiled after it in this order, got {name!r}."
            )
        return engine

    @property
    def exact(self) -> bool:
        return self.kind != "differences"

    @property
    def name(self) -> str:
        parts = [self.kind]
        parts += [f"x{self.vectors}"] if self.vectors > 1 else []
        return " ".join([*parts, "compiled"] if self.compiled else parts)


class HessianProducts:
    """v -> ∇²L(θ) v at one θ (P,), for v (P,) or (K, P).

    What hangs on θ alone is made at the first call and kept, so that it costs one gradient or two once, and every product
    from one to three gradients. Memory: what autograd keeps of one gradient, of all terms, or of as many as fit ``memory``; the
    others are made anew at every call. Attention runs on PyTorch's math kernel: the fused ones have no second derivative.

    Args:
        engine: a name, or "auto" to measure. On less than 80 products measuring is not worth its time, and
            double backward is taken.
        count: how many products are to come, if more than in the first call; it decides what measuring is worth.
        memory: bytes.
    """

    def __init__(
        self,
        objective: Objective,
        theta: Tensor,
        *,
        engine: str = "auto",
        count: int = 0,
        memory: int = MEMORY,
    ) -> None:
        self.objective, self.theta = objective, objective.point(theta)
        if self.theta.ndim != 1:
            raise InputError(f"theta must be one point (P,), got shape {tuple(self.theta.shape)}.")
        self.count, self.memory = count, memory
        self.choice: Choice | None = None if engine == "auto" else Choice(Engine.named(engine))
        self._kept: list[Product] = []
        self._linear: dict[str, Residual] = {}  # of the first term, while engines are measured
        self._bytes = 0

    def __call__(self, v: Tensor) -> Tensor:
        v = self.objective.point(v, name="v")
        vectors = v.reshape(-1, self.objective.dim)
        if not len(vectors):
            return v
        if self.choice is None:
            self.choice = self._chosen(vectors)
        engine = self.choice.engine
        if engine.kind == "differences":
            return self._differences(vectors).reshape(v.shape)
        try:
            return self._total(vectors, engine).reshape(v.shape)
        except RuntimeError as error:  # one term was measured, and another one cannot be evaluated so
            if not self.choice.trials or engine == Engine():
                raise
            self.choice = self.objective.engines["products"] = self.choice.refused(Engine(), error)
            self._kept, self._bytes = [], 0
            return self._total(vectors, Engine()).reshape(v.shape)

    def _total(self, vectors: Tensor, engine: Engine) -> Tensor:
        total = torch.zeros_like(vectors)
        for i, term in enumerate(self.objective.terms):
            total += self._product(i, term, engine)(vectors)
        return total

    def _product(self, index: int, term: Term, engine: Engine) -> Product:
        if index < len(self._kept):
            return self._kept[index]
        if engine.kind == "rebuild" or self._bytes >= self.memory:
            return lambda vectors: _retained(term, self.theta)[0](vectors)
        linear = {} if index else self._linear
        product, size = _made(engine, term, self.theta, self.objective.engines, linear)
        self._linear = {}
        self._kept.append(product)
        self._bytes += size
        return product

    def _chosen(self, vectors: Tensor) -> Choice:
        key = "products"
        if key in self.objective.engines:
            return self.objective.engines[key]
        terms = self.objective.terms
        count = max(self.count, len(vectors)) * len(terms)
        if count < _WORTH:
            return Choice(Engine())
        # Not the vectors given: unit vectors would show nothing of what an engine makes of other entries.
        generator = torch.Generator(vectors.device).manual_seed(0)
        sample = torch.randn(
            3, self.objective.dim, generator=generator, device=vectors.device, dtype=vectors.dtype
        )
        measurement = Measurement(
            lambda engine: _made(engine, terms[0], self.theta, self.objective.engines, self._linear)[0],
            sample=sample,
            inputs=lambda count: vectors[torch.arange(count) % len(vectors)],
            reference=Engine(),
            count=count,
        )
        choice = measurement.run(_candidates(measurement, len(vectors)), lambda engine: True)
        if len(choice.trials) > 1:
            self.objective.engines[key] = choice
        return choice

    def _differences(self, vectors: Tensor) -> Tensor:
        rows = []
        for v in vectors:
            # Rounding of the gradient ε‖∇L‖/h against the third derivative h²: h as ε^⅓ of the scale of θ.
            size = torch.finfo(v.dtype).eps ** (1 / 3) * self.theta.norm().clamp(min=1) / v.norm()
            step = size * v
            rows.append(
                (self.objective.grad(self.theta + step) - self.objective.grad(self.theta - step)) / (2 * size)
            )
        return torch.stack(rows)


def _candidates(measurement: Measurement, available: int) -> Iterator[tuple[Engine, int]]:
    """Kinds first, then a few vectors at once for those not much slower than the best, more where that helps, then compiled."""
    for kind in ("replay", "tangent"):
        yield Engine(kind), 1
    usable = [t for t in measurement.trials if t.engine.kind != "double-backward" and not t.note]
    if not usable:
        return
    fastest = min(t.seconds for t in usable)
    for trial in usable if available >= _FEW else ():
        if trial.seconds <= _NEAR * fastest:
            yield replace(trial.engine, vectors=_FEW), _FEW

    def best() -> Engine:
        found = measurement.best(lambda engine: engine.kind != "double-backward")
        return found.engine if found else usable[0].engine

    if available >= _SOME and best().vectors == _FEW:
        yield replace(best(), vectors=_SOME), _SOME
    if measurement.pays():
        yield replace(best(), compiled=True), best().vectors


def _made(
    engine: Engine, term: Term, theta: Tensor, kept: dict[Any, Any], linear: dict[str, Residual] | None = None
) -> tuple[Product, int]:
    """One term's products by an engine, and the bytes of what is kept for them.

    kept holds compiled code; linear this term's captured operators by kind.
    """
    if engine.kind in ("double-backward", "rebuild"):
        return _retained(term, theta)
    linear = {} if linear is None else linear
    if engine.kind not in linear:
        linear[engine.kind] = _captured(engine.kind, term, theta)
    rest = linear[engine.kind]
    run = runnable(rest, engine.vectors, compiled=engine.compiled, kept=kept)

    def product(vectors: Tensor) -> Tensor:
        with torch.no_grad():
            if engine.vectors == 1:
                return torch.stack([run(v) for v in vectors])
            parts = [_filled(part, engine.vectors) for part in vectors.split(engine.vectors)]
            return torch.cat([run(part) for part in parts])[: len(vectors)]

    return product, sum(c.nbytes for c in rest.constants)


def _captured(kind: str, term: Term, theta: Tensor) -> Residual:
    """The operators of v -> ∇²L(θ)v, with all that hangs on θ alone as constants."""
    with sdpa_kernel(SDPBackend.MATH):
        if kind == "replay":
            backward = _retained(term, theta)[0]
            captured = capture(lambda v: backward(v[None])[0], torch.ones_like(theta))
        else:
            gradient = torch.func.grad(term)
            with PlainWeightNorm():
                captured = capture(
                    lambda v: torch.func.jvp(gradient, (theta,), (v,))[1], torch.ones_like(theta)
                )
    return cut(captured, theta, theta[None], share=False)


def _filled(vectors: Tensor, count: int) -> Tensor:
    """(count, P), the last vector repeated: compiled code is of one shape."""
    missing = count - len(vectors)
    return torch.cat([vectors, vectors[-1:].expand(missing, -1)]) if missing else vectors


def _retained(term: Term, theta: Tensor) -> tuple[Product, int]:
    """One term's products by backward passes through the graph of its gradient, and the bytes that autograd saved for them."""
    with SavedBytes() as saved:
        product = double_backward(term, theta)
    return product, saved.total


class SavedBytes:
    """Counts what autograd saves inside of it; tensors that share memory count once."""

    def __init__(self) -> None:
        self._saved: dict[int, int] = {}
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._note, lambda tensor: tensor)

    def __enter__(self) -> SavedBytes:
        self._hooks.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._hooks.__exit__(*error)

    @property
    def total(self) -> int:
        return sum(self._saved.values())

    def _note(self, tensor: Tensor) -> Tensor:
        self._saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

"""What a network computes on given inputs: a solution as a point in function space."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from .errors import InputError
from .networks import batch_output, placed
from .parameters import Parameters
from .problems import Data, Problem, Split, batches, examples, select
from .records import Array
from .results import Solution

Kind = Literal["probabilities", "logits", "raw"]


def outputs(
    problem: Problem,
    solution: Solution,
    *,
    split: Split = "test",
    count: int | None = 512,
    index: Tensor | None = None,
    kind: Kind = "probabilities",
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
) -> Array:
    """Outputs (m, C) of a solution's network on probe examples of a split: m places with C numbers each.

    The model is in eval mode, with the buffers of the solution. Every place of an output (a pixel, a token) is a row of its
    own; classes are the last dimension of what a model calls its logits, and PyTorch's dimension 1 of a plain tensor. Padded
    tokens are rows as well. Cost: one forward pass over the examples.

    Args:
        problem: what the solution was found on.
        solution: its parameters and buffers.
        split: where the examples are from.
        count: so many from the front of the split, all of them if None or more than there are.
        index: the examples (k,) to take in their place; see probe_index. Give all solutions the same.
        kind: "probabilities" (softmax; of a single output the sigmoid, one number), "logits" less their mean over the classes,
            which no softmax sees, or "raw", the output as it is, flattened to a row an example.
        dtype, device: of the evaluation.

    Raises:
        InputError: a solution of another model, no such data, an output that holds no logits, an output that is not finite,
            or probabilities of a model that was fitted by least squares.
    """
    data = _probes(problem, split, count=count, index=index)
    if kind not in ("probabilities", "logits", "raw"):
        raise InputError(f"kind must be 'probabilities', 'logits' or 'raw', got {kind!r}.")
    squares = problem.loss_fn is nn.functional.mse_loss or isinstance(problem.loss_fn, nn.MSELoss)
    if kind == "probabilities" and squares:
        raise InputError(
            f"kind must be 'raw' for {problem.name!r}, whose loss is least squares, got 'probabilities'."
        )
    model = problem.build(0).eval()
    tensors = _tensors(model, solution, dtype=dtype, device=torch.device(device))

    def forward(*inputs: Any, **named: Any) -> Any:
        return functional_call(model, tensors, inputs, named)

    rows = []
    with torch.no_grad():
        for batch in batches(data, problem.batch_size):
            batch = placed(batch, dtype, torch.device(device))
            rows.append(_rows(batch_output(forward, batch), kind).cpu())
    found = torch.cat(rows).numpy()
    if not np.isfinite(found).all():
        raise InputError(
            f"the outputs of {solution.label} on the {split} data must be finite, but hold NaN or infinity; leave it out."
        )
    return found


def probe_index(problem: Problem, split: Split, count: int, *, generator: torch.Generator) -> Tensor:
    """Which examples of a split to probe (count,): drawn without replacement, in their order."""
    total = examples(_data(problem, split))
    if not 1 <= count <= total:
        raise InputError(
            f"count must be between 1 and the {total} {split} examples of {problem.name!r}, got {count}."
        )
    return torch.randperm(total, generator=generator)[:count].sort().values


def _data(problem: Problem, split: Split) -> Data:
    data = getattr(problem, split, None)
    if data is None:
        raise InputError(f"split must be one the problem {problem.name!r} has data of, got {split!r}.")
    return data


def _probes(problem: Problem, split: Split, *, count: int | None, index: Tensor | None) -> Data:
    data = _data(problem, split)
    if index is not None:
        return select(data, index)
    if count is not None and count < 1:
        raise InputError(f"count must be at least 1, got {count}.")
    return select(data, slice(count))


def _tensors(
    model: nn.Module, solution: Solution, *, dtype: torch.dtype, device: torch.device
) -> dict[str, Tensor]:
    """All parameters and buffers of the model, as the solution has them."""
    parameters = Parameters.of(model)
    if (parameters.names, parameters.shapes) != (solution.names, solution.shapes):
        raise InputError(
            f"the solution {solution.label} has other parameters than the model of its problem; name the problem it was "
            "trained on."
        )
    tensors = {name: p.detach() for name, p in model.named_parameters()} | dict(model.named_buffers())
    tensors |= solution.buffer_tensors() | parameters.unpack(torch.from_numpy(solution.theta))
    return {name: placed(tensor, dtype, device) for name, tensor in tensors.items()}


def _rows(output: Any, kind: Kind) -> Tensor:
    """One batch's output as rows (m, C)."""
    plain = isinstance(output, Tensor)
    found = output if plain else _logits(output)
    if kind == "raw":
        return found.reshape(len(found), -1)
    classes = 1 if plain and found.ndim > 1 else -1
    single = found.ndim == 1 or found.shape[classes] == 1
    z = found.reshape(-1, 1) if single else found.movedim(classes, -1).flatten(0, -2)
    if single:  # a logit beside 0
        return z.sigmoid() if kind == "probabilities" else z
    return z.softmax(dim=-1) if kind == "probabilities" else z - z.mean(dim=-1, keepdim=True)


def _logits(output: Any) -> Tensor:
    """The logits in a model's structured output."""
    found = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if not isinstance(found, Tensor):
        raise InputError(
            f"the model's output must be a tensor or hold one named 'logits', got a {type(output).__name__}; "
            "return the logits beside the loss."
        )
    return found

"""What a network computes on given inputs: a solution as a point in function space."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from .errors import InputError
from .networks import batch_output, output_loss, placed
from .parameters import Parameters
from .problems import Data, Problem, Split, batches, examples, select
from .records import Array
from .results import Solution

Kind = Literal["probabilities", "logits", "raw"]
Link = Literal["softmax", "sigmoid"]


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

    An output is of classes where its loss stays as it is when log-softmax is applied to it (cross-entropy, the negative
    log-likelihood of log-probabilities), and of yes and no where the loss is binary_cross_entropy_with_logits or any other
    that is the same for −z and 1 − t. Logits in a model's structured output are of classes, or a yes and no if there is one,
    unless the targets are real numbers. Anything else has neither probabilities nor logits.

    Args:
        problem: what the solution was found on.
        solution: its parameters and buffers.
        split: where the examples are from.
        count: so many from the front of the split, all of them if None or more than there are.
        index: the examples (k,) to take in their place; see probe_index. Give all solutions the same.
        kind: "probabilities" (softmax; the sigmoid of each output where each is a yes or no of its own), "logits" less their
            mean over the classes, which no softmax sees, or "raw", the output as it is, flattened to a row an example.
            Which of the two an output is, its loss tells: see below.
        dtype, device: of the evaluation.

    Raises:
        InputError: a solution of another model, no such data, an output that holds no logits, an output that is not finite,
            or probabilities or logits of a model whose loss is no classification's.
    """
    data = _probes(problem, split, count=count, index=index)
    if kind not in ("probabilities", "logits", "raw"):
        raise InputError(f"kind must be 'probabilities', 'logits' or 'raw', got {kind!r}.")
    model = problem.build(0).eval()
    tensors = _tensors(model, solution, dtype=dtype, device=torch.device(device))

    def forward(*inputs: Any, **named: Any) -> Any:
        return functional_call(model, tensors, inputs, named)

    rows, link = [], None
    with torch.no_grad():
        for batch in batches(data, problem.batch_size):
            batch = placed(batch, dtype, torch.device(device))
            output = batch_output(forward, batch)
            z = output if isinstance(output, Tensor) else _logits(output)
            if not z.isfinite().all():
                raise InputError(
                    f"the outputs of {solution.label} on the {split} data must be finite, but hold NaN or infinity; leave it out."
                )
            if kind == "raw":
                rows.append(z.reshape(len(z), -1).cpu())
                continue
            link = link or _link(problem, output, batch)
            if link is None:
                raise InputError(
                    f"kind must be 'raw' for {problem.name!r}, whose loss is no classification's, got {kind!r}."
                )
            rows.append(_rows(z, _class_dimension(output), link=link, kind=kind).cpu())
    return torch.cat(rows).numpy()


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


def _link(problem: Problem, output: Any, batch: Any) -> Link | None:
    """What makes probabilities of an output, as its loss on one batch tells; None where nothing does."""
    classes, target = _class_dimension(output), _target(batch)
    if not isinstance(output, Tensor):
        real = isinstance(target, Tensor) and target.is_floating_point()
        return None if real else "sigmoid" if _logits(output).shape[classes] == 1 else "softmax"
    if _is_binary(problem.loss_fn):
        return "sigmoid"

    def same(other: Tensor, flipped: Any) -> bool:
        """Whether another output and target have the loss that these have."""
        try:
            losses = [output_loss(z, problem.loss_fn, b) for z, b in ((output, batch), (other, flipped))]
            return torch.allclose(*losses, rtol=torch.finfo(output.dtype).eps ** 0.5, atol=0)
        except Exception:  # whatever a user's loss raises there: logits may be any numbers
            return False

    if output.ndim > 1 and output.shape[classes] > 1 and same(output.log_softmax(dim=classes), batch):
        return "softmax"
    if isinstance(target, Tensor) and target.numel() == output.numel() and not isinstance(batch, Mapping):
        return "sigmoid" if same(-output, (batch[0], 1 - target.to(output.dtype))) else None
    return None


def _is_binary(loss_fn: Any) -> bool:
    """Whether a loss is PyTorch's of yes and no, with whatever weights."""
    plain = loss_fn.func if isinstance(loss_fn, partial) else loss_fn
    return plain is nn.functional.binary_cross_entropy_with_logits or isinstance(plain, nn.BCEWithLogitsLoss)


def _target(batch: Any) -> Any:
    return batch.get("labels") if isinstance(batch, Mapping) else batch[1]


def _class_dimension(output: Any) -> int:
    return 1 if isinstance(output, Tensor) and output.ndim > 1 else -1


def _rows(z: Tensor, classes: int, *, link: Link, kind: Kind) -> Tensor:
    """One batch's output as rows (m, C) of probabilities or logits."""
    rows = z.reshape(-1, 1) if z.ndim == 1 else z.movedim(classes, -1).flatten(0, -2)
    if kind == "probabilities":
        return rows.sigmoid() if link == "sigmoid" else rows.softmax(dim=-1)
    return rows if link == "sigmoid" else rows - rows.mean(dim=-1, keepdim=True)


def _logits(output: Any) -> Tensor:
    """The logits in a model's structured output."""
    found = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    if not isinstance(found, Tensor):
        raise InputError(
            f"the model's output must be a tensor or hold one named 'logits', got a {type(output).__name__}; "
            "return the logits beside the loss."
        )
    return found

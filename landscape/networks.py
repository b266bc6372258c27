"""A network with data and a loss as an Objective, without touching the network."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call

from .errors import InputError
from .objective import Composed, Objective, Term
from .parameters import Parameters
from .streaming import StreamedBatches

Read = Callable[[], Any]  # -> a batch
LossFn = Callable[[Any, Any], Tensor]
BatchNormPolicy = Literal["eval", "batch"]


def model_objective(
    model: nn.Module,
    loss_fn: LossFn | None,
    batches: Iterable[Any] | StreamedBatches,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    reduction: Literal["mean", "sum"] = "mean",
    count: Callable[[Any], float] | None = None,
    batchnorm: BatchNormPolicy = "eval",
    buffers: Mapping[str, Tensor] | None = None,
) -> Objective:
    """The mean loss of a model over data, as a function of its trainable parameters.

    The model is never touched: it is evaluated by torch.func.functional_call, with its frozen
    parameters and buffers as constants. Its mode is respected, so call ``model.eval()`` first if it has
    dropout or batch normalization.

    Args:
        model: any module. Tied parameters count once; frozen ones are not part of θ.
        loss_fn: (output, target) -> scalar. None if the model computes its own: then the output's ``loss`` is taken.
        batches: pairs (input, target), or mappings passed to the model as keyword arguments (for those loss_fn
            sees (output, mapping)). Held in memory, and read twice where that is possible, as random augmentation is
            refused; StreamedBatches(loader) are read whenever they are needed.
        dtype, device: of θ, the floating-point data and the buffers; by default those of the model's first parameter.
        reduction: what loss_fn does over the examples of a batch. Either way the objective is the mean over all.
        count: batch -> what the loss's mean is taken over (tokens, class weights); by default the leading dimension.
        batchnorm: "eval" uses the running statistics; "batch" those of each batch at this θ, without touching the
            running ones (with all data in one batch this is recomputing the statistics at every point).
        buffers: used in place of the model's own, by name.

    Raises:
        InputError: no data, a model in which a forward pass changes a buffer (train-mode BatchNorm), a loss that
            differs between two evaluations (dropout, augmentation), or a non-scalar loss.
    """
    parameters = Parameters.of(model)
    first = next(p for p in model.parameters() if p.requires_grad)
    dtype = dtype or first.dtype
    device = torch.device(device) if device is not None else first.device

    def place(value: Any) -> Any:
        return placed(value, dtype, device)

    readers = _readers(batches, place)
    if isinstance(batches, StreamedBatches) and count is None:
        counts = [float(n) for n in batches.counts]
    else:
        counts = [float((count or _leading_dimension)(read())) for read in readers]
    total = sum(counts)
    if not total > 0:
        raise InputError("the data hold no example; give at least one batch with at least one example.")
    if batchnorm == "batch":
        model = _with_batch_statistics(model)
    trainable = set(parameters.names)
    constants = {n: place(p.detach()) for n, p in model.named_parameters() if n not in trainable}
    constants |= {n: place(b) for n, b in {**dict(model.named_buffers()), **(buffers or {})}.items()}
    constants = {name: tensor.clone() for name, tensor in constants.items()}
    loss_of = _Loss(model, loss_fn, parameters, constants, fresh_constants=batchnorm == "batch")

    def weigh(counts: list[float]) -> list[float]:
        return [(n if reduction == "mean" else 1.0) / total for n in counts]

    objective = Objective(
        [loss_of.term(read, weight) for read, weight in zip(readers, weigh(counts), strict=True)],
        parameters.dim,
        dtype=dtype,
        device=device,
        parameters=parameters,
        shares=[n / total for n in counts],
        settings={"batchnorm": batchnorm, "batches": len(readers), "examples": total},
        streamed=isinstance(batches, StreamedBatches),
    )
    theta = objective.point(parameters.theta(model))
    if batchnorm == "eval":
        _refuse_changing_buffers(loss_of, theta, readers[0](), model)
    _refuse_random_loss(objective, theta, model)
    if isinstance(batches, StreamedBatches):
        return objective
    if iter(batches) is not iter(batches) and not isinstance(batches, Sequence):
        again = _readers(batches, place)
        recounted = [float((count or _leading_dimension)(read())) for read in again]
        terms = [loss_of.term(read, weight) for read, weight in zip(again, weigh(recounted), strict=True)]
        _refuse_random_data(objective, Objective(terms, parameters.dim, dtype=dtype, device=device), theta)
    return objective


def _readers(batches: Iterable[Any] | StreamedBatches, place: Callable[[Any], Any]) -> list[Read]:
    """For each batch a function that gives it."""
    if isinstance(batches, StreamedBatches):
        return batches.readers(place)

    def held(batch: Any) -> Read:
        return lambda: batch

    return [held(place(batch)) for batch in batches]


def batch_loss(forward: Callable[..., Any], loss_fn: LossFn | None, batch: Any) -> Tensor:
    """The loss of one batch, a pair (input, target) or a mapping of keywords, under a forward function."""
    return output_loss(batch_output(forward, batch), loss_fn, batch)


def batch_output(forward: Callable[..., Any], batch: Any) -> Any:
    """What a forward function makes of a batch, a pair (input, target) or a mapping of keywords."""
    if isinstance(batch, Mapping):
        return forward(**batch)
    inputs, _ = batch
    return forward(inputs)


def output_loss(output: Any, loss_fn: LossFn | None, batch: Any) -> Tensor:
    """The loss of a batch's output; without loss_fn the one that the output holds."""
    if loss_fn is not None:
        return loss_fn(output, batch if isinstance(batch, Mapping) else batch[1])
    loss = output["loss"] if isinstance(output, Mapping) else getattr(output, "loss", None)
    if not isinstance(loss, Tensor):
        raise InputError(
            f"loss_fn is None but the model's output ({type(output).__name__}) has no tensor named 'loss'; pass a loss_fn."
        )
    return loss


def _is_likelihood(loss_fn: LossFn) -> bool:
    """Whether a loss is a −log likelihood in its natural parameters: cross-entropy of logits, mean squared error."""
    cross_entropy = nn.functional.cross_entropy, nn.functional.binary_cross_entropy_with_logits
    if isinstance(loss_fn, nn.CrossEntropyLoss | nn.BCEWithLogitsLoss):
        plain = getattr(loss_fn, "label_smoothing", 0) == 0 and getattr(loss_fn, "pos_weight", None) is None
        return plain and loss_fn.weight is None
    return loss_fn in (*cross_entropy, nn.functional.mse_loss) or isinstance(loss_fn, nn.MSELoss)


class _Loss:
    """Outputs and losses of batches at θ, with the model's constants bound (copied for every call if it writes to them)."""

    def __init__(
        self,
        model: nn.Module,
        loss_fn: LossFn | None,
        parameters: Parameters,
        constants: Mapping[str, Tensor],
        *,
        fresh_constants: bool,
    ) -> None:
        self.model, self.loss_fn, self.parameters, self.constants = model, loss_fn, parameters, constants
        self.fresh_constants = fresh_constants

    def term(self, read: Read, weight: float) -> Term:
        """θ -> weight times the loss of the batch that is read."""
        if self.loss_fn is None:  # the model computes it, and what it is a loss of is not known
            return lambda theta: output_loss(self.output(theta, read()), None, {}) * weight
        return Composed(
            lambda theta: self.output(theta, read()),
            lambda z: output_loss(z, self.loss_fn, read()) * weight,
            likelihood=_is_likelihood(self.loss_fn),
        )

    def output(self, theta: Tensor, batch: Any) -> Any:
        return self.with_constants(
            theta, batch, self.copied_constants() if self.fresh_constants else self.constants
        )

    def copied_constants(self) -> dict[str, Tensor]:
        return {name: tensor.clone() for name, tensor in self.constants.items()}

    def with_constants(self, theta: Tensor, batch: Any, constants: Mapping[str, Tensor]) -> Any:
        """The model's output, with these constants."""
        tensors = {**constants, **self.parameters.unpack(theta)}

        def forward(*inputs: Any, **named: Any) -> Any:
            return functional_call(self.model, tensors, inputs, named)

        return batch_output(forward, batch)


def placed(value: Any, dtype: torch.dtype, device: torch.device) -> Any:
    """Tensors inside tuples, lists and mappings on the device, the floating-point ones in dtype."""
    if isinstance(value, Tensor):
        return value.to(device=device, dtype=dtype if value.is_floating_point() else None)
    if isinstance(value, Mapping):
        return {key: placed(item, dtype, device) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return tuple(placed(item, dtype, device) for item in value)
    return value


def _leading_dimension(batch: Any) -> int:
    """The number of examples: the length of the first tensor in the batch."""
    if isinstance(batch, Tensor):
        return batch.shape[0]
    items = batch.values() if isinstance(batch, Mapping) else batch
    for item in items:
        if isinstance(item, Tensor | Mapping | tuple):
            return _leading_dimension(item)
    raise InputError("a batch holds no tensor, so its examples cannot be counted; pass count=.")


def _with_batch_statistics(model: nn.Module) -> nn.Module:
    model = copy.deepcopy(model)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._NormBase):
            module.train()
    return model


def _refuse_changing_buffers(loss_of: _Loss, theta: Tensor, batch: Any, model: nn.Module) -> None:
    after = loss_of.copied_constants()
    with torch.no_grad():
        loss_of.with_constants(theta, batch, after)
    changed = [n for n, _ in model.named_buffers() if not after[n].equal(loss_of.constants[n])]
    if changed:
        raise InputError(
            f"the loss is not a function of θ: a forward pass changes the buffer {changed[0]!r} "
            "(BatchNorm in train mode?); call model.eval() first, or pass batchnorm='batch'."
        )


def _refuse_random_loss(objective: Objective, theta: Tensor, model: nn.Module) -> None:
    first, second = objective(theta), objective(theta)
    if first.equal(second) or (first.isnan() and second.isnan()):
        return
    dropout = [
        n for n, m in model.named_modules() if isinstance(m, nn.modules.dropout._DropoutNd) and m.training
    ]
    where = f" (dropout {dropout[0]!r} is in train mode)" if dropout else ""
    raise InputError(
        f"the loss is not a function of θ: two evaluations at the same θ gave {first.item():.9g} and "
        f"{second.item():.9g}{where}; call model.eval() first, or fix the noise."
    )


def _refuse_random_data(objective: Objective, again: Objective, theta: Tensor) -> None:
    first, second = objective(theta), again(theta)
    tolerance = 1e3 * torch.finfo(objective.dtype).eps * max(1.0, abs(float(first)))
    if abs(float(first - second)) > tolerance:
        raise InputError(
            f"the data differ between two passes: the loss was {first.item():.9g}, then {second.item():.9g}; "
            "turn random augmentation and drop_last off, or pass a list of batches."
        )

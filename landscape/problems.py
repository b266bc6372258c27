"""Problems: a model, its data and its loss, by name or as the user's own ``package.module:attribute``."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .calls import format_call, import_attribute, parse_call
from .errors import InputError, told
from .networks import BatchNormPolicy, LossFn, model_objective
from .objective import Objective
from .parameters import Parameters
from .results import Solution

Data = Any  # (inputs, targets), or a mapping of tensors; examples along the first dimension
Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class Problem:
    """A model with its data and loss: what optimizers train on and what their solutions are measured on.

    Args:
        name: how it is called in records and pictures.
        model: () -> nn.Module, freshly initialised from PyTorch's random state at every call.
        loss_fn: (output, target) -> mean over the batch; None if the model's output carries its ``loss``.
        train, validation, test: (inputs, targets), or a mapping of tensors for models that take keywords; examples
            along the first dimension. Validation and test are optional and never trained on.
        metric: a mean over the batch to report beside the loss, as accuracy is.
        epochs: passes over the training data that mini-batch recipes make unless they say otherwise.
        batch_size: examples evaluated at a time; bounds memory, changes nothing but rounding (except in full-batch
            training with BatchNorm, whose statistics are those of such a piece).
    """

    name: str
    model: Callable[[], nn.Module]
    loss_fn: LossFn | None
    train: Data
    validation: Data = None
    test: Data = None
    metric: LossFn | None = None
    epochs: int = 75
    batch_size: int = 5000

    def __post_init__(self) -> None:
        for split in SPLITS:
            data = getattr(self, split)
            _check_data(self.name, split, data)
            if data is not None and examples(data) == 0:
                raise InputError(
                    f"the problem {self.name!r} has no example in its {split} data; give at least one."
                )

    def build(self, seed: int) -> nn.Module:
        """The model as initialised with a seed; PyTorch's global random state stays as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            try:
                return self.model()
            except Exception as error:
                raise InputError(
                    f"the model of the problem {self.name!r} cannot be made: {told(error)}."
                ) from error

    def objective(
        self,
        split: Split = "train",
        *,
        solution: Solution | None = None,
        measure: LossFn | None = None,
        batchnorm: BatchNormPolicy = "eval",
        dtype: torch.dtype = torch.float64,
        device: torch.device | str = "cpu",
    ) -> Objective:
        """The mean loss (or another measure) over a split, as a function of θ, with the model in eval mode.

        Running statistics are those of ``solution``, if it has any. With batchnorm="batch" they are computed from
        the data at every θ, all examples in one batch.
        """
        data = getattr(self, split)
        if data is None:
            raise InputError(f"the problem {self.name!r} has no {split} data.")
        size = examples(data) if batchnorm == "batch" else self.batch_size
        return model_objective(
            self.build(0).eval(),
            measure or self.loss_fn,
            list(batches(data, size)),
            dtype=dtype,
            device=device,
            batchnorm=batchnorm,
            buffers=solution.buffer_tensors() if solution else None,
        )

    @cached_property
    def fingerprint(self) -> str:
        """A short hash of the name, the model's parameters by name and shape, all data, and what the loss and the metric
        of 64 examples are at initialisation (six digits), so that another activation or loss is another problem."""
        model = self._refuse_shared_model()
        parameters = Parameters.of(model)
        # Statistics of a batch make its size matter beyond rounding.
        batch_size = self.batch_size if self.has_batch_statistics else 0
        told = (
            self.name,
            parameters.names,
            parameters.shapes,
            repr(model),
            self._first_losses(),
            batch_size,
        )
        digest = hashlib.sha256(repr(told).encode())
        for split in SPLITS:
            for tensor in _leaves(getattr(self, split)):
                digest.update(repr((split, tensor.dtype, tuple(tensor.shape))).encode())
                digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
        return digest.hexdigest()[:16]

    @cached_property
    def has_batch_statistics(self) -> bool:
        """Whether the model has normalization layers that can work with the statistics of a batch."""
        return any(isinstance(m, nn.modules.batchnorm._NormBase) for m in self.build(0).modules())

    def _refuse_shared_model(self) -> nn.Module:
        """A model; InputError unless another one of the same seed is equal and shares nothing with it."""
        models = self.build(0), self.build(0)
        one, two = ({**dict(m.named_parameters()), **dict(m.named_buffers())} for m in models)
        for name, tensor in one.items():
            if tensor.numel() and tensor.data_ptr() == two[name].data_ptr():
                raise InputError(
                    f"the model of the problem {self.name!r} must be a new module at every call, but {name!r} is the same tensor "
                    "in two of them; make the module, or a copy.deepcopy of it, inside the function."
                )
            if not torch.equal(tensor, two[name]):
                raise InputError(
                    f"the model of the problem {self.name!r} must be initialised from PyTorch's random state, "
                    f"but {name!r} differs between two models of one seed; draw it with torch."
                )
        return models[0]

    def _first_losses(self) -> list[str]:
        model, data = self.build(0).eval(), [select(self.train, slice(64))]
        measures = [self.loss_fn, *([self.metric] if self.metric else [])]
        try:
            for split in self.sizes:
                some = [select(getattr(self, split), slice(64))]
                model_objective(model, self.loss_fn, some, dtype=torch.float64)
            objectives = [model_objective(model, measure, data, dtype=torch.float64) for measure in measures]
            losses = [float(objective(objective.parameters.theta(model))) for objective in objectives]
        except InputError:
            raise
        except Exception as error:
            raise InputError(
                f"model, data and loss of the problem {self.name!r} do not go together: {told(error)}."
            ) from error
        if not math.isfinite(losses[0]):
            raise InputError(
                f"the loss of the problem {self.name!r} is {losses[0]} at initialisation; check data and loss."
            )
        return [f"{loss:.6g}" for loss in losses]

    @property
    def sizes(self) -> dict[str, int]:
        """How many examples each split has."""
        return {s: examples(getattr(self, s)) for s in SPLITS if getattr(self, s) is not None}

    def check(self, solution: Solution) -> None:
        """Raises InputError unless the solution was found on this very problem."""
        theirs = solution.about.get("problem_fingerprint")
        if theirs != self.fingerprint:
            raise InputError(
                f"the solution {solution.label} belongs to the problem {solution.problem!r} (fingerprint {theirs}), "
                f"not to {self.name!r} as it is now ({self.fingerprint}); name the problem it was trained on, "
                "or undo what changed in its data or model since (what is random in them must be seeded)."
            )


def load_problem(name: str) -> Problem:
    """The problem of a name: one of catalog.NAMED, with settings as in ``mnist-fcp(train=5000)``, or the user's own as
    ``package.module:attribute``, where the attribute is a Problem or a function that returns one."""
    return _load(format_call(*parse_call(name)))


def examples(data: Data) -> int:
    """How many examples a split holds; InputError if its tensors disagree."""
    lengths = {len(tensor) if tensor.ndim else 0 for tensor in _leaves(data)}
    if len(lengths) != 1:
        raise InputError(
            f"the tensors of one split must have the same first dimension, got {sorted(lengths)}."
        )
    return lengths.pop()


def select(data: Data, index: Tensor | slice) -> Data:
    """The examples of a split that an index picks."""
    if isinstance(data, Tensor):
        return data[index]
    if isinstance(data, Mapping):
        return {key: select(value, index) for key, value in data.items()}
    return tuple(select(item, index) for item in data)


def batches(data: Data, size: int) -> Iterator[Data]:
    """The split in order, ``size`` examples at a time."""
    for start in range(0, examples(data), size):
        yield select(data, slice(start, start + size))


@lru_cache(maxsize=8)
def _load(call: str) -> Problem:
    from .catalog import NAMED

    name, settings = parse_call(call)
    if ":" in name:
        found = import_attribute(name)
    elif name in NAMED:
        found = NAMED[name]
    else:
        raise InputError(
            f"there is no problem {name!r}; choose one of {', '.join(NAMED)}, or name your own as package.module:attribute."
        )
    if isinstance(found, Problem) and settings:
        raise InputError(
            f"{name!r} is a Problem, which takes no settings, got {settings}; name a function that makes it."
        )
    if callable(found) and not isinstance(found, Problem):
        try:
            found = found(**settings)
        except InputError:
            raise
        except Exception as error:
            raise InputError(
                f"the problem {name!r} cannot be made with {settings}: {told(error)}."
            ) from error
    if not isinstance(found, Problem):
        raise InputError(
            f"{name!r} is a {type(found).__name__}, but must be a landscape.Problem or a function that returns one."
        )
    return replace(found, name=call)


def _check_data(name: str, split: str, data: Any) -> None:
    pair = isinstance(data, tuple | list) and len(data) == 2
    if data is not None and not pair and not isinstance(data, Mapping):
        got = f"a {type(data).__name__}" + (f" of {len(data)}" if isinstance(data, tuple | list) else "")
        raise InputError(
            f"the {split} data of {name!r} must be (inputs, targets) or a mapping of tensors, got {got}."
        )
    for leaf in _leaves(data):
        if not isinstance(leaf, Tensor):
            raise InputError(
                f"the {split} data of {name!r} must be tensors, got a {type(leaf).__name__}; convert it, for example with "
                "torch.as_tensor."
            )


def _leaves(data: Any) -> Iterator[Any]:
    """What lies inside tuples, lists and mappings, in one order however the keys of a mapping come."""
    if isinstance(data, Mapping):
        data = [data[key] for key in sorted(data)]
    if isinstance(data, tuple | list):
        for item in data:
            yield from _leaves(item)
    elif data is not None:
        yield data

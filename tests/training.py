"""What several tests of optimizers train with: bases, a closure that notes where it was called, and ways to stop and go on."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from optimizers.alto import ALTO
from optimizers.e import E
from optimizers.lamb import Lamb

F64 = torch.float64
BASES: dict[str, Callable[[Any], Optimizer]] = {
    "sgd": lambda params: SGD(params, lr=0.05, momentum=0.9, weight_decay=1e-3),
    "adamw": lambda params: AdamW(params, lr=0.01),
    "e-sgd": lambda params: E(SGD(params, lr=0.05)),
    "alto": lambda params: ALTO(params, lr=0.01),
    "lamb": lambda params: Lamb(params, lr=0.01),
}


def parameter(*values: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values, dtype=F64))


def closure_of(
    optimizer: Optimizer, loss: Callable[[], Tensor], seen: list[Tensor] | None = None
) -> Callable[[], Tensor]:
    """Notes in ``seen`` where it was called."""

    def closure() -> Tensor:
        if seen is not None:
            seen.append(
                torch.cat([p.detach().reshape(-1) for g in optimizer.param_groups for p in g["params"]])
            )
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value.detach()

    return closure


def going_on(way: str, trained: Any, stopped: Any, fresh: Callable[[Any], Any]) -> tuple[Any, Any]:
    """(a copy of what was trained, an optimizer of it that goes on where the stopped one is), by "deepcopy" of both or by a
    "file": the state dict saved, and loaded into the optimizer that ``fresh`` makes of the copy."""
    if way == "deepcopy":
        return copy.deepcopy((trained, stopped))
    file = io.BytesIO()
    torch.save(stopped.state_dict(), file)
    file.seek(0)
    second = copy.deepcopy(trained)
    resumed = fresh(second)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    return second, resumed

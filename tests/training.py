"""What several tests train with: bases, a closure that notes where it was called, ways to stop and go on, and two minima."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from landscape import Objective, model_objective
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


def two_minima(batch: int = 60) -> tuple[Objective, Tensor, Tensor]:
    """A small classifier of 60 random examples, in batches of so many, and two of its minima."""
    inputs = torch.randn(60, 4, generator=torch.Generator().manual_seed(0), dtype=F64)
    labels = torch.randint(3, (60,), generator=torch.Generator().manual_seed(1))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        models = [nn.Sequential(nn.Linear(4, 12), nn.Softplus(), nn.Linear(12, 3)).double() for _ in range(2)]
    for model in models:
        lbfgs = torch.optim.LBFGS(model.parameters(), max_iter=60, line_search_fn="strong_wolfe")

        def closure(model: nn.Module = model, lbfgs: Optimizer = lbfgs) -> Tensor:
            lbfgs.zero_grad()
            loss = nn.functional.cross_entropy(model(inputs), labels)
            loss.backward()
            return loss

        lbfgs.step(closure)  # pyright: ignore[reportArgumentType]
    batches = list(zip(inputs.split(batch), labels.split(batch), strict=True))
    objective = model_objective(models[0], nn.functional.cross_entropy, batches)
    assert objective.parameters is not None
    return objective, objective.parameters.theta(models[0]), objective.parameters.theta(models[1])

"""Points of the benchmarks' models where curvature is measured: at random weights, and at weights that know the data by heart.

    for spot in spots("mlp", 2048): spot.objective, spot.theta, spot.case.model

"digits" is the model of "mlp" with real data, scikit-learn's digits enlarged to 28 × 28; the data and labels of other cases are
random. Training is Adam on gradients of all data, the same on every run.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from landscape import Objective, model_objective
from landscape.datasets import digits

from .models import Case, case

DEPTH, STEPS, RATE = 0.05, 300, 1e-3  # the loss to train to, in at most so many steps


@dataclass(frozen=True, eq=False)
class Spot:
    """A case whose model has the weights theta (P,), and the objective of it."""

    name: str
    case: Case
    objective: Objective
    theta: Tensor

    @classmethod
    def of(cls, name: str, given: Case) -> "Spot":
        objective = model_objective(given.model, given.loss_fn, [given.batch])
        assert objective.parameters is not None
        return cls(name, given, objective, objective.parameters.theta(given.model))

    @property
    def trained(self) -> "Spot":
        return Spot.of(f"{self.name}, trained", self._moved(_descended(self.objective, self.theta)))

    @property
    def double(self) -> "Spot":
        """The same point in double precision."""
        inputs, targets = self.case.batch
        inputs = inputs.double() if inputs.is_floating_point() else inputs
        model = copy.deepcopy(self.case.model).double()
        return Spot.of(self.name, replace(self.case, model=model, batch=(inputs, targets)))

    def _moved(self, theta: Tensor) -> Case:
        assert self.objective.parameters is not None
        model = copy.deepcopy(self.case.model)
        model.load_state_dict(self.objective.parameters.unpack(theta), strict=False)
        return replace(self.case, model=model)


def spots(name: str, examples: int) -> Iterator[Spot]:
    """Of a case: its random weights, then its trained ones."""
    first = Spot.of(f"{name}, {examples}", _digits(examples) if name == "digits" else case(name, examples))
    yield first
    yield first.trained


def _digits(examples: int) -> Case:
    (images, labels), _, _ = digits()
    square = images[:examples].float().unflatten(1, (1, 8, 8))
    large = F.interpolate(square, size=(28, 28), mode="bilinear", align_corners=False)
    return replace(case("mlp", 1), name="digits", batch=(large.flatten(1), labels[:examples]))


def _descended(objective: Objective, theta: Tensor) -> Tensor:
    point = theta.clone()
    adam = torch.optim.Adam([point], lr=RATE)
    for _ in range(STEPS):
        if objective(point) < DEPTH:
            break
        point.grad = objective.grad(point)
        adam.step()
    return point

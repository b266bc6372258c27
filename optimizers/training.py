"""One training run of fit: the model, its optimizer, what has been seen so far, and all of it as a state to go on from."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from landscape import InputError, Parameters, Problem, Recorder, Solution
from landscape.followed import rate_of
from landscape.networks import LossFn, placed
from landscape.problems import SPLITS, Data, examples, select
from landscape.progress import progress
from landscape.results import NAN

from .closures import DataClosure

OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]
ScheduleFactory = Callable[[Optimizer], LRScheduler]
Kept = Literal["last", "validation"]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What fit was told of the run; see there."""

    epochs: int
    batch_size: int | None
    seed: int
    keep: Kept
    tail: int
    curve_points: int

    @property
    def measured(self) -> set[int]:
        """The epochs at which train and validation loss are measured."""
        spread = np.linspace(0, self.epochs, self.curve_points + 1).round().astype(int).tolist()
        return {*spread, *range(self.curve_points)}


class TrainingRun:
    """One training run: the model, its optimizer, and what has been seen so far."""

    def __init__(
        self,
        problem: Problem,
        model: nn.Module,
        factory: OptimizerFactory,
        *,
        plan: Plan,
        schedule: ScheduleFactory | None,
    ) -> None:
        trained = [p for p in model.parameters() if p.requires_grad]
        self.problem, self.model, self.plan = problem, model, plan
        self.optimizer = factory(trained)
        self.scheduler = schedule(self.optimizer) if schedule else None
        self.parameters = Parameters.of(model)
        self.device = trained[0].device
        self.train_data: Data = placed(problem.train, trained[0].dtype, self.device)
        self.validation_data: Data | None = placed(problem.validation, trained[0].dtype, self.device)
        self.count = examples(self.train_data)
        self.batch_size = min(plan.batch_size or self.count, self.count)
        self.order = torch.Generator().manual_seed(plan.seed)
        self.tail: deque[tuple[Tensor, float]] = deque(maxlen=plan.tail)
        self.curve: list[tuple[int, float, float]] = []
        self.best: tuple[float, int, dict[str, Tensor]] = (math.inf, 0, {})
        self.gradients = self.losses = 0.0
        self.epoch = 1  # the one under way, of which so many steps were made, and the losses they saw
        self.steps, self.seen = 0, 0.0
        self.order_state = self.order.get_state()  # from which the epoch's order is drawn
        self.status = ""  # how the run ended
        self.recorder: Recorder | None = None
        self.saved: Callable[[], None] = lambda: None  # called wherever the run can be taken up again

    def train(self, *, title: str, shown: bool) -> None:
        """From where the run is to its end; ``status`` says in words how it ended."""
        if self.status:
            return
        epochs = self.plan.epochs
        if not self.curve:
            self._measure(0)
        with progress(title, epochs, shown=shown, done=self.epoch - 1) as advance:
            while not self.status and self.epoch <= epochs:
                loss = self._epoch()
                self._between(loss)
                advance(note=f"loss {loss:.3g}")
        if self.recorder:
            self.recorder.close()
        self._end()

    def _between(self, loss: float) -> None:
        """What is done between two epochs: look at the loss, change the rate, measure."""
        if not np.isfinite(loss) or not self.parameters.theta(self.model).isfinite().all():
            self.status = f"diverged in epoch {self.epoch} (loss {loss})"
            return
        if self.scheduler:
            self.scheduler.step()
        converged = self.batch_size == self.count and bool(getattr(self.optimizer, "converged", False))
        if self.epoch in self.plan.measured or converged:
            self._measure(self.epoch)
        if converged:
            self.status = f"converged in epoch {self.epoch}"
        else:
            self.epoch, self.steps, self.seen = self.epoch + 1, 0, 0.0
            self.order_state = self.order.get_state()
            self.saved()

    def _end(self) -> None:
        """Choose the parameters of the solution."""
        if self.status.startswith("diverged"):
            self.status += f"; these are the parameters of epoch {self._return_to_best()}"
            return
        if not self.status:
            self._finish()
            self.status = f"ran {self.plan.epochs} epochs"
        if self.plan.keep == "validation":
            epoch = self._return_to_best()
            self.status += f"; these are the parameters of epoch {epoch}, of lowest validation loss"

    def _epoch(self) -> float:
        """Steps through the training data once, or what is left of the epoch; the mean of the losses that the optimizer saw."""
        self.model.train()
        pieces = self._pieces()
        full_batch, left = self.batch_size == self.count, self.plan.epochs - self.epoch
        for i in range(self.steps, len(pieces)):
            kept = full_batch or (left + 1) * len(pieces) - i <= self.plan.tail
            before = self.parameters.theta(self.model) if kept else None
            index = pieces[i]
            batch = self.train_data if index is None else select(self.train_data, index)
            loss = float(self._step(batch))
            self.seen += loss * examples(batch) / self.count
            if before is not None:
                self.tail.append((before, rate_of(self.optimizer)))
            if self.recorder:
                done = min((i + 1) * self.batch_size, self.count) / self.count
                self.recorder.step(epoch=self.epoch - 1 + done)
            self.steps = i + 1
            if not np.isfinite(self.seen):
                break
            self.saved()
        return self.seen

    def _pieces(self) -> list[Tensor | None]:
        """The examples of each step of an epoch; None for all."""
        if self.batch_size == self.count:
            return [None]
        self.order.set_state(self.order_state)
        order = torch.randperm(self.count, generator=self.order)
        return list(order.to(self.device).split(self.batch_size))

    def _step(self, batch: Data) -> Tensor:
        closure = self._closure(batch, self.recorder)
        loss = self.optimizer.step(closure)  # type: ignore[arg-type]
        self.gradients += closure.spent["gradients"] / self.count
        self.losses += closure.spent["losses"] / self.count
        return torch.as_tensor(loss).detach()

    def _finish(self) -> None:
        """Let an optimizer that chose another iterate than the last (RS and SA can) put it in place."""
        last = self.parameters.theta(self.model)
        getattr(self.optimizer, "finish", lambda: None)()
        if not last.equal(self.parameters.theta(self.model)):
            self.tail.clear()

    def _closure(self, data: Data, recorder: Recorder | None = None) -> DataClosure:
        piece = self.problem.batch_size
        return _Recorded(self.model, self.problem.loss_fn, data, piece=piece, recorder=recorder)

    def _measure(self, epoch: int) -> None:
        self.model.eval()
        train = float(self._closure(self.train_data).loss())
        held_out = NAN if self.validation_data is None else float(self._closure(self.validation_data).loss())
        self.curve.append((epoch, train, held_out))
        score = train if self.plan.keep == "last" else held_out
        if epoch == 0 and math.isnan(score):
            split = "train" if self.plan.keep == "last" else "validation"
            raise InputError(
                f"the {split} loss of the problem {self.problem.name!r} is nan at initialisation; check its data."
            )
        if score <= self.best[0]:
            state = {name: t.detach().clone() for name, t in self.model.state_dict().items()}
            self.best = (score, epoch, state)

    def _return_to_best(self) -> int:
        """Go back to the measured epoch of lowest train (or validation) loss, and say which it was."""
        _, epoch, state = self.best
        self.model.load_state_dict(state)
        self.curve = [point for point in self.curve if point[0] <= epoch]
        self.tail.clear()
        return epoch

    def _constants(self) -> Iterator[tuple[str, Tensor]]:
        """What the loss depends on beside θ: buffers and frozen parameters."""
        yield from self.model.named_buffers()
        yield from ((name, p) for name, p in self.model.named_parameters() if not p.requires_grad)

    def solution(self, optimizer: str, about: dict[str, Any]) -> Solution:
        theta = self.parameters.theta(self.model)
        curve = np.array(self.curve)
        while self.tail and self.tail[-1][0].equal(theta):  # an optimizer that had converged did not move
            self.tail.pop()
        tail = [t for t, _ in self.tail]
        found = Solution(
            problem=self.problem.name,
            optimizer=optimizer,
            seed=self.plan.seed,
            theta=theta.cpu().numpy(),
            names=self.parameters.names,
            shapes=self.parameters.shapes,
            buffers={name: t.detach().cpu().numpy() for name, t in self._constants()},
            curve_epoch=curve[:, 0],
            curve_train=curve[:, 1],
            curve_validation=curve[:, 2],
            tail=torch.stack([*tail, theta]).cpu().numpy() if tail else np.zeros((0, theta.numel())),
            tail_lr=np.array([lr for _, lr in self.tail]),
            gradients=self.gradients,
            losses=self.losses,
            status=self.status,
            about=about,
        )
        return replace(found, **_losses(self.problem, found, theta))


class _Recorded(DataClosure):
    """A closure after which the recorder takes loss and gradient, if they are those at θ_t, before an optimizer goes on."""

    def __init__(self, *arguments: Any, piece: int, recorder: Recorder | None) -> None:
        super().__init__(*arguments, piece=piece)
        self.recorder = recorder

    def __call__(self) -> Tensor:
        loss = super().__call__()
        if self.recorder:
            self.recorder.hold_gradient(loss)
        return loss


def _losses(problem: Problem, found: Solution, theta: Tensor) -> dict[str, float]:
    """Loss and metric on every split that the problem has."""
    measures: dict[str, LossFn | None] = {"loss": None, "accuracy": problem.metric}
    return {
        f"{split}_{name}": float(
            problem.objective(split, solution=found, measure=measure, dtype=theta.dtype, device=theta.device)(
                theta
            )
        )
        for split in SPLITS
        if split in problem.sizes
        for name, measure in measures.items()
        if name == "loss" or measure is not None
    }

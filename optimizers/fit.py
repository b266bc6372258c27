"""fit: train a problem's model with any optimizer, and keep what later stages need as a Solution."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from landscape import InputError, Parameters, Problem, Solution
from landscape.networks import LossFn, placed
from landscape.problems import SPLITS, Data, examples, select
from landscape.progress import progress
from landscape.records import versions
from landscape.results import NAN

from .closures import DataClosure

OptimizerFactory = Callable[[Iterable[nn.Parameter]], Optimizer]
ScheduleFactory = Callable[[Optimizer], LRScheduler]
Kept = Literal["last", "validation"]


def fit(
    problem: Problem,
    optimizer: OptimizerFactory,
    *,
    epochs: int,
    batch_size: int | None = None,
    seed: int = 0,
    schedule: ScheduleFactory | None = None,
    keep: Kept = "last",
    label: str | None = None,
    tail: int = 16,
    curve_points: int = 60,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
    show_progress: bool = True,
    about: Mapping[str, Any] | None = None,
) -> Solution:
    """The solution that an optimizer finds from the initialisation of a seed.

    Args:
        problem: trained on its train split only; the other splits are looked at, never learned from.
        optimizer: parameters -> torch optimizer. It is always given a closure, so any optimizer works.
        epochs: passes over the training data.
        batch_size: examples a step, reshuffled every epoch; None (or as many as there are) takes the whole
            split for every step, in pieces of ``problem.batch_size`` whose gradients add up.
        seed: of initialisation, order and any noise in the model. Same seed, same machine, same solution.
        schedule: optimizer -> learning-rate scheduler, stepped once an epoch.
        keep: "last", the parameters at the end; or "validation", those of the measured epoch with the lowest
            validation loss, as if training had been stopped there. The curve then ends there, and there is no tail.
            (Where an optimizer ends at an iterate of its own choice, as SmoothedPerturbation can, that is not taken.)
        tail: how many of the last steps are kept with their learning rates, for corridor measures.
        curve_points: at how many epochs train and validation loss are measured: so many at first, so many spread evenly.

    A run ends early if the optimizer says that it has converged (LBFGS does), or at the first loss that is not
    finite; ``status`` says so, and θ is then that of the measured epoch with the lowest train (or validation) loss.
    """
    for name, value in {"epochs": epochs, "tail": tail, "curve_points": curve_points}.items():
        if value < 1:
            raise InputError(f"{name} must be at least 1, got {value}.")
    if not 0 <= seed < 2**63:
        raise InputError(f"seed must be a whole number from 0 to 2**63 - 1, got {seed}.")
    if batch_size is not None and batch_size < 1:
        raise InputError(f"batch_size must be at least 1, or None for the whole data, got {batch_size}.")
    if keep not in get_args(Kept):
        raise InputError(f"keep must be 'last' or 'validation', got {keep!r}.")
    if keep == "validation" and problem.validation is None:
        raise InputError(
            f"keep='validation' needs validation data, which the problem {problem.name!r} has not."
        )
    fingerprint = problem.fingerprint  # refuses a problem that cannot be run
    devices = [torch.device(device)] if torch.device(device).type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)
        if devices:
            torch.cuda.manual_seed_all(seed)
        model = problem.build(seed).to(device=device, dtype=dtype)
        run = _Run(problem, model, optimizer, batch_size, seed, tail, keep)
        status = run.train(
            epochs, schedule=schedule, curve_points=curve_points, title=label or "fit", shown=show_progress
        )
    settings = {
        "epochs": epochs,
        "batch_size": batch_size,
        "keep": keep,
        "dtype": str(dtype),
        "device": str(device),
        "problem_fingerprint": fingerprint,
        "versions": versions(),
    }
    name = label or type(run.optimizer).__name__.lower()
    return run.solution(name, status, {**settings, **(about or {})})


class _Run:
    """One training run: the model, its optimizer, and what has been seen so far."""

    def __init__(
        self,
        problem: Problem,
        model: nn.Module,
        factory: OptimizerFactory,
        batch_size: int | None,
        seed: int,
        tail: int,
        keep: Kept,
    ) -> None:
        trained = [p for p in model.parameters() if p.requires_grad]
        self.problem, self.model, self.seed, self.keep = problem, model, seed, keep
        self.optimizer = factory(trained)
        self.parameters = Parameters.of(model)
        like = {"dtype": trained[0].dtype, "device": trained[0].device}
        self.train_data: Data = placed(problem.train, **like)
        self.validation_data: Data | None = placed(problem.validation, **like)
        self.count = examples(self.train_data)
        self.batch_size = min(batch_size or self.count, self.count)
        self.order = torch.Generator().manual_seed(seed)
        self.tail: deque[tuple[Tensor, float]] = deque(maxlen=tail)
        self.curve: list[tuple[int, float, float]] = []
        self.best: tuple[float, int, dict[str, Tensor]] = (math.inf, 0, {})
        self.gradients = self.losses = 0.0

    def train(
        self, epochs: int, *, schedule: ScheduleFactory | None, curve_points: int, title: str, shown: bool
    ) -> str:
        """How the run ended, in words."""
        scheduler = schedule(self.optimizer) if schedule else None
        measured = {
            *np.linspace(0, epochs, curve_points + 1).round().astype(int).tolist(),
            *range(curve_points),
        }
        self._measure(0)
        with progress(title, epochs, shown=shown) as advance:
            for epoch in range(1, epochs + 1):
                loss = self._epoch(left=epochs - epoch)
                if not np.isfinite(loss) or not self.parameters.theta(self.model).isfinite().all():
                    best = self._return_to_best()
                    return (
                        f"diverged in epoch {epoch} (loss {loss}); these are the parameters of epoch {best}"
                    )
                if scheduler:
                    scheduler.step()
                converged = self.batch_size == self.count and bool(
                    getattr(self.optimizer, "converged", False)
                )
                if epoch in measured or converged:
                    self._measure(epoch)
                advance(note=f"loss {loss:.3g}")
                if converged:
                    return self._ended(f"converged in epoch {epoch}")
        self._finish()
        return self._ended(f"ran {epochs} epochs")

    def _ended(self, how: str) -> str:
        if self.keep == "last":
            return how
        epoch = self._return_to_best()
        return f"{how}; these are the parameters of epoch {epoch}, of lowest validation loss"

    def _epoch(self, *, left: int) -> float:
        """Steps through the training data once, with ``left`` epochs to come; the mean of the losses that the optimizer saw."""
        self.model.train()
        full_batch = self.batch_size == self.count
        order = None if full_batch else torch.randperm(self.count, generator=self.order)
        pieces = (
            [None] if order is None else order.to(next(self.model.parameters()).device).split(self.batch_size)
        )
        seen = 0.0
        for i, index in enumerate(pieces):
            kept = full_batch or (left + 1) * len(pieces) - i <= (self.tail.maxlen or 0)
            before = self.parameters.theta(self.model) if kept else None
            batch = self.train_data if index is None else select(self.train_data, index)
            seen += float(self._step(batch)) * examples(batch) / self.count
            if before is not None:
                self.tail.append((before, rate_of(self.optimizer)))
            if not np.isfinite(seen):
                break
        return seen

    def _step(self, batch: Data) -> Tensor:
        closure = self._closure(batch)
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

    def _closure(self, data: Data) -> DataClosure:
        return DataClosure(self.model, self.problem.loss_fn, data, piece=self.problem.batch_size)

    def _measure(self, epoch: int) -> None:
        self.model.eval()
        train = float(self._closure(self.train_data).loss())
        held_out = NAN if self.validation_data is None else float(self._closure(self.validation_data).loss())
        self.curve.append((epoch, train, held_out))
        score = train if self.keep == "last" else held_out
        if epoch == 0 and math.isnan(score):
            split = "train" if self.keep == "last" else "validation"
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

    def solution(self, optimizer: str, status: str, about: dict[str, Any]) -> Solution:
        theta = self.parameters.theta(self.model)
        curve = np.array(self.curve)
        while self.tail and self.tail[-1][0].equal(theta):  # an optimizer that had converged did not move
            self.tail.pop()
        tail = [t for t, _ in self.tail]
        found = Solution(
            problem=self.problem.name,
            optimizer=optimizer,
            seed=self.seed,
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
            status=status,
            about=about,
        )
        return replace(found, **_losses(self.problem, found, theta))


def rate_of(optimizer: Optimizer) -> float:
    """The learning rate of an optimizer's last step, in its first group; where it chose a rate itself (CLR), times that."""
    return float(optimizer.param_groups[0].get("lr", NAN)) * getattr(optimizer, "rate", 1.0)


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

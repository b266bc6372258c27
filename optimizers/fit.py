"""fit: train a problem's model with any optimizer, and keep what later stages need as a Solution."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, get_args

import torch

from landscape import InputError, Problem, Recorder, Recording, Solution
from landscape.recording import DirectoryLock
from landscape.records import versions

from .resuming import StateFile
from .training import Kept as Kept
from .training import OptimizerFactory, Plan, ScheduleFactory, TrainingRun


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
    record: Recording | str | os.PathLike[str] | None = None,
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
        record: where the points on the way are recorded as a Trajectory (or a Recording, which says how). The run can then
            be killed: called again with the same arguments, fit goes on from the state it keeps in ``state.pt`` there, and ends
            at the same solution and the same checkpoints, bit for bit; once it has ended it returns that solution again. The
            budget is for the checkpoints, the state comes on top. Loss and gradient are recorded where the optimizer
            evaluates them at θ_t (NSO does not), the rate where it says one (LBFGS does not). Nothing else may record in that
            directory meanwhile.

            Other arguments are refused: problem, label, numbers and words given here, what is optimized, what optimizer and
            schedule print and hold as numbers, the schedule's rates in the first epochs, and the recording but for its
            budget. Not compared is what does not show there: functions that an optimizer holds, a schedule's function later
            on, code. The schedule is copied for its rates, and a function in it called once more for each.

    A run ends early if the optimizer says that it has converged (LBFGS does), or at the first loss that is not
    finite; ``status`` says so, and θ is then that of the measured epoch with the lowest train (or validation) loss.
    """
    _check(problem, epochs, batch_size, seed=seed, keep=keep, tail=tail, curve_points=curve_points)
    plan = Plan(
        epochs=epochs, batch_size=batch_size, seed=seed, keep=keep, tail=tail, curve_points=curve_points
    )
    settings = {
        "epochs": epochs,
        "batch_size": batch_size,
        "keep": keep,
        "dtype": str(dtype),
        "device": str(device),
        "problem_fingerprint": problem.fingerprint,  # refuses a problem that cannot be run
        "versions": versions(),
        **(about or {}),
    }
    devices = [torch.device(device)] if torch.device(device).type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        torch.default_generator.manual_seed(seed)
        if devices:
            torch.cuda.manual_seed_all(seed)
        model = problem.build(seed).to(device=device, dtype=dtype)
        run = TrainingRun(problem, model, optimizer, plan=plan, schedule=schedule)
        name = label or type(run.optimizer).__name__.lower()
        with _recorded(run, record, label=name, settings=settings):
            run.train(title=label or "fit", shown=show_progress)
    return run.solution(name, settings)


@contextmanager
def _recorded(
    run: TrainingRun,
    record: Recording | str | os.PathLike[str] | None,
    *,
    label: str,
    settings: dict[str, Any],
) -> Iterator[None]:
    """Take a run up where its state is, if there is one, and let it record and keep its state inside the block."""
    if record is None:
        yield
        return
    how = record if isinstance(record, Recording) else Recording(record)
    state = StateFile(how, run, label=label, settings=settings)
    with DirectoryLock(state.path.parent) as lock:
        start = state.restore(run)
        if run.status:  # it has ended before
            yield
            return
        run.recorder = Recorder(
            how.directory,
            run.model,
            run.optimizer,
            label=label,
            seed=run.plan.seed,
            problem=run.problem.name,
            start=start or 0,
            about=settings,
            lock=lock,
            **how.settings,
        )
        run.saved = lambda: state.save_when_due(run)
        if start is None:
            state.save(run)
        yield
        state.save(run)


def _check(
    problem: Problem,
    epochs: int,
    batch_size: int | None,
    *,
    seed: int,
    keep: Kept,
    tail: int,
    curve_points: int,
) -> None:
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

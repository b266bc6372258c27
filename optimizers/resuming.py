"""The state of a training run on disk, from which fit goes on where it was killed."""

from __future__ import annotations

import copy
import re
import time
import warnings
from collections import deque
from pathlib import Path
from typing import Any

import torch

from landscape import InputError, Recording
from landscape.records import atomic_file
from landscape.thinning import check_settings
from landscape.trajectories import checkpoint_file, recorded_steps

from .training import TrainingRun

STATE = "state.pt"
_RATES = 10  # epochs whose rates tell one schedule from another


class StateFile:
    """state.pt in a recording's directory: everything the next step depends on, and the arguments it belongs to.

    That is the model, optimizer, scheduler, PyTorch's random state, the order of the examples, the curve, the best and
    the last points so far, and where the recorder is. Tensors and plain values, read without unpickling anything else.
    """

    def __init__(self, how: Recording, run: TrainingRun, *, label: str, settings: dict[str, Any]) -> None:
        self.path = Path(how.directory) / STATE
        self.every = how.state_every
        self.arguments = _arguments(run, label, settings)
        self.recording = how.fixed(label, run.plan.seed)
        self._due = time.monotonic() + self.every

    def restore(self, run: TrainingRun) -> dict[str, float] | None:
        """Put a run that was just made where the saved one was; the recorder's position there, None if nothing was saved.

        The directory must be locked: what a killed run left of a state half written is removed.

        Raises:
            InputError: the state cannot be read, belongs to a run with other arguments or another recording, or its
                checkpoints are gone.
        """
        for left in self.path.parent.glob(f".{STATE}.*.part"):
            left.unlink(missing_ok=True)
        if not self.path.exists():
            return None
        try:
            state = torch.load(self.path, weights_only=True)
            theirs, position = state["arguments"], state["position"]
        except Exception as error:  # a damaged file fails in many ways
            raise InputError(
                f"{self.path} is no state of fit that can be read ({type(error).__name__}); delete {self.path.parent} "
                "to begin anew."
            ) from error
        for name, value in self.arguments.items():
            if name in theirs and theirs[name] != value:
                raise InputError(
                    f"{self.path.parent} holds a run of fit with {name}={theirs[name]!r}, which this call has as {value!r}; "
                    "call it as before, or choose another directory."
                )
        check_settings(self.path.parent, self.recording)
        self._check_checkpoints(state["status"], position)
        _restore(run, state)
        return position

    def _check_checkpoints(self, status: str, position: dict[str, float] | None) -> None:
        """InputError if the first point is gone, or the last one of a run that ended there."""
        folder, last = self.path.parent, int(position["step"]) if position else None
        needed = set() if last == 0 else {0}
        if (
            last and status and not status.startswith("diverged")
        ):  # of points that are not finite there is none
            needed.add(last)
        for step in sorted(needed - set(recorded_steps(folder))):
            raise InputError(
                f"{folder} holds the state of a run whose checkpoints are gone ({checkpoint_file(folder, step).name} is not "
                f"there); bring them back, or delete {folder} to record the run anew."
            )

    def save_when_due(self, run: TrainingRun) -> None:
        if time.monotonic() >= self._due:
            self.save(run)

    def save(self, run: TrainingRun) -> None:
        state = {**_state_of(run), "arguments": self.arguments}
        with atomic_file(self.path) as handle:
            torch.save(state, handle)
        self._due = time.monotonic() + self.every


_PLAIN = ("curve", "best", "gradients", "losses", "epoch", "steps", "seen", "order_state", "status")


def _state_of(run: TrainingRun) -> dict[str, Any]:
    state: dict[str, Any] = {name: getattr(run, name) for name in _PLAIN}
    state |= {"model": run.model.state_dict(), "tail": list(run.tail)}
    state["position"] = run.recorder.position if run.recorder else None
    if run.status:  # it has ended: no step is to come
        return {**state, "best": (*run.best[:2], {})}
    state["optimizer"] = run.optimizer.state_dict()
    state["scheduler"] = run.scheduler.state_dict() if run.scheduler else None
    state["random"] = torch.get_rng_state()
    if run.device.type == "cuda":
        state["random on device"] = torch.cuda.get_rng_state(run.device)
    return state


def _restore(run: TrainingRun, state: dict[str, Any]) -> None:
    for name in _PLAIN:
        setattr(run, name, state[name])
    run.model.load_state_dict(state["model"])
    run.tail = deque(state["tail"], maxlen=run.plan.tail)
    if run.status:
        return
    run.optimizer.load_state_dict(state["optimizer"])
    if run.scheduler:
        run.scheduler.load_state_dict(state["scheduler"])
    torch.set_rng_state(state["random"])
    if run.device.type == "cuda":
        torch.cuda.set_rng_state(state["random on device"], run.device)


def _arguments(run: TrainingRun, label: str, settings: dict[str, Any]) -> dict[str, Any]:
    """What a call of fit is told by. An optimizer and a schedule by what they print and hold as numbers, made anew."""
    schedule = None
    if run.scheduler:
        state = run.scheduler.state_dict()
        held = [f"{n}={v}" for n, v in state.items() if n[0] != "_" and isinstance(v, int | float | str)]
        schedule = f"{type(run.scheduler).__name__}({', '.join(held)})"
    return {
        "problem": settings["problem_fingerprint"],
        "label": label,
        **vars(run.plan),
        "dtype": settings["dtype"],
        "device": settings["device"],
        "schedule": schedule,
        "optimizer": re.sub(r"\s+| at 0x[0-9a-f]+", " ", repr(run.optimizer)),
        "optimized": _optimized(run),
        "rates": _rates(run),
    }


def _optimized(run: TrainingRun) -> list[list[str]]:
    """The names of the parameters in each of the optimizer's groups."""
    names = {id(p): name for name, p in run.model.named_parameters()}
    return [[names.get(id(p), "") for p in group["params"]] for group in run.optimizer.param_groups]


def _rates(run: TrainingRun) -> list[list[float]]:
    """The rates (groups) of the first epochs, by a copy of the schedule that steps through them; none without one."""
    if not run.scheduler:
        return []
    parameters = {id(p): p for group in run.optimizer.param_groups for p in group["params"]}
    scheduler = copy.deepcopy(run.scheduler, parameters)  # which are not copied with it
    found, state = [], torch.get_rng_state()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch misses the optimizer's steps
        for _ in range(min(_RATES, run.plan.epochs)):
            found.append([float(group["lr"]) for group in scheduler.optimizer.param_groups])
            scheduler.step()
    torch.set_rng_state(state)
    return found

"""The state of a training run on disk, from which fit goes on where it was killed."""

from __future__ import annotations

import re
import time
from collections import deque
from pathlib import Path
from typing import Any

import torch

from landscape import InputError, Recording
from landscape.records import atomic_file

from .training import TrainingRun

STATE = "state.pt"


class StateFile:
    """state.pt in a recording's directory: everything the next step depends on, and the arguments it belongs to.

    That is the model, optimizer, scheduler, PyTorch's random state, the order of the examples, the curve, the best and
    the last points so far, and where the recorder is. Tensors and plain values, read without unpickling anything else.
    """

    def __init__(self, how: Recording, run: TrainingRun, *, label: str, settings: dict[str, Any]) -> None:
        self.path = Path(how.directory) / STATE
        self.every = how.state_every
        self.arguments = _arguments(run, label, settings)
        self._due = time.monotonic() + self.every

    def restore(self, run: TrainingRun) -> dict[str, float] | None:
        """Put a run that was just made where the saved one was; the recorder's position there, None if nothing was saved.

        Raises:
            InputError: the state cannot be read, or belongs to a run with other arguments.
        """
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
            if theirs.get(name) != value:
                raise InputError(
                    f"{self.path.parent} holds a run of fit with {name}={theirs.get(name)!r}, which this call has as {value!r}; "
                    "call it as before, or choose another directory."
                )
        _restore(run, state)
        return position

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
    }

"""Recorder: writes the points of a training run to a directory, from any training loop, within a budget of bytes."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import numpy as np
from torch import Tensor, nn
from torch.optim import Optimizer

from .errors import InputError
from .followed import Followed, rate_of, stored
from .recording import DirectoryLock, Gradients, Recording, StoredDtype
from .records import NAN, Array, read_fields, versions
from .results import Checkpoint
from .sketches import count_sketch
from .thinning import Thinned, check_settings

_KEYS = 600  # characters of a checkpoint's header beside names, shapes and provenance: its keys and numbers
_EMPTY = 5  # arrays of a Solution that a checkpoint leaves empty
_MEMBER = 300  # bytes a .npz takes for an array beside its data: zip headers, the .npy header, a short name


class Recorder:
    """Records the points θ_t of a training loop as checkpoints that Trajectory reads.

        recorder = Recorder("runs/mine", model, optimizer)
        for …:
            optimizer.zero_grad(); loss = …; loss.backward(); optimizer.step()
            recorder.step(loss)  # before the scheduler's step, and before gradients are zeroed
        recorder.close()  # or `with Recorder(…) as recorder:`

    The checkpoint of θ_t holds loss, rate and gradient of the step made from it, so it is written when that step has been
    made, and the last one, by ``close``, has none of the three. Which steps are kept is in thinning.py: multiples of a
    stride that doubles when the budget is used up, the first, and the last. Points that are not finite are left out, with a
    RuntimeWarning.

    The gradient is p.grad as ``step`` finds it: the last one evaluated, which for optimizers that evaluate several (LBFGS,
    SAM) is not the one at θ_t, and what is left where p.grad is overwritten (E, clipping). ``hold_gradient`` takes it earlier.
    The model is never changed. Under distributed training make one recorder, on rank 0; sharded parameters are refused.
    No other recorder writes to the directory until this one is closed, dropped, or its process ends.

    Cost: three passes over the parameters a step, without waiting for an accelerator, and a write for each that is kept;
    memory: one copy of the parameters.

    Args:
        model: compiled or wrapped for data parallelism too; names are those of the bare model.
        optimizer: whose rate is recorded; None records none.
        label, seed, problem: what the run is called: "label/seed" in tables and pictures.
        budget, every, consecutive, gradients, sketch, dtype: as in Recording.
        start: how many steps the model has made already, where training goes on from your own checkpoint: later points are
            removed, and the trajectory goes on as if it had never stopped. If you kept ``recorder.position`` in that
            checkpoint, give that: with a number alone, and no point recorded at that step, ``travelled`` goes on from the last
            one before by the straight line from there (a lower bound), and the epoch is not known until the next step. That θ
            is the point of that step is checked where the step was recorded, and taken on trust where not.
        about: provenance for the headers, beside versions.
        lock: the directory's, where the caller holds it already and lets it go; by default the recorder does both.

    Raises:
        InputError: the directory holds a trajectory and start is 0, or one of another model, label or setting, or whose point
            at that step is another; another recorder is writing there; a budget that is too small, with the bytes that are
            needed; nothing to train.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        model: nn.Module,
        optimizer: Optimizer | None = None,
        *,
        label: str = "run",
        seed: int = 0,
        problem: str = "",
        budget: int = 2**30,
        every: int = 1,
        consecutive: int = 1,
        gradients: Gradients = "none",
        sketch: int = 1024,
        dtype: StoredDtype | None = None,
        start: int | Mapping[str, float] = 0,
        about: Mapping[str, Any] | None = None,
        lock: DirectoryLock | None = None,
    ) -> None:
        what = Recording(directory, budget, every, consecutive, gradients, sketch, dtype)
        self.recording, self.optimizer = what, optimizer
        self._followed = Followed(model, dtype=dtype)
        self._told = {"optimizer": label, "seed": seed, "problem": problem}
        self._about = {"versions": versions(), **(about or {})}
        self._closed = self._warned = False
        self._own_lock = lock is None
        self._files = Thinned(
            Path(directory), settings=what.fixed(label, seed), size=self._size(), budget=budget, lock=lock
        )
        try:
            self._begin(start)
        except BaseException:
            self._release()  # the error's traceback would keep it
            raise

    def step(
        self, loss: Tensor | float | None = None, *, epoch: float = NAN, rate: float | None = None
    ) -> None:
        """Record the step that the optimizer has just made.

        Args:
            loss: the mini-batch loss of that step, at the point where it began; None takes what ``hold_gradient`` was given.
            epoch: passes over the data made by now, this step included.
            rate: the learning rate of that step, where the optimizer no longer says it.

        Raises:
            InputError: gradients are to be recorded and there are none, or the recorder was closed.
        """
        if self._closed:
            raise InputError("this recorder was closed; make another one with start=.")
        if self._files.takes(self._step):
            if rate is None:
                rate = NAN if self.optimizer is None else rate_of(self.optimizer)
            seen = self._gradient_now() if self._held is None else self._held
            if loss is not None:
                seen = {**seen, "batch_loss": _number(loss)}
            self._write(rate=float(rate), **seen)
        self._travelled = self._travelled + self._followed.move()
        self._step, self._epoch, self._held = self._step + 1, float(epoch), None
        self._buffers = self._followed.buffers() if self._files.belongs(self._step) else {}

    def hold_gradient(self, loss: Tensor | float | None = None) -> None:
        """Take p.grad, and the loss of the same evaluation, for the step about to be made, if the parameters are still at θ_t.

        For optimizers that overwrite p.grad, or go on to evaluate it elsewhere: call it after each backward, as at the end
        of the closure. The first that is taken stays. A step for which none could be taken, because the optimizer evaluates no
        gradient at θ_t, is recorded without, and without the loss, unless ``step`` is told one.
        """
        wanted = loss is not None or self.recording.gradients != "none"
        if wanted and not self._held and self._files.belongs(self._step):
            told = {} if loss is None else {"batch_loss": _number(loss)}
            self._held = {**self._gradient_now(), **told} if self._followed.unmoved() else {}

    @property
    def position(self) -> dict[str, float]:
        """How many steps and epochs were made, and the distance travelled: what ``start`` takes."""
        return {"step": self._step, "epoch": self._epoch, "travelled": float(self._travelled)}

    def close(self) -> None:
        """Write the last point, and let others write to the directory. Closing again does nothing."""
        try:
            if not self._closed and self._step not in self._files.steps:
                self._files.make_room()
                self._write()
        finally:
            self._closed = True
            self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _begin(self, start: int | Mapping[str, float]) -> None:
        given: Mapping[str, Any] = start if isinstance(start, Mapping) else {"step": start}
        step = given.get("step")
        if isinstance(step, bool) or not isinstance(step, int) or step < 0:
            raise InputError(
                f"start must be the number of steps made, or a recorder's position, got {start!r}."
            )
        if self._files.steps:
            if start == 0:
                raise InputError(
                    f"{self._files.directory} already holds a trajectory of {len(self._files.steps)} checkpoints; to go on with "
                    "it give start=, the number of steps that the model has made, or choose another directory."
                )
            self._check_model()
            check_settings(self._files.directory, self._files.settings)
        known = {"epoch": NAN if step else 0.0, "travelled": 0.0, **self._before(step), **given}
        self._files.begin(step)
        self._step: int = step
        self._epoch = float(known["epoch"])
        self._held: dict[str, Any] | None = None  # gradient and loss at θ_t; empty: looked for in vain
        self._travelled = self._followed.nothing + known["travelled"]
        self._buffers = self._followed.buffers()

    def _release(self) -> None:
        if self._own_lock:
            self._files.lock.release()

    def _before(self, step: int) -> dict[str, float]:
        """What the last checkpoint up to this step says of the way there."""
        last = self._files.before(step)
        if last is None:
            return {}
        point = Checkpoint.load(self._files.file(last))
        apart = float(np.linalg.norm(self._followed.theta() - point.theta))
        if last < step:
            return {"travelled": point.travelled + apart}
        if not np.array_equal(self._followed.theta(), point.theta):
            raise InputError(
                f"the model is not at step {step} of the trajectory in {self._files.directory} (it lies {apart:.3g} from there): "
                "load its state first, give start= the step at which it is, or choose another directory."
            )
        return {"epoch": point.epoch, "travelled": point.travelled}

    def _check_model(self) -> None:
        there = read_fields(self._files.file(min(self._files.steps)), Checkpoint)
        ours = self._followed.parameters
        if (there["names"], there["shapes"]) != (ours.names, ours.shapes):
            raise InputError(
                f"{self._files.directory} holds a trajectory of another model (its parameters have other names or shapes); go on "
                "with that model, or choose another directory."
            )

    def _gradient_now(self) -> dict[str, Array]:
        if self.recording.gradients == "none":
            return {}
        gradient = self._followed.gradient()
        if gradient is None:
            raise InputError(
                f"gradients={self.recording.gradients!r} needs p.grad, which no parameter has; call recorder.step after the "
                "optimizer's step and before zero_grad."
            )
        if self.recording.gradients == "full":
            return {"gradient": gradient}
        return {"sketch": count_sketch(gradient, self.recording.sketch)}

    def _write(self, **seen: Any) -> None:
        theta = self._followed.theta()
        if not np.isfinite(theta).all():
            if not self._warned:
                message = f"the point of step {self._step} is not finite, and not recorded"
                warnings.warn(message, RuntimeWarning, stacklevel=3)
            self._warned = True
            return
        constants = {**(self._buffers or self._followed.buffers()), **self._followed.frozen()}
        Checkpoint(
            **self._told,
            theta=theta,
            names=self._followed.parameters.names,
            shapes=self._followed.parameters.shapes,
            buffers={name: stored(tensor) for name, tensor in constants.items()},
            step=self._step,
            epoch=self._epoch,
            travelled=float(self._travelled),
            about=self._about,
            **seen,
        ).save(self._files.file(self._step))
        self._files.wrote(self._step)

    def _size(self) -> int:
        """An upper bound of a checkpoint's bytes on disk. Its header is text, of four bytes a character."""
        parameters, item = self._followed.parameters, self._followed.dtype.itemsize
        constants = {**self._followed.buffers(), **self._followed.frozen()}
        text = json.dumps([parameters.names, parameters.shapes, self._told, self._about], default=str)
        gradient = {"none": 0, "sketch": 8 * self.recording.sketch, "full": item * parameters.dim}
        arrays = 4 + _EMPTY + len(constants)  # with header, θ, gradient and sketch
        return (
            item * parameters.dim
            + gradient[self.recording.gradients]
            + sum(stored(tensor).nbytes + 2 * len(name.encode()) for name, tensor in constants.items())
            + 4 * (len(text) + _KEYS)
            + _MEMBER * arrays
        )


def _number(loss: Tensor | float) -> float:
    return float(loss.detach() if isinstance(loss, Tensor) else loss)

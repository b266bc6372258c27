"""Trajectories of runs by Hugging Face's Trainer: ``Trainer(…, callbacks=[TrajectoryCallback("runs/mine")])``."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from transformers import TrainerCallback  # pyright: ignore[reportMissingImports]

from ..followed import rate_of
from ..recorder import Recorder
from ..records import NAN


class TrajectoryCallback(TrainerCallback):
    """Records every optimizer step of a Trainer with a Recorder, which takes the settings: budget=, gradients=, label=, ….

    Gradients are those that the Trainer is about to step with, after clipping. Callbacks are not told the loss, so a forward
    hook, there only during training, takes that of the model's output: NaN where the model returns none, where the Trainer
    makes another one, and with gradients accumulated over several batches. Resumed from a checkpoint the trajectory goes on
    at the Trainer's global step; ``travelled`` then goes on from the point recorded there, or from the last one before it by
    the straight line. On the main process alone.

    Raises:
        InputError: as Recorder does.
    """

    def __init__(self, directory: str | os.PathLike[str], **recording: Any) -> None:
        self.directory, self.recording = directory, recording
        self.recorder: Recorder | None = None
        self._loss: Tensor | None = None
        self._rate = NAN
        self._hook: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
        if self.recorder:
            self.recorder.close()  # of a run that was interrupted
        model: nn.Module = kwargs["model"]
        self.recorder = Recorder(
            self.directory, model, kwargs["optimizer"], start=state.global_step, **self.recording
        )
        if self._hook:
            self._hook.remove()  # of a run that was interrupted
        if args.gradient_accumulation_steps == 1:
            self._hook = model.register_forward_hook(self._look)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._rate = rate_of(kwargs["optimizer"])  # by the end of the step the scheduler has gone on

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.recorder:
            self.recorder.hold_gradient()  # zeroed by the end of the step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.recorder:
            self.recorder.step(self._loss, epoch=state.epoch, rate=self._rate)
            self._loss = None

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.recorder:
            self.recorder.close()
        if self._hook:
            self._hook.remove()

    def _look(self, model: nn.Module, _inputs: Any, output: Any) -> None:
        """Keep the loss of a forward pass in training."""
        loss = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
        if model.training and isinstance(loss, Tensor) and loss.ndim == 0:
            self._loss = loss.detach()

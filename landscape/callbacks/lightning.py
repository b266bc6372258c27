"""Trajectories of runs by Lightning's Trainer: ``Trainer(callbacks=[TrajectoryCallback("runs/mine")])``."""

from __future__ import annotations

import os
from typing import Any

import lightning.pytorch as pl  # pyright: ignore[reportMissingImports]
from torch import Tensor

from ..errors import InputError
from ..followed import rate_of
from ..recorder import Recorder
from ..records import NAN


class TrajectoryCallback(pl.Callback):
    """Records every optimizer step of a fit with a Recorder, which takes the settings: budget=, gradients=, label=, ….

    Gradients are those that Lightning is about to step with, unscaled and before clipping. With gradients accumulated over
    several batches the loss is the mean of theirs. Resumed from a checkpoint of Lightning's, the trajectory goes on at its
    global step; the distance travelled lies in the checkpoint. On rank 0 alone.

    Raises:
        InputError: on manual optimization or several optimizers, and as Recorder does.
    """

    def __init__(self, directory: str | os.PathLike[str], **recording: Any) -> None:
        self.directory, self.recording = directory, recording
        self.recorder: Recorder | None = None
        self._position: dict[str, float] = {}
        self._losses: list[Tensor] = []
        self._step, self._rate = 0, NAN

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if not pl_module.automatic_optimization or len(trainer.optimizers) != 1:
            raise InputError(
                f"TrajectoryCallback needs automatic optimization by one optimizer, got {len(trainer.optimizers)} with "
                f"automatic_optimization={pl_module.automatic_optimization}; call a Recorder in training_step instead."
            )
        if not trainer.is_global_zero:
            return
        self._step = step = trainer.global_step
        known = self._position if step and self._position.get("step") == step else step
        self._losses = []
        self.recorder = Recorder(
            self.directory, pl_module, trainer.optimizers[0], start=known, **self.recording
        )

    def on_before_optimizer_step(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, optimizer: Any
    ) -> None:
        if self.recorder:
            self.recorder.hold_gradient()
            self._rate = rate_of(optimizer)  # the scheduler steps before on_train_batch_end

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not self.recorder:
            return
        loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
        if isinstance(loss, Tensor):
            self._losses.append(loss.detach().clone())
        if trainer.global_step > self._step:
            # Lightning has divided each by the number of batches that are accumulated.
            loss = sum(self._losses, start=0.0) if self._losses else None
            epoch = trainer.current_epoch + (batch_idx + 1) / trainer.num_training_batches
            self.recorder.step(loss, epoch=epoch, rate=self._rate)
            self._losses, self._step = [], trainer.global_step

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._close()

    def on_exception(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException
    ) -> None:
        self._close()

    def state_dict(self) -> dict[str, Any]:
        """Where the recorder is: it goes into Lightning's checkpoints."""
        return {"position": self.recorder.position if self.recorder else self._position}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._position = dict(state_dict["position"])

    def _close(self) -> None:
        if self.recorder:
            self.recorder.close()
            self._position = self.recorder.position

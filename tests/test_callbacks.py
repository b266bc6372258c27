"""Recorders for Lightning and Hugging Face: what a plain loop over the same batches records, and going on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from landscape import InputError, Recorder, Trajectory

X = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long()
CE = nn.functional.cross_entropy


def network() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))


def plain(directory: Path, *, epochs: int, accumulate: int = 1, clip: float | None = None) -> Trajectory:
    """Batches of 5 in order, SGD with a rate that falls every step, and gradients held before (or after) clipping."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
    with Recorder(directory, model, optimizer, gradients="full") as recorder:
        for step in range(epochs * 4 // accumulate):
            optimizer.zero_grad()
            losses = []
            for i in range(step * accumulate, (step + 1) * accumulate):
                part = slice(i % 4 * 5, i % 4 * 5 + 5)
                losses.append(CE(model(X[part]), Y[part]))
                (losses[-1] / accumulate).backward()
            if clip:
                nn.utils.clip_grad_norm_(model.parameters(), clip)
            recorder.hold_gradient()
            optimizer.step()
            recorder.step(torch.stack(losses).mean(), epoch=(step + 1) * accumulate / 4)
            scheduler.step()
    return Trajectory(directory)


def assert_same(
    found: Trajectory, expected: Trajectory, *, losses: bool = True, travelled: bool = True
) -> None:
    assert found.steps.tolist() == expected.steps.tolist()
    np.testing.assert_allclose(found.thetas(), expected.thetas(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found.rates, expected.rates, rtol=1e-6)
    np.testing.assert_allclose(found.epochs, expected.epochs, rtol=1e-6)
    if losses:
        np.testing.assert_allclose(found.batch_losses, expected.batch_losses, rtol=1e-5)
    if travelled:
        np.testing.assert_allclose(found.travelled, expected.travelled, rtol=1e-5)
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a.gradient, b.gradient, rtol=1e-4, atol=1e-6)


class TestLightning:
    @pytest.fixture(autouse=True)
    def library(self):
        self.pl: Any = pytest.importorskip("lightning.pytorch")

    def module(self, *, manual: bool = False) -> Any:
        class Module(self.pl.LightningModule):
            def __init__(self) -> None:
                super().__init__()
                self.automatic_optimization = not manual
                self.net = network()

            def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
                return CE(self.net(batch[0]), batch[1])

            def configure_optimizers(self) -> Any:
                optimizer = torch.optim.SGD(self.parameters(), lr=0.5, momentum=0.9)
                scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
                return [optimizer], [{"scheduler": scheduler, "interval": "step"}]

        return Module()

    def train(
        self, directory: Path, *, epochs: int, ckpt_path: Any = None, manual: bool = False, **options: Any
    ) -> Any:
        from landscape.callbacks.lightning import TrajectoryCallback

        callback = TrajectoryCallback(directory, gradients="full")
        trainer = self.pl.Trainer(
            max_epochs=epochs,
            callbacks=[callback],
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            **options,
        )
        trainer.fit(
            self.module(manual=manual), DataLoader(TensorDataset(X, Y), batch_size=5), ckpt_path=ckpt_path
        )
        return trainer

    @pytest.mark.parametrize("accumulate", [1, 2])
    def test_records_what_a_plain_loop_does(self, tmp_path, accumulate):
        self.train(tmp_path / "a", epochs=3, accumulate_grad_batches=accumulate, gradient_clip_val=100.0)
        expected = plain(tmp_path / "b", epochs=3, accumulate=accumulate)
        assert_same(Trajectory(tmp_path / "a"), expected)

    def test_goes_on_from_a_checkpoint(self, tmp_path):
        trainer = self.train(tmp_path / "a", epochs=2)
        trainer.save_checkpoint(tmp_path / "x.ckpt")
        self.train(tmp_path / "a", epochs=4, ckpt_path=tmp_path / "x.ckpt")
        assert_same(Trajectory(tmp_path / "a"), plain(tmp_path / "b", epochs=4))

    def test_gradients_are_those_before_clipping(self, tmp_path):
        self.train(tmp_path, epochs=1, gradient_clip_val=0.01)
        assert np.linalg.norm(Trajectory(tmp_path).checkpoint(0).gradient) > 0.1

    def test_manual_optimization_is_refused(self, tmp_path):
        with pytest.raises(InputError, match="needs automatic optimization by one optimizer, got 1 with"):
            self.train(tmp_path, epochs=1, manual=True)


class TestHuggingFace:
    @pytest.fixture(autouse=True)
    def library(self):
        self.transformers: Any = pytest.importorskip("transformers")
        pytest.importorskip("accelerate")

    def trainer(self, directory: Path, folder: Path, *, epochs: int, accumulate: int = 1) -> Any:
        from landscape.callbacks.huggingface import TrajectoryCallback

        class Model(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.net = network()

            def forward(self, x: Tensor, labels: Tensor) -> dict[str, Tensor]:
                logits = self.net(x)
                return {"loss": CE(logits, labels), "logits": logits}

        class InOrder(self.transformers.Trainer):
            def _get_train_sampler(self, *_: Any) -> Any:
                return torch.utils.data.SequentialSampler(X)

        model = Model()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9)
        arguments = self.transformers.TrainingArguments(
            output_dir=str(folder),
            num_train_epochs=epochs,
            per_device_train_batch_size=5,
            gradient_accumulation_steps=accumulate,
            max_grad_norm=0.3,
            save_strategy="epoch",
            report_to=[],
            use_cpu=True,
            disable_tqdm=True,
        )
        return InOrder(
            model=model,
            args=arguments,
            train_dataset=[{"x": x, "labels": y} for x, y in zip(X, Y, strict=True)],
            optimizers=(optimizer, scheduler),
            callbacks=[TrajectoryCallback(directory, gradients="full")],
        )

    @pytest.mark.parametrize("accumulate", [1, 2])
    def test_records_what_a_plain_loop_does(self, tmp_path, accumulate):
        trainer = self.trainer(tmp_path / "a", tmp_path / "out", epochs=3, accumulate=accumulate)
        trainer.train()
        found = Trajectory(tmp_path / "a")
        assert_same(
            found, plain(tmp_path / "b", epochs=3, accumulate=accumulate, clip=0.3), losses=accumulate == 1
        )
        assert np.isnan(found.batch_losses).all() == (accumulate == 2)
        assert not trainer.model._forward_hooks

    def test_goes_on_from_a_checkpoint(self, tmp_path):
        self.trainer(tmp_path / "a", tmp_path / "out", epochs=2).train()
        again = self.trainer(tmp_path / "a", tmp_path / "out", epochs=4)
        again.train(resume_from_checkpoint=str(tmp_path / "out" / "checkpoint-8"))
        assert_same(Trajectory(tmp_path / "a"), plain(tmp_path / "b", epochs=4, clip=0.3))

"""Data that are read when they are needed: the same numbers as in memory, one batch at a time, and an order that holds."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from analysis.curvature import matrices
from analysis.curvature.matrices import products_of
from analysis.curvature.split import split_trace
from analysis.curvature.trace import hessian_trace
from landscape import Family, HessianProducts, InputError, StreamedBatches, losses, model_objective

X, Y = torch.randn(23, 6, generator=torch.Generator().manual_seed(0)), torch.arange(23) % 3


class Counted(Dataset):
    """Examples, and how often each was read."""

    def __init__(self, noise: float = 0.0) -> None:
        self.reads, self.noise = 0, noise

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, i: int) -> tuple[Tensor, Tensor]:
        self.reads += 1
        return X[i] + self.noise * torch.randn(6), Y[i]


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def pair() -> tuple[Any, Any, Tensor, Counted]:
    """The streamed objective, the one in memory, a point, and the data."""
    data = Counted()
    network, loss_fn = model(), nn.functional.cross_entropy
    streamed = model_objective(network, loss_fn, StreamedBatches(DataLoader(data, batch_size=8)))
    held = model_objective(network, loss_fn, [(X, Y)])
    assert held.parameters is not None
    return streamed, held, held.parameters.theta(network), data


def test_every_number_is_that_of_the_data_in_memory() -> None:
    streamed, held, theta, _ = pair()
    v = torch.randn(3, len(theta), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    torch.testing.assert_close(streamed(theta), held(theta))
    torch.testing.assert_close(streamed.grad(theta), held.grad(theta))
    torch.testing.assert_close(streamed.hvp(theta, v), held.hvp(theta, v))
    torch.testing.assert_close(HessianProducts(streamed, theta)(v), held.hvp(theta, v))
    torch.testing.assert_close(
        products_of(streamed, theta, "gauss-newton")(v), products_of(held, theta, "gauss-newton")(v)
    )
    made = [torch.Generator().manual_seed(2) for _ in range(4)]
    assert hessian_trace(streamed, theta, matvecs=20, generator=made[0]).value == pytest.approx(
        hessian_trace(held, theta, matvecs=20, generator=made[1]).value
    )
    assert split_trace(streamed, theta, generator=made[2]).value == pytest.approx(
        split_trace(held, theta, generator=made[3]).value
    )
    assert streamed.settings["examples"] == 23


@pytest.mark.parametrize("engine", ["auto", "shared x4"])
def test_losses_on_a_family_are_those_in_memory(engine: str) -> None:
    streamed, held, theta, _ = pair()
    family = Family(theta, torch.ones(1, len(theta)).double(), torch.linspace(0, 1, 50).double()[:, None])
    found, choice = losses(streamed, family, engine=engine)
    torch.testing.assert_close(found, held(family.points(family.coordinates)))
    assert choice.engine.name == ("loop" if engine == "auto" else engine)


def test_a_loss_reads_all_data_once_and_a_gradient_too() -> None:
    streamed, _, theta, data = pair()
    for evaluate in (streamed, streamed.grad):
        before = data.reads
        evaluate(theta)
        assert data.reads - before == 23


def test_graphs_beyond_the_memory_are_made_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    streamed, held, theta, data = pair()
    v = torch.ones(2, len(theta), dtype=torch.float64)
    monkeypatch.setattr(matrices, "MEMORY", 1)  # the first fits, as nothing is kept before it
    times = products_of(streamed, theta, "gauss-newton")
    expected = products_of(held, theta, "gauss-newton")(v)
    torch.testing.assert_close(times(v), expected)
    before = data.reads
    torch.testing.assert_close(times(v), expected)
    assert data.reads - before == 15


def test_a_count_of_ones_own_is_asked_of_every_batch() -> None:
    network = model()
    batches = StreamedBatches(DataLoader(TensorDataset(X, Y), batch_size=8))
    objective = model_objective(
        network, nn.functional.cross_entropy, batches, count=lambda batch: 2 * len(batch[0])
    )
    assert objective.settings["examples"] == 46
    assert objective.shares == pytest.approx([8 / 23, 8 / 23, 7 / 23])


class Endless(IterableDataset):
    def __iter__(self) -> Any:
        yield from zip(X, Y, strict=True)


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        (
            DataLoader(Counted(), batch_size=8, shuffle=True),
            r"order differs between two passes.*pass shuffle=False",
        ),
        (
            DataLoader(Counted(noise=0.1), batch_size=8),
            "the data differ between two readings of the first batch",
        ),
        (DataLoader(Endless(), batch_size=8), "must have a dataset with random access"),
        (DataLoader(Counted(), batch_size=None), "must have a dataset with random access and make batches"),
    ],
)
def test_what_cannot_be_read_again_is_refused(loader: DataLoader, message: str) -> None:
    with pytest.raises(InputError, match=message):
        StreamedBatches(loader)

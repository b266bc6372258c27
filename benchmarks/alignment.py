"""Planted permutations, recovered by align and by rebasin, another package for Git Re-Basin's weight matching; and its time.

    python -m benchmarks.alignment                              # a minute or two
    python -m benchmarks.alignment --write docs/performance.md  # also puts the table between the page's markers

A network's weights, disturbed by noise of 0.3 of each, have the hidden units of all groups permuted at random. A recovery is
exact when every tensor is back where it was. Times are medians, from two models to permuted weights, one thread.
"""

import copy
import importlib
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from analysis import align
from analysis.alignment.symmetries import Symmetries, state_of, symmetries
from landscape.plots.labels import number
from scripts.study import command

from .measure import head, machine, replaced, row
from .models import case

REPEATS, NOISE = 5, 0.3
LIMIT = 60  # seconds for one recovery


class Sequence(nn.Module):
    """The last output of an LSTM, and a linear layer on it."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.out = nn.LSTM(28, 128, batch_first=True), nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.lstm(x)[0][:, -1])


def mlp() -> nn.Module:
    wide = [m for n in (784, 512, 512) for m in (nn.Linear(n, 512), nn.ReLU())]
    return nn.Sequential(*wide, nn.Linear(512, 10))


def conv() -> nn.Module:
    layers = [(3, 64), (64, 128), (128, 256)]
    parts = [m for a, b in layers for m in (nn.Conv2d(a, b, 3, stride=2), nn.BatchNorm2d(b), nn.ReLU())]
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(256, 10))


CASES: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "MLP 784 – 3 × 512 – 10": lambda: (mlp(), torch.randn(64, 784)),
    "three convolutions with BatchNorm": lambda: (conv(), torch.randn(16, 3, 32, 32)),
    "ResNet-20": lambda: ((found := case("resnet20", 16)).model, found.batch[0]),
    "LSTM 28 – 128 – 10": lambda: (Sequence(), torch.randn(16, 28, 28)),
    "transformer of 4 blocks": lambda: ((found := case("gpt", 2)).model, found.batch[0]),
}


def main(only: str = "", write: str = "") -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGALRM, given_up)
    lines = [
        f"{machine()}.\n",
        *head("network", "ours, s", "rebasin, s", "rebasin / ours", "ours", "rebasin"),
    ]
    for name, make in CASES.items():
        if only in name:
            torch.manual_seed(0)
            model, x = make()
            ours, theirs = (recovered(how, model.eval(), x) for how in (by_align, by_rebasin))
            cells = [name, *(number(x, 2) for x in (ours[0], theirs[0])), number(theirs[0] / ours[0])]
            lines.append(row(*cells, ours[1], theirs[1]))
            print(lines[-1], flush=True)
    print("\n".join(lines))
    if write:
        replaced(Path(write), "alignment", "\n".join(lines))


def recovered(how: Callable[..., dict[str, Tensor]], model: nn.Module, x: Tensor) -> tuple[float, str]:
    """Median seconds, and whether the permuted network came back as it was."""
    inputs = x.double() if x.is_floating_point() else x
    found = symmetries(copy.deepcopy(model).double(), (inputs, None))
    state, draw = found.layout.pack(state_of(model)), torch.Generator().manual_seed(1)
    near = state * (1 + NOISE * torch.randn(len(state), generator=draw, dtype=state.dtype))
    near = found.layout.pack({k: v.float() for k, v in found.layout.unpack(near).items()})
    moved = found.apply(drawn(found, draw), near)
    seconds = []
    wanted, back = found.layout.unpack(near), {}
    for _ in range(REPEATS):
        one, other = (loaded(model, found.layout.unpack(v)) for v in (state, moved))
        start = time.perf_counter()
        signal.alarm(LIMIT)
        try:
            back = how(one, other, x)
        except Exception as error:  # whatever a peer says of a network that it cannot take
            said = str(error) if isinstance(error, TimeoutError) else f"fails: {type(error).__name__}"
            return float("nan"), said
        finally:
            signal.alarm(0)
        seconds.append(time.perf_counter() - start)
    right = sum(bool((back[k].double() == wanted[k]).all()) for k in wanted)
    exact = "exact" if right == len(wanted) else f"{right} of {len(wanted)} tensors"
    return float(np.median(seconds)), exact


def given_up(*_: object) -> None:
    raise TimeoutError(f"not within {LIMIT} s")


def drawn(found: Symmetries, draw: torch.Generator) -> list[Tensor]:
    """A random permutation of every group whose units are free."""
    planted = []
    for group, same in zip(found.groups, found.identity(), strict=True):
        rows = [torch.randperm(group.size, generator=draw) for _ in range(same[..., 0].numel())]
        planted.append(torch.stack(rows).reshape(same.shape) if group.free else same)
    return planted


def loaded(model: nn.Module, tensors: dict[str, Tensor]) -> nn.Module:
    made = copy.deepcopy(model)
    with torch.no_grad():
        for name, tensor in state_of(made).items():
            tensor.copy_(tensors[name])
    return made


def by_align(one: nn.Module, other: nn.Module, x: Tensor) -> dict[str, Tensor]:
    found = align(one, state_of(one), state_of(other), batch=(x, None))
    parts = torch.from_numpy(found.theta).split([int(np.prod(shape)) for shape in found.shapes])
    named = zip(found.names, found.shapes, parts, strict=True)
    buffers = {name: torch.as_tensor(value) for name, value in found.buffers.items()}
    return {**{name: part.reshape(shape) for name, shape, part in named}, **buffers}


def by_rebasin(one: nn.Module, other: nn.Module, x: Tensor) -> dict[str, Tensor]:
    descent = importlib.import_module("rebasin").PermutationCoordinateDescent
    one.requires_grad_(False)
    other.requires_grad_(False)
    descent(one, other, x).rebasin()
    return state_of(other)


if __name__ == "__main__":
    command(main)

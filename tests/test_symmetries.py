"""Which permutations leave networks as they are: the groups found, by hand, and outputs after permuting all of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from model_families import CLASSES, MADE, TIME, N, family, normal
from torch import Tensor, nn

from analysis.alignment.indices import Indices
from analysis.alignment.symmetries import Symmetries, outputs, state_of, symmetries
from landscape import InputError

STREAM, HEADS, WIDTH = (4, 0), (2, 0), (2, 2)  # of a transformer: (units, those of the host)
GROUPS = {
    **{key: [(8, 0)] for key in ("mlp", "sum", "mse", "bce", "layernorm", "batchnorm", "rmsnorm", "unused")},
    **{key: [(2, 0), (4, 0)] for key in ("cnn", "cnn batchnorm", "cnn batchnorm by batch", "instancenorm")},
    "groupnorm": [(2, 0), (2, 0), (2, 2)],
    "resnet": [(2, 0), (3, 0), (3, 0)],
    "weight_norm": [(5, 0)],
    "gpt, tied": [STREAM, (8, 0), HEADS, WIDTH, WIDTH],
    **{key: [STREAM, HEADS, WIDTH, WIDTH] for key in ("attention", "attention with weights")},
    "encoder layer": [STREAM, (6, 0), HEADS, WIDTH, WIDTH],
    **{key: [(4, 0)] for key in ("lstm", "gru, time first")},
    "autoencoder, tied": [(3, 0)],
    "frozen": [(5, 0), (4, 0)],
    **{key: [(2, 0), (2, 0), (4, 0)] for key in ("dict batches", "own loss")},
}


class Of(nn.Module):
    """A forward pass in a line, over modules by name."""

    def __init__(self, forward: Callable[..., Tensor], **modules: nn.Module) -> None:
        super().__init__()
        self.parts, self.way = nn.ModuleDict(modules), forward

    def forward(self, x: Tensor) -> Tensor:
        return self.way(self.parts, x)


class Padded(nn.Module):
    """A residual block whose shortcut is thinned and padded with channels of zeros (He et al. 2015, option A)."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(4, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 1, 1)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.second(F.relu(self.first(x))))
        return F.relu(y + F.pad(x[:, :, ::2, ::2], [0, 0, 0, 0, 2, 2]))


class Experts(nn.Module):
    """Three networks side by side, each with five units of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Parameter(normal(3, 6, 5)), nn.Parameter(normal(3, 5, CLASSES))
        self.gate = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        z = torch.tanh(x.expand(3, -1, -1) @ self.up) @ self.down
        return (z * (self.gate(x).softmax(-1).T * torch.arange(1, 4, dtype=x.dtype)[:, None])[..., None]).sum(
            0
        )


class Wired(nn.Module):
    """One row of a weight is read by its number; of the others nothing tells them apart."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.first(x))
        return self.last(h) + h[:, 2:3]


def flat(*layers: nn.Module) -> nn.Sequential:
    return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(CLASSES))


def through(way: Callable[[Tensor], Tensor]) -> nn.Module:
    """Eight hidden units that something happens to, and eight after them."""

    def forward(m: nn.ModuleDict, x: Tensor) -> Tensor:
        return m["last"](torch.tanh(m["second"](way(torch.tanh(m["first"](x))))))

    return Of(forward, first=nn.Linear(6, 8), second=nn.Linear(8, 8), last=nn.Linear(8, CLASSES))


X, IMAGES, SERIES = normal(N, 6), normal(N, 2, 8, 8), normal(N, TIME, 3)
ZEROS = torch.zeros(N, 8)
OWN: dict[str, tuple[Callable[[], nn.Module], Tensor, list[tuple[int, int]]]] = {
    "pixels flattened": (
        lambda: flat(nn.Conv2d(2, 4, 3), nn.MaxPool2d(2), nn.ReLU(inplace=True)),
        IMAGES,
        [(4, 0)],
    ),
    "padded shortcut": (
        lambda: flat(nn.Conv2d(2, 4, 3, 1, 1), Padded(), nn.AdaptiveAvgPool2d(1)),
        IMAGES,
        [(2, 0), (2, 0), (4, 0), (8, 0)],
    ),
    "grouped": (
        lambda: flat(nn.Conv2d(2, 6, 3), nn.Tanh(), nn.Conv2d(6, 9, 3, groups=3), nn.GroupNorm(3, 9)),
        IMAGES,
        [(3, 0), (2, 3), (3, 3)],
    ),
    "depthwise": (
        lambda: flat(nn.Conv2d(2, 4, 1), nn.ReLU(), nn.Conv2d(4, 8, 3, groups=4), nn.BatchNorm2d(8)),
        IMAGES,
        [(4, 0), (2, 4)],
    ),
    "transposed": (
        lambda: flat(nn.Conv2d(2, 6, 3), nn.ReLU(), nn.ConvTranspose2d(6, 4, 2, groups=2), nn.ReLU()),
        IMAGES,
        [(2, 0), (3, 2), (2, 2)],
    ),
    "dense": (  # features end to end
        lambda: Of(
            lambda m, x: m["last"](torch.cat([x, h := torch.tanh(m["first"](x)), m["second"](h).relu()], -1)),
            first=nn.Linear(6, 8),
            second=nn.Linear(8, 5),
            last=nn.Linear(19, CLASSES),
        ),
        X,
        [(8, 0), (5, 0)],
    ),
    "deep lstm": (
        lambda: Of(
            lambda m, x: m["last"](m["rnn"](x)[0][:, -1]),
            rnn=nn.LSTM(3, 5, num_layers=2, batch_first=True, bidirectional=True, proj_size=2),
            last=nn.Linear(4, CLASSES),
        ),
        SERIES,
        [(5, 0)] * 4 + [(2, 0)] * 4,
    ),
    "last states of every layer": (
        lambda: Of(
            lambda m, x: m["last"](m["rnn"](x)[1][0][-1]) + m["first"](m["rnn"](x)[1][1][0]),
            rnn=nn.LSTM(3, 5, num_layers=2, batch_first=True),
            first=nn.Linear(5, CLASSES),
            last=nn.Linear(5, CLASSES),
        ),
        SERIES,
        [(5, 0), (5, 0)],
    ),
    "stacked and joined": (
        lambda: Of(
            lambda m, x: m["last"](torch.stack([m["first"](x).relu(), m["second"](x).relu()]).sum(0)),
            first=nn.Linear(6, 8),
            second=nn.Linear(6, 8),
            last=nn.Linear(8, CLASSES),
        ),
        X,
        [(8, 0)],
    ),
    "experts": (Experts, X, [(5, 3)]),
    "a slice": (
        lambda: through(lambda h: torch.cat([h[:, :3].relu(), h[:, 3:]], 1)),
        X,
        [(3, 0), (5, 0), (8, 0)],
    ),
    "every second": (lambda: through(lambda h: torch.cat([h[:, ::2], h[:, 1::2]], 1)), X, [(8, 0)]),
    "by number": (lambda: through(lambda h: h[:, torch.arange(8).flip(0)]), X, [(8, 0)]),
    "a slice of channels times pixels": (
        lambda: flat(
            nn.Conv2d(2, 4, 3),
            Of(lambda m, x: torch.cat([x.flatten(1)[:, :36], x.flatten(1)[:, 36:].relu()], 1)),
        ),
        IMAGES,
        [(3, 0)],
    ),
    "one told apart": (Wired, X, [(2, 0), (5, 0)]),
    "glu": (
        lambda: Of(
            lambda m, x: m["last"](F.glu(m["first"](x))), first=nn.Linear(6, 8), last=nn.Linear(4, CLASSES)
        ),
        X,
        [],
    ),
    "gated by chunks": (
        lambda: Of(
            lambda m, x: m["last"]((parts := m["first"](x).chunk(2, -1))[0] * parts[1].sigmoid()),
            first=nn.Linear(6, 8),
            last=nn.Linear(4, CLASSES),
        ),
        X,
        [(4, 0)],
    ),
    "softmax over heads": (
        lambda: through(lambda h: h.view(N, 4, 2).softmax(1).flatten(1)),
        X,
        [(2, 0), (4, 2), (8, 0)],
    ),
    "softmax inside": (
        lambda: through(lambda h: h.view(N, 4, 2).softmax(2).flatten(1)),
        X,
        [(4, 0), (2, 4), (8, 0)],
    ),
    "norm inside": (
        lambda: through(lambda h: F.layer_norm(h.view(N, 4, 2), (2,)).flatten(1)),
        X,
        [(4, 0), (2, 4), (8, 0)],
    ),
    "zeros in two places": (
        lambda: Of(
            lambda m, x: m["last"](
                torch.cat([m["first"](x).relu() + ZEROS, m["second"](x).tanh() + ZEROS], 1)
            ),
            first=nn.Linear(6, 8),
            second=nn.Linear(6, 8),
            last=nn.Linear(16, CLASSES),
        ),
        X,
        [(8, 0), (8, 0)],
    ),
    "no rule": (lambda: through(lambda h: h.sort(1)[0]), X, [(8, 0)]),
    "an order": (lambda: through(lambda h: h.cumsum(1)), X, [(8, 0)]),
    "data": (lambda: through(lambda h: h * torch.linspace(1, 2, 8)), X, [(8, 0)]),
    "one number": (lambda: through(lambda h: h * torch.full((8,), 2.0)), X, [(8, 0), (8, 0)]),
}


def built(name: str) -> tuple[nn.Module, tuple[Tensor, None], list[tuple[int, int]]]:
    make, x, groups = OWN[name]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        model = make().double().eval()
        model(x)
    with torch.no_grad():
        for seed, tensor in enumerate(state_of(model).values()):
            tensor.add_(0.3 * normal(*tensor.shape, seed=seed).abs())
    return model, (x, None), groups


def turned(found: Symmetries) -> list[Tensor]:
    """Every group that may be permuted turned by one, and where it has a host, at each position by one more."""
    turns = []
    for group, same in zip(found.groups, found.identity(), strict=True):
        if not group.free:
            turns.append(same)
        elif same.ndim == 1:
            turns.append(same.roll(1))
        else:
            turns.append(torch.stack([row.roll(1 + i) for i, row in enumerate(same)]))
    return turns


def sizes(found: Symmetries) -> list[tuple[int, int]]:
    free = [group for group in found.groups if group.free]
    return sorted((g.size, found.groups[g.host].size if g.host >= 0 else 0) for g in free)


def check(model: nn.Module, batch: object, groups: Sequence[tuple[int, int]]) -> None:
    before = {name: tensor.clone() for name, tensor in state_of(model).items()}
    found = symmetries(model, batch)
    assert sizes(found) == sorted(groups)
    state = found.layout.pack(before)
    with torch.no_grad():
        was = outputs(model, before, batch)
        for g in range(len(found.groups)):  # one group alone, too
            alone = found.identity()
            alone[g] = turned(found)[g]
            now = outputs(model, found.layout.unpack(found.apply(alone, state)), batch)
            torch.testing.assert_close(now, was, rtol=1e-11, atol=1e-11)
        moved = found.apply(turned(found), state)
        torch.testing.assert_close(
            outputs(model, found.layout.unpack(moved), batch), was, rtol=1e-11, atol=1e-11
        )
    if groups:
        assert (moved != state).double().mean() > 0.2
    assert all(tensor.equal(before[name]) for name, tensor in state_of(model).items())


@pytest.mark.parametrize("name", MADE)
def test_families(name):
    made = family(name)
    check(made.model, made.data, GROUPS[name])


@pytest.mark.parametrize("name", OWN)
def test_groups_by_hand(name):
    check(*built(name))


def test_apply_puts_unit_pi_of_i_at_i():
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, CLASSES)).double()
    found = symmetries(model, (X, None))
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    tensors = {name: p.detach() for name, p in model.named_parameters()}
    moved = found.layout.unpack(found.apply([order], found.layout.pack(tensors)))
    assert moved["0.weight"].equal(tensors["0.weight"][order])
    assert moved["0.bias"].equal(tensors["0.bias"][order])
    assert moved["2.weight"].equal(tensors["2.weight"][:, order])
    assert moved["2.bias"].equal(tensors["2.bias"])
    assert found.groups[0].label == "0.weight[0]"


def test_what_may_not_be_permuted_is_data():
    """With the first layer held, nothing may be permuted in it, nor what it feeds; the second layer's units still may."""
    model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    names = ["2.weight", "2.bias", "4.weight", "4.bias"]
    assert sizes(symmetries(model, (X, None), names=names)) == [(5, 0)]


def test_outputs_that_operators_do_not_tell():
    class Deciding(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return input @ self.weight.T if self.weight[0, 0] > 0 else input @ self.weight.T * 2

    message = r"^the model's operators cannot be captured \(.*_local_scalar_dense.*\); write its forward pass with tensors"
    with pytest.raises(InputError, match=message):
        symmetries(Deciding(6, 3).double(), (X, None))


@pytest.mark.parametrize("seed", range(30))
def test_indices_reach_every_position_once(seed):
    """Random splits, factors and unions, against the list of positions itself."""
    generator = np.random.default_rng(seed)
    indices = Indices()
    kept = [indices.new(24) for _ in range(4)]
    for _ in range(6):
        a, b = generator.choice(kept, 2)
        match generator.integers(4):
            case 0:
                indices.part(a, *sorted(map(int, generator.integers(0, 25, 2))))
            case 1:
                indices.regroup([a], [[2, 12], [4, 6], [3, 8], [2, 3, 4]][generator.integers(4)])
            case 2:
                indices.unify(a, b)
            case _:
                kept.append(indices.sum([indices.part(a, 0, 8), indices.part(b, 8, 24)]))
    for index in kept:
        reached = []
        for offset, runs in indices.blocks(index):
            steps = [range(0, run.size * run.stride, run.stride) for run in runs]
            reached += [offset + sum(at) for at in product(*steps)]
            assert all(indices.size(run.leaf) == run.size for run in runs)
        assert sorted(reached) == list(range(24))

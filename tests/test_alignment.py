"""Alignment: planted permutations and scales recovered, exhaustive searches and a transcription of the paper, barriers."""

from __future__ import annotations

from itertools import pairwise
from itertools import permutations as orders
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from model_families import MADE, TIME, N, family, normal
from scipy.optimize import linear_sum_assignment
from test_symmetries import OWN, Of, built, flat, sizes
from torch import Tensor, nn

from analysis import align, linear_path
from analysis.alignment.align import _SAME
from analysis.alignment.rescaling import balanced, scalings
from analysis.alignment.symmetries import Symmetries, outputs, state_layout, state_of, symmetries
from benchmarks.alignment import drawn
from landscape import InputError, Problem, Solution, load, model_objective
from landscape.datasets import digits
from landscape.results import Alignment


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_permutations(found: Symmetries, seed: int) -> list[Tensor]:
    return drawn(found, generator(seed))


def randomize(model: nn.Module, seed: int = 0) -> nn.Module:
    """Numbers of the usual size in all of its tensors, buffers included."""
    with torch.no_grad():
        for i, (name, tensor) in enumerate(state_of(model).items()):
            noise = normal(*tensor.shape, seed=1000 * seed + i)
            small = 0.1 if name.endswith(("bias", "running_mean")) else 1.0  # so that few units are dead
            inputs = max(1, tensor[0].numel()) if tensor.ndim > 1 else 1
            tensor.copy_(
                noise.square() + 0.5 if name.endswith("running_var") else small * noise / inputs**0.5
            )
    return model


class Resnet(nn.Module):
    """Two stages of basic blocks with BatchNorm, the second of them behind a convolution in the shortcut."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.a = nn.ModuleList([self.block(width, width, 1) for _ in range(2)])
        self.b = nn.ModuleList([self.block(width, 2 * width, 2), self.block(2 * width, 2 * width, 1)])
        self.shortcut, self.head = nn.Conv2d(width, 2 * width, 1, stride=2), nn.Linear(2 * width, 10)

    @staticmethod
    def block(narrow: int, wide: int, stride: int) -> nn.Sequential:
        first, second = (
            nn.Conv2d(narrow, wide, 3, stride, 1, bias=False),
            nn.Conv2d(wide, wide, 3, 1, 1, bias=False),
        )
        return nn.Sequential(first, nn.BatchNorm2d(wide), nn.ReLU(inplace=True), second, nn.BatchNorm2d(wide))

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm(self.stem(x)))
        for block in self.a:
            x = F.relu(x + block(x))
        x = F.relu(self.shortcut(x) + self.b[0](x))
        x = F.relu(x + self.b[1](x))
        return self.head(x.mean((2, 3)))


def wide() -> nn.Module:
    layers = [nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)]
    return nn.Sequential(*layers)


def convolutional() -> nn.Module:
    first = [nn.Conv2d(3, 32, 3, padding=1), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2)]
    second = [
        nn.Conv2d(32, 64, 3, padding=1),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.Conv2d(64, 64, 3, groups=4),
        nn.GELU(),
    ]
    return flat(*first, *second)


def recurrent() -> nn.Module:
    way = {"rnn": nn.LSTM(8, 64, num_layers=2, batch_first=True), "head": nn.Linear(64, 10)}
    return Of(lambda m, x: m["head"](m["rnn"](x)[0][:, -1]), **way)


def attentive() -> nn.Module:
    layers = [nn.TransformerEncoderLayer(48, 4, 96, 0.0, batch_first=True) for _ in range(2)]
    return Of(
        lambda m, x: m["head"](m["second"](m["first"](m["into"](x))).mean(1)),
        into=nn.Linear(8, 48),
        first=layers[0],
        second=layers[1],
        head=nn.Linear(48, 10),
    )


PICTURES, SERIES = normal(32, 3, 8, 8), normal(64, 6, 8)
NETWORKS: dict[str, tuple[Any, Tensor]] = {
    "mlp 512": (wide, normal(256, 64)),
    "convolutions": (convolutional, PICTURES),
    "resnet": (Resnet, PICTURES),
    "lstm": (recurrent, SERIES),
    "transformer": (attentive, SERIES),
}


@pytest.mark.parametrize(("method", "noise"), [("weights", 0.3), ("activations", 0.02)])
@pytest.mark.parametrize("name", NETWORKS)
def test_planted_permutations_are_recovered_exactly(name, method, noise):
    make, x = NETWORKS[name]
    model = make().double().eval()
    model(x[:2])
    randomize(model)
    batch, found = (x, None), symmetries(model, (x, None))
    a = found.layout.pack(state_of(model))
    b = a * (1 + noise * normal(len(a), seed=7))
    moved = found.apply(random_permutations(found, 1), b)
    before = moved.clone()
    record = align(
        model, found.layout.unpack(a), found.layout.unpack(moved), batch=batch, method=method, restarts=2
    )
    tensors = {n: torch.from_numpy(t) for n, t in state_tensors(record).items()}
    assert found.layout.pack(tensors).equal(b)
    assert record.converged, record.message
    assert record.change < 1e-12
    assert record.moved > 0.6
    assert record.distance < record.distance_before
    assert moved.equal(before)


def state_tensors(record: Alignment) -> dict[str, np.ndarray]:
    sizes = [int(np.prod(shape)) for shape in record.shapes]
    parts = np.split(record.theta, np.cumsum(sizes)[:-1])
    named = zip(record.names, record.shapes, parts, strict=True)
    return {**{name: part.reshape(shape) for name, shape, part in named}, **record.buffers}


@pytest.mark.parametrize("name", [*MADE, *OWN])
def test_every_family(name):
    """All of them, at two random points: nearer, and the same outputs."""
    if name in MADE:
        made = family(name)
        model, batch = made.model, made.data
    else:
        model, batch, _ = built(name)
    layout = state_layout(model)
    a = layout.pack(state_of(model))
    b = a + normal(len(a), seed=3).abs()
    pair = layout.unpack(a), layout.unpack(b)
    if not sizes(symmetries(model, batch)):
        with pytest.raises(
            InputError, match=r"^the model must have hidden units that may be permuted, and none was found; "
        ):
            align(model, *pair, batch=batch)
        return
    for scaling in (False, True):
        record = align(model, *pair, batch=batch, scaling=scaling)
        assert record.converged, record.message
        assert record.change < _SAME
        tensors = {n: torch.from_numpy(t) for n, t in state_tensors(record).items()}
        now = outputs(model, {n: tensors[n] for n in layout.names}, batch)
        torch.testing.assert_close(now, outputs(model, pair[1], batch), rtol=1e-8, atol=1e-8)
        if not scaling:
            assert record.distance <= record.distance_before


def mlp(*widths: int, activation: type[nn.Module] = nn.ReLU) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, width in pairwise(widths):
        layers += [nn.Linear(inputs, width), activation()]
    return nn.Sequential(*layers[:-1]).double()


def pair_of(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    return tuple({n: p.detach().clone() for n, p in randomize(model, s).named_parameters()} for s in (1, 2))  # type: ignore[return-value]


def test_one_layer_against_all_orders():
    model = mlp(3, 6, 2)
    a, b = pair_of(model)
    record = align(model, a, b, batch=(normal(5, 3), None))

    def squared(order: tuple[int, ...]) -> float:
        moved = {
            "0.weight": b["0.weight"][[*order]],
            "0.bias": b["0.bias"][[*order]],
            "2.weight": b["2.weight"][:, [*order]],
        }
        return float(sum((a[n] - {**b, **moved}[n]).square().sum() for n in a))

    every = {order: squared(order) for order in orders(range(6))}
    best = min(every, key=every.__getitem__)
    assert tuple(record.permutations["0.weight[0]"]) == best
    assert record.distance == pytest.approx(every[best] ** 0.5)
    assert record.distance_before == pytest.approx(every[tuple(range(6))] ** 0.5)


def test_heads_and_what_is_in_them_against_all_orders():
    """Three heads of two units, which each may be turned: 3! 2³ permutations, of which the nested assignment takes the best."""
    model = Of(
        lambda m, x: m["out"](
            (torch.tanh(m["into"](x)).unflatten(-1, (3, 2)) * m["gate"](x)[..., None]).flatten(1)
        ),
        **{"into": nn.Linear(4, 6), "gate": nn.Linear(4, 3), "out": nn.Linear(6, 2)},
    ).double()
    a, b = pair_of(model)
    batch = normal(5, 4), None
    assert sizes(symmetries(model, batch)) == [(2, 3), (3, 0)]
    record = align(model, a, b, batch=batch)
    distances = []
    for heads in orders(range(3)):
        for turns in np.ndindex(2, 2, 2):
            units = [2 * h + (i ^ turn) for h, turn in zip(heads, turns, strict=True) for i in range(2)]
            moved = {f"into.{n}": b[f"parts.into.{n}"][units] for n in ("weight", "bias")}
            moved |= {f"gate.{n}": b[f"parts.gate.{n}"][[*heads]] for n in ("weight", "bias")}
            moved |= {"out.weight": b["parts.out.weight"][:, units], "out.bias": b["parts.out.bias"]}
            distances.append(
                sum(float((a[f"parts.{n}"] - t).square().sum()) for n, t in moved.items()) ** 0.5
            )
    assert record.distance == pytest.approx(min(distances))


def test_ascent_is_algorithm_1():
    """Git Re-Basin's weight matching as the paper has it, layers in order from the identity."""
    model = mlp(6, 20, 20, 20, 3, activation=nn.Tanh)
    a, b = pair_of(model)
    weights = [(a[f"{i}.weight"].numpy(), b[f"{i}.weight"].numpy()) for i in (0, 2, 4, 6)]
    biases = [(a[f"{i}.bias"].numpy(), b[f"{i}.bias"].numpy()) for i in (0, 2, 4)]
    p = [np.eye(6), np.eye(20), np.eye(20), np.eye(20), np.eye(3)]
    changed = True
    while changed:
        changed = False
        for layer in (1, 2, 3):
            (wa, wb), (va, vb), (ba, bb) = weights[layer - 1], weights[layer], biases[layer - 1]
            gain = wa @ p[layer - 1] @ wb.T + va.T @ p[layer + 1] @ vb + np.outer(ba, bb)
            found = np.eye(20)[linear_sum_assignment(gain, maximize=True)[1]]
            changed |= not np.array_equal(found, p[layer])
            p[layer] = found
    record = align(model, a, b, batch=(normal(5, 6), None), restarts=1)
    for layer, label in zip((1, 2, 3), ("0.weight[0]", "2.weight[0]", "4.weight[0]"), strict=True):
        assert np.array_equal(record.permutations[label], p[layer].argmax(1))


def test_a_group_that_meets_itself():
    """A square matrix adds to the gain along both of its axes, the other one held, and only what is better is taken."""
    model = Of(
        lambda m, x: m["out"]((h := torch.tanh(m["into"](x))) + torch.tanh(m["mix"](h))),
        **{"into": nn.Linear(2, 15), "mix": nn.Linear(15, 15), "out": nn.Linear(15, 2)},
    ).double()
    a, b = pair_of(model)
    (wa, ma, oa), (wb, mb, ob) = (
        [s[f"parts.{n}.weight"].numpy() for n in ("into", "mix", "out")] for s in (a, b)
    )
    biases = sum(np.outer(a[f"parts.{n}.bias"], b[f"parts.{n}.bias"]) for n in ("into", "mix"))
    straight = wa @ wb.T + oa.T @ ob + biases

    def similarity(p: np.ndarray) -> float:
        return float((straight * p).sum() + (ma * (p @ mb @ p.T)).sum())

    p = np.eye(15)
    while True:
        gain = straight + ma @ p @ mb.T + ma.T @ p @ mb
        proposed = np.eye(15)[linear_sum_assignment(gain, maximize=True)[1]]
        if not similarity(proposed) > similarity(p):
            break
        p = proposed
    record = align(model, a, b, batch=(normal(5, 2), None), restarts=1)
    assert np.array_equal(record.permutations["parts.into.weight[0]"], p.argmax(1))
    assert record.similarity == pytest.approx(similarity(p))


def test_activations_are_matched_by_correlation():
    model = mlp(4, 30, 3, activation=nn.Tanh)
    a, b = pair_of(model)
    x = normal(200, 4)
    record = align(model, a, b, batch=(x, None), method="activations")
    one, other = (np.tanh(x.numpy() @ s["0.weight"].numpy().T + s["0.bias"].numpy()) for s in (a, b))
    between = np.corrcoef(one.T, other.T)[:30, 30:]
    best = linear_sum_assignment(between, maximize=True)[1]
    assert np.array_equal(record.permutations["0.weight[0]"], best)
    assert record.similarity == pytest.approx(between[np.arange(30), best].sum())
    assert record.similarity_before == pytest.approx(np.trace(between))


def test_more_restarts_match_no_worse():
    model = mlp(6, 20, 20, 20, 3)
    a, b = pair_of(model)
    found = [align(model, a, b, batch=(normal(5, 6), None), restarts=n).similarity for n in (1, 5, 20)]
    assert found == sorted(found)
    assert found[2] > found[0]


def scaled_by(model: nn.Sequential, tensors: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    """What enters each hidden unit of an MLP times s > 0, what leaves it over s."""
    moved = dict(tensors)
    for i in range(0, len(model) - 2, 2):
        s = normal(len(moved[f"{i}.bias"]), seed=seed + i).exp()
        moved[f"{i}.weight"], moved[f"{i}.bias"] = moved[f"{i}.weight"] * s[:, None], moved[f"{i}.bias"] * s
        moved[f"{i + 2}.weight"] = moved[f"{i + 2}.weight"] / s
    return moved


@pytest.mark.parametrize("activation", [nn.ReLU, nn.LeakyReLU])
def test_planted_scales_are_undone(activation):
    model = mlp(8, 40, 40, 5, activation=activation)
    a, _ = pair_of(model)
    batch = normal(60, 8), None
    found = symmetries(model, batch)
    state = found.layout.pack(scaled_by(model, a, seed=5))
    moved = found.layout.unpack(found.apply(random_permutations(found, 2), state))
    record = align(model, a, moved, batch=batch, scaling=True)
    np.testing.assert_allclose(record.theta, found.layout.pack(a), rtol=1e-9, atol=1e-12)
    assert record.scales == 2
    assert record.converged, record.message
    raw = align(model, a, moved, batch=batch)
    assert raw.distance > 1.0


@pytest.mark.parametrize("activation", [nn.GELU, nn.Softplus, nn.Tanh])
def test_no_scales_where_there_are_none(activation):
    model = mlp(8, 10, 5, activation=activation)
    a, b = pair_of(model)
    batch = normal(60, 8), None
    with_, without = (align(model, a, b, batch=batch, scaling=s) for s in (True, False))
    assert with_.scales == 0
    assert np.array_equal(with_.theta, without.theta)


def test_balanced_units_have_what_enters_as_large_as_what_leaves():
    model = mlp(8, 20, 20, 5)
    a, _ = pair_of(model)
    batch = normal(60, 8), None
    found = symmetries(model, batch)
    state = found.layout.pack(a)
    scales = scalings(
        found, lambda x: outputs(model, found.layout.unpack(x), batch), state, generator=generator()
    )
    settled = balanced(found, scales, state)
    t = found.layout.unpack(settled.state)
    for i in (0, 2):
        enters = t[f"{i}.weight"].square().sum(1) + t[f"{i}.bias"].square()
        torch.testing.assert_close(enters, t[f"{i + 2}.weight"].square().sum(0))
    assert settled.converged
    torch.testing.assert_close(settled.state, state * settled.factors.exp())
    again = balanced(found, scales, found.layout.pack(scaled_by(model, a, seed=3)))
    torch.testing.assert_close(again.state, settled.state)


def test_scales_of_a_residual_stream():
    """Where a group meets itself: x + W relu(V x) has scales for relu's units, and for the stream's."""
    parts = {
        "into": nn.Linear(5, 12),
        "up": nn.Linear(12, 9),
        "down": nn.Linear(9, 12),
        "out": nn.Linear(12, 4),
    }
    parts["mix"] = nn.Linear(12, 12)

    def way(m: nn.ModuleDict, x: Tensor) -> Tensor:
        x = F.relu(m["into"](x))
        x = F.relu(x + m["mix"](x))
        return m["out"](x + m["down"](F.relu(m["up"](x))))

    model = randomize(Of(way, **parts).double())
    batch = normal(80, 5), None
    found = symmetries(model, batch)
    state = found.layout.pack(state_of(model))
    scales = scalings(
        found, lambda x: outputs(model, found.layout.unpack(x), batch), state, generator=generator()
    )
    assert sorted(found.groups[s.group].size for s in scales) == [9, 12]
    settled = balanced(found, scales, state)
    assert settled.converged
    assert settled.state.norm() < state.norm()
    was, now = (outputs(model, found.layout.unpack(x), batch) for x in (state, settled.state))
    torch.testing.assert_close(now, was)


def trained(seed: int, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()
    return {name: p.detach().double() for name, p in model.named_parameters()}


@pytest.fixture(scope="module")
def solved() -> tuple[Problem, list[Solution]]:
    train, *_ = digits()
    problem = Problem(
        "wide",
        lambda: nn.Sequential(nn.Linear(64, 512), nn.ReLU(), nn.Linear(512, 10)),
        F.cross_entropy,
        train,
    )
    found = []
    for seed in range(2):
        tensors = trained(seed, train[0].float(), train[1])
        names, shapes = tuple(tensors), tuple(tuple(t.shape) for t in tensors.values())
        theta = torch.cat([t.reshape(-1) for t in tensors.values()]).numpy()
        found.append(
            Solution(
                problem="wide",
                optimizer="adam",
                seed=seed,
                theta=theta,
                names=names,
                shapes=shapes,
                tail=theta[None],
            )
        )
    return problem, found


@pytest.mark.parametrize("settings", [{}, {"scaling": True}, {"method": "activations"}], ids=str)
def test_aligned_barriers_are_lower(solved, settings, tmp_path):
    problem, (a, b) = solved
    objective = problem.objective()
    record = align(problem, a, b, **settings)
    moved = record.aligned(b)
    assert float(objective(moved.theta)) == pytest.approx(float(objective(b.theta)), rel=1e-10)
    raw, aligned = (linear_path(objective, a.theta, other).barrier for other in (b.theta, moved.theta))
    assert raw > 0.05
    assert aligned < 0.5 * raw
    assert moved.tail.size == 0
    assert (record.reference, record.other) == ("adam/0", "adam/1")
    back = load(record.save(tmp_path / "record.npz"))
    assert isinstance(back, Alignment)
    assert np.array_equal(back.theta, record.theta)
    assert all(np.array_equal(back.permutations[k], v) for k, v in record.permutations.items())


def test_running_statistics_go_with_their_channels():
    made = family("resnet")
    layout = state_layout(made.model)
    a, b = (
        layout.unpack(layout.pack(state_of(made.model)) + normal(layout.dim, seed=s).abs()) for s in (1, 2)
    )
    record = align(made.model, a, b, batch=made.data)
    norm1 = record.permutations["3.first.weight[0]"]
    assert np.array_equal(record.buffers["3.norm1.running_mean"], b["3.norm1.running_mean"].numpy()[norm1])
    losses = [
        model_objective(made.model, F.cross_entropy, [made.data], buffers=buffers)(theta)
        for theta, buffers in (
            (torch.from_numpy(record.theta), {n: torch.from_numpy(v) for n, v in record.buffers.items()}),
            (torch.cat([b[n].reshape(-1) for n in record.names]), {n: b[n] for n in record.buffers}),
        )
    ]
    torch.testing.assert_close(*losses)


def test_what_both_hold_and_do_not_train_stays():
    """Frozen weights that are equal are part of the function, so that the units they feed keep their places."""
    model = mlp(6, 8, 8, 3)
    model[0].requires_grad_(False)
    a, b = pair_of(model)
    for name in ("0.weight", "0.bias"):
        b[name] = a[name]
    record = align(model, a, b, batch=(normal(N, 6), None))
    assert list(record.permutations) == ["2.weight[0]"]
    assert record.names == ("2.weight", "2.bias", "4.weight", "4.bias")
    # Whatever the model itself holds in their place.
    here = align(model, a, b, batch=(normal(N, 6), None), method="activations")
    randomize(model, seed=4)
    there = align(model, a, b, batch=(normal(N, 6), None), method="activations")
    assert there.similarity == here.similarity


def test_settings_that_cannot_be():
    model = mlp(6, 8, 3)
    a, b = pair_of(model)
    batch = normal(N, 6), None
    with pytest.raises(InputError, match=r"^method must be 'weights' or 'activations', got 'magic'\.$"):
        align(model, a, b, batch=batch, method="magic")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"^restarts must be at least 1, got 0\.$"):
        align(model, a, b, batch=batch, restarts=0)
    with pytest.raises(
        InputError, match=r"^batch is missing; give \(inputs, targets\) or a mapping of keywords"
    ):
        align(model, a, b)
    with pytest.raises(
        InputError, match=r"^other has no parameter '2\.bias', which the model has; give solutions"
    ):
        align(model, a, {n: t for n, t in b.items() if n != "2.bias"}, batch=batch)
    with pytest.raises(
        InputError, match=r"^reference has '2\.bias' of shape \(4,\), the model of shape \(3,\); give"
    ):
        align(model, {**a, "2.bias": torch.zeros(4)}, b, batch=batch)
    with pytest.raises(
        InputError, match=r"^other holds values in '2\.bias' that are NaN or infinite; train it anew\.$"
    ):
        align(model, a, {**b, "2.bias": torch.full((3,), torch.nan)}, batch=batch)


def test_the_model_is_not_touched():
    made = family("cnn batchnorm")
    before = {n: t.clone() for n, t in made.model.state_dict().items()}
    layout = state_layout(made.model)
    b = layout.unpack(layout.pack(state_of(made.model)) * 2)
    made.model.train()
    align(made.model, before, b, batch=made.data, scaling=True)
    assert made.model.training
    made.model.eval()
    assert all(t.equal(before[n]) for n, t in made.model.state_dict().items())


def test_time_and_batch_do_not_matter():
    """Traced on one example of three steps, a network is permuted as on many."""
    _, x = NETWORKS["lstm"]
    model = randomize(recurrent().double().eval())
    layout = state_layout(model)
    a = layout.unpack(layout.pack(state_of(model)))
    b = layout.unpack(layout.pack(state_of(model)) + 0.3 * normal(layout.dim, seed=1))
    few, many = (align(model, a, b, batch=(part, None), restarts=1) for part in (x[:1, :TIME], x))
    assert np.array_equal(few.theta, many.theta)

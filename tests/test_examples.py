"""Squared gradients of single examples against one backward pass for each of them."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from analysis.curvature.examples import ExampleSquares
from landscape import model_objective
from landscape.objective import Composed

N = 5


def double(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Block(nn.Module):
    """One layer of a transformer with learned positions, on tokens; the head is tied to the table."""

    def __init__(self, norm: Callable[[int], nn.Module] = nn.LayerNorm) -> None:
        super().__init__()
        self.table, self.position = nn.Embedding(7, 8), nn.Parameter(double(4, 8))
        self.first, self.qkv, self.out = norm(8), nn.Linear(8, 24, bias=False), nn.Linear(8, 8)
        self.second, self.up, self.down = norm(8), nn.Linear(8, 16), nn.Linear(16, 8)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.table(tokens) + self.position
        q, k, v = (
            part.unflatten(-1, (2, 4)).transpose(1, 2) for part in self.qkv(self.first(x)).split(8, dim=-1)
        )
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        x = x + self.out(mixed)
        x = x + self.down(nn.functional.gelu(self.up(self.second(x))))
        return x @ self.table.weight.T


class Twice(nn.Module):
    """A layer that is used twice, and one applied along time."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 6), nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(torch.tanh(self.a(x)))
        return self.b(x.reshape(len(x), 3, 2)).flatten(1)


class Scaled(nn.Module):
    """Parameters outside layers, a parameter cast, and one that takes part in no operator with a rule."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.shift, self.power = (nn.Parameter(double(6, seed=s)) for s in range(3))
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head((x * self.scale - self.shift).sigmoid() ** self.power)


class Bare(nn.Module):
    """A parameter added here and subtracted there, with a factor, one that is expanded to a weight, and one behind detach."""

    def __init__(self) -> None:
        super().__init__()
        self.p, self.row = nn.Parameter(double(6)), nn.Parameter(double(1, 6, seed=1))
        self.held = nn.Parameter(double(3, 3, seed=2))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(x + self.p) - self.p
        x = nn.functional.linear(x, self.row.expand(3, 6))
        return torch.sin(x) @ self.held + torch.cos(x) @ self.held.detach()


class Alpha(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.p = nn.Parameter(double(6))

    def forward(self, x: Tensor) -> Tensor:
        return torch.add(x, self.p, alpha=3).tanh()


class TimeFirst(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


def images(*layers: nn.Module) -> nn.Module:
    return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(3))


Tokens, Pictures = (
    torch.tensor([[1, 2, 1, 0], [3, 3, 3, 3], [6, 5, 4, 0], [0, 1, 2, 3], [2, 2, 5, 5]]),
    (N, 4, 6, 6),
)
MODELS: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "mlp": (lambda: nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 3, bias=False)), double(N, 6)),
    "conv": (lambda: images(nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.Tanh()), double(*Pictures)),
    "grouped conv": (
        lambda: images(nn.Conv2d(4, 6, (3, 2), dilation=2, groups=2, bias=False)),
        double(*Pictures),
    ),
    "conv1d": (lambda: images(nn.Conv1d(4, 3, 2, padding=1), nn.Tanh()), double(N, 4, 5)),
    "batch norm": (
        lambda: nn.Sequential(
            nn.Conv2d(4, 3, 3), nn.BatchNorm2d(3).eval(), nn.Flatten(), nn.BatchNorm1d(48).eval()
        ),
        double(*Pictures),
    ),
    "group norm": (lambda: images(nn.Conv2d(4, 6, 3), nn.GroupNorm(3, 6), nn.Tanh()), double(*Pictures)),
    "instance norm": (lambda: images(nn.InstanceNorm2d(4, affine=True), nn.Tanh()), double(*Pictures)),
    "layer norm": (
        lambda: nn.Sequential(nn.Linear(6, 4), nn.LayerNorm(4), nn.Tanh(), nn.Linear(4, 2)),
        double(N, 6),
    ),
    "layer norm of images": (lambda: images(nn.LayerNorm([6, 6])), double(*Pictures)),
    "rms norm": (lambda: nn.Sequential(nn.Linear(6, 4), nn.RMSNorm(4), nn.Linear(4, 2)), double(N, 6)),
    "transformer": (Block, Tokens),
    "padding": (
        lambda: nn.Sequential(nn.Embedding(7, 3, padding_idx=2), nn.Flatten(), nn.Linear(12, 2)),
        Tokens,
    ),
    "twice": (Twice, double(N, 6)),
    "outside layers": (Scaled, double(N, 6)),
    "bare": (Bare, double(N, 6)),
    "alpha": (Alpha, double(N, 6)),
    "lstm": (TimeFirst, double(N, 4, 3)),
    "transposed conv": (lambda: images(nn.ConvTranspose2d(4, 2, 3, stride=2), nn.Tanh()), double(*Pictures)),
    "conv3d": (lambda: images(nn.Conv3d(2, 3, 2), nn.Tanh()), double(N, 2, 3, 3, 3)),
}
UNKNOWN = {  # no rule, not in rows by example, or time before the example
    "outside layers": ["power"],
    "instance norm": ["0.weight", "0.bias"],
    "alpha": ["p"],
    "lstm": ["lstm.weight_ih_l0", "lstm.bias_ih_l0"],
}


def network(name: str) -> tuple[Callable[[Tensor], Tensor], Tensor, tuple[str, ...], list[int]]:
    """θ -> z of one of MODELS, θ, and names and sizes of the parameters."""
    torch.manual_seed(0)
    build, x = MODELS[name]
    model = build().double()
    model(x)  # lazy layers get their shapes
    with torch.no_grad():
        for i, p in enumerate(model.parameters()):
            p += 0.3 * double(*p.shape, seed=i)
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and module.running_mean is not None:
                module.running_mean += 0.2
                torch.as_tensor(module.running_var).mul_(1.7)
    objective = model_objective(model, lambda z, _: z.square().mean(), [(x, x)])
    assert objective.parameters is not None
    term = objective.terms[0]
    assert isinstance(term, Composed)
    sizes = list(objective.parameters.sizes)
    return term.output, objective.parameters.theta(model), objective.parameters.names, sizes


def one_by_one(output: Callable[[Tensor], Tensor], theta: Tensor, seeds: Tensor) -> Tensor:
    total = torch.zeros_like(theta)
    for n in range(len(seeds)):
        leaf = theta.clone().requires_grad_()
        total += torch.autograd.grad((output(leaf)[n] * seeds[n]).sum(), leaf)[0].square()
    return total


@pytest.mark.parametrize("chunk", [2**24, 50])
@pytest.mark.parametrize("name", MODELS)
def test_they_are_those_of_one_pass_for_each_example(
    name: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("analysis.curvature.examples.CHUNK", chunk)
    output, theta, names, sizes = network(name)
    squares = ExampleSquares(output, theta)
    known = [bool(part.all()) for part in squares.known.split(sizes)]
    assert [n for n, k in zip(names, known, strict=True) if not k] == UNKNOWN.get(
        name, [n for n in names if "lstm" in n]
    )
    for seed in (1, 2):
        seeds = double(*squares.z.shape, seed=seed)
        expected = one_by_one(output, theta, seeds)
        assert expected.count_nonzero() > len(theta) / 3
        torch.testing.assert_close(squares(seeds)[squares.known], expected[squares.known])


@pytest.mark.parametrize("name", ["outside layers", "lstm"])
def test_others_are_right_on_the_mean_over_signs(name: str) -> None:
    """Over all 2⁵ signs of the examples, exactly."""
    output, theta, _, _ = network(name)
    squares = ExampleSquares(output, theta)
    seeds = double(*squares.z.shape, seed=1)
    signs = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0], dtype=torch.float64)] * N)
    shape = (-1, *(1,) * (seeds.ndim - 1))
    found = torch.stack([squares(seeds * s.reshape(shape)) for s in signs]).mean(0)
    torch.testing.assert_close(found, one_by_one(output, theta, seeds))


def test_coupled_examples_are_noticed() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).double()
    objective = model_objective(
        model, lambda z, _: z.square().mean(), [(double(N, 6), double(N, 6))], batchnorm="batch"
    )
    assert objective.parameters is not None
    term = objective.terms[0]
    assert isinstance(term, Composed)
    squares = ExampleSquares(term.output, objective.parameters.theta(model))
    known = dict(
        zip(objective.parameters.names, squares.known.split(objective.parameters.sizes), strict=True)
    )
    assert not known["0.weight"].any()
    assert not known["1.weight"].any()
    assert known["2.weight"].all()


def test_what_cannot_be_captured_is_left_to_signs() -> None:
    def output(theta: Tensor) -> Tensor:
        return double(N, 3) @ theta.reshape(3, 2) * (1 if float(theta[0].detach()) > 0 else 2)

    squares = ExampleSquares(output, double(6).abs())
    assert not squares.known.any()
    seeds = double(N, 2, seed=1)
    leaf = double(6).abs().requires_grad_()
    torch.testing.assert_close(
        squares(seeds), torch.autograd.grad((output(leaf) * seeds).sum(), leaf)[0].square()
    )


def test_nothing_given_is_changed() -> None:
    output, theta, _, _ = network("conv")
    before = theta.clone()
    squares = ExampleSquares(output, theta)
    seeds = double(*squares.z.shape, seed=1)
    kept = seeds.clone()
    first = squares(seeds)
    assert squares(seeds).equal(first)
    assert theta.equal(before)
    assert seeds.equal(kept)
    assert not first.requires_grad

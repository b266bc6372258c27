"""Small models of the usual kinds with random data, the same on every machine: what the benchmarks and their peers work on.

    case("resnet20", 128).model

Weights and data come from fixed seeds and are float32 on the CPU; the caller's random numbers are left as they were. The models
are in eval mode and untrained: what a loss, a gradient or a Hessian-vector product costs does not depend on the weights.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Parts = tuple[nn.Module, nn.Module, tuple[Tensor, Tensor]]  # model, loss and batch of a case
CONTEXT, VOCABULARY, WIDTH, HEADS, LAYERS = 64, 256, 128, 4, 4  # of "gpt"


@dataclass(frozen=True, eq=False)
class Case:
    """A model in eval mode, its mean loss (output, target) -> scalar, and one batch (inputs, targets)."""

    name: str
    model: nn.Module
    loss_fn: nn.Module
    batch: tuple[Tensor, Tensor]


def case(name: str, examples: int) -> Case:
    """The case of that name (a key of CASES) with so many images, or sequences for "gpt"."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, loss_fn, batch = CASES[name](examples)
    return Case(name, model.eval(), loss_fn, batch)


class TokenCrossEntropy(nn.CrossEntropyLoss):
    """Mean cross entropy over all tokens: logits (B, T, V), targets (B, T)."""

    def forward(self, input: Tensor, target: Tensor) -> Tensor:
        return super().forward(input.flatten(0, 1), target.flatten())


class Residual(nn.Module):
    """relu(f(x) + x), f two convolutions; where the width doubles, x is thinned and padded (He et al. 2015, option A)."""

    def __init__(self, narrow: int, wide: int) -> None:
        super().__init__()
        self.stride, self.gain = wide // narrow, [0, 0, 0, 0, (wide - narrow) // 2, (wide - narrow) // 2]
        self.f = nn.Sequential(*convolution(narrow, wide, self.stride), nn.ReLU(), *convolution(wide, wide))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x[:, :, :: self.stride, :: self.stride]
        return F.relu(self.f(x) + (F.pad(shortcut, self.gain) if any(self.gain) else x))


class Block(nn.Module):
    """A transformer block with the norms first: causal attention, then two linear layers with GELU."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(nn.Linear(WIDTH, 4 * WIDTH), nn.GELU(), nn.Linear(4 * WIDTH, WIDTH))

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(self.norm1(x)).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class GPT(nn.Module):
    """Tokens (B, T) -> logits (B, T, V)."""

    def __init__(self) -> None:
        super().__init__()
        self.token, self.place = nn.Embedding(VOCABULARY, WIDTH), nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, VOCABULARY, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.token(tokens) + self.place.weight[: tokens.shape[1]]
        return self.head(self.norm(self.blocks(x)))


def convolution(narrow: int, wide: int, stride: int = 1) -> tuple[nn.Module, nn.Module]:
    """3x3 with BatchNorm, whose running statistics are plain means over the passes in train mode."""
    return nn.Conv2d(narrow, wide, 3, stride, padding=1, bias=False), nn.BatchNorm2d(wide, momentum=None)


def mlp(examples: int) -> Parts:
    model = nn.Sequential(nn.Linear(784, 50), nn.ReLU(), nn.Linear(50, 50), nn.ReLU(), nn.Linear(50, 10))
    return model, nn.CrossEntropyLoss(), images(examples, 784)


def lenet(examples: int) -> Parts:
    first = [nn.Conv2d(1, 6, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)]
    second = [nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
    linear = [nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, 10)]
    return nn.Sequential(*first, *second, *linear), nn.CrossEntropyLoss(), images(examples, 1, 28, 28)


def resnet20(examples: int) -> Parts:
    blocks = [Residual(narrow, wide) for narrow, wide in pairwise([16] * 4 + [32] * 3 + [64] * 3)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)]
    model = nn.Sequential(*convolution(3, 16), nn.ReLU(), *blocks, *head)
    with torch.no_grad():
        for _ in range(4):
            model(torch.randn(64, 3, 32, 32))  # in train mode: sets the running statistics
    return model, nn.CrossEntropyLoss(), images(examples, 3, 32, 32)


def gpt(examples: int) -> Parts:
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randint(VOCABULARY, (examples, CONTEXT + 1), generator=generator)
    return GPT(), TokenCrossEntropy(), (tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous())


def images(examples: int, *shape: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    inputs = torch.randn(examples, *shape, generator=generator)
    return inputs, torch.randint(10, (examples,), generator=generator)


CASES: dict[str, Callable[[int], Parts]] = {"mlp": mlp, "lenet": lenet, "resnet20": resnet20, "gpt": gpt}

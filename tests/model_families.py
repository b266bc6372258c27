"""Families of models in small: a few hundred parameters each, float64, data in uneven batches, and what is right for them.

The reference is PyTorch's own way, which knows nothing of the package: the loss of a model on all data in one batch, its
gradient in the model's parameters, and that gradient's backward passes.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils.parametrizations import _WeightNorm, weight_norm
from torch.nn.utils.parametrize import ParametrizationList
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from landscape import Objective, model_objective

BATCHES = (5, 4, 2)
N, CLASSES, WORDS, TIME = sum(BATCHES), 3, 5, 4
DOUBLE = torch.float64


@dataclass(frozen=True, eq=False)
class Family:
    """A model, its loss, and all data in one batch: a pair (input, target) or a mapping.

    loss_fn: as model_objective takes it; settings: what else it is given. smooth: its gradient has a derivative everywhere.
    """

    model: nn.Module
    loss_fn: Callable[[Any, Any], Tensor] | None
    data: Any
    settings: dict[str, Any] = field(default_factory=dict)
    smooth: bool = True

    @property
    def batches(self) -> list[Any]:
        """The data in uneven batches."""
        parts = [
            range(a - n, a) for n, a in zip(BATCHES, torch.tensor(BATCHES).cumsum(0).tolist(), strict=True)
        ]
        return [tree_map(lambda tensor, part=part: tensor[list(part)], self.data) for part in parts]

    @cached_property
    def objective(self) -> Objective:
        return model_objective(self.model, self.loss_fn, self.batches, **self.settings)

    @cached_property
    def parameters(self) -> list[nn.Parameter]:
        return [p for p in self._own.parameters() if p.requires_grad]

    @cached_property
    def theta(self) -> Tensor:
        return _flat(self.parameters).detach()

    @cached_property
    def loss(self) -> float:
        with torch.no_grad():
            return float(self._total())

    @cached_property
    def gradient(self) -> Tensor:
        return self._gradient()

    @cached_property
    def hessian(self) -> Tensor:
        """(P, P) by double backward; AssertionError where it is not symmetric, or for smooth models not that of differences."""
        hessian = self.symmetric
        if self.smooth:
            v = normal(len(hessian), seed=5)
            torch.testing.assert_close(
                self._along(v), hessian @ v, rtol=1e-5, atol=1e-6 * float(hessian.abs().max())
            )
        return hessian

    @cached_property
    def symmetric(self) -> Tensor:
        """(P, P) by double backward; AssertionError where it is not symmetric."""
        gradient = self._gradient(create_graph=True)
        rows = [
            _flat(
                torch.autograd.grad(
                    gradient, self.parameters, unit, retain_graph=True, materialize_grads=True
                )
            )
            for unit in torch.eye(len(gradient), dtype=DOUBLE)
        ]
        hessian = torch.stack(rows)
        torch.testing.assert_close(hessian, hessian.T, rtol=0, atol=1e-11 * float(hessian.abs().max()))
        return (hessian + hessian.T) / 2

    @cached_property
    def gauss_newton(self) -> Tensor:
        """Σ Jᵀ∇²ℓJ (P, P) with dense Jacobians, over all floating-point numbers of the output."""
        total = torch.zeros_like(self.hessian)
        for weight, batch in self._weighed:
            z, loss_of = self._outputs(batch)
            jacobian = torch.stack(
                [
                    _flat(
                        torch.autograd.grad(one, self.parameters, retain_graph=True, materialize_grads=True)
                    )
                    for one in z
                ]
            )
            bend = torch.autograd.functional.hessian(loss_of, z.detach())
            assert isinstance(bend, Tensor)
            total += weight * jacobian.T @ bend @ jacobian
        return total

    @cached_property
    def _own(self) -> nn.Module:
        own = copy.deepcopy(self.model)
        for module in own.modules():
            if isinstance(module, ParametrizationList) and isinstance(module[0], _WeightNorm):
                module[0] = Scaled()
        return own.train() if self.settings.get("batchnorm") == "batch" else own

    @property
    def _weighed(self) -> list[tuple[float, Any]]:
        """Batches and weights of their losses: all data at once, unless the batch is part of the function."""
        if self.settings.get("batchnorm") == "batch":
            return [(n / N, batch) for n, batch in zip(BATCHES, self.batches, strict=True)]
        return [(1 / N if self.settings.get("reduction") == "sum" else 1.0, self.data)]

    def _forward(self, batch: Any) -> Any:
        return self._own(**batch) if isinstance(batch, Mapping) else self._own(batch[0])

    def _loss(self, output: Any, batch: Any) -> Tensor:
        if self.loss_fn is None:
            return output.loss
        return self.loss_fn(output, batch if isinstance(batch, Mapping) else batch[1])

    def _gradient(self, *, create_graph: bool = False) -> Tensor:
        found = torch.autograd.grad(
            self._total(), self.parameters, create_graph=create_graph, materialize_grads=True
        )
        return _flat(found)

    def _total(self) -> Tensor:
        with sdpa_kernel(SDPBackend.MATH):
            losses = [weight * self._loss(self._forward(batch), batch) for weight, batch in self._weighed]
            return torch.stack(losses).sum()

    def _along(self, v: Tensor, step: float = 1e-5) -> Tensor:
        """∇²L v by central differences of the gradient."""
        sides = []
        for sign in (1, -1):
            moved = copy.deepcopy(self)
            parts = (self.theta + sign * step * v).split([p.numel() for p in moved.parameters])
            with torch.no_grad():
                for p, part in zip(moved.parameters, parts, strict=True):
                    p.copy_(part.view_as(p))
            sides.append(moved._gradient())
        return (sides[0] - sides[1]) / (2 * step)

    def _outputs(self, batch: Any) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """All numbers put out, in one row, and the loss of such a row."""
        with sdpa_kernel(SDPBackend.MATH):
            output = self._forward(batch)
        held = output if not isinstance(output, Output) else {"logits": output.logits}
        leaves, spec = tree_flatten(held)
        sizes = [leaf.numel() for leaf in leaves]

        def loss_of(z: Tensor) -> Tensor:
            parts = zip(z.split(sizes), leaves, strict=True)
            tree = tree_unflatten([part.view_as(leaf) for part, leaf in parts], spec)
            return self._loss(Output(**tree) if isinstance(output, Output) else tree, batch)

        return torch.cat([leaf.reshape(-1) for leaf in leaves]), loss_of


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def integers(high: int, *shape: int, seed: int = 0) -> Tensor:
    return torch.randint(high, shape, generator=torch.Generator().manual_seed(seed))


def _flat(tensors: Any) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tensors])


class Scaled(nn.Module):
    """W = g v/‖v‖ by rows. PyTorch's fused one has right first derivatives and, on a CPU, wrong second ones."""

    def forward(self, g: Tensor, v: Tensor) -> Tensor:
        return v * (g / v.square().sum(1, keepdim=True).sqrt())


@dataclass
class Output:
    """What models of other libraries put out: an object, with a loss where labels were given."""

    logits: Tensor
    loss: Tensor | None = None


class Residual(nn.Module):
    """A block of a ResNet that halves the image, with a convolution in its shortcut."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.norm1, self.norm2, self.norm3 = (nn.BatchNorm2d(outputs) for _ in range(3))
        self.shortcut = nn.Conv2d(inputs, outputs, 1, stride=2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm2(self.second(F.relu(self.norm1(self.first(x)))))
        return F.relu(y + self.norm3(self.shortcut(x)))


class GPT(nn.Module):
    """Tokens, learned positions, one causal block with fused attention; the head is tied to the table."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.table, self.position = nn.Embedding(WORDS, width), nn.Parameter(torch.zeros(TIME, width))
        self.norm1, self.norm2, self.norm3 = (nn.LayerNorm(width) for _ in range(3))
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, input_ids: Tensor) -> Tensor:
        x = self.table(input_ids) + self.position
        q, k, v = (
            part.unflatten(-1, (2, -1)).transpose(1, 2) for part in self.qkv(self.norm1(x)).chunk(3, -1)
        )
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        x = x + self.out(mixed)
        x = x + self.down(F.gelu(self.up(self.norm2(x))))
        return self.norm3(x) @ self.table.weight.T


class WithLabels(nn.Module):
    """A model that takes a mapping, and computes its own loss where it is given labels; −100 is no label."""

    def __init__(self) -> None:
        super().__init__()
        self.gpt = GPT(2)

    def forward(self, input_ids: Tensor, labels: Tensor | None = None) -> Output:
        logits = self.gpt(input_ids)
        loss = None if labels is None else F.cross_entropy(logits.flatten(0, 1), labels.flatten())
        return Output(logits, loss)


class Attention(nn.Module):
    """nn.MultiheadAttention over tokens, its mean over time classified."""

    def __init__(self, *, weights: bool) -> None:
        super().__init__()
        self.table, self.head, self.weights = nn.Embedding(WORDS, 4), nn.Linear(4, CLASSES), weights
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.table(tokens)
        return self.head(torch.tanh(x + self.attention(x, x, x, need_weights=self.weights)[0]).mean(1))


class Recurrent(nn.Module):
    """An LSTM or GRU, read out at every step or at the last."""

    def __init__(self, kind: Callable[..., nn.RNNBase], *, batch_first: bool = True) -> None:
        super().__init__()
        self.rnn, self.head = kind(3, 4, batch_first=batch_first), nn.Linear(4, 2)
        self.batch_first = batch_first

    def forward(self, x: Tensor) -> Tensor:
        states = self.rnn(x if self.batch_first else x.transpose(0, 1))[0]
        return self.head(states if self.batch_first else states.transpose(0, 1))


class Autoencoder(nn.Module):
    """One weight, used as W and as Wᵀ."""

    def __init__(self) -> None:
        super().__init__()
        self.code, self.shift = nn.Linear(6, 3), nn.Parameter(torch.zeros(6))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.code(x)) @ self.code.weight + self.shift


def mlp(*between: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 8), *between, nn.Softplus(), nn.Linear(8, CLASSES))


def convolutions(*norm: nn.Module) -> nn.Sequential:
    """Two of them, the first one's four channels normalized."""
    layers = nn.Conv2d(2, 4, 3), *norm, nn.Softplus(), nn.Conv2d(4, 2, 3, stride=2), nn.Flatten()
    return nn.Sequential(*layers, nn.Linear(2, CLASSES))


def token_loss(logits: Tensor, words: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), words.flatten())


def of_logits(output: Output, batch: Mapping[str, Tensor]) -> Tensor:
    return token_loss(output.logits, batch["labels"])


def labelled(batch: Mapping[str, Tensor]) -> float:
    """The tokens that have a label."""
    return float((batch["labels"] >= 0).sum())


def frozen() -> nn.Module:
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, CLASSES))
    for p in (model[0].bias, *model[2].parameters()):
        p.requires_grad_(False)
    return model


def unused() -> nn.Module:
    model = mlp()
    model.register_parameter("never", nn.Parameter(torch.zeros(3)))
    model.add_module("spare", nn.Identity())
    return model


def normed() -> nn.Module:
    return nn.Sequential(weight_norm(nn.Linear(6, 5)), nn.Tanh(), weight_norm(nn.Linear(5, CLASSES)))


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(4, 2, 6, dropout=0.0, activation="gelu", batch_first=True)
    return nn.Sequential(nn.Embedding(WORDS, 4), layer, nn.Flatten(), nn.Linear(4 * TIME, CLASSES))


X, LABELS = normal(N, 6, seed=1), integers(CLASSES, N, seed=2)
PICTURES = normal(N, 2, 6, 6, seed=1)
TOKENS, WORDS_NEXT = integers(WORDS, N, TIME, seed=1), integers(WORDS, N, TIME, seed=2)
SEQUENCES, PATHS = normal(N, TIME, 3, seed=1), normal(N, TIME, 2, seed=2)
SOME_LABELS = WORDS_NEXT.where(normal(N, TIME, seed=3) > -0.3, -100)
MASKED = {"input_ids": TOKENS, "labels": SOME_LABELS}
CE = F.cross_entropy

MADE: dict[str, Callable[[], Family]] = {
    "mlp": lambda: Family(mlp(), CE, (X, LABELS)),
    "sum": lambda: Family(mlp(), nn.CrossEntropyLoss(reduction="sum"), (X, LABELS), {"reduction": "sum"}),
    "mse": lambda: Family(mlp(), F.mse_loss, (X, normal(N, CLASSES, seed=2))),
    "bce": lambda: Family(
        mlp(), F.binary_cross_entropy_with_logits, (X, normal(N, CLASSES, seed=2).sigmoid())
    ),
    "cnn": lambda: Family(convolutions(), CE, (PICTURES, LABELS)),
    "cnn batchnorm": lambda: Family(convolutions(nn.BatchNorm2d(4)), CE, (PICTURES, LABELS)),
    "cnn batchnorm by batch": lambda: Family(
        convolutions(nn.BatchNorm2d(4)), CE, (PICTURES, LABELS), {"batchnorm": "batch"}
    ),
    "resnet": lambda: Family(
        nn.Sequential(
            nn.Conv2d(2, 2, 3, padding=1),
            nn.BatchNorm2d(2),
            nn.ReLU(),
            Residual(2, 3),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(3, CLASSES),
        ),
        CE,
        (PICTURES, LABELS),
        smooth=False,
    ),
    "layernorm": lambda: Family(mlp(nn.LayerNorm(8)), CE, (X, LABELS)),
    "batchnorm": lambda: Family(mlp(nn.BatchNorm1d(8)), CE, (X, LABELS)),
    "rmsnorm": lambda: Family(mlp(nn.RMSNorm(8)), CE, (X, LABELS)),
    "instancenorm": lambda: Family(convolutions(nn.InstanceNorm2d(4, affine=True)), CE, (PICTURES, LABELS)),
    "groupnorm": lambda: Family(convolutions(nn.GroupNorm(2, 4)), CE, (PICTURES, LABELS)),
    "weight_norm": lambda: Family(normed(), CE, (X, LABELS)),
    "gpt, tied": lambda: Family(GPT(), token_loss, (TOKENS, WORDS_NEXT)),
    "attention": lambda: Family(Attention(weights=False), CE, (TOKENS, LABELS)),
    "attention with weights": lambda: Family(Attention(weights=True), CE, (TOKENS, LABELS)),
    "encoder layer": lambda: Family(encoder(), CE, (TOKENS, LABELS)),
    "lstm": lambda: Family(Recurrent(nn.LSTM), F.mse_loss, (SEQUENCES, PATHS)),
    "gru, time first": lambda: Family(Recurrent(nn.GRU, batch_first=False), F.mse_loss, (SEQUENCES, PATHS)),
    "autoencoder, tied": lambda: Family(Autoencoder(), F.mse_loss, (X, X)),
    "frozen": lambda: Family(frozen(), CE, (X, LABELS)),
    "unused": lambda: Family(unused(), CE, (X, LABELS)),
    "dict batches": lambda: Family(WithLabels(), of_logits, MASKED, {"count": labelled}),
    "own loss": lambda: Family(WithLabels(), None, MASKED, {"count": labelled}),
}


@cache
def family(name: str) -> Family:
    """One of MADE at a random point, in eval mode; BatchNorm with statistics of its own."""
    made = MADE[name]()
    model = made.model.double().eval()
    with torch.no_grad():
        for seed, p in enumerate(model.parameters()):
            around = 1.0 if bool((p == 1).all()) else 0.0  # scales of normalization layers
            p.copy_(around + 0.5 * normal(*p.shape, seed=10 + seed))
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                torch.as_tensor(module.running_mean).copy_(normal(module.num_features, seed=7))
                torch.as_tensor(module.running_var).copy_(0.5 + normal(module.num_features, seed=8).square())
    return made

"""The problems that come with the toolkit, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from torch import Tensor, nn

from .datasets import Pair, digits, mnist
from .errors import InputError
from .problems import Problem, examples, select

MNIST_EPOCHS = 75  # as found to reproduce the SGD rows of Yu and Morozov (2026)
DIGITS_EPOCHS = 500  # 17 steps each at batch 64, where MNIST has 782: enough to fit every training image


def accuracy(output: Tensor, target: Tensor) -> Tensor:
    """The share of examples whose largest output (n, C) is the label (n,)."""
    return (output.argmax(dim=-1) == target).to(output.dtype).mean()


def digits_mlp(hidden: int = 32) -> Problem:
    """scikit-learn's digits, 64 – hidden – 10 with softplus and biases: 2,410 parameters."""
    return _classification(
        "digits-mlp",
        lambda: nn.Sequential(nn.Linear(64, hidden), nn.Softplus(), nn.Linear(hidden, 10)),
        digits(),
        epochs=DIGITS_EPOCHS,
    )


def digits_cnn(channels: int = 8) -> Problem:
    """scikit-learn's digits as 8 × 8 images, two convolutions with average pooling, softplus: 3,658 parameters."""

    def model() -> nn.Module:
        return nn.Sequential(
            nn.Unflatten(1, (1, 8, 8)),
            nn.Conv2d(1, channels, 3, padding=1),
            nn.Softplus(),
            nn.AvgPool2d(2),
            nn.Conv2d(channels, 2 * channels, 3, padding=1),
            nn.Softplus(),
            nn.AvgPool2d(2),
            nn.Flatten(),
            nn.Linear(8 * channels, 32),
            nn.Softplus(),
            nn.Linear(32, 10),
        )

    return _classification("digits-cnn", model, digits(), epochs=DIGITS_EPOCHS)


def mnist_fcp(train: int | None = None) -> Problem:
    """MNIST, 784 – 50 – 50 – 10 with softplus and no biases: 42,200 parameters (Yu and Morozov 2026).

    ``train`` keeps only the first so many training images.
    """

    def model() -> nn.Module:
        return nn.Sequential(
            nn.Linear(784, 50, bias=False),
            nn.Softplus(),
            nn.Linear(50, 50, bias=False),
            nn.Softplus(),
            nn.Linear(50, 10, bias=False),
        )

    return _fewer(_classification("mnist-fcp", model, mnist(), epochs=MNIST_EPOCHS), train)


def mnist_lenet(train: int | None = None) -> Problem:
    """MNIST, LeNet with softplus and average pooling: 61,706 parameters (Yu and Morozov 2026).

    ``train`` keeps only the first so many training images.
    """

    def model() -> nn.Module:
        return nn.Sequential(
            nn.Unflatten(1, (1, 28, 28)),
            nn.Conv2d(1, 6, 5, padding=2),
            nn.Softplus(),
            nn.AvgPool2d(2),
            nn.Conv2d(6, 16, 5),
            nn.Softplus(),
            nn.AvgPool2d(2),
            nn.Flatten(),
            nn.Linear(400, 120),
            nn.Softplus(),
            nn.Linear(120, 84),
            nn.Softplus(),
            nn.Linear(84, 10),
        )

    return _fewer(_classification("mnist-lenet", model, mnist(), epochs=MNIST_EPOCHS), train)


NAMED: dict[str, Callable[..., Problem]] = {
    "digits-mlp": digits_mlp,
    "digits-cnn": digits_cnn,
    "mnist-fcp": mnist_fcp,
    "mnist-lenet": mnist_lenet,
}


def _classification(
    name: str, model: Callable[[], nn.Module], splits: tuple[Pair, Pair, Pair], *, epochs: int
) -> Problem:
    train, validation, test = splits
    return Problem(name, model, nn.functional.cross_entropy, train, validation, test, accuracy, epochs)


def _fewer(problem: Problem, train: int | None) -> Problem:
    if train is None:
        return problem
    if not isinstance(train, int) or not 1 <= train <= examples(problem.train):
        raise InputError(f"train must be a number from 1 to {examples(problem.train)}, got {train!r}.")
    return replace(problem, train=select(problem.train, slice(train)))

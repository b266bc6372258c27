"""Factors of the loss's Hessian in the outputs against the dense one, and what decides between their forms."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from analysis.curvature import fans
from analysis.curvature.fans import Fan
from landscape import InputError

functional = nn.functional
N, C = 4, 3


def double(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


Y = torch.tensor([0, 2, 1, 1])
Loss = Callable[[Tensor], Tensor]
LOSSES: dict[str, tuple[Loss, Tensor]] = {
    "cross-entropy": (lambda z: functional.cross_entropy(z, Y), double(N, C)),
    "summed": (lambda z: functional.cross_entropy(z, Y, reduction="sum"), double(N, C)),
    "weights of classes": (
        lambda z: functional.cross_entropy(z, Y, torch.tensor([1.0, 5, 2]).double()),
        double(N, C),
    ),
    "ignored": (lambda z: functional.cross_entropy(z, torch.tensor([0, -100, 1, 1])), double(N, C)),
    "smoothed": (lambda z: functional.cross_entropy(z, Y, label_smoothing=0.2), double(N, C)),
    "negative": (lambda z: -functional.cross_entropy(z, Y), double(N, C)),
    "tokens": (
        lambda z: functional.cross_entropy(z.flatten(0, 1), torch.arange(8) % C, ignore_index=1),
        double(N, 2, C),
    ),
    "pixels": (
        lambda z: functional.cross_entropy(z, (torch.arange(24) % C).reshape(N, 2, 3)),
        double(N, C, 2, 3),
    ),
    "squares": (lambda z: functional.mse_loss(z, double(N, C, seed=1)), double(N, C)),
    "one number": (lambda z: (z - 1).square().mean(), double(N)),
    "binary": (lambda z: functional.binary_cross_entropy_with_logits(z, (Y > 0).double()), double(N)),
    "several binary": (lambda z: functional.softplus(z).sum(1).mean(), double(N, C)),
    "huber": (lambda z: functional.huber_loss(2 * z, double(N, C, seed=1)), double(N, C)),
    "not convex": (lambda z: z.prod(1).sin().mean(), double(N, C)),
    "concave": (lambda z: -z.square().sum(), double(N, C)),
    "linear": (lambda z: (z * double(N, C, seed=1)).sum(), double(N, C)),
}
CLOSED = {"cross-entropy", "summed", "weights of classes", "ignored", "smoothed", "tokens", "pixels"}
CLOSED |= {"squares", "one number", "concave", "linear"}


def dense(loss: Loss, z: Tensor) -> Tensor:
    found = torch.autograd.functional.hessian(loss, z)
    assert isinstance(found, Tensor)
    return found.reshape(z.numel(), z.numel())


@pytest.mark.parametrize("name", LOSSES)
def test_the_directions_make_up_the_hessian(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loss, z = LOSSES[name]
    if name in CLOSED:  # nothing is assembled
        monkeypatch.setattr(fans, "MEMORY", 0)
    fan = Fan.of(loss, z)
    total, used = torch.zeros(z.numel(), z.numel(), dtype=torch.float64), 0
    for sign, seeds in fan.each():
        used += 1
        for n in range(len(z)):  # an example's seeds are a direction of their own
            only = torch.zeros_like(seeds)
            only[n] = seeds[n]
            total += sign * torch.outer(only.reshape(-1), only.reshape(-1))
    torch.testing.assert_close(total, dense(loss, z), rtol=1e-8, atol=1e-12)
    assert used <= fan.count


@pytest.mark.parametrize("name", ["cross-entropy", "tokens", "pixels", "several binary", "not convex"])
def test_signs_have_that_hessian_as_covariance(name: str) -> None:
    loss, z = LOSSES[name]
    fan, generator = Fan.of(loss, z), torch.Generator().manual_seed(0)
    total, draws = torch.zeros(z.numel(), z.numel(), dtype=torch.float64), 4000
    for _ in range(draws):
        for sign, seeds in fan.drawn(generator):
            total += sign * torch.outer(seeds.reshape(-1), seeds.reshape(-1)) / draws
    expected = dense(loss, z)
    assert (total - expected).abs().max() < 6 / draws**0.5 * expected.abs().max()


@pytest.mark.parametrize("margin", [5.0, 20.0, 60.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_fitted_softmax_keeps_its_digits(margin: float, dtype: torch.dtype) -> None:
    """Where p is 1 to rounding, against the closed form in terms of the other classes, in double precision."""
    z = 0.3 * double(N, C)
    z[torch.arange(N), Y] += margin
    fan = Fan.of(lambda z: functional.cross_entropy(z, Y), z.to(dtype))
    found = torch.zeros(N, C, dtype=torch.float64)
    for sign, seeds in fan.each():
        found += sign * seeds.double().square()
    p = z.softmax(1)
    rest = torch.stack(
        [p.index_select(1, torch.tensor([k for k in range(C) if k != c])).sum(1) for c in range(C)], 1
    )
    torch.testing.assert_close(found, p * rest / N, rtol=1e-4 if dtype == torch.float32 else 1e-10, atol=0)


def test_a_loss_that_couples_rows_is_refused() -> None:
    with pytest.raises(InputError, match="couples rows of the outputs"):
        Fan.of(lambda z: z.mean(0).square().sum(), double(N, C))


def test_hessians_that_do_not_fit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fans, "MEMORY", 10)
    with pytest.raises(
        InputError, match=r"in \(4, 3\) outputs takes 36 numbers, more than 10, and it is no softmax"
    ):
        Fan.of(*LOSSES["several binary"])

"""Step for step beside independent code: e-optimizer-adaptor's ALTO and E, pytorch_optimizer's Lamb."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, Adam, Optimizer

from optimizers.alto import ALTO
from optimizers.e import E
from optimizers.lamb import Lamb

F64 = torch.float64
SHAPES = [(4, 3), (6,), (2, 3, 2)]
STEPS = 50


def tensors(seed: int, scale: float = 1.0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [scale * torch.randn(shape, generator=generator, dtype=F64) for shape in SHAPES]


def parameters() -> list[nn.Parameter]:
    return [nn.Parameter(tensor) for tensor in tensors(0)]


def assert_same_steps(
    ours: tuple[Optimizer, list[nn.Parameter]],
    theirs: tuple[Optimizer, list[nn.Parameter]],
    *,
    scale: float = 1.0,
    within: float = 1e-9,
) -> None:
    """50 steps on the same gradients, from the same start, equal after each."""
    start = [p.detach().clone() for p in ours[1]]
    for k in range(1, STEPS + 1):
        for optimizer, params in (ours, theirs):
            for p, g in zip(params, tensors(k, scale), strict=True):
                p.grad = g
            optimizer.step()
        torch.testing.assert_close(ours[1], theirs[1], rtol=within, atol=within)
    assert all((p - q).norm() > 0.01 * q.norm() for p, q in zip(ours[1], start, strict=True))


# The authors' package


@pytest.mark.parametrize("scale", [0.01, 1.0, 100.0])
@pytest.mark.parametrize("settings", [{}, {"weight_decay": 0.1}, {"betas": (0.9, 0.5, 0.999), "alpha": 2.0}])
def test_altos_authors(settings: dict[str, Any], scale: float) -> None:
    peer = pytest.importorskip("ALTO", reason="e-optimizer-adaptor; it comes with the extra bench")
    ours, theirs = parameters(), parameters()
    given = {
        "lr": 0.01,
        "betas": (0.99, 0.9, 0.99),
        "eps": 1e-6,
        "weight_decay": 1e-4,
        "alpha": -5.0,
        **settings,
    }
    groups = [[{"params": p[:1]}, {"params": p[1:], "weight_decay": 0.0}] for p in (ours, theirs)]
    alto = ALTO(groups[0], **given, clip_norm=1.0, trust_ratio="decayed")
    given["alp"] = given.pop("alpha")
    assert_same_steps((alto, ours), (peer.ALTO(groups[1], **given), theirs), scale=scale)


@pytest.mark.parametrize("base", ["sgd", "adam"])
@pytest.mark.parametrize(("alpha", "beta"), [(-5.0, 0.99), (-80.0, 0.99), (0.5, 0.01)])
def test_es_authors(alpha: float, beta: float, base: str) -> None:
    peer = pytest.importorskip("E", reason="e-optimizer-adaptor; it comes with the extra bench")
    ours, theirs = parameters(), parameters()
    bases = [
        SGD(p, lr=0.01, momentum=0.9, weight_decay=0.01) if base == "sgd" else Adam(p, lr=0.01)
        for p in (ours, theirs)
    ]
    assert_same_steps((E(bases[0], alpha, beta), ours), (peer.E(bases[1], alpha, beta), theirs))


# pytorch_optimizer. Its Lamb adds ε to ‖r‖ where ours adds ε₂φ(‖θ‖) or nothing: they meet at ε = 0. It takes no ‖θ‖
# above 10, corrects no moment's bias, and by default divides the whole step by 1 − β₂ᵏ instead, unless adam_debias.


def peers_lamb(params: list[nn.Parameter], **settings: Any) -> Optimizer:
    peer = pytest.importorskip("pytorch_optimizer", reason="it comes with the extra bench")
    return peer.Lamb(
        params, **{"lr": 0.01, "betas": (0.9, 0.99), "eps": 0.0, "adam_debias": True, **settings}
    )


@pytest.mark.parametrize("maximize", [False, True])
@pytest.mark.parametrize("weight_decay", [1e-4, 0.1])
def test_lamb_without_bias_correction(weight_decay: float, maximize: bool) -> None:
    ours, theirs = parameters(), parameters()
    both = {"weight_decay": weight_decay, "maximize": maximize}
    lamb = Lamb(ours, lr=0.01, eps=0.0, bias_correction=False, trust_ratio="decayed", **both)
    assert_same_steps((lamb, ours), (peers_lamb(theirs, weight_decouple=False, **both), theirs))


@pytest.mark.parametrize("bias_correction", [False, True])
def test_lamb_without_decay(bias_correction: bool) -> None:
    """Where nothing is added to m/√v, bias correction is a factor that the trust ratio takes away."""
    ours, theirs = parameters(), parameters()
    lamb = Lamb(ours, lr=0.01, eps=0.0, weight_decay=0.0, bias_correction=bias_correction)
    assert_same_steps((lamb, ours), (peers_lamb(theirs), theirs))


def test_lamb_with_the_peers_own_correction_of_the_step() -> None:
    ours, theirs = parameters(), parameters()
    lamb = Lamb(ours, lr=0.01, eps=0.0, bias_correction=False, trust_ratio="decayed", weight_decay=0.1)
    count = iter(range(1, STEPS + 1))
    lamb.register_step_pre_hook(lambda *_: lamb.param_groups[0].update(lr=0.01 / (1 - 0.9 ** next(count))))
    peer = peers_lamb(theirs, adam_debias=False, weight_decouple=False, weight_decay=0.1)
    assert_same_steps((lamb, ours), (peer, theirs))


@pytest.mark.parametrize("scale", [0.01, 1e5])
def test_lamb_with_clipping(scale: float) -> None:
    """Both shorten to max/(‖g‖ + ε), with ε = 1e-6 here and 0 there, and there with ‖g‖ in single precision."""
    ours, theirs = parameters(), parameters()
    lamb = Lamb(
        ours, lr=0.01, eps=0.0, bias_correction=False, trust_ratio="decayed", weight_decay=0.1, clip_norm=2.0
    )
    peer = peers_lamb(theirs, weight_decouple=False, weight_decay=0.1, pre_norm=True, max_grad_norm=2.0)
    assert_same_steps((lamb, ours), (peer, theirs), scale=scale, within=1e-9 if scale < 1 else 1e-7)


def test_with_eps_lamb_differs_by_its_place_alone() -> None:
    """At the usual ε = 1e-6 the two stay within a few ε of each other."""
    ours, theirs = parameters(), parameters()
    lamb = Lamb(ours, lr=0.01, bias_correction=False, trust_ratio="decayed", weight_decay=0.1)
    peer = peers_lamb(theirs, eps=1e-6, weight_decouple=False, weight_decay=0.1)
    for k in range(1, STEPS + 1):
        for optimizer, params in ((lamb, ours), (peer, theirs)):
            for p, g in zip(params, tensors(k), strict=True):
                p.grad = g
            optimizer.step()
    apart = math.sqrt(sum(float((p - q).detach().square().sum()) for p, q in zip(ours, theirs, strict=True)))
    assert 1e-9 < apart < 1e-5

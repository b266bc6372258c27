"""SAM beside pytorch_optimizer's, step for step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from optimizers.sam import SAM

peer = pytest.importorskip(
    "pytorch_optimizer", reason="pytorch-optimizer is not installed; it comes with the extra bench"
)
peer_sam = pytest.importorskip("pytorch_optimizer.optimizer.sam")
F64 = torch.float64


def problem() -> tuple[nn.Module, Callable[[], Tensor]]:
    generator = torch.Generator().manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)).to(F64)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=generator, dtype=F64))
    x, y = (torch.randn(7, n, generator=generator, dtype=F64) for n in (4, 2))
    return model, lambda: ((model(x) - y) ** 2).mean()


def closure_of(optimizer: Optimizer, loss: Callable[[], Tensor]) -> Callable[[], Tensor]:
    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss()
        value.backward()
        return value

    return closure


def norm_in_double(groups: list[dict[str, Any]], weight_adaptive: bool = False) -> Tensor:
    """The squared norm that pytorch_optimizer computes, without its rounding to float32."""
    weighted = [
        p.grad * p.abs() if weight_adaptive and group["adaptive"] else p.grad
        for group in groups
        for p in group["params"]
    ]
    return torch.cat([g.reshape(-1) for g in weighted]).square().sum().reshape(1)


@pytest.mark.parametrize(("precision", "tolerance"), [("its own", 1e-6), ("double", 1e-12)])
@pytest.mark.parametrize("adaptive", [False, True])
@pytest.mark.parametrize(("base", "settings"), [(SGD, {"lr": 0.05, "momentum": 0.9}), (AdamW, {"lr": 0.01})])
def test_fifty_steps(
    base: Any,
    settings: dict[str, float],
    adaptive: bool,
    precision: str,
    tolerance: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It rounds ‖g‖ to float32 (6e-8), which leaves 1e-8 after 50 steps; with that taken out the two agree to rounding."""
    if precision == "double":
        monkeypatch.setattr(peer_sam, "get_global_gradient_norm", norm_in_double)
    (ours, our_loss), (theirs, their_loss) = problem(), problem()
    optimizer = SAM(base(ours.parameters(), **settings), 0.1, adaptive=adaptive)
    other = peer.SAM(theirs.parameters(), base, rho=0.1, adaptive=adaptive, **settings)
    start = [p.detach().clone() for p in ours.parameters()]
    for _ in range(50):
        optimizer.step(closure_of(optimizer, our_loss))
        closure = closure_of(other, their_loss)
        closure()  # it takes the first gradient from p.grad
        other.step(closure)
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=0, atol=tolerance)
    assert all((p - before).abs().max() > 0.01 for p, before in zip(ours.parameters(), start, strict=True))

"""CLR against independent packages, step for step."""

from __future__ import annotations

import pytest
import torch
from test_clr import F64, batches, network
from torch import nn

from optimizers.clr import CLR

STEPS = 50


@pytest.mark.parametrize(("max_lr", "lower_bound"), [(None, 0.0), (5.0, 0.0), (5.0, 0.3)])
def test_momo_without_momentum(max_lr: float | None, lower_bound: float) -> None:
    """MoMo (Schaipp et al., ICML 2024) with β = 0 is SPS_max with c = 1; its lr is the cap."""
    momo = pytest.importorskip("momo", reason="MoMo by its authors; it comes with the extra bench")
    ours, theirs = network(), network()
    optimizer = CLR(ours.parameters(), max_lr, lower_bound)
    peer = momo.Momo(theirs.parameters(), lr=max_lr or 1e30, beta=0.0, lb=lower_bound)
    rates = []
    for x, y in batches(STEPS):
        for model, stepped in ((ours, optimizer), (theirs, peer)):
            stepped.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            stepped.step(loss=loss)
        rates.append(optimizer.rate)
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-9)
    assert len(set(rates)) > 5
    assert next(ours.parameters()).dtype == F64


def test_alig_without_momentum() -> None:
    """ALI-G (Berrada et al., ICML 2020) takes L/(‖∇L‖² + ε), here with ε = 1e-6: the rates at the same points."""
    package = pytest.importorskip("pytorch_optimizer", reason="ALI-G; it comes with the extra bench")
    ours, theirs = network(), network()
    optimizer, peer = CLR(ours.parameters()), package.AliG(theirs.parameters(), max_lr=None, momentum=0.0)
    for x, y in batches(STEPS):
        theirs.load_state_dict(ours.state_dict())
        loss = torch.zeros(())
        for model in (ours, theirs):
            model.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
        value = float(loss.detach())
        optimizer.step(loss=value)
        peer.step(lambda value=value: value)
        squared = value / optimizer.rate
        # it adds up ‖∇L‖² in float32
        assert peer.param_groups[0]["step_size"] == pytest.approx(value / (squared + 1e-6), rel=1e-6)
        for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-3)

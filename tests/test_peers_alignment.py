"""align beside rebasin 0.0.47, where that works: a multilayer perceptron with its hidden units permuted at random."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from analysis import align

rebasin = pytest.importorskip("rebasin")


def wide() -> nn.Sequential:
    parts = [m for n in (20, 48, 48) for m in (nn.Linear(n, 48), nn.ReLU())]
    return nn.Sequential(*parts, nn.Linear(48, 5))


@pytest.mark.parametrize("seed", range(3))
def test_both_undo_the_same_permutation(seed: int) -> None:
    torch.manual_seed(seed)
    reference = wide()
    disturbed = copy.deepcopy(reference)
    with torch.no_grad():
        for parameter in disturbed.parameters():
            parameter.mul_(1 + 0.3 * torch.randn_like(parameter))
    moved: Any = copy.deepcopy(disturbed)
    with torch.no_grad():
        for first, second in ((0, 2), (2, 4), (4, 6)):
            order = torch.randperm(48)
            moved[first].weight.copy_(moved[first].weight[order])
            moved[first].bias.copy_(moved[first].bias[order])
            moved[second].weight.copy_(moved[second].weight[:, order])
    x = torch.randn(16, 20)
    wanted = torch.cat([p.detach().reshape(-1) for p in disturbed.parameters()]).double()
    found = align(reference, reference.state_dict(), moved.state_dict(), batch=(x, None))
    assert torch.from_numpy(found.theta).equal(wanted)

    theirs: Any = rebasin.PermutationCoordinateDescent(
        reference.requires_grad_(False), moved.requires_grad_(False), x
    )
    theirs.rebasin()
    assert torch.cat([p.reshape(-1) for p in moved.parameters()]).double().equal(wanted)

"""Dense Hessians by double backward, and small networks with uneven batches to take them on."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor, nn

from landscape import Objective, model_objective

EXAMPLES, BATCHES = 23, (10, 8, 5)


def dense_hessian(objective: Objective, theta: Tensor) -> Tensor:
    """∇²L(θ) (P, P) by torch.autograd.functional.hessian, which is double backward; AssertionError if not symmetric."""

    def total(point: Tensor) -> Tensor:
        return torch.stack([term(point).reshape(()) for term in objective.terms]).sum()

    hessian = torch.autograd.functional.hessian(total, theta.detach().clone())
    assert isinstance(hessian, Tensor)
    torch.testing.assert_close(hessian, hessian.T, rtol=0, atol=1e-10 * float(hessian.abs().max()) + 1e-300)
    return (hessian + hessian.T) / 2


def quadratic(matrix: Tensor) -> Objective:
    """½θᵀAθ, whose Hessian is A (symmetric) everywhere."""
    return Objective([lambda theta: 0.5 * theta @ matrix @ theta], len(matrix), dtype=matrix.dtype)


def rotated(eigenvalues: Tensor, generator: torch.Generator) -> Tensor:
    """A symmetric matrix with these eigenvalues and eigenvectors in no special direction."""
    n = len(eigenvalues)
    basis = torch.linalg.qr(torch.randn(n, n, generator=generator, dtype=eigenvalues.dtype))[0]
    return (basis * eigenvalues) @ basis.T


@dataclass(frozen=True)
class Reference:
    """A network's objective over uneven batches, the same with all data in one batch, and a point."""

    objective: Objective
    whole: Objective
    theta: Tensor

    @property
    def hessian(self) -> Tensor:
        """Of the objective in one batch, so that wrong weights of batches show."""
        return dense_hessian(self.whole, self.theta)


NETWORKS = {
    "mlp": lambda: nn.Sequential(nn.Linear(6, 8), nn.Softplus(), nn.Linear(8, 3)),
    "layernorm": lambda: nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Softplus(), nn.Linear(8, 3)),
    "batchnorm": lambda: nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Softplus(), nn.Linear(8, 3)),
    "conv": lambda: nn.Sequential(
        nn.Unflatten(1, (1, 6, 6)),
        nn.Conv2d(1, 3, 3),
        nn.Softplus(),
        nn.Conv2d(3, 4, 3),
        nn.Softplus(),
        nn.Flatten(),
        nn.Linear(16, 3),
    ),
    "relu": lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)),
}


@cache
def reference(name: str) -> Reference:
    """One of NETWORKS in float64 with cross-entropy, at a random point; BatchNorm in eval mode, with statistics of its own."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    model = NETWORKS[name]().double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            around = 1.0 if bool((parameter == 1).all()) else 0.0  # scales of normalization layers
            parameter.copy_(around + 0.5 * normal(*parameter.shape))
        for module in model.modules():
            if isinstance(module, nn.BatchNorm1d) and module.running_mean is not None:
                module.running_mean.copy_(normal(8))
                torch.as_tensor(module.running_var).copy_(0.5 + normal(8).square())
    inputs = normal(EXAMPLES, 36 if name == "conv" else 6)
    targets = torch.randint(0, 3, (EXAMPLES,), generator=generator)
    batches = list(zip(inputs.split(BATCHES), targets.split(BATCHES), strict=True))
    loss_fn = nn.functional.cross_entropy
    objective = model_objective(model, loss_fn, batches)
    assert objective.parameters is not None
    whole = model_objective(model, loss_fn, [(inputs, targets)])
    return Reference(objective, whole, objective.parameters.theta(model))

"""The parts of the Hessian: Gauss–Newton against Jᵀ∇²ℓJ from dense Jacobians, residual against the difference."""

from __future__ import annotations

import pytest
import torch
from dense import NETWORKS, dense_hessian, quadratic, reference
from torch import Tensor, nn

from analysis.curvature.matrices import Outputs, composed_terms, products_of
from landscape import InputError, Objective, model_objective
from landscape.objective import Composed


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def dense_gauss_newton(objective: Objective, theta: Tensor) -> Tensor:
    """Σ Jᵀ ∇²ℓ J with dense Jacobians, by reverse mode."""
    total = theta.new_zeros(len(theta), len(theta))
    for term in composed_terms(objective, "test"):
        jacobian = torch.autograd.functional.jacobian(lambda t, term=term: Outputs.of(term, t).values, theta)
        outputs = Outputs.of(term, theta)
        bend = torch.autograd.functional.hessian(outputs.loss, outputs.values.detach())
        assert isinstance(jacobian, Tensor)
        assert isinstance(bend, Tensor)
        total += jacobian.T @ bend @ jacobian
    return total


def assembled(objective: Objective, theta: Tensor, of) -> Tensor:
    return products_of(objective, theta, of)(torch.eye(len(theta), dtype=theta.dtype))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_parts_are_the_dense_ones_and_add_up(name: str) -> None:
    known = reference(name)
    expected = dense_gauss_newton(known.whole, known.theta)
    torch.testing.assert_close(assembled(known.objective, known.theta, "gauss-newton"), expected)
    torch.testing.assert_close(assembled(known.objective, known.theta, "fisher"), expected)
    rest = known.hessian - expected
    torch.testing.assert_close(
        assembled(known.objective, known.theta, "residual"), rest, rtol=1e-7, atol=1e-12
    )
    torch.testing.assert_close(assembled(known.objective, known.theta, "hessian"), known.hessian)


class Recurrent(nn.Module):
    """An LSTM whose output is a structure: the loss takes what it needs of it."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.head = nn.LSTM(3, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        states, (last, _) = self.lstm(x)
        return self.head(states), {"last": last}


def test_outputs_may_be_a_structure_and_a_layer_without_forward_mode() -> None:
    torch.manual_seed(0)
    model = Recurrent().double()
    x, y = torch.randn(5, 6, 3, dtype=torch.float64), torch.randn(5, 6, 2, dtype=torch.float64)

    def loss_fn(output: tuple[Tensor, dict[str, Tensor]], target: Tensor) -> Tensor:
        return nn.functional.mse_loss(output[0], target) + output[1]["last"].square().mean().exp()

    objective = model_objective(model, loss_fn, [(x, y)])
    assert objective.parameters is not None
    theta = objective.parameters.theta(model)
    expected = dense_gauss_newton(objective, theta)
    torch.testing.assert_close(assembled(objective, theta, "gauss-newton"), expected)
    torch.testing.assert_close(
        assembled(objective, theta, "residual"), dense_hessian(objective, theta) - expected
    )


@pytest.mark.parametrize("likelihood", ["cross-entropy", "binary", "squares"])
def test_the_fisher_matrix_is_the_mean_over_labels_drawn_from_the_model(likelihood: str) -> None:
    """F = mean_n Σ_y p(y|x_n) g gᵀ, by enumeration of labels, or by the two moments of a Gaussian."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1 if likelihood == "binary" else 3)
    ).double()
    x = torch.randn(6, 3, dtype=torch.float64)
    functional = nn.functional
    loss_fn, labels = {
        "cross-entropy": (functional.cross_entropy, torch.randint(3, (6,))),
        "binary": (
            functional.binary_cross_entropy_with_logits,
            torch.rand(6, 1, dtype=torch.float64).round(),
        ),
        "squares": (nn.MSELoss(), torch.randn(6, 3, dtype=torch.float64)),
    }[likelihood]
    objective = model_objective(model, loss_fn, [(x, labels)])
    assert objective.parameters is not None
    theta = objective.parameters.theta(model)
    jacobian = torch.autograd.functional.jacobian(lambda t: composed_terms(objective, "")[0].output(t), theta)
    z = model(x).detach()
    expected = torch.zeros(len(theta), len(theta), dtype=torch.float64)
    for n in range(6):
        if likelihood == "cross-entropy":
            p = z[n].softmax(0)
            scores = [(p[y], p - torch.eye(3, dtype=torch.float64)[y]) for y in range(3)]
        elif likelihood == "binary":
            p = z[n].sigmoid()
            scores = [(p, p - 1), (1 - p, p)]
        else:  # −log density of N(z, ½) is |y − z|² + const, and MSE its mean over 3 outputs
            scores = [(1.0, e * 2**0.5) for e in torch.eye(3, dtype=torch.float64)]
        for weight, score in scores:
            g = score @ jacobian[n]
            expected += weight * torch.outer(g, g) / (18 if likelihood == "squares" else 6)
    torch.testing.assert_close(assembled(objective, theta, "fisher"), expected)


def test_frozen_and_unused_parameters_and_a_loss_linear_in_the_outputs() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    model[0].bias.requires_grad_(False)
    model.register_parameter("unused", nn.Parameter(torch.ones(2, dtype=torch.float64)))
    x = torch.randn(5, 3, dtype=torch.float64)
    objective = model_objective(
        model, lambda z, y: (z * y).mean(), [(x, torch.randn(5, 2, dtype=torch.float64))]
    )
    assert objective.parameters is not None
    theta = objective.parameters.theta(model)
    assert not assembled(objective, theta, "gauss-newton").any()
    torch.testing.assert_close(assembled(objective, theta, "residual"), dense_hessian(objective, theta))


def test_an_analytic_composed_term() -> None:
    """½|Aθ − b|², with z = Aθ: R = 0 and G = AᵀA."""
    a = torch.randn(4, 3, generator=seeded(), dtype=torch.float64)
    objective = Objective([Composed(lambda theta: a @ theta, lambda z: 0.5 * (z - 1).square().sum())], 3)
    theta = torch.ones(3, dtype=torch.float64)
    torch.testing.assert_close(assembled(objective, theta, "gauss-newton"), a.T @ a)
    assert not assembled(objective, theta, "residual").any()


def test_single_vectors_and_blocks_agree() -> None:
    known = reference("mlp")
    v = torch.randn(3, known.objective.dim, generator=seeded(), dtype=torch.float64)
    times = products_of(known.objective, known.theta, "gauss-newton")
    torch.testing.assert_close(times(v)[1], times(v[1]))


def test_what_cannot_be_told_apart_is_refused() -> None:
    objective = quadratic(torch.eye(3, dtype=torch.float64))
    theta = torch.ones(3, dtype=torch.float64)
    with pytest.raises(InputError, match=r"the gauss-newton part needs outputs and loss apart: pass loss_fn"):
        products_of(objective, theta, "gauss-newton")
    with pytest.raises(
        InputError, match=r"of must be one of hessian, gauss-newton, fisher, residual, got 'H'"
    ):
        products_of(objective, theta, "H")  # type: ignore[arg-type]


def test_the_fisher_matrix_of_an_unknown_likelihood_is_refused() -> None:
    model = nn.Linear(2, 2).double()
    data = [(torch.ones(3, 2, dtype=torch.float64), torch.zeros(3, dtype=torch.long))]
    for loss_fn in (nn.CrossEntropyLoss(label_smoothing=0.1), lambda z, y: nn.functional.cross_entropy(z, y)):
        objective = model_objective(model, loss_fn, data)
        with pytest.raises(InputError, match="the Fisher matrix needs the likelihood"):
            products_of(objective, torch.zeros(6, dtype=torch.float64), "fisher")

"""Relative flatness and the Fisher–Rao norm against dense matrices and closed forms, and what rescaling and permuting leave."""

import math

import numpy as np
import pytest
import torch
from dense import Reference, quadratic, reference
from torch import Tensor, nn

from analysis import fisher_rao, hessian_trace, relative_flatness
from landscape import InputError, load, model_objective


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tensors_of(net: Reference) -> dict[str, Tensor]:
    return {name: t.clone() for name, t in net.objective.parameters.unpack(net.theta).items()}


def by_definition(net: Reference, layer: str) -> float:
    """Σ_{s,s′} ⟨w_s, w_s′⟩ tr H_{ss′}, as the paper writes it, from the dense Hessian."""
    indices = net.objective.parameters.unpack(torch.arange(len(net.theta)))[layer]
    rows = indices.reshape(len(indices), -1)
    weight, hessian = net.theta[rows], net.hessian
    total = 0.0
    for s, w in enumerate(weight):
        for t, other in enumerate(weight):
            total += float(w @ other) * float(hessian[rows[s]][:, rows[t]].trace())
    return total


LAYERS = [
    ("mlp", "0.weight"),
    ("mlp", "2.weight"),
    ("layernorm", "3.weight"),
    ("conv", "1.weight"),
    ("conv", "3.weight"),
]


@pytest.mark.parametrize(("name", "layer"), LAYERS)
def test_relative_flatness_is_exact_where_there_are_products_enough(name, layer):
    net = reference(name)
    found = relative_flatness(net.objective, net.theta, layer=layer, probes=200)
    assert found.value == pytest.approx(by_definition(net, layer), rel=1e-9)
    assert found.stderr == 0
    assert found.matvecs == len(found.samples) < 200


@pytest.mark.parametrize(("name", "layer"), [LAYERS[0], LAYERS[4]])
def test_relative_flatness_by_probes_with_an_error_bar(name, layer):
    net, g = reference(name), generator(1)
    exact = by_definition(net, layer)
    found = [relative_flatness(net.whole, net.theta, layer=layer, probes=23, generator=g) for _ in range(200)]
    z = np.array([(f.value - exact) / f.stderr for f in found])
    assert found[0].matvecs == 23
    assert abs(z.mean()) < 0.25
    assert 0.8 < z.std(ddof=1) < 1.25


def test_by_default_it_is_the_last_weight_with_two_axes():
    assert (
        relative_flatness(reference("conv").objective, reference("conv").theta, probes=2).layer == "6.weight"
    )
    assert (
        relative_flatness(reference("layernorm").objective, reference("layernorm").theta, probes=2).layer
        == "3.weight"
    )


def softmax_regression() -> tuple[Reference, Tensor]:
    g = generator(2)
    inputs, targets = torch.randn(17, 5, generator=g).double(), torch.randint(0, 4, (17,), generator=g)
    model = nn.Linear(5, 4).double()
    batches = [(inputs[:12], targets[:12]), (inputs[12:], targets[12:])]
    objective = model_objective(model, nn.functional.cross_entropy, batches)
    theta = torch.randn(24, generator=g, dtype=torch.float64)
    return Reference(objective, objective, theta), inputs


def test_fisher_rao_of_softmax_regression():
    """The logits z are linear in θ, so Jθ = z and ⟨θ, Iθ⟩ is the mean variance of z_y, y drawn from the model."""
    net, inputs = softmax_regression()
    tensors = tensors_of(net)
    logits = inputs @ tensors["weight"].T + tensors["bias"]
    p = logits.softmax(1)
    expected = ((p * logits**2).sum(1) - (p * logits).sum(1) ** 2).mean()
    assert fisher_rao(net.objective, net.theta) == pytest.approx(float(expected), rel=1e-12)


@pytest.mark.parametrize("name", ["mlp", "relu", "batchnorm", "conv"])
def test_fisher_rao_is_the_mean_square_of_scores_along_theta(name):
    """E ⟨θ, ∇ log p(y | x)⟩² over y drawn from the model, one label after the other."""
    net = reference(name)
    theta = net.theta.clone().requires_grad_()
    (term,) = net.whole.terms
    outputs = term.output(theta)  # pyright: ignore[reportFunctionMemberAccess]
    log_p = outputs.log_softmax(1)
    total = 0.0
    for row in log_p:
        for entry in row:
            (score,) = torch.autograd.grad(entry, theta, retain_graph=True)
            total += float(entry.detach().exp()) * float(score @ net.theta) ** 2
    found = fisher_rao(net.objective, net.theta)
    assert found == pytest.approx(total / len(log_p), rel=1e-10)


def rescaled(tensors: dict[str, Tensor], alpha: float) -> dict[str, Tensor]:
    return tensors | {
        "0.weight": alpha * tensors["0.weight"],
        "0.bias": alpha * tensors["0.bias"],
        "2.weight": tensors["2.weight"] / alpha,
    }


def permuted(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    order = torch.randperm(8, generator=generator(3))
    return tensors | {
        "0.weight": tensors["0.weight"][order],
        "0.bias": tensors["0.bias"][order],
        "2.weight": tensors["2.weight"][:, order],
    }


@pytest.mark.parametrize("layer", ["0.weight", "2.weight"])
@pytest.mark.parametrize("change", [lambda t: rescaled(t, 0.1), lambda t: rescaled(t, 7.0), permuted])
def test_rescaling_and_permuting_leave_both(layer, change):
    net = reference("relu")
    other = net.objective.parameters.pack(change(tensors_of(net)))
    assert float(net.objective(other)) == pytest.approx(float(net.objective(net.theta)), rel=1e-13)
    assert not torch.allclose(other, net.theta)
    ours, theirs = (
        relative_flatness(net.objective, theta, layer=layer, probes=100).value for theta in (net.theta, other)
    )
    assert theirs == pytest.approx(ours, rel=1e-10)
    ours, theirs = (fisher_rao(net.objective, theta) for theta in (net.theta, other))
    assert theirs == pytest.approx(ours, rel=1e-11)


def test_rescaling_moves_the_trace():
    net = reference("relu")
    other = net.objective.parameters.pack(rescaled(tensors_of(net), 7.0))
    ours, theirs = (hessian_trace(net.objective, t, matvecs=200).value for t in (net.theta, other))
    assert abs(math.log(theirs / ours)) > 0.5


def test_records_keep_what_they_say(tmp_path):
    net = reference("mlp")
    found = relative_flatness(net.objective, net.theta, probes=4, generator=generator())
    again = load(found.save(tmp_path / "record.npz"))
    assert (again.value, again.layer, again.of) == (found.value, "2.weight", "hessian")


def test_bad_input_says_what_to_do():
    net = reference("mlp")
    with pytest.raises(
        InputError, match=r"layer must name a weight .*got '0.bias'; there are 0.weight, 2.weight"
    ):
        relative_flatness(net.objective, net.theta, layer="0.bias")
    with pytest.raises(
        InputError, match=r"probes must be at least 2, of which an error bar can be made, got 1"
    ):
        relative_flatness(net.objective, net.theta, probes=1)
    plain = quadratic(torch.eye(3, dtype=torch.float64))
    with pytest.raises(
        InputError, match=r"layer must name a weight, as no parameter has two axes; there are theta"
    ):
        relative_flatness(plain, torch.zeros(3))
    with pytest.raises(InputError, match=r"needs outputs and loss apart"):
        fisher_rao(plain, torch.zeros(3))

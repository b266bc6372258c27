"""Random directions against a naive transcription of Li et al. (2018), section 4, layer by layer."""

import pytest
import torch
from torch import Tensor, nn

from landscape import InputError, Parameters
from landscape.directions import random_direction, transposed_weights

LAYERS = {
    "conv1d": lambda: nn.Conv1d(4, 6, 3, groups=2),
    "conv2d": lambda: nn.Conv2d(2, 3, 2),
    "conv3d": lambda: nn.Conv3d(2, 3, 2, bias=False),
    "transposed1d": lambda: nn.ConvTranspose1d(4, 6, 3, groups=2),
    "transposed2d": lambda: nn.ConvTranspose2d(2, 5, 3),
    "linear": lambda: nn.Linear(5, 4),
    "embedding": lambda: nn.Embedding(7, 3, padding_idx=0),
    "batch norm": lambda: nn.BatchNorm2d(3),
    "layer norm": lambda: nn.LayerNorm([3, 4]),
    "gru": lambda: nn.GRU(3, 4),
}


def made(kind: str) -> nn.Module:
    torch.manual_seed(5)
    return nn.Sequential(LAYERS[kind]()).double()


def drawn(model: nn.Module, **options: object) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
    """A direction and the noise that it was made of, by name; and θ."""
    parameters = Parameters.of(model)
    theta = parameters.theta(model)
    kept = theta.clone()
    direction = random_direction(theta, parameters, generator=torch.Generator().manual_seed(1), **options)  # type: ignore[arg-type]
    noise = torch.randn(theta.shape, generator=torch.Generator().manual_seed(1), dtype=theta.dtype)
    assert theta.equal(kept)
    return parameters.unpack(direction), parameters.unpack(noise), theta


def filters(module: nn.Module, weight: Tensor) -> list[Tensor]:
    """Views of all filters: the weights that make one output channel, one neuron, or one token's vector."""
    if isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d):
        inputs = weight.shape[0] // module.groups
        blocks = [weight[g * inputs : (g + 1) * inputs] for g in range(module.groups)]
        return [block[:, j] for block in blocks for j in range(weight.shape[1])]
    return [weight[j] for j in range(weight.shape[0])]


@pytest.mark.parametrize("kind", LAYERS)
def test_filter_normalization_is_that_of_li_et_al(kind):
    model = made(kind)
    found, noise, _ = drawn(model, transposed=transposed_weights(model))
    module = model.get_submodule("0")
    for name, weight in model.named_parameters():
        expected = torch.zeros_like(weight)
        if weight.ndim > 1 and kind != "layer norm":
            expected = noise[name].clone()
            for d, w in zip(filters(module, expected), filters(module, weight), strict=True):
                d.mul_(w.norm() / d.norm())  # d_ij ← d_ij ‖θ_ij‖ / ‖d_ij‖
        elif weight.ndim > 1:  # a normalization's weight of two axes has rows, as any other
            expected = noise[name] * (weight.norm(dim=1) / noise[name].norm(dim=1))[:, None]
        torch.testing.assert_close(found[name], expected.detach(), rtol=1e-13, atol=1e-13)


def test_what_makes_an_output_of_a_transposed_convolution():
    """Zeroing one filter changes one output channel: the axis is the right one."""
    module = nn.ConvTranspose1d(4, 6, 3, groups=2, bias=False).double()
    x = torch.randn(2, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    whole = module(x)
    for channel, weights in enumerate(filters(module, module.weight.data)):
        kept = weights.clone()
        weights.zero_()
        changed = (module(x) - whole).abs().amax(dim=(0, 2)) > 0
        assert changed.nonzero().flatten().tolist() == [channel]
        weights.copy_(kept)


def test_without_being_told_transposed_weights_have_filters_along_their_first_axis():
    model = made("transposed2d")
    found, noise, _ = drawn(model)
    weight = model.get_parameter("0.weight")
    for d, z, w in zip(found["0.weight"], noise["0.weight"], weight, strict=True):
        torch.testing.assert_close(d, (z * w.norm() / z.norm()).detach())
    assert transposed_weights(model) == {"0.weight": 1}
    assert transposed_weights(nn.ConvTranspose1d(4, 6, 3, groups=2)) == {"weight": 2}


@pytest.mark.parametrize("kind", LAYERS)
def test_layer_normalization_gives_every_tensor_its_norm(kind):
    model = made(kind)
    found, noise, theta = drawn(model, normalize="layer")
    for name, weight in Parameters.of(model).unpack(theta).items():
        expected = noise[name] * (weight.norm() / noise[name].norm())
        torch.testing.assert_close(found[name], expected, rtol=1e-13, atol=1e-13)


def test_whole_and_no_normalization():
    model = made("conv2d")
    found, noise, theta = drawn(model, normalize="none")
    for name in found:
        assert found[name].equal(noise[name])
    pack = Parameters.of(model).pack
    whole, _, _ = drawn(model, normalize="whole")
    torch.testing.assert_close(pack(whole), pack(noise) * theta.norm() / pack(noise).norm())


@pytest.mark.parametrize("normalize", ["filter", "layer"])
def test_what_is_zero_stays_zero_and_nothing_is_nan(normalize):
    model = made("conv2d")
    with torch.no_grad():
        model.get_parameter("0.weight")[1] = 0
        model.get_parameter("0.bias").zero_()
    found, _, _ = drawn(model, normalize=normalize)
    assert found["0.bias"].count_nonzero() == 0
    assert all(bool(d.isfinite().all()) for d in found.values())
    if normalize == "filter":
        assert found["0.weight"][1].count_nonzero() == 0
        assert (found["0.weight"][[0, 2]] != 0).all()


@pytest.mark.parametrize("normalize", ["filter", "layer", "whole", "none"])
@pytest.mark.parametrize("kind", ["conv1d", "transposed1d", "linear"])
def test_a_second_direction_can_be_orthogonal_at_the_same_norms(kind, normalize):
    model = nn.Sequential(LAYERS[kind](), nn.Linear(1, 3)).double()  # the last one has filters of one weight
    parameters = Parameters.of(model)
    theta = parameters.theta(model)
    options = {"normalize": normalize, "transposed": transposed_weights(model)}
    generator = torch.Generator().manual_seed(2)
    d1 = random_direction(theta, parameters, generator=generator, **options)
    kept = d1.clone()
    d2 = random_direction(theta, parameters, generator=generator, orthogonal_to=d1, **options)
    assert d1.equal(kept)
    assert abs(float(d1 @ d2)) <= 1e-14 * float(d1.norm() * d2.norm())
    if normalize == "filter":
        of_d2, of_theta = parameters.unpack(d2), parameters.unpack(theta)
        for d, w in zip(
            filters(model[0], of_d2["0.weight"]), filters(model[0], of_theta["0.weight"]), strict=True
        ):
            torch.testing.assert_close(d.norm(), w.norm())
        assert of_d2["1.weight"].count_nonzero() == 0
    elif normalize == "whole":
        torch.testing.assert_close(d2.norm(), theta.norm())


@pytest.mark.parametrize("normalize", ["filter", "layer", "whole", "none"])
def test_a_direction_nearly_parallel_to_the_other_is_made_orthogonal(normalize):
    """What is left of it is 1e-5 of the noise: one pass leaves a cosine of 1e-11."""
    model = nn.Sequential(nn.Linear(40, 3, bias=False)).double()
    parameters = Parameters.of(model)
    theta = parameters.theta(model)
    noise = torch.randn(theta.shape, generator=torch.Generator().manual_seed(4), dtype=theta.dtype)
    other = noise + 1e-5 * torch.randn(theta.shape, generator=torch.Generator().manual_seed(5)).double()
    found = random_direction(
        theta,
        parameters,
        generator=torch.Generator().manual_seed(4),
        normalize=normalize,
        orthogonal_to=other,
    )
    assert found.norm() > 0
    assert abs(float(found @ other)) <= 1e-14 * float(found.norm() * other.norm())


def test_the_same_generator_gives_the_same_direction_in_the_dtype_of_theta():
    model = made("linear").float()
    parameters = Parameters.of(model)
    theta = parameters.theta(model)
    one, two = (
        random_direction(theta, parameters, generator=torch.Generator().manual_seed(7)) for _ in range(2)
    )
    assert one.equal(two)
    assert one.dtype == torch.float32


def test_what_cannot_be_meant_is_refused():
    model = made("transposed1d")
    parameters = Parameters.of(model)
    theta, generator = parameters.theta(model), torch.Generator()
    with pytest.raises(InputError, match="normalize must be 'filter', 'layer', 'whole' or 'none', got 'x'"):
        random_direction(theta, parameters, generator=generator, normalize="x")  # type: ignore[arg-type]
    with pytest.raises(
        InputError, match=r"transposed\['0.weight'\] must be the groups .* got 3 for shape \(4, 3, 3\)"
    ):
        random_direction(theta, parameters, generator=generator, transposed={"0.weight": 3})

"""The loss under noise against closed forms of quadratics and quartics; the allowed σ against the same, and where there is
none."""

import math

import numpy as np
import pytest
import torch
from dense import quadratic, reference, rotated
from torch import Tensor

from analysis import lpf, pac_bayes_sigma
from landscape import InputError, Objective, load


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draws(g: torch.Generator, *counts: int, dim: int) -> Tensor:
    """Normal vectors, some at a time, as they are held."""
    return torch.cat([torch.randn(count, dim, generator=g, dtype=torch.float64) for count in counts])


def test_lpf_of_a_quartic_with_an_error_bar():
    g = generator(1)
    theta = torch.randn(30, generator=g, dtype=torch.float64)
    a = rotated(torch.linspace(-0.2, 1, 30, dtype=torch.float64), g)
    objective = Objective([lambda x: 0.5 * x @ a @ x + 3 * x.sum() + 0.1 * (x**4).sum()], 30)
    sigma = 0.3
    rise = 0.5 * sigma**2 * a.trace() + 0.1 * (6 * theta**2 * sigma**2 + 3 * sigma**4).sum()
    exact = float(objective(theta) + rise)
    found = [lpf(objective, theta, sigma=sigma, pairs=24, generator=g) for _ in range(200)]
    z = np.array([(f.value - exact) / f.stderr for f in found])
    assert abs(z.mean()) < 0.25
    assert 0.8 < z.std(ddof=1) < 1.25
    assert (found[0].losses, found[0].scale, found[0].measure) == (48, sigma, "lpf")


def test_lpf_of_a_network_is_the_mean_over_its_draws():
    net = reference("conv")
    z = draws(generator(), 8, 3, dim=len(net.theta))
    values = torch.stack([net.whole(net.theta + 0.1 * z), net.whole(net.theta - 0.1 * z)])
    before = net.theta.clone()
    drawn = lpf(net.objective, net.theta, sigma=0.1, pairs=11, generator=generator())
    np.testing.assert_allclose(drawn.samples, values.mean(0).numpy(), rtol=1e-12)
    assert net.theta.equal(before)
    auto = lpf(net.objective, net.theta, sigma=0.1, pairs=11, engine="replay", generator=generator())
    assert auto.value == pytest.approx(drawn.value, rel=1e-12)


def test_the_allowed_sigma_of_a_quadratic_with_an_error_bar():
    curvature = torch.linspace(0.5, 2, 40, dtype=torch.float64)
    objective = Objective([lambda x: 0.5 * (curvature * x).dot(x)], 40)
    theta, g, tolerance = torch.zeros(40), generator(), 0.1
    exact = math.sqrt(2 * tolerance / float(curvature.sum()))
    settings = {"tolerance": tolerance, "bracket": (0.3 * exact, 5 * exact), "pairs": 32, "generator": g}
    found = [pac_bayes_sigma(objective, theta, **settings) for _ in range(200)]
    z = np.array([(f.sigma - exact) / f.stderr for f in found])
    assert abs(z.mean()) < 0.25
    assert 0.8 < z.std(ddof=1) < 1.25
    assert all(f.converged for f in found)


def test_the_crossing_is_that_of_one_function_of_sigma():
    net = reference("mlp")
    g = generator(3)
    found = pac_bayes_sigma(net.objective, net.theta, tolerance=0.2, pairs=12, generator=g)
    z = draws(generator(3), 8, 4, dim=len(net.theta))

    def samples(sigma: float) -> Tensor:
        two = torch.stack([net.whole(net.theta + sigma * z), net.whole(net.theta - sigma * z)])
        return two.mean(0) - net.whole(net.theta)

    assert float(samples(found.sigma).mean()) == pytest.approx(0.2, rel=1e-4)
    h = 1e-4 * found.sigma
    slope = float(samples(found.sigma + h).mean() - samples(found.sigma - h).mean()) / (2 * h)
    assert found.stderr == pytest.approx(float(samples(found.sigma).std()) / math.sqrt(12) / slope, rel=0.02)
    for sigma, rise in zip(found.sigmas, found.rises, strict=True):
        assert rise == pytest.approx(float(samples(sigma).mean()), rel=1e-9, abs=1e-14)
    assert found.losses == 1 + 2 * 12 * len(found.sigmas)


def test_it_is_the_first_crossing():
    # 1 − cos: rises to 2 (1 − e^(−σ²/2)) < 2 and stays; a hump at ‖x‖ near 1 comes before.
    def loss(x: Tensor) -> Tensor:
        square = x.square().mean()
        return square * torch.exp(-square) + 0.001 * square

    objective, theta = Objective([loss], 400), torch.zeros(400)
    found = pac_bayes_sigma(objective, theta, tolerance=0.2, bracket=(0.01, 1000), generator=generator())
    first = 0.50902  # of s exp(−s) + s/1000 = .2 the smaller root is s = .25857
    assert found.sigma == pytest.approx(math.sqrt(0.258570), rel=0.03)
    assert found.sigma == pytest.approx(first, rel=0.03)
    assert float(loss(torch.full((400,), 3.0))) < 0.2  # between there and the second crossing, at s = 200


def test_where_there_is_no_crossing_the_record_says_so():
    objective, theta = quadratic(torch.eye(9, dtype=torch.float64)), torch.zeros(9)
    flat = pac_bayes_sigma(objective, theta, tolerance=0.1, bracket=(1e-6, 1e-3), generator=generator())
    assert flat.message == "the loss rises by no more than 0.1 up to σ = 0.001; raise the bracket."
    sharp = pac_bayes_sigma(objective, theta, tolerance=0.1, bracket=(1.0, 2.0), generator=generator())
    assert sharp.message == "the loss rises by more than 0.1 already at σ = 1; lower the bracket."
    assert (flat.converged, sharp.converged) == (False, False)
    assert all(math.isnan(x) for x in (flat.sigma, flat.stderr, sharp.sigma, sharp.stderr))
    wall = Objective([lambda x: torch.where(x.norm() > 1, math.inf, x.square().sum() * 1e-3)], 9)
    beside = pac_bayes_sigma(wall, theta, generator=generator())
    assert 0 < beside.sigma < 0.5
    assert math.isnan(beside.stderr)
    assert beside.message.endswith(f"just above σ = {beside.sigma:.3g}, so that σ has no error bar.")
    broken = pac_bayes_sigma(Objective([lambda x: (x - 1).sqrt().sum()], 9), theta, generator=generator())
    assert broken.message == "the loss is not finite at theta itself."


def test_records_and_generators(tmp_path):
    net = reference("mlp")
    one, other = (pac_bayes_sigma(net.objective, net.theta, generator=generator(4)) for _ in range(2))
    assert one.sigma == other.sigma
    assert load(one.save(tmp_path / "one.npz")).sigma == one.sigma
    torch.manual_seed(0)
    free = [pac_bayes_sigma(net.objective, net.theta).sigma for _ in range(2)]
    assert free[0] != free[1]


def test_bad_input_says_what_to_do():
    objective, theta = quadratic(torch.eye(3, dtype=torch.float64)), torch.zeros(3)
    with pytest.raises(InputError, match=r"sigma must be positive and finite, got 0"):
        lpf(objective, theta, sigma=0)
    with pytest.raises(
        InputError, match=r"pairs must be at least 2, of which an error bar can be made, got 1"
    ):
        lpf(objective, theta, pairs=1)
    with pytest.raises(InputError, match=r"pairs must be at least 2"):
        pac_bayes_sigma(objective, theta, pairs=1)
    with pytest.raises(InputError, match=r"tolerance must be a positive rise of the loss, got -0.1"):
        pac_bayes_sigma(objective, theta, tolerance=-0.1)
    with pytest.raises(InputError, match=r"bracket must be two ascending positive numbers"):
        pac_bayes_sigma(objective, theta, bracket=(1.0, 0.1))
    with pytest.raises(InputError, match=r"theta must be one point \(3,\), got shape \(2, 3\)"):
        lpf(objective, torch.zeros(2, 3))

"""Noise told apart from curvature: exact cases, all pairs by hand, and errors by z-scores over draws."""

import numpy as np
import pytest
import torch
from dense import quadratic, reference
from torch import Tensor, nn

from analysis import corridor_noise
from landscape import InputError, Objective, model_objective

COUNT, DIM = 20, 6


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def batches(spread: float, bend: float, count: int = COUNT) -> Objective:
    """Losses a_iᵀθ + ½ bend θᵀA_iθ with gradients that differ by ``spread``, in equal shares."""
    a = torch.ones(DIM, dtype=torch.float64) + spread * normal(count, DIM)
    curvatures = bend * (1 + 0.3 * normal(count, DIM, seed=1)).abs()

    def term(i: int):
        return lambda theta: (a[i] @ theta + 0.5 * (curvatures[i] * theta) @ theta) / count

    return Objective([term(i) for i in range(count)], DIM)


THETAS = torch.stack([normal(DIM, seed=2), normal(DIM, seed=3), normal(DIM, seed=4)])


def test_in_a_noisy_exact_corridor_only_noise_turns_gradients():
    found = corridor_noise(batches(0.5, 0.0), THETAS, draws=6, generator=torch.Generator().manual_seed(0))
    np.testing.assert_allclose(found.same_batch, 1, rtol=1e-14)
    np.testing.assert_allclose(found.same_batch_stderr, 0, atol=1e-14)
    assert (found.same_point < 0.95).all()
    np.testing.assert_allclose(found.both, found.same_point, rtol=1e-12)  # gradients do not hang on θ
    assert (found.noise_to_signal > 0.1).all()


def test_without_noise_only_curvature_does():
    objective = quadratic(torch.diag(torch.tensor([1.0, 3.0, 0.2], dtype=torch.float64)))
    same = Objective([lambda theta: objective.terms[0](theta) / 5] * 5, 3)
    thetas = torch.tensor([[1.0, 1, 1], [0.8, 0.4, 0.9]], dtype=torch.float64)
    found = corridor_noise(same, thetas, draws=3)
    g = objective.grad(thetas)
    turn = float(g[0] @ g[1] / (g[0].norm() * g[1].norm()))
    assert turn < 0.99
    np.testing.assert_allclose(found.same_point, 1, rtol=1e-14)
    np.testing.assert_allclose([found.same_batch, found.both], turn, rtol=1e-12)
    np.testing.assert_allclose(found.noise_to_signal, 0, atol=1e-14)
    np.testing.assert_allclose(found.signal, float(g[0] @ g[0]), rtol=1e-12)


@pytest.mark.parametrize("seed", [0, 1])
def test_all_batches_give_the_means_over_all_pairs_without_error(seed):
    net = reference("mlp")
    thetas = torch.stack([net.theta, net.theta - 0.5 * net.objective.grad(net.theta)])
    found = corridor_noise(net.objective, thetas, draws=3, generator=torch.Generator().manual_seed(seed))
    shares, n = net.objective.shares, 3
    g, h = (
        torch.stack([torch.func.grad(t)(x) / s for t, s in zip(net.objective.terms, shares, strict=True)])
        for x in thetas
    )
    cos = nn.functional.cosine_similarity
    pairs = [(i, j) for i in range(n) for j in range(n) if i != j]
    expected = {
        "same_point": np.mean([float(cos(g[i], g[j], dim=0)) for i, j in pairs]),
        "same_batch": np.mean([float(cos(g[i], h[i], dim=0)) for i in range(n)]),
        "both": np.mean([float(cos(g[i], h[j], dim=0)) for i, j in pairs]),
        "spread": float((g - g.mean(0)).square().sum(1).mean()),
        "signal": float(g.mean(0).square().sum()),
    }
    for name, value in expected.items():
        assert getattr(found, name)[0] == pytest.approx(value, rel=1e-10), name
        assert getattr(found, f"{name}_stderr")[0] == 0
    assert found.noise_to_signal[0] == pytest.approx(expected["spread"] / expected["signal"])
    assert (found.draws, found.count) == (3, 3)
    assert found.basis == "fixed batches of 10, the smallest of 5"


def test_standard_errors_are_calibrated_over_draws():
    objective = batches(0.8, 0.5, count=60)
    pair = THETAS[:2]
    truth = corridor_noise(objective, pair, draws=60)
    generator = torch.Generator().manual_seed(7)
    runs = [corridor_noise(objective, pair, draws=15, generator=generator) for _ in range(150)]
    for name in ("same_point", "same_batch", "both", "spread", "signal"):
        values = np.array([getattr(r, name)[0] for r in runs])
        errors = np.array([getattr(r, f"{name}_stderr")[0] for r in runs])
        away = values - getattr(truth, name)[0]
        assert abs(away.mean()) < 4 * values.std() / np.sqrt(len(runs)), name  # unbiased
        assert 0.85 < np.sqrt((errors**2).mean()) / values.std() < 1.25, name
        assert 0.8 < (away / errors).std() < 1.4, name
    ratios = np.array([r.noise_to_signal[0] for r in runs])
    assert 0.8 < np.mean([r.noise_stderr[0] for r in runs]) / ratios.std() < 1.3


def test_pooled_noise_is_unbiased_where_rows_are_censored_and_its_error_calibrated():
    """Gradients drown in noise and shrink along the way: rows alone are missing, or most of them too low."""
    shifts = 0.3 * normal(64, 30)
    objective = Objective([lambda t, s=s: (0.5 * t @ t + s @ t) / 64 for s in shifts], 30)
    sizes = torch.linspace(0.4, 0.2, 21, dtype=torch.float64)
    thetas = sizes[:, None] * torch.eye(30, dtype=torch.float64)[0] - shifts.mean(0)
    all_drawn = corridor_noise(objective, thetas, draws=64)
    truth, exact = all_drawn.pooled_noise_to_signal()
    assert exact == 0
    generator = torch.Generator().manual_seed(3)
    runs = [corridor_noise(objective, thetas, draws=8, generator=generator) for _ in range(60)]
    alone = np.array([r.noise_to_signal for r in runs])
    assert np.isnan(alone).mean() > 0.1
    assert np.nanmedian(alone[:, -5:]) < 0.8 * np.median(all_drawn.noise_to_signal[-5:])  # most are too low
    pooled, errors = np.array([r.pooled_noise_to_signal() for r in runs]).T
    assert pooled.mean() == pytest.approx(truth, rel=0.1)
    assert 0.75 < np.sqrt((errors**2).mean()) / pooled.std() < 1.35
    assert 0.7 < ((pooled - truth) / errors).std() < 1.4
    late, last = runs[0].pooled_noise_to_signal(slice(-10, None)), slice(-10, None)
    assert late[0] == pytest.approx(runs[0].spread[last].mean() / runs[0].signal[last].mean())


def test_pooling_of_rows_with_no_signal_is_missing_and_of_one_row_refused():
    opposed = Objective([lambda t, s=s: s * t.sum() for s in (1, -1, 1, -1)], 2)
    found = corridor_noise(opposed, torch.ones(3, 2), draws=4)
    assert np.isnan(found.pooled_noise_to_signal()).all()
    with pytest.raises(InputError, match="rows must be at least two of the 2, got 1"):
        found.pooled_noise_to_signal(slice(1))


def test_a_row_is_of_its_own_points_and_draws_are_repeatable():
    objective = batches(0.5, 0.5)
    whole = corridor_noise(objective, THETAS, draws=COUNT, steps=[5, 10, 20], label="sgd/0")
    later = corridor_noise(objective, THETAS[1:], draws=COUNT)
    np.testing.assert_allclose(whole.same_batch[1], later.same_batch[0], rtol=1e-12)
    assert whole.same_batch[0] != whole.same_batch[1]
    assert (whole.steps.tolist(), whole.label, whole.basis) == ([5, 10, 20], "sgd/0", "20 fixed batches")
    one, two = (
        corridor_noise(objective, THETAS, draws=5, generator=torch.Generator().manual_seed(1)) for _ in "ab"
    )
    np.testing.assert_array_equal(one.both, two.both)


def test_the_basis_is_the_size_of_the_batches_and_a_signal_not_seen_is_missing():
    x, y = normal(12, 3), normal(12, 1, seed=1)
    model = nn.Linear(3, 1).double()
    objective = model_objective(model, nn.functional.mse_loss, list(zip(x.split(4), y.split(4), strict=True)))
    thetas = torch.stack([normal(4), normal(4, seed=1)])
    assert corridor_noise(objective, thetas, draws=3).basis == "fixed batches of 4"
    opposed = Objective([lambda t, s=s: s * t.sum() for s in (1, -1, 1, -1)], 2)
    found = corridor_noise(opposed, torch.ones(2, 2), draws=4)
    assert np.isnan(found.noise_to_signal).all()
    assert found.spread[0] == pytest.approx(2 * 16)  # each of share 1/4


@pytest.mark.parametrize("draws", [2, 21])
def test_draws_must_be_there(draws):
    with pytest.raises(InputError, match=f"draws must be from 3 to 20, the objective's terms, got {draws}"):
        corridor_noise(batches(0.5, 0), THETAS, draws=draws)

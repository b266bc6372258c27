"""Estimates from sampled terms against all samples there are, and by z-score over repeats."""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from landscape import Family, InputError, Line, Objective, load_problem, model_objective
from landscape.directions import random_direction
from landscape.plots.scans import plot_sampled
from landscape.problems import batches
from landscape.subsampling import SampledLosses, sampled_losses


def bowls(count: int = 60, *, last: float = 1.0) -> tuple[Objective, list[float]]:
    """Bowls of different centers and heights, and their shares: equal but for the last one."""
    generator = torch.Generator().manual_seed(1)
    centers = torch.rand(count, 3, generator=generator, dtype=torch.float64)
    shares = [1.0] * (count - 1) + [last]

    def term(i: int):
        weight = shares[i] / sum(shares)
        return lambda theta: weight * ((theta - centers[i]).square().sum() + 5 * centers[i, 0])

    return Objective([term(i) for i in range(count)], 3), shares


def family() -> Family:
    directions = torch.eye(3, dtype=torch.float64)[:2]
    coordinates = torch.tensor([[0.5, 0.0], [-1.0, 2.0], [0.0, 0.0]], dtype=torch.float64)
    return Family(torch.full((3,), 0.3, dtype=torch.float64), directions, coordinates)


def exact(objective: Objective) -> np.ndarray:
    return objective(family().points(family().coordinates)).numpy()


def sample(
    objective: Objective, terms: int, seed: int, engine: str = "loop", shares: Sequence[float] | None = None
) -> SampledLosses:
    generator = torch.Generator().manual_seed(seed)
    return sampled_losses(objective, family(), terms=terms, generator=generator, engine=engine, shares=shares)


def all_samples(objective: Objective, shares: list[float]) -> list[SampledLosses]:
    """Each of the 20 samples of 3 terms of 6."""
    found = {tuple(s.drawn): s for s in (sample(objective, 3, seed, shares=shares) for seed in range(300))}
    assert set(found) == set(combinations(range(6), 3))
    return list(found.values())


def test_over_all_samples_of_equal_terms_estimates_are_unbiased_and_so_are_their_variances():
    objective, shares = bowls(6)
    loss, samples = exact(objective), all_samples(objective, shares)
    estimates = np.array([s.loss for s in samples])
    np.testing.assert_allclose(estimates.mean(axis=0), loss, rtol=1e-13)
    variances = np.mean([s.stderr**2 for s in samples], axis=0)
    np.testing.assert_allclose(variances, estimates.var(axis=0), rtol=1e-12)
    differences = np.array([s.difference for s in samples])[:, :2]
    np.testing.assert_allclose(differences.mean(axis=0), (loss - loss[2])[:2], rtol=1e-12)
    variances = np.mean([s.difference_stderr[:2] ** 2 for s in samples], axis=0)
    np.testing.assert_allclose(variances, differences.var(axis=0), rtol=1e-12)


def test_a_smaller_last_batch_leaves_a_bias_far_below_the_error_and_less_noise_than_without_shares():
    objective, shares = bowls(6, last=0.3)
    loss, samples = exact(objective), all_samples(objective, shares)
    estimates = np.array([s.loss for s in samples])
    assert (np.abs(estimates.mean(axis=0) - loss) < 0.1 * estimates.std(axis=0)).all()
    unweighted = np.array([6 * s.terms.mean(axis=0) for s in samples])
    assert (estimates.std(axis=0) < 0.9 * unweighted.std(axis=0)).all()


def test_terms_that_differ_only_by_their_shares_have_no_error():
    shares = [3.0, 1, 4, 1, 5]
    parts = [lambda theta, s=s: s / 14 * (theta**2).sum() for s in shares]
    sampled = sample(Objective(parts, 3), 2, 0, shares=shares)
    np.testing.assert_allclose(sampled.loss, exact(Objective(parts, 3)), rtol=1e-14)
    assert (sampled.stderr < 1e-14).all()


@pytest.mark.parametrize("terms", [20, 50])
def test_z_scores_of_losses_and_of_differences_on_a_network(terms: int):
    problem, size = load_problem("digits-mlp"), 16
    parts = list(batches(problem.train, size))
    shares = [len(targets) for _, targets in parts]
    assert shares[-1] < size / 2
    objective = model_objective(problem.build(0).eval(), problem.loss_fn, parts, dtype=torch.float64)
    theta = objective.parameters.theta(problem.build(0))
    generator = torch.Generator().manual_seed(0)
    direction = random_direction(theta, objective.parameters, generator=generator)
    line = Line(theta, direction, torch.tensor([-0.3, 0.3])).family(objective)
    loss, center = objective(line.points(line.coordinates)).numpy(), float(objective(theta))
    z, z_difference = [], []
    for _ in range(200):
        s = sampled_losses(objective, line, terms=terms, shares=shares, generator=generator, engine="loop")
        z.append((s.loss - loss) / s.stderr)
        z_difference.append((s.difference - (loss - center)) / s.difference_stderr)
    for scores in (*np.array(z).T, *np.array(z_difference).T):
        assert abs(scores.mean()) < 0.25
        assert 0.8 < scores.std() < 1.25


@pytest.mark.parametrize("engine", ["loop", "auto", "shared"])
def test_all_terms_are_the_loss_itself(engine: str):
    objective, shares = bowls(last=0.2)
    whole = sample(objective, 60, 0, engine, shares)
    loss = exact(objective)
    np.testing.assert_allclose(whole.loss, loss, rtol=1e-13)
    np.testing.assert_allclose(whole.difference, loss - loss[2], rtol=1e-12, atol=1e-14)
    assert (whole.stderr == 0).all()
    assert (whole.difference_stderr == 0).all()


def test_the_terms_are_those_drawn_at_the_points_and_the_origin():
    objective, _ = bowls(7)
    drawn = sample(objective, 4, 3)
    points = family().points(family().coordinates)
    for row, at_origin, i in zip(drawn.terms, drawn.reference, drawn.drawn, strict=True):
        np.testing.assert_allclose(row, [float(objective.terms[i](p)) for p in points], rtol=1e-14)
        assert at_origin == float(objective.terms[i](family().origin))
    assert drawn.difference[2] == 0 == drawn.difference_stderr[2]


def test_the_same_generator_draws_the_same_and_records_keep_it(tmp_path):
    one, two, other = (sample(bowls()[0], 10, seed) for seed in (4, 4, 5))
    np.testing.assert_array_equal(one.loss, two.loss)
    assert (one.drawn != other.drawn).any()
    assert len(set(one.drawn)) == 10
    kept = SampledLosses.load(one.save(tmp_path / "sampled.npz"))
    np.testing.assert_array_equal(kept.difference_stderr, one.difference_stderr)


def test_on_a_network_differences_near_a_point_are_much_sharper_than_losses():
    problem = load_problem("digits-mlp")
    parts = list(batches(problem.train, 16))
    shares = [len(targets) for _, targets in parts]
    objective = model_objective(problem.build(0).eval().double(), problem.loss_fn, parts)
    theta = objective.parameters.theta(problem.build(0)).double()
    for _ in range(60):
        theta = theta - 0.5 * objective.grad(theta)
    generator = torch.Generator().manual_seed(0)
    direction = random_direction(theta, objective.parameters, generator=generator)
    line = Line(theta, direction, torch.tensor([-0.1, -0.05, -0.02, 0.02, 0.05, 0.1])).family(objective)
    sampled = sampled_losses(objective, line, terms=20, shares=shares, generator=generator)
    loss = objective(line.points(line.coordinates)).numpy()
    assert (sampled.stderr > 3 * sampled.difference_stderr).all()
    assert (np.abs(sampled.loss - loss) < 4 * sampled.stderr).all()
    exact = loss - float(objective(theta))
    assert (np.abs(sampled.difference - exact) < 4 * sampled.difference_stderr).all()


def test_the_picture_has_both_bands():
    objective, _ = bowls()
    line = Line(torch.zeros(3), torch.ones(3), torch.tensor([0.5, -0.5, 0.1])).family(objective)
    sampled = sampled_losses(objective, line, terms=20, generator=torch.Generator().manual_seed(0))
    ax = plot_sampled(sampled)
    order = [1, 2, 0]
    np.testing.assert_allclose(np.asarray(ax.lines[0].get_ydata(), dtype=float), sampled.loss[order])
    for band, stderr in zip(ax.collections, (sampled.stderr, sampled.difference_stderr), strict=True):
        high = {
            x: y
            for x, y in np.asarray(band.get_paths()[0].vertices)
            if y > np.interp(x, [-0.5, 0.1, 0.5], sampled.loss[order])
        }
        for i in order:
            assert high[sampled.coordinates[i, 0]] == pytest.approx(sampled.loss[i] + stderr[i])
    assert ax.get_ylabel() == "loss on 20 of 60 batches"


def test_what_cannot_be_sampled_is_refused():
    data: list[tuple[Tensor, Tensor]] = [(torch.zeros(8, 3), torch.zeros(8, 1))]
    single = model_objective(nn.Linear(3, 1), nn.functional.mse_loss, data)
    with pytest.raises(
        InputError, match="objective must have at least 2 terms to draw from, got 1; build it with smaller"
    ):
        sampled_losses(single, Line(torch.zeros(4), torch.ones(4)).family(single), terms=2)
    for terms in (1, 61):
        with pytest.raises(
            InputError, match=f"terms must be from 2 to 60, the number of terms of the objective, got {terms}"
        ):
            sample(bowls()[0], terms, 0)


def test_shares_are_the_batches_sizes_unless_given():
    data = [(torch.zeros(n, 3), torch.zeros(n, 1)) for n in (8, 8, 3)]
    objective = model_objective(nn.Linear(3, 1), nn.functional.mse_loss, data)
    line = Line(torch.zeros(4), torch.ones(4)).family(objective)
    assert sampled_losses(objective, line, terms=3).shares.tolist() == pytest.approx([8 / 19, 8 / 19, 3 / 19])
    assert sampled_losses(objective, line, terms=3, shares=[2, 1, 1]).shares.tolist() == [0.5, 0.25, 0.25]
    for shares in ([8, 8], [8, 8, 0]):
        with pytest.raises(InputError, match="shares must be 3 positive numbers, one for each term, got"):
            sampled_losses(objective, line, terms=2, shares=shares)

"""tr H = tr G + tr R against dense parts: exact where it says so, calibrated where it samples."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from dense import NETWORKS, quadratic, reference
from test_curvature import dense_gauss_newton
from test_examples import MODELS, Block, Tokens, double
from torch import Tensor, nn

from analysis.curvature.estimators import small_sample_stderr
from analysis.curvature.gauss_newton import GaussNewtonDiagonal
from analysis.curvature.partition import partition_of
from analysis.curvature.residual import ResidualProbes
from analysis.curvature.split import split_trace
from analysis.curvature.trace import hessian_trace
from landscape import InputError, Objective, model_objective
from landscape.results import SplitTrace


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def objective_of(model: nn.Module, loss_fn, *batches) -> tuple[Objective, Tensor]:
    objective = model_objective(model, loss_fn, list(batches))
    assert objective.parameters is not None
    return objective, objective.parameters.theta(model)


def language() -> tuple[Objective, Tensor]:
    """A transformer with the mean over tokens: 7 classes in 4 places, in two uneven batches."""
    torch.manual_seed(0)

    def loss_fn(z: Tensor, y: Tensor) -> Tensor:
        return nn.functional.cross_entropy(z.flatten(0, 1), y.flatten())

    return objective_of(
        Block().double(), loss_fn, (Tokens[:3], Tokens[:3].flip(1)), (Tokens[3:], Tokens[3:].flip(1))
    )


def pixels() -> tuple[Objective, Tensor]:
    """A class for every pixel: the classes come second."""
    torch.manual_seed(0)
    model = nn.Conv2d(2, 3, 3, padding=1).double()
    return objective_of(model, nn.functional.cross_entropy, (double(4, 2, 3, 3), torch.randint(3, (4, 3, 3))))


def saddle() -> tuple[Objective, Tensor]:
    """A loss that is not convex in the outputs: its Gauss–Newton part has negative eigenvalues."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 2)).double()
    return objective_of(model, lambda z, y: (z.prod(1) - y).square().mean(), (double(5, 6), double(5)))


def one_output() -> tuple[Objective, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 1), nn.Flatten(0)).double()
    return objective_of(
        model, nn.functional.binary_cross_entropy_with_logits, (double(5, 6), double(5).sigmoid())
    )


CASES = {"language": language, "pixels": pixels, "saddle": saddle, "one output": one_output}


def case(name: str) -> tuple[Objective, Tensor]:
    if name in CASES:
        return CASES[name]()
    return reference(name).objective, reference(name).theta


@pytest.mark.parametrize("name", [*NETWORKS, *CASES])
def test_the_gauss_newton_diagonal_is_exact(name: str) -> None:
    objective, theta = case(name)
    found = GaussNewtonDiagonal(objective, theta, lambda rows: rows)
    assert found.known.all()
    torch.testing.assert_close(
        found.exact, dense_gauss_newton(objective, theta).diagonal(), rtol=1e-8, atol=1e-12
    )
    assert not found.samples(2, seeded()).any()


@pytest.mark.parametrize("name", ["mlp", "conv", "language", "pixels", "saddle"])
def test_its_samples_are_unbiased(name: str) -> None:
    """Where no direction may have a pass of its own; by z-score of every entry's mean over 400."""
    objective, theta = case(name)
    found = GaussNewtonDiagonal(objective, theta, lambda rows: rows, directions=0)
    assert not found.exact.any()
    samples = found.samples(400, seeded())
    off = samples.mean(0) - dense_gauss_newton(objective, theta).diagonal()
    z = off / (samples.std(0) / 20).clamp(min=1e-12)
    assert z.square().mean() < 1.6  # entries hang together, so this mean is noisy around 1
    assert z.abs().max() < 5


@pytest.mark.parametrize("name", ["outside layers", "lstm"])
def test_parameters_without_a_rule_are_left_to_samples_and_no_others(name: str) -> None:
    torch.manual_seed(0)
    build, x = MODELS[name]
    objective, theta = objective_of(build().double(), nn.functional.cross_entropy, (x, torch.arange(5) % 2))
    found = GaussNewtonDiagonal(objective, theta, lambda rows: rows)
    expected = dense_gauss_newton(objective, theta).diagonal()
    assert not found.known.all()
    torch.testing.assert_close(found.exact, expected * found.known)
    samples = found.samples(400, seeded())
    assert not samples[:, found.known].any()
    z = ((samples.mean(0) - expected) / (samples.std(0) / 20))[~found.known]
    assert z.abs().max() < 4


def test_a_sample_adds_up_examples_without_cross_terms() -> None:
    """One row and one class an example leaves a sample nothing to be wrong about."""
    objective, theta = one_output()
    found = GaussNewtonDiagonal(objective, theta, lambda rows: rows, directions=0)
    torch.testing.assert_close(found.samples(1, seeded())[0], dense_gauss_newton(objective, theta).diagonal())


@pytest.mark.parametrize("name", [*NETWORKS, "language"])
@pytest.mark.parametrize("directions", [32, 0])
def test_the_trace_and_its_error_are_calibrated(name: str, directions: int) -> None:
    objective, theta = case(name)
    dense = torch.stack([objective.hvp(theta, v) for v in torch.eye(len(theta), dtype=theta.dtype)])
    known = float(dense.trace())
    records = [
        split_trace(objective, theta, matvecs=20, directions=directions, generator=seeded(seed))
        for seed in range(200 if (name, directions) == ("mlp", 32) else 15)
    ]
    if name == "relu" and directions:  # the residual part has a diagonal of 0
        assert all(r.value == pytest.approx(known, rel=1e-9) for r in records)
        assert records[0].stderr == records[0].matvecs == 0
        return
    z = np.array([(r.value - known) / r.stderr for r in records])
    bounds = (0.25, 0.8, 1.25) if len(z) == 200 else (0.8, 0.5, 1.6)
    assert abs(z.mean()) < bounds[0]
    assert bounds[1] < z.std() < bounds[2]


@pytest.mark.parametrize("matvecs", [5, 60])
def test_the_error_is_calibrated_for_few_probes_and_for_xtrace(matvecs: int) -> None:
    """Of a wider network, so that 60 are not all columns; five probes have t of four degrees, whose tails are wide."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 24), nn.Softplus(), nn.Linear(24, 3)).double()
    objective, theta = objective_of(
        model, nn.functional.cross_entropy, (2 * double(23, 6), torch.arange(23) % 3)
    )
    theta = 2 * theta
    known = float(objective.hvp(theta, torch.eye(len(theta)).double()).trace())
    records = [split_trace(objective, theta, matvecs=matvecs, generator=seeded(seed)) for seed in range(200)]
    z = np.array([(r.value - known) / r.stderr for r in records])
    assert abs(z.mean()) < 0.25
    assert 0.8 < z.std() < 1.25


@pytest.mark.parametrize("by", ["layer", "parameter", "filter"])
def test_blocks_are_those_of_the_dense_diagonal(by) -> None:
    known = reference("conv")
    records = [
        split_trace(known.objective, known.theta, by=by, matvecs=8, generator=seeded(seed))
        for seed in range(60)
    ]
    diagonal = known.hessian.diagonal()
    expected = partition_of(known.objective.parameters, by).sums(diagonal[None])[0].numpy()
    values = np.stack([r.values for r in records])
    z = (values.mean(0) - expected) / (values.std(0, ddof=1) / 30**0.5 + 1e-12)  # some have no residual part
    assert np.abs(z).max() < 4
    assert records[0].value == pytest.approx(records[0].values.sum())
    assert (records[0].gauss_newton + records[0].residual)[1:] == pytest.approx(records[0].values)
    stated = np.sqrt(np.mean(np.stack([r.stderrs for r in records]) ** 2, axis=0))
    assert values.std(0) == pytest.approx(stated * (5 / 7) ** 0.5, rel=0.5, abs=1e-12)


@pytest.mark.parametrize("directions", [32, 0])
def test_the_error_asked_for_is_reached(directions: int) -> None:
    known = reference("mlp")
    record = split_trace(known.objective, known.theta, rtol=0.01, directions=directions, generator=seeded())
    assert record.converged
    assert record.stderr <= 0.01 * abs(record.value)
    assert record.value == pytest.approx(float(known.hessian.trace()), rel=0.05)
    short = split_trace(
        known.objective, known.theta, rtol=1e-4, max_matvecs=12, directions=directions, generator=seeded()
    )
    assert not short.converged
    assert "raise max_matvecs or rtol" in short.message


def crowd(heavy: float = 1.0) -> tuple[Objective, Tensor, float]:
    """2,500 examples in two batches, of which three have inputs ``heavy`` times as large; with the trace."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.Softplus(), nn.Linear(6, 8)).double()
    x, y = double(2500, 4), torch.arange(2500) % 8
    x[:3] *= heavy
    objective, theta = objective_of(
        model, nn.functional.cross_entropy, (x[:1250], y[:1250]), (x[1250:], y[1250:])
    )
    return objective, theta, float(objective.hvp(theta, torch.eye(len(theta)).double()).trace())


def test_where_examples_are_many_samples_of_the_gauss_newton_part_come_first() -> None:
    objective, theta, known = crowd()
    records = [split_trace(objective, theta, rtol=0.01, generator=seeded(seed)) for seed in range(200)]
    assert all(r.converged for r in records)
    assert min(r.passes for r in records) == 2 * (2 + 2 + 4)  # every batch is visited twice
    assert min(r.known for r in records) == 0
    assert split_trace(objective, theta, generator=seeded()).known == 1
    z = np.array([(r.value - known) / r.stderr for r in records])
    assert abs(z.mean()) < 0.25
    assert 0.8 < z.std() < 1.25


def test_exact_passes_follow_where_more_samples_would_cost_more() -> None:
    objective, theta, known = crowd(heavy=30.0)
    record = split_trace(objective, theta, rtol=0.01, generator=seeded())
    assert record.known == 1
    assert record.gauss_newton_stderr[0] == 0
    assert record.passes == 2 * (2 + 2 + 4) + 2 * (2 + 8)
    assert record.value == pytest.approx(known, abs=4 * record.stderr)


@pytest.mark.parametrize("decays", [False, True])
def test_xtrace_is_left_where_as_many_signs_err_less(decays: bool) -> None:
    """Of a symmetric matrix with normal entries, whose spectrum has no decay, and of one that has."""
    torch.manual_seed(1)
    model = nn.Linear(24, 24, bias=False).double()
    objective, theta = objective_of(model, nn.functional.mse_loss, (double(3, 24), double(3, 24)))
    blocks, dim = partition_of(objective.parameters, "layer"), len(theta)
    normal = double(dim, dim)
    matrix = normal + normal.T
    if decays:
        basis = torch.linalg.qr(normal)[0]
        matrix = basis @ (0.7 ** torch.arange(dim).double()[:, None] * basis.T)
    z, kept = [], 0
    for seed in range(200):
        probes = ResidualProbes(objective, theta, torch.ones(dim, dtype=torch.bool), seeded(seed), blocks)
        probes.times = lambda v: v @ matrix
        probes.spend(20)
        probes.spend(20)
        mean = probes.estimate()
        assert probes.spent == 60
        kept += probes.xtrace is not None
        assert len(probes.samples) == 20 + 20
        z.append(float((mean.value[0] - matrix.trace()) / small_sample_stderr(mean)[0]))
    assert kept == 200 if decays else kept < 10
    assert abs(np.mean(z)) < 0.25
    assert 0.8 < np.std(z) < 1.25


def test_hessian_trace_offers_it() -> None:
    known = reference("mlp")
    record = hessian_trace(known.objective, known.theta, method="split", matvecs=8, generator=seeded())
    again = split_trace(known.objective, known.theta, matvecs=8, generator=seeded())
    assert isinstance(record, SplitTrace)
    assert record.value == again.value
    with pytest.raises(InputError, match="method split is for hessian_trace of 'hessian' alone"):
        hessian_trace(known.objective, known.theta, method="split", of="residual")


def test_at_a_minimum_that_fits_few_probes_do() -> None:
    """The residual part is as small as the slope of the loss in the outputs."""
    known = reference("mlp")
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.Softplus(), nn.Linear(8, 3)).double()
    x, y = double(23, 6), torch.randint(3, (23,), generator=seeded())
    objective, theta = objective_of(model, nn.functional.cross_entropy, (x, y))
    adam = torch.optim.Adam([theta := theta.requires_grad_()], lr=0.05)
    for _ in range(800):
        theta.grad = objective.grad(theta)
        adam.step()
    theta = theta.detach()
    fitted = split_trace(objective, theta, generator=seeded())
    start = split_trace(known.objective, known.theta, generator=seeded())
    assert float(objective(theta)) < 0.01
    assert fitted.residual_stderr[0] / fitted.value < start.residual_stderr[0] / start.value / 3


def test_the_record_says_what_was_exact_and_what_it_cost(tmp_path) -> None:
    objective, theta = case("mlp")  # three batches, 3 classes
    record = split_trace(objective, theta, matvecs=8, generator=seeded())
    assert record.known == 1
    assert record.passes == 3 * (2 + 3)
    assert record.matvecs == 8
    assert len(record.samples) == 8
    assert record.samples.mean() == pytest.approx(record.value)
    again = SplitTrace.load(record.save(tmp_path / "trace.npz"))
    assert again.value == record.value
    assert (again.values == record.values).all()


def test_single_precision() -> None:
    known = reference("conv")
    model = NETWORKS["conv"]()
    torch.manual_seed(0)
    x, y = torch.randn(6, 36), torch.randint(3, (6,))
    objective, theta = objective_of(model, nn.functional.cross_entropy, (x, y))
    found = GaussNewtonDiagonal(objective, theta, lambda rows: rows)
    exact, at = objective_of(model.double(), nn.functional.cross_entropy, (x.double(), y))
    expected = dense_gauss_newton(exact, at).diagonal().float()
    torch.testing.assert_close(found.exact, expected, rtol=1e-4, atol=1e-6)
    assert known.theta.dtype == torch.float64


@pytest.mark.parametrize(
    ("objective", "message"),
    [
        (quadratic(torch.eye(3, dtype=torch.float64)), "the gauss-newton part needs outputs and loss apart"),
        (
            objective_of(nn.Linear(6, 2).double(), lambda z, y: z.sum() ** 2, (double(4, 6), double(4)))[0],
            "the loss couples rows of the outputs",
        ),
    ],
)
def test_what_cannot_be_split_is_refused(objective: Objective, message: str) -> None:
    with pytest.raises(InputError, match=message):
        split_trace(objective, torch.ones(objective.dim, dtype=torch.float64))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"matvecs": 3}, "matvecs must be at least 4 and max_matvecs as much, got 3 and 2000"),
        ({"rtol": 2.0}, "rtol must lie between 0 and 1"),
        ({"by": "unit"}, "by must be"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message: str) -> None:
    known = reference("mlp")
    with pytest.raises(InputError, match=message):
        split_trace(known.objective, known.theta, **settings)

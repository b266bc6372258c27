"""compare on a small problem: every record, its consistency with the model, resuming, adding, refusing."""

import json
from itertools import combinations
from pathlib import Path

import numpy as np
import own_problem
import pytest
import torch
from torch import nn

from landscape import InputError, compare, load
from landscape.comparison import load_comparison
from landscape.measures import FlatnessSettings, PathSettings, ScanSettings

QUICK = {
    "flatness": FlatnessSettings(matvecs=10, eigenvalues=2),
    "paths": PathSettings(steps=20, modes=2),
    "scans": ScanSettings(line=5, plane=3),
    "show_progress": False,
    "jobs": 1,
}
OPTIMIZERS = ("sgd", "lbfgs(epochs=15)")
NAME = "own_problem:small(epochs=5)"


@pytest.fixture
def without_report(monkeypatch):
    """For tests of records alone: the report takes most of the time, and has tests of its own."""
    monkeypatch.setattr("landscape.study.publish", lambda comparison, *, key: comparison.report)


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    return compare(NAME, OPTIMIZERS, 3, out=tmp_path_factory.mktemp("runs") / "small", **QUICK)


def contents(directory: Path) -> dict[str, bytes]:
    return {
        p.relative_to(directory).as_posix(): p.read_bytes()
        for p in sorted(directory.rglob("*"))
        if p.is_file()
    }


def test_every_record_is_there(comparison):
    labels = [f"{o}/{s}" for o in OPTIMIZERS for s in range(3)]
    assert [s.label for s in comparison.solutions] == labels
    for records in (comparison.flatness, comparison.corridors, comparison.profiles):
        assert [r.label for r in records] == labels
    assert [s.label.split("/")[0] for s in comparison.surfaces] == list(OPTIMIZERS)
    pairs = {frozenset((p.start, p.end)) for p in comparison.paths}
    assert pairs == {frozenset(pair) for pair in combinations(labels, 2)}
    assert len(comparison.paths) == 2 * len(pairs)
    assert comparison.embedding.labels == tuple(labels)
    assert comparison.summary.groups == OPTIMIZERS
    a, b = OPTIMIZERS
    assert set(comparison.pair_summary.groups) == {f"{a} – {a}", f"{a} – {b}", f"{b} – {b}"}
    assert comparison.report.stat().st_size > 10_000
    assert len(list((comparison.directory / "figures").glob("*.svg"))) >= 5


def test_centers_and_ends_are_the_models_own_loss(comparison):
    problem = own_problem.small()
    own = {}
    for solution in comparison.solutions:
        model = solution.load_into(problem.build(9).double()).eval()
        x, y = problem.train
        own[solution.label] = float(nn.functional.cross_entropy(model(x.double()), y).detach())
        assert solution.train_loss == pytest.approx(own[solution.label], rel=1e-12)
    for record in (*comparison.profiles, *comparison.surfaces):
        assert record.center_loss == pytest.approx(own[record.label], rel=1e-12)
    for path in comparison.paths:
        assert path.loss[0] == pytest.approx(own[path.start], rel=1e-12)
        assert path.loss[-1] == pytest.approx(own[path.end], rel=1e-12)
        assert path.barrier >= 0
    for flatness in comparison.flatness:
        assert flatness.loss == pytest.approx(own[flatness.label], rel=1e-12)


def test_the_summary_is_made_of_the_records(comparison):
    summary = comparison.summary
    row = summary.metrics.index("norm")
    for i, group in enumerate(summary.groups):
        norms = [s.norm for s in comparison.solutions if s.optimizer == group]
        assert summary.center[row, i] == pytest.approx(np.mean(norms))
        assert summary.low[row, i] < summary.center[row, i] < summary.high[row, i]
    pairs = comparison.pair_summary
    row = pairs.metrics.index("linear_barrier")
    mine = [
        p.barrier
        for p in comparison.paths
        if p.method == "linear" and p.start.startswith("sgd") and p.end.startswith("sgd")
    ]
    assert pairs.center[row, pairs.groups.index("sgd – sgd")] == pytest.approx(np.mean(mine))
    assert pairs.counts[row, pairs.groups.index("sgd – sgd")] == 3


def test_a_second_run_does_no_work_and_a_report_can_be_made_again(comparison, monkeypatch):
    before = contents(comparison.directory)
    times = {p: p.stat().st_mtime_ns for p in comparison.directory.rglob("*.npz")}
    monkeypatch.setattr("landscape.stages.fit", None)
    monkeypatch.setattr("landscape.plots.comparison_figures", None)
    again = compare(NAME, OPTIMIZERS, 3, out=comparison.directory, **QUICK)
    assert contents(comparison.directory) == before
    assert {p: p.stat().st_mtime_ns for p in comparison.directory.rglob("*.npz")} == times
    assert again.summary.center.tolist() == comparison.summary.center.tolist()


def test_more_seeds_and_optimizers_add_to_what_is_there(tmp_path, without_report):
    first = compare(NAME, ["sgd"], 2, out=tmp_path, **QUICK)
    kept = (tmp_path / "solutions" / "sgd-0.npz").read_bytes()
    assert first.embedding is None  # two solutions span no plane
    more = compare(NAME, ["sgd", "adamw"], 3, out=tmp_path, **QUICK)
    assert (tmp_path / "solutions" / "sgd-0.npz").read_bytes() == kept
    assert len(more.solutions) == 6
    assert more.summary.groups == ("sgd", "adamw")
    assert more.embedding is not None


def test_other_settings_in_the_same_directory_are_refused(comparison):
    before = contents(comparison.directory)
    with pytest.raises(
        InputError, match=r"made with other settings \(dtype is 'float64' there, 'float32' here\)"
    ):
        compare(NAME, OPTIMIZERS, 3, out=comparison.directory, dtype="float32", **QUICK)
    with pytest.raises(InputError, match=r"matvecs is 10 there, 11 here"):
        compare(
            NAME,
            OPTIMIZERS,
            3,
            out=comparison.directory,
            **{**QUICK, "flatness": FlatnessSettings(matvecs=11, eigenvalues=2)},
        )
    with pytest.raises(InputError, match=r"made with other settings \(problem is"):
        compare("own_problem:train_only", OPTIMIZERS, 3, out=comparison.directory, **QUICK)
    assert contents(comparison.directory) == before


def test_a_batchnorm_problem_recomputes_statistics_on_paths(tmp_path, without_report):
    found = compare("own_problem:small(epochs=5, batchnorm=True)", ["sgd"], 3, out=tmp_path, **QUICK)
    problem = own_problem.small(batchnorm=True)
    x, y = problem.train
    for path in found.paths:
        solution = next(s for s in found.solutions if s.label == path.start)
        assert path.about["settings"]["batchnorm"] == "batch"
        model = solution.load_into(problem.build(0).double()).train()
        assert path.loss[0] == pytest.approx(
            float(nn.functional.cross_entropy(model(x.double()), y).detach()), rel=1e-10
        )
    for record in found.profiles:
        solution = next(s for s in found.solutions if s.label == record.label)
        assert record.center_loss == pytest.approx(solution.train_loss, rel=1e-12)


@pytest.mark.parametrize("name", ["train_only", "keywords"])
def test_problems_without_other_splits_or_with_mappings(tmp_path, name):
    found = compare(f"own_problem:{name}", ["sgd"], 1, out=tmp_path, **QUICK)
    assert np.isnan(found.solutions[0].test_loss)
    assert found.embedding is None
    assert found.paths == ()
    assert found.report.exists()


def test_a_run_that_diverges_is_told_and_does_not_stop_the_others(tmp_path):
    found = compare(NAME, ["sgd", "hot=sgd(lr=1e200, batch_size=8)"], 2, out=tmp_path, **QUICK)
    hot = [s for s in found.solutions if s.optimizer == "hot"]
    assert all(s.status.startswith("diverged in epoch 1") and np.isfinite(s.theta).all() for s in hot)
    assert [c.kappa.size for c in found.corridors if c.label.startswith("hot")] == [0, 0]
    assert "diverged" in found.report.read_text()


def test_a_problem_object_works_too_and_float32(tmp_path, without_report):
    found = compare(
        own_problem.small(epochs=2), ["sgd"], 1, out=tmp_path, dtype="float32", **{**QUICK, "jobs": None}
    )
    assert found.solutions[0].theta.dtype == np.float32


def test_solutions_travel_between_studies(comparison):
    solution = load(comparison.directory / "solutions" / "sgd-0.npz")
    objective = own_problem.small().objective()
    assert float(objective(torch.from_numpy(solution.theta))) == pytest.approx(solution.train_loss, rel=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seeds": 0}, "seeds must be at least 1, got 0"),
        ({"optimizers": []}, "at least one recipe"),
        ({"optimizers": ["sgd", "sgd"]}, "a label of its own"),
        ({"dtype": "int8"}, "dtype must be float32 or float64, got 'int8'"),
        ({"device": "warp"}, "device 'warp' cannot be used here"),
        ({"device": "cuda:99"}, "device 'cuda:99' cannot be used here"),
        ({"pairs": 0}, "pairs must be at least 1"),
        ({"jobs": 0}, "jobs must be at least 1"),
    ],
)
def test_bad_options(tmp_path, options, message):
    with pytest.raises(InputError, match=message):
        compare(NAME, **{"out": tmp_path / "x", **QUICK, **options})
    assert not (tmp_path / "x").exists()


def test_a_damaged_or_unfinished_comparison_is_refused(comparison, tmp_path):
    with pytest.raises(InputError, match="holds no comparison"):
        load_comparison(tmp_path)
    (tmp_path / "comparison.json").write_text("{")
    with pytest.raises(InputError, match="missing or damaged"):
        load_comparison(tmp_path)
    manifest = json.loads((comparison.directory / "comparison.json").read_text())
    (tmp_path / "comparison.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="is not finished"):
        load_comparison(tmp_path)


def test_the_number_of_pairs_can_be_bounded_and_uses_solutions_evenly(tmp_path, without_report):
    found = compare(NAME, ["sgd"], 4, out=tmp_path, pairs=4, **QUICK)
    linear = [p for p in found.paths if p.method == "linear"]
    ends = [end for p in linear for end in (p.start, p.end)]
    assert len(linear) == 4
    assert {ends.count(f"sgd/{s}") for s in range(4)} == {2} or min(
        ends.count(f"sgd/{s}") for s in range(4)
    ) >= 1

"""The commands of geometry as users meet them: recorded trajectories, corridors, planes, embeddings."""

from pathlib import Path

import numpy as np
import pytest
import torch
from test_cli import run, times

from landscape import Trajectory, load, load_problem, model_objective
from landscape.plots.labels import number
from landscape.problems import batches
from landscape.results import Checkpoint, Corridor, Solution

PROBLEM = "own_problem:small(epochs=5)"
NAMES = ("sgd", "adamw")


@pytest.fixture(autouse=True)
def own_problem(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


@pytest.fixture
def recorded(tmp_path, monkeypatch, capsys):
    """A folder with two solutions and the trajectories beside them."""
    monkeypatch.chdir(tmp_path)
    for name in NAMES:
        told = (
            "--optimizer",
            f"{name}={name}(epochs=3, batch_size=16)",
            "--out",
            f"{name}-0.npz",
            "--record",
            "true",
        )
        code, out, err = run("train", PROBLEM, *told, capsys=capsys)
        assert (code, err) == (0, "")
        assert f"trajectory: {name}-0" in out
    return tmp_path


def test_trajectories_end_at_their_solutions_and_are_not_made_again(recorded, capsys):
    before = times("sgd-0")
    for name in NAMES:
        trajectory, solution = Trajectory(f"{name}-0"), Solution.load(f"{name}-0.npz")
        np.testing.assert_array_equal(trajectory.checkpoint(-1).theta, solution.theta)
        assert (np.diff(trajectory.steps) == 1).all()
    arguments = ("--optimizer", "sgd=sgd(epochs=3, batch_size=16)", "--out", "sgd-0.npz", "--record", "true")
    assert run("train", PROBLEM, *arguments, capsys=capsys)[0] == 0
    assert times("sgd-0") == before
    code, _, err = run("train", PROBLEM, *arguments, "--every", "2", capsys=capsys)
    assert code == 2
    assert "other settings" in err


def test_corridors_with_noise_and_a_map(recorded, capsys):
    told = ("--noise", "16", "--draws", "3", "--plane", "4", "--jobs", "1", "--flow_steps", "2")
    code, out, err = run("corridor", "sgd-0", "adamw-0", *told, capsys=capsys)
    assert (code, err) == (0, "")
    found = Corridor.load("corridors/sgd-0.npz")
    assert len(found.length) == len(Trajectory("sgd-0")) - 1
    assert found.flow_gap.shape == found.length.shape
    own = found.by_length()
    assert f"sgd/0: {len(own.intervals())} corridors, {own.share_of_steps():.0%} of the steps" in out
    assert "steps in corridors" in out
    _, recorded_rates, _ = run("corridor", "sgd-0", *told[-2:], "--rate", "recorded", capsys=capsys)
    for measured, printed in ((own, out), (found, recorded_rates)):
        assert f" {number(np.median(measured.kappa))} " in printed
    assert number(np.median(own.kappa)) != number(np.median(found.kappa))
    np.testing.assert_allclose(own.rate, found.length / found.gradient_norm[:-1], rtol=1e-15)
    assert load("corridors/adamw-0.noise.npz").basis.startswith("fixed batches of 16")
    assert load("corridors/together.map.npz").loss.shape >= (4, 4)
    for name in ("sgd-0", "sgd-0.noise", "together.loss", "together.map"):
        assert Path(f"corridors/{name}.png").stat().st_size > 1000
    before = times("corridors")
    assert run("corridor", "sgd-0", "adamw-0", *told, capsys=capsys)[1] == out
    assert times("corridors") == before
    _, wide, _ = run("corridor", "sgd-0", *told[-2:], "--kappa", "1e9", "--linearity", "1e9", capsys=capsys)
    assert "100% of the steps" in wide


def test_planes_of_trajectories_through_solutions_and_of_eigenvectors(recorded, capsys):
    small = ("--settings.plane", "5", "--settings.line", "5")
    code, out, err = run(
        "scan", "sgd-0", "adamw-0", "--also", "test", "accuracy", "gradient", *small, capsys=capsys
    )
    assert (code, err) == (0, "")
    plane = load("scans/sgd-0--adamw-0.trajectories.npz")
    assert {"test loss", "gradient norm"} <= set(plane.values)
    path = load("scans/sgd-0--adamw-0.trajectories.adamw-0.npz")
    assert path.label == "adamw/0"
    np.testing.assert_array_equal(path.steps, Trajectory("adamw-0").steps)
    assert f"adamw/0: at most {path.distance.max():.3g} from the plane" in out
    for name in ("", ".distance", ".gap", ".test-loss", ".gradient-norm"):
        assert Path(f"scans/sgd-0--adamw-0.trajectories{name}.png").stat().st_size > 1000

    middle = next(iter(Path("sgd-0").glob("step-*3.npz")))  # a checkpoint is a solution
    code, out, _ = run(
        "scan", "sgd-0.npz", "adamw-0.npz", str(middle), *small, "--out", "through", capsys=capsys
    )
    assert code == 0
    (file,) = Path("through").glob("*.plane.npz")
    through = load(file)
    assert through.mark_labels == ("sgd/0", "adamw/0", Checkpoint.load(middle).label)
    assert through.mark_loss[1] == pytest.approx(Solution.load("adamw-0.npz").train_loss, rel=1e-12)
    assert (through.mark_distance < 1e-12).all()
    code, out, _ = run("scan", "sgd-0.npz", "adamw-0.npz", *small, capsys=capsys)
    line = load("scans/sgd-0--adamw-0.line.npz")
    assert line.loss[line.steps == 1] == pytest.approx(Solution.load("adamw-0.npz").train_loss, rel=1e-12)
    assert run("scan", "sgd-0.npz", "--directions", "layer", "--also", "test", *small, capsys=capsys)[0] == 0
    assert "test loss" in load("scans/sgd-0.layer.line.npz").values
    assert Path("scans/sgd-0.layer.line.test-loss.png").stat().st_size > 1000
    for directions in ("eigenvectors", "layer"):
        told = ("--probe", "plane", "--directions", directions)
        assert run("scan", "sgd-0.npz", *told, *small, capsys=capsys)[0] == 0
        record = load(f"scans/sgd-0.{directions}.plane.npz")
        assert directions in record.direction
        assert record.center_loss == pytest.approx(Solution.load("sgd-0.npz").train_loss, rel=1e-12)


def test_surfaces_are_told_and_written_for_paraview(recorded, capsys):
    pytest.importorskip("gudhi")
    meshio = pytest.importorskip("meshio")
    run("scan", "sgd-0", "adamw-0", "--settings.plane", "7", capsys=capsys)
    name = "scans/sgd-0--adamw-0.trajectories"
    code, out, err = run("surface", f"{name}.npz", "--vtk", "true", "--persistence", "0", capsys=capsys)
    assert (code, err) == (0, "")
    found = load(f"{name}.topology.npz")
    assert f"{len(found.loop_births)} loops" in out
    assert meshio.read(f"{name}.vtu").point_data["loss"].size == load(f"{name}.npz").loss.size
    for kind in ("tree", "persistence"):
        assert Path(f"{name}.{kind}.png").stat().st_size > 1000


def test_embeddings_of_trajectories_and_of_outputs(recorded, capsys):
    code, out, err = run(
        "embed", "sgd-0", "adamw-0", "--out", "e/points.npz", "--kernel", "linear", capsys=capsys
    )
    assert (code, err) == (0, "")
    found = load("e/points.npz")
    assert found.kernel == "linear"
    assert len(found.labels) == len(Trajectory("sgd-0")) + len(Trajectory("adamw-0"))
    assert set(found.trajectory.tolist()) == {0, 1}
    assert "cannot be told apart" in out
    files = [*sorted(map(str, Path("sgd-0").glob("step-*.npz")))[:3], "adamw-0.npz"]
    told = ("--space", "outputs", "--components", "3", "--out", "e/outputs.npz")
    assert run("embed", *files, *told, capsys=capsys)[0] == 0
    found = load("e/outputs.npz")
    assert (found.space, found.coordinates.shape) == ("outputs", (4, 3))
    for name in ("outputs", "outputs.control", "outputs.scree"):
        assert Path(f"e/{name}.png").stat().st_size > 1000


WRONG = {
    "no trajectory": (["corridor", "sgd-0.npz"], "is a file, and trajectories are folders"),
    "odd flow": (["corridor", "sgd-0", "--flow_steps", "3"], "flow_steps must"),
    "few batches": (["corridor", "sgd-0", "--noise", "64"], "draws must be from 3 to"),
    "four solutions": (["scan", *["sgd-0.npz"] * 4], "one, two or three"),
    "the same twice": (["scan", "sgd-0.npz", "sgd-0.npz"], "same"),
    "unknown split": (["scan", "sgd-0", "--also", "dev"], "invalid choice"),
    "mixed": (
        ["scan", "sgd-0", "sgd-0.npz"],
        "must be files, or all of them folders of trajectories, got both",
    ),
    "directions of two": (
        ["scan", "sgd-0.npz", "adamw-0.npz", "--directions", "layer"],
        "are for one solution",
    ),
    "negative noise": (["corridor", "sgd-0", "--noise", "-3"], "noise must be at least 0, got -3"),
    "small map": (["corridor", "sgd-0", "--plane", "2"], "plane must be at least 3 points"),
    "no ending": (["train", PROBLEM, "--record", "true", "--out", "new"], "must have an ending"),
    "no budget": (
        ["train", PROBLEM, "--record", "true", "--budget", "0", "--out", "n.npz"],
        "GiB greater than 0",
    ),
    "no surface": (["surface", "sgd-0.npz"], "holds a solution, but a surface is needed"),
    "budget": (["train", PROBLEM, "--record", "true", "--budget", "1e-6", "--out", "new.npz"], "budget must"),
    "no points": (["embed", "nowhere", "sgd-0"], "nowhere"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_gets_one_sentence_and_leaves_nothing(recorded, capsys, case):
    arguments, said = WRONG[case]
    before = {path.name for path in recorded.rglob("*")}
    code, _, err = run(*arguments, capsys=capsys)
    assert code == 2
    assert said in err
    assert len(err.strip().splitlines()) == 1
    # what was finished before the mistake was met is there, and whole
    assert {path.name for path in recorded.rglob("*")} - before <= {"corridors", "sgd-0.npz"}


def test_with_batchnorm_every_point_has_statistics_of_its_own(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    problem = "own_problem:small(batchnorm=True)"
    for name in NAMES:
        told = ("--optimizer", f"{name}={name}(epochs=3)", "--out", f"{name}-0.npz", "--record", "true")
        assert run("train", problem, *told, capsys=capsys)[0] == 0
    small, given = ("--settings.line", "5", "--settings.plane", "4"), ("--problem", problem)
    solutions = [Solution.load(f"{name}-0.npz") for name in NAMES]
    own = load_problem(problem).objective(batchnorm="batch")
    assert run("scan", "sgd-0.npz", "adamw-0.npz", *small, *given, capsys=capsys)[0] == 0
    line = load("scans/sgd-0--adamw-0.line.npz")
    np.testing.assert_allclose(
        line.mark_loss, [float(own(own.point(s.theta))) for s in solutions], rtol=1e-12
    )
    assert run("scan", "sgd-0", "adamw-0", *small, *given, capsys=capsys)[0] == 0
    path = load("scans/sgd-0--adamw-0.trajectories.sgd-0.npz")
    assert path.loss[-1] == pytest.approx(line.mark_loss[0], rel=1e-12)
    noise = ("--noise", "10", "--draws", "4", "--jobs", "1")  # all four batches: nothing is drawn
    assert run("corridor", "sgd-0", *noise, *given, capsys=capsys)[0] == 0
    assert load("corridors/sgd-0.npz").loss[-1] == pytest.approx(line.mark_loss[0], rel=1e-12)
    whole = model_objective_of_batches(problem)
    first = float(whole.grad(whole.point(Trajectory("sgd-0").checkpoint(0).theta)).square().sum())
    assert load("corridors/sgd-0.noise.npz").signal[0] == pytest.approx(first, rel=1e-10)


def model_objective_of_batches(problem):
    loaded = load_problem(problem)
    data = list(batches(loaded.train, 10))
    return model_objective(
        loaded.build(0).eval(), loaded.loss_fn, data, dtype=torch.float64, batchnorm="batch"
    )

"""The command line as users meet it: commands, help, errors, kills."""

import os
import re
import signal
import subprocess
import sys
import time
from itertools import combinations
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from analysis.paths.find import METHODS
from landscape import load
from landscape.cli import COMMANDS, main
from landscape.commands.paths import PathMethod
from landscape.plots.labels import number
from optimizers import RECIPES

TESTS = Path(__file__).parent
PROBLEM = "own_problem:small(epochs=5)"
QUICK = [
    *("--flatness.matvecs", "10", "--flatness.eigenvalues", "2", "--paths.steps", "20", "--paths.modes", "2"),
    *("--scans.line", "5", "--scans.plane", "3"),
]
COMPARE = ["compare", PROBLEM, "--optimizers", "sgd", "lbfgs(epochs=10)", "--seeds", "2", *QUICK]


@pytest.fixture(autouse=True)
def in_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(TESTS))


def run(*arguments: str, capsys) -> tuple[int, str, str]:
    try:
        code = main(arguments)
    except SystemExit as stop:
        code = int(stop.code or 0)
    out, err = capsys.readouterr()
    return code, out, err


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "landscape.cli", *arguments]


def environment() -> dict[str, str]:
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent)]),
        "OMP_NUM_THREADS": "1",
    }


@pytest.fixture
def trained(tmp_path, capsys):
    for optimizer in ("sgd", "adamw"):
        for seed in ("0", "1"):
            assert (
                main(
                    [
                        "train",
                        PROBLEM,
                        "--optimizer",
                        optimizer,
                        "--seed",
                        seed,
                        "--out",
                        f"{optimizer}-{seed}.npz",
                    ]
                )
                == 0
            )
    capsys.readouterr()
    return tmp_path


def test_train_flatness_barrier_embed_and_scan(trained, capsys):
    files = sorted(str(p) for p in trained.glob("*.npz"))
    code, out, _ = run("flatness", *files, "--settings.matvecs", "10", "--jobs", "1", capsys=capsys)
    assert code == 0
    assert all(label in out for label in ("sgd/0", "adamw/1"))
    assert load(trained / "flatness" / "sgd-0.npz").label == "sgd/0"
    code, _, err = run("barrier", files[0], files[2], "--settings.steps", "20", capsys=capsys)
    assert code == 2  # they were trained for a few steps
    assert "must be near a minimum" in err
    ways = ("--settings.steps", "20", "--minima", "false")
    code, out, _ = run("barrier", files[0], files[2], *ways, capsys=capsys)
    assert code == 0
    path = load(trained / "paths" / "adamw-0--sgd-0.fourier.npz")
    assert f"height {path.height:.6g}" in out
    assert (trained / "paths" / "adamw-0--sgd-0.png").exists()
    code, out, _ = run("embed", *files, "--out", "e/embedding.npz", capsys=capsys)
    assert code == 0
    assert load("e/embedding.npz").coordinates.shape == (4, 2)
    assert "the norm alone" in out
    for probe in ("line", "plane"):
        code, out, _ = run("scan", files[0], "--probe", probe, "--settings.plane", "3", capsys=capsys)
        assert code == 0
        record = load(trained / "scans" / f"adamw-0.{probe}.npz")
        assert record.center_loss == pytest.approx(load(files[0]).train_loss, rel=1e-12)
        assert (trained / "scans" / f"adamw-0.{probe}.svg").exists()


def test_network_joins_solutions_and_takes_what_is_there(trained, capsys):
    files = sorted(str(p) for p in trained.glob("*.npz"))
    arguments = ["network", *files, "--settings.steps", "30", "--minima", "false"]
    code, out, err = run(*arguments, "--pairs", "all", "--jobs", "1", capsys=capsys)
    assert (code, err) == (0, "")
    assert "paths were searched for 6 of 6 pairs" in out
    assert "adamw – sgd" in out  # statistics
    found = load("network/network.npz")
    assert found.labels == ("adamw/0", "adamw/1", "sgd/0", "sgd/1")
    for (i, a), (j, b) in combinations(enumerate(found.labels), 2):
        name = f"network/paths/{a}--{b}".replace("/0", "-0").replace("/1", "-1")
        assert found.heights[i, j] == load(f"{name}.fourier.npz").height
        assert found.lines[i, j] == load(f"{name}.linear.npz").height
    for name in ("network", "heights", "histogram"):
        assert Path(f"network/{name}.png").stat().st_size > 1000
    before = times("network")
    assert run(*arguments, "--pairs", "all", "--jobs", "1", capsys=capsys)[:2] == (0, out)
    assert times("network") == before


def test_network_takes_paths_that_are_there_whatever_is_asked_for_in_whatever_order(capsys):
    files = [f"l-{seed}.npz" for seed in range(4)]
    for seed, file in enumerate(files):
        recipe = ("--optimizer", "lbfgs(epochs=60)", "--seed", str(seed))
        assert run("train", PROBLEM, *recipe, "--out", file, capsys=capsys)[0] == 0
    ways = ("--settings.steps", "60", "--jobs", "2")
    code, out, _ = run("network", *files, *ways, "--pairs", "tree", capsys=capsys)
    assert code == 0
    assert "paths were searched for 3 of 6 pairs" in out
    tree = load("network/network.npz")
    run("network", *files, *ways, "--pairs", "all", capsys=capsys)
    whole, before = load("network/network.npz"), times("network/paths")
    assert (whole.minimax <= tree.minimax).all()
    assert len(before) == 12
    assert whole.barriers.max() > 0
    code, out, _ = run("network", *reversed(files), *ways, "--pairs", "open", capsys=capsys)
    assert "paths were searched for 6 of 6 pairs" in out
    again = load("network/network.npz")
    assert again.labels == whole.labels
    np.testing.assert_array_equal(again.heights, whole.heights)
    assert times("network/paths") == before


def times(folder: str) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in Path(folder).rglob("*.npz")}


def test_network_says_which_solutions_are_no_minima(trained, capsys):
    files = sorted(str(p) for p in trained.glob("*.npz"))
    code, _, err = run("network", *files, "--jobs", "1", "--pairs", "all", capsys=capsys)
    assert code == 2
    assert re.search(
        r"a path from a \((adamw|sgd)/\d\) to b \((adamw|sgd)/\d\) cannot be found: . must be near a minimum",
        err,
    )


def test_a_recipe_says_which_parameters_are_kept(capsys):
    recipe = "sgd(epochs=3, keep='validation')"
    code, out, _ = run("train", PROBLEM, "--optimizer", recipe, "--out", "kept.npz", capsys=capsys)
    assert code == 0
    assert "of lowest validation loss" in out
    assert load("kept.npz").about["keep"] == "validation"


def test_network_leaves_out_pairs_that_cannot_matter(trained, capsys):
    files = sorted(str(p) for p in trained.glob("*.npz"))
    ways = ("--settings.steps", "30", "--settings.negligible", "10", "--minima", "false", "--jobs", "2")
    code, out, _ = run("network", *files, *ways, capsys=capsys)
    assert code == 0
    assert "paths were searched for 0 of 6 pairs" in out
    found = load("network/network.npz")
    assert (found.status[np.triu_indices(4, 1)] == "at its bound").all()


def test_the_methods_on_the_command_line_are_those_of_find_path():
    assert set(get_args(PathMethod)) == set(METHODS)


FLATNESS = [
    "flatness",
    "sgd-0.npz",
    "adamw-1.npz",
    "--settings.matvecs",
    "10",
    "--settings.pairs",
    "4",
    "--jobs",
    "1",
]


def test_flatness_writes_three_records_and_two_pictures_a_solution(trained, capsys):
    code, out, err = run(
        *FLATNESS, "--out", "flat", "--curvature.probes", "3", "--curvature.steps", "5", capsys=capsys
    )
    assert (code, err) == (0, "")
    kinds = (
        ".npz",
        ".layers.npz",
        ".density.npz",
        ".layers.png",
        ".layers.svg",
        ".density.png",
        ".density.svg",
    )
    expected = {f"{name}{kind}" for name in ("sgd-0", "adamw-1") for kind in kinds}
    assert {path.name for path in (trained / "flat").iterdir()} == expected
    flat, layers, density = (load(trained / "flat" / f"sgd-0{kind}") for kind in kinds[:3])
    assert (flat.kind(), layers.kind(), density.kind()) == ("flatness", "splittrace", "spectraldensity")
    assert density.nodes.shape == (3, 5)
    assert layers.about["solution"] == "sgd/0"
    stderr = (layers.stderr**2 + flat.trace_stderr**2) ** 0.5
    assert abs(layers.value - flat.trace) < 5 * stderr  # one trace, by two ways
    for value in (
        flat.trace,
        flat.relative_flatness,
        flat.fisher_rao,
        layers.gauss_newton[0],
        density.highest,
    ):
        assert f" {number(value)}" in out
    before = {path: path.stat().st_mtime_ns for path in (trained / "flat").glob("*.npz")}
    code, again, _ = run(
        *FLATNESS, "--out", "flat", "--curvature.probes", "3", "--curvature.steps", "5", capsys=capsys
    )
    assert (code, again) == (0, out)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    code, _, err = run(
        *FLATNESS, "--out", "flat", "--curvature.probes", "4", "--curvature.steps", "5", capsys=capsys
    )
    assert code == 2
    assert "probes is 3 there, 4 here" in err


def test_flatness_of_a_model_that_computes_its_own_loss_is_not_split_and_says_so(trained, capsys):
    assert main(["train", "own_problem:keywords", "--out", "own.npz"]) == 0
    capsys.readouterr()
    code, out, _ = run("flatness", "own.npz", "--settings.matvecs", "12", "--jobs", "1", capsys=capsys)
    assert code == 0
    layers, flat = load("flatness/own.layers.npz"), load("flatness/own.npz")
    assert layers.kind() == "blocktraces"
    assert layers.names == ("inner",)
    assert layers.message.startswith(
        "not split: the gauss-newton part needs outputs and loss apart: pass loss_fn"
    )
    assert "sgd/0: not split: the gauss-newton part" in out
    assert np.isnan(flat.fisher_rao)
    assert "Fisher–Rao" not in out
    assert layers.values[0] == pytest.approx(flat.trace)  # 12 parameters: both are exact


@pytest.mark.parametrize("width", [80, 200])
def test_flatness_fits_the_terminal(width, trained, capsys, monkeypatch):
    monkeypatch.setattr("landscape.tables._WITHOUT_TERMINAL", width)
    code, out, _ = run(*FLATNESS, capsys=capsys)
    assert code == 0
    assert max(map(len, out.splitlines()[:-1])) <= width
    assert "…" not in out
    for header in ("trace", "sharpness*", "flatness*", "norm*", "Fisher–Rao"):
        assert header in out


def test_train_again_does_no_work_and_other_settings_are_refused(trained, capsys):
    before = (trained / "sgd-0.npz").stat().st_mtime_ns
    code, out, _ = run("train", PROBLEM, "--seed", "0", "--out", "sgd-0.npz", capsys=capsys)
    assert (code, (trained / "sgd-0.npz").stat().st_mtime_ns) == (0, before)
    assert "train loss" in out
    code, _, err = run("train", PROBLEM, "--seed", "1", "--out", "sgd-0.npz", capsys=capsys)
    assert code == 2
    assert "seed is 0 there, 1 here" in err


def test_the_same_seed_gives_the_same_numbers_in_another_process(trained):
    done = subprocess.run(
        command("train", PROBLEM, "--optimizer", "sgd", "--seed", "1", "--out", "again.npz"),
        env=environment(), capture_output=True, text=True, cwd=trained,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # quiet where there is no terminal
    np.testing.assert_array_equal(load("again.npz").theta, load("sgd-1.npz").theta)


def test_compare_and_report(tmp_path, capsys):
    code, out, err = run(*COMPARE, "--jobs", "1", capsys=capsys)
    assert code == 0
    assert err == ""
    (found,) = re.findall(r"^report: (.*)$", out, re.MULTILINE)
    report = Path(found)
    assert report == tmp_path / "runs" / "own_problem_small(epochs=5)" / "report.html"
    assert "Hessian trace" in out
    report.unlink()
    code, out, _ = run("report", str(report.parent), capsys=capsys)
    assert code == 0
    assert report.exists()


BAD = {
    "unknown problem": (["compare", "nosuch"], "there is no problem 'nosuch'"),
    "attribute that is no problem": (
        ["compare", "own_problem:number"],
        "is a int, but must be a landscape.Problem",
    ),
    "module that is not there": (["train", "no_such:thing"], "cannot be found"),
    "unknown optimizer": (["train", PROBLEM, "--optimizer", "sdg"], "there is no optimizer 'sdg'"),
    "solution of another problem": (
        ["flatness", "sgd-0.npz", "--problem", "digits-mlp"],
        "belongs to the problem",
    ),
    "truncated": (["flatness", "truncated.npz"], "truncated or no .npz"),
    "foreign": (["scan", "foreign.npz"], "not written by torch-landscape"),
    "pickled": (["embed", "pickled.npz", "sgd-0.npz"], "pickled objects"),
    "one solution": (["network", "sgd-0.npz"], "must be two or more with different labels, got sgd/0"),
    "same label": (["network", "sgd-0.npz", "sgd-0.npz"], "with different labels, got sgd/0, sgd/0"),
    "no jobs": (["network", "sgd-0.npz", "adamw-1.npz", "--jobs", "0"], "jobs must be at least 1, got 0"),
    "nan": (["barrier", "nan.npz", "sgd-0.npz"], "NaN or infinite"),
    "absent": (["barrier", "absent.npz", "sgd-0.npz"], "does not exist"),
    "record of another kind": (["scan", "trace.npz"], "holds a trace, but a solution is needed"),
    "no seeds": (["compare", PROBLEM, "--seeds", "0"], "seeds must be at least 1"),
    "not a number": (["compare", PROBLEM, "--seeds", "many"], "seeds"),
    "zero points": (["scan", "sgd-0.npz", "--settings.line", "0"], "line must be greater than 0, got 0"),
    "unknown option": (["compare", PROBLEM, "--sedes", "3"], "unrecognized arguments: --sedes"),
    "unknown command": (["compair", PROBLEM], "invalid choice: 'compair'"),
    "device": (["compare", PROBLEM, "--device", "warp"], "device 'warp' cannot be used here"),
    "place that cannot be written": (["compare", PROBLEM, "--out", "file/runs"], "cannot be written"),
    "file that cannot be written": (["train", PROBLEM, "--out", "file/a.npz"], "cannot be written"),
    "no comparison": (["report", "."], "holds no comparison"),
    "train-mode batchnorm": (["compare", "stubborn:problem"], "call model.eval() first"),
    "no data": (["compare", "stubborn:empty"], "no example in its train data"),
    "problem that raises": (
        ["compare", "stubborn:raises"],
        "cannot be made with {}: RuntimeError: my file is gone",
    ),
    "model that raises": (
        ["compare", "stubborn:no_model"],
        "the model of the problem 'stubborn:no_model' cannot be made",
    ),
    "targets that do not fit": (["compare", "stubborn:no_fit"], "do not go together: "),
    "loss that is nan": (["compare", "stubborn:nan"], "is nan at initialisation"),
    "module that raises": (["compare", "crooked:problem"], "cannot be imported: ZeroDivisionError"),
    "seed": (["train", PROBLEM, "--seed", "-1"], "seed must be a whole number from 0"),
    "text": (["flatness", "file"], "truncated or no .npz"),
    "too few products": (
        ["flatness", "sgd-0.npz", "--settings.matvecs", "3"],
        "matvecs must be at least 4, got 3",
    ),
    "too few draws": (["flatness", "sgd-0.npz", "--settings.pairs", "1"], "pairs must be at least 2, got 1"),
    "no noise": (
        ["flatness", "sgd-0.npz", "--settings.lpf_sigma", "0"],
        "lpf_sigma must be greater than 0, got 0",
    ),
    "too few probes": (
        ["flatness", "sgd-0.npz", "--curvature.probes", "1"],
        "probes must be at least 2, got 1",
    ),
    "too few samples": (
        ["flatness", "sgd-0.npz", "--curvature.matvecs", "3"],
        "matvecs must be at least 4, got 3",
    ),
    "unknown parts": (["flatness", "sgd-0.npz", "--curvature.by", "neuron"], "neuron"),
}
STUBBORN = """
import torch
from torch import nn
from landscape import Problem

class Stubborn(nn.BatchNorm1d):
    def train(self, mode=True):
        return super().train(True)

def problem():
    data = torch.randn(8, 3), torch.zeros(8, 3)
    return Problem("s", lambda: nn.Sequential(nn.Linear(3, 3), Stubborn(3)), nn.functional.mse_loss, data)

def raises():
    raise RuntimeError("my file is gone")

def no_model():
    return Problem("m", lambda: nn.Linear(-3, 3), nn.functional.mse_loss, (torch.zeros(8, 3), torch.zeros(8, 3)))

def no_fit():
    return Problem("f", lambda: nn.Linear(3, 3), nn.functional.cross_entropy, (torch.zeros(8, 3), torch.zeros(8).int()))

def nan():
    return Problem("n", lambda: nn.Linear(3, 3), nn.functional.mse_loss, (torch.full((8, 3), torch.nan), torch.zeros(8, 3)))

def empty():
    return Problem("e", lambda: nn.Linear(3, 3), nn.functional.mse_loss, (torch.zeros(0, 3), torch.zeros(0, 3)))
"""


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gets_one_sentence_and_exit_code_2(case, trained, capsys):
    import dataclasses

    from landscape.results import Trace

    arguments, message = BAD[case]
    good = (trained / "sgd-0.npz").read_bytes()
    (trained / "truncated.npz").write_bytes(good[: len(good) // 2])
    np.savez(trained / "foreign.npz", w=np.zeros(3))
    np.savez(trained / "pickled.npz", header=np.array([{}], dtype=object))
    (trained / "file").write_text("")
    (trained / "stubborn.py").write_text(STUBBORN)
    (trained / "crooked.py").write_text("1 / 0")
    Trace(value=1.0, stderr=0.0, samples=np.zeros(1), method="m", matvecs=1, dim=1).save(
        trained / "trace.npz"
    )
    solution = load(trained / "sgd-0.npz")
    theta = solution.theta.copy()
    poisoned = dataclasses.replace(solution)
    theta[0] = np.nan
    object.__setattr__(poisoned, "theta", theta)
    poisoned.save(trained / "nan.npz")
    before = sorted(
        p.relative_to(trained).as_posix() for p in trained.rglob("*") if "__pycache__" not in p.parts
    )
    code, out, err = run(*arguments, capsys=capsys)
    after = sorted(
        p.relative_to(trained).as_posix() for p in trained.rglob("*") if "__pycache__" not in p.parts
    )
    assert code == 2
    assert re.search(re.escape(message), err), err
    assert err.startswith("landscape: ")
    assert err.count("\n") == 1
    assert out == ""
    assert after == before


@pytest.mark.parametrize("name", ["compare", "train"])
def test_help_names_every_recipe(name, capsys):
    _, out, _ = run(name, "--help", capsys=capsys)
    words = set(out.replace(",", " ").split())
    assert set(RECIPES) <= words


@pytest.mark.parametrize("name", COMMANDS)
def test_help_gives_every_option_its_meaning(name, capsys):
    code, out, _ = run(name, "--help", capsys=capsys)
    assert code == 0
    undocumented = re.findall(
        r"^  (--[\w.]+)(?: \S+)*\n(?=  -|\n)", out, re.MULTILINE
    )  # no meaning beside or below
    assert undocumented == []


def records(directory: Path) -> dict[str, bytes]:
    return {p.relative_to(directory).as_posix(): p.read_bytes() for p in sorted(directory.rglob("*.npz"))}


def children(pid: int) -> list[int]:
    """Processes that a process has started (none where there is no /proc)."""
    stats = [path.read_text() for path in Path("/proc").glob("[0-9]*/stat")]
    parents = {int(stat.partition(" ")[0]): int(stat.rpartition(")")[2].split()[1]) for stat in stats}
    return [child for child, parent in parents.items() if parent == pid]


def finish(out: Path) -> None:
    done = subprocess.run(
        command(*COMPARE, "--out", str(out), "--jobs", "2"), env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed") / "runs"
    finish(out)
    return records(out)


@pytest.mark.parametrize("killed_at", [(1, 4, 9, 25)])
def test_a_run_killed_again_and_again_resumes_to_the_same_records(tmp_path, undisturbed, killed_at):
    out = tmp_path / "runs"
    for count in killed_at:  # as soon as so many records are there
        process = subprocess.Popen(
            command(*COMPARE, "--out", str(out), "--jobs", "2"),
            env=environment(),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        while process.poll() is None and len(list(out.rglob("*.npz"))) < count:
            time.sleep(0.002)
        assert process.poll() is None
        workers = children(process.pid)
        process.send_signal(signal.SIGKILL)
        process.wait()
        deadline = time.monotonic() + 30
        while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not any(Path(f"/proc/{pid}").exists() for pid in workers), "workers outlived the run"
    finish(out)
    found = records(out)
    assert found.keys() == undisturbed.keys()
    assert [name for name in found if found[name] != undisturbed[name]] == []
    assert list(out.rglob("*.part")) == []
    assert (out / "report.html").exists()

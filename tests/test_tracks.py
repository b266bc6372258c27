"""Tracks: their record, their picture, and the studies' runs that resume."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from landscape import InputError, load
from landscape.intervals import mean_interval
from landscape.plots import plot_track, plot_tracks
from landscape.results import Track
from scripts.study import command, tracks

STEPS = np.array([0, 10, 20])


def track(seed: int, scale: float = 1.0, label: str = "sgd") -> Track:
    values = {"loss": scale * np.array([4.0, 2.0, 1.0]), "trace": scale * np.array([1.0, 1.0, 3.0])}
    return Track(label=label, seed=seed, steps=STEPS, values=values)


def test_a_track_comes_back_from_its_file(tmp_path: Path) -> None:
    found = load(track(3).save(tmp_path / "a.npz"))
    assert isinstance(found, Track)
    assert (found.label, found.seed, set(found.values)) == ("sgd", 3, {"loss", "trace"})
    np.testing.assert_array_equal(found.values["trace"], [1, 1, 3])


def test_a_track_needs_a_value_a_step() -> None:
    with pytest.raises(InputError, match=r"the track sgd/0 has 2 values of 'loss' at 3 steps"):
        Track(label="sgd", seed=0, steps=STEPS, values={"loss": np.zeros(2)})


@pytest.mark.parametrize("log", [False, True])
def test_the_line_is_the_mean_over_seeds_and_the_band_its_interval(log: bool) -> None:
    runs = [track(0), track(1, 2.0), track(2, 8.0), track(0, 5.0, "alto")]
    ax = plot_tracks(runs, value="loss", log=log)
    ours, other = ax.get_lines()
    assert (ours.get_label(), other.get_label()) == ("sgd", "alto")
    values = np.array([run.values["loss"] for run in runs[:3]])
    columns = np.log(values).T if log else values.T
    expected = np.array([mean_interval(column) for column in columns])
    expected = np.exp(expected) if log else expected
    np.testing.assert_allclose(np.asarray(ours.get_ydata()), expected[:, 0])
    band = np.asarray(ax.collections[0].get_paths()[0].vertices)
    for step, (_, low, high) in zip(STEPS, expected, strict=True):
        at = band[band[:, 0] == step, 1]
        np.testing.assert_allclose([at.min(), at.max()], [low, high])
    assert ax.get_yscale() == ("log" if log else "linear")


def test_one_run_has_a_line_and_no_band() -> None:
    ax = plot_track(track(0), value="loss")
    np.testing.assert_array_equal(np.asarray(ax.get_lines()[0].get_ydata()), [4, 2, 1])


def test_runs_followed_at_different_steps_have_no_mean() -> None:
    other = Track(label="sgd", seed=1, steps=STEPS + 1, values=track(0).values)
    with pytest.raises(InputError, match="the runs of sgd were followed at different steps"):
        plot_tracks([track(0), other], value="loss")


def drawn(context: Any, *, generator: torch.Generator, label: str, seed: int) -> Track:
    with Path(context).open("a") as log:
        log.write(f"{label}/{seed}\n")
    values = torch.rand(2, generator=generator, dtype=torch.float64).numpy()
    return Track(label=label, seed=seed, steps=np.arange(2), values={"x": values})


def test_a_study_runs_each_cell_once(tmp_path: Path) -> None:
    log, out = tmp_path / "log", tmp_path / "out"
    cells = [{"label": label, "seed": seed} for label in ("a", "b") for seed in range(2)]
    first = tracks(out, drawn, cells[:3], title="", context=str(log), jobs=1)
    again = tracks(out, drawn, cells, title="", context=str(log), jobs=1)
    assert [(t.label, t.seed) for t in again] == [("a", 0), ("a", 1), ("b", 0), ("b", 1)]
    assert log.read_text().split() == ["a/0", "a/1", "b/0", "b/1"]
    for one, other in zip(first, again, strict=False):
        np.testing.assert_array_equal(one.values["x"], other.values["x"])
    assert not np.array_equal(again[0].values["x"], again[1].values["x"])


def test_a_study_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing to run; give at least one seed"):
        tracks(tmp_path / "out", drawn, [], title="")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("script", ["large_batch", "corridor_rate"])
def test_a_batch_that_does_not_exist_is_one_sentence(script: str, tmp_path: Path) -> None:
    main = importlib.import_module(f"scripts.{script}").main
    with pytest.raises(InputError, match=r"only must be part of one of .*batch 512.*, got '7'"):
        main(only="7", out=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    "script", ["valleys", "escape", "corridor_rate", "large_batch", "flatness", "topography", "alignment"]
)
def test_a_script_explains_its_options(
    script: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = importlib.import_module(f"scripts.{script}")
    monkeypatch.setattr("sys.argv", [script, "--help"])
    with pytest.raises(SystemExit):
        command(module.main)
    told = " ".join(capsys.readouterr().out.split())
    assert (module.__doc__ or "").partition("\n")[0][:60] in told
    for name, parameter in inspect.signature(module.main).parameters.items():
        assert re.search(rf"--{name} \S+ \w+", told), name
        assert str(parameter.default) in told.replace("- ", "-")  # a line may end at a hyphen


def test_a_command_ends_bad_input_in_one_sentence(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def main(seeds: int = 3) -> None:
        """Says what it cannot use."""
        raise InputError(f"seeds must be at least 1, got {seeds}.")

    monkeypatch.setattr("sys.argv", ["study", "--seeds", "0"])
    with pytest.raises(SystemExit) as stopped:
        command(main)
    assert stopped.value.code == 2
    assert capsys.readouterr().err.endswith("seeds must be at least 1, got 0.\n")

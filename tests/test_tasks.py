"""Tasks: each once, resumed after a kill, refused under other settings."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from landscape import InputError, load
from landscape.results import Trace
from landscape.tasks import Given, Task, run_tasks, sole_use

RUNS: list[str] = []


def draw(context, *inputs, generator, shift=0.0):
    """A random number plus everything before it."""
    RUNS.append("draw")
    noise = torch.randn(3, generator=generator, dtype=torch.float64)
    value = float(noise.sum()) + shift + context + sum(t.value for t in inputs)
    return Trace(
        value=value, stderr=0.0, samples=noise.numpy(), method="m", matvecs=3, dim=3, about={"of": "draw"}
    )


def fail(context, *, generator):
    raise RuntimeError("the machine is on fire")


@pytest.fixture(autouse=True)
def counted():
    RUNS.clear()


def chain(folder: Path, shift=0.0):
    first = [Task(folder / f"{i}.npz", draw, settings={"shift": shift + i}) for i in range(3)]
    return first, [Task(folder / "sum.npz", draw, tuple(first), replaceable=True)]


def run(folder: Path, jobs=1, **options):
    for wave in chain(folder, **options):
        run_tasks(wave, 1.0, title="t", jobs=jobs, show_progress=False)
    return {p.name: p.read_bytes() for p in sorted(folder.glob("*.npz"))}


def test_each_task_runs_once_and_a_second_run_does_nothing(tmp_path):
    first = run(tmp_path)
    assert len(RUNS) == 4
    assert run(tmp_path) == first
    assert len(RUNS) == 4


def test_a_missing_record_is_made_again_just_as_it_was(tmp_path):
    first = run(tmp_path)
    (tmp_path / "1.npz").unlink()
    (tmp_path / "sum.npz").unlink()
    assert run(tmp_path) == first
    assert len(RUNS) == 6


def test_processes_make_the_same_records(tmp_path):
    one = run(tmp_path / "a")
    run(tmp_path / "b", jobs=2)
    for name in one:
        a, b = load(tmp_path / "a" / name), load(tmp_path / "b" / name)
        assert a.value == b.value
        np.testing.assert_array_equal(a.samples, b.samples)


def test_records_say_where_they_come_from(tmp_path):
    run(tmp_path)
    about = load(tmp_path / "1.npz").about
    assert about["of"] == "draw"
    assert about["settings"] == {"shift": 1.0}
    assert {"key", "generator_seed", "versions", "threads"} <= set(about)


def test_other_settings_in_the_same_place_are_refused_with_the_difference(tmp_path):
    run(tmp_path)
    with pytest.raises(
        InputError,
        match=r"0\.npz was made with other settings \(shift is 0\.0 there, 5\.0 here\); choose another --out",
    ):
        run(tmp_path, shift=5.0)


def test_a_difference_is_named_however_deep_and_whoever_set_it(tmp_path):
    def made(**settings) -> Task:
        return Task(tmp_path / "a.npz", lambda *_, **__: None, settings=settings)  # pyright: ignore[reportArgumentType]

    run_tasks(
        [Task(tmp_path / "a.npz", deep, settings={"record": {"every": 1, "budget": 5}})],
        0.0,
        title="",
        jobs=1,
    )
    for settings, said in (
        ({"record": {"every": 2, "budget": 5}}, r"\(record.every is 1 there, 2 here\)"),
        ({}, r"\(record.budget is 5 there, None here\)"),
        ({"record": {"every": 1, "budget": 5}}, "was made from other inputs"),
    ):
        with pytest.raises(InputError, match=said):
            made(**settings).is_done()


def deep(context, *, generator, record):
    return draw(context, generator=generator)


def test_a_summary_is_made_again_when_its_inputs_change(tmp_path):
    first, (total,) = chain(tmp_path)
    run(tmp_path)
    fewer = Task(total.output, draw, tuple(first[:2]), replaceable=True)
    run_tasks([fewer], 1.0, title="t", jobs=1, show_progress=False)
    assert load(total.output).about["key"] == fewer.key != total.key


def test_keys_depend_on_function_settings_and_inputs(tmp_path):
    a = Task(tmp_path / "a", draw, settings={"shift": 1})
    keys = {
        a.key,
        Task(tmp_path / "a", fail, settings={"shift": 1}).key,
        Task(tmp_path / "a", draw, settings={"shift": 2}).key,
        Task(tmp_path / "a", draw, (a,), settings={"shift": 1}).key,
    }
    assert len(keys) == 4
    assert Task(tmp_path / "elsewhere", draw, settings={"shift": 1}).key == a.key


def test_given_records_are_known_by_content(tmp_path):
    run(tmp_path)
    one, two = Given(tmp_path / "0.npz"), Given(tmp_path / "1.npz")
    assert one.key != two.key
    record = load(one.output)
    replace(record, about={}).save(tmp_path / "copy.npz")
    assert Given(tmp_path / "copy.npz").key != one.key
    (tmp_path / "x.npz").write_text("no record")
    with pytest.raises(InputError, match=r"x\.npz cannot be read"):
        _ = Given(tmp_path / "x.npz").key


def test_a_folder_of_records_is_known_by_their_content(tmp_path):
    first = [Task(tmp_path / f"records/step-{i}.npz", draw, settings={"shift": i}) for i in range(3)]
    run_tasks(first, 10.0, title="", jobs=1)
    (tmp_path / "records/other.npz").write_bytes(b"not of the trajectory")
    key = Given(tmp_path / "records").key
    (tmp_path / "records").rename(tmp_path / "elsewhere")
    assert Given(tmp_path / "elsewhere").key == key
    (tmp_path / "elsewhere/step-1.npz").unlink()
    assert Given(tmp_path / "elsewhere").key not in (key, Given(tmp_path / "elsewhere/step-0.npz").key)


def beside(context, *, generator, folder):
    folder.mkdir()
    return draw(context, generator=generator)


def test_work_that_makes_files_of_its_own_is_told_where(tmp_path):
    task = Task(tmp_path / "a(lr=0.1)-0.npz", beside, folder=True)
    run_tasks([task], 10.0, title="", jobs=1)
    assert (tmp_path / "a(lr=0.1)-0").is_dir()
    assert task.is_done()


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_failing_task_leaves_what_was_finished_and_no_half_file(tmp_path, jobs):
    run_tasks([Task(tmp_path / "good.npz", draw)], 1.0, title="t", jobs=1, show_progress=False)
    tasks = [Task(tmp_path / f"bad{i}.npz", fail) for i in range(2)]
    with pytest.raises(RuntimeError, match="on fire"):
        run_tasks(tasks, 1.0, title="t", jobs=jobs, show_progress=False)
    assert [p.name for p in tmp_path.iterdir()] == ["good.npz"]


def test_one_run_a_directory_and_left_overs_are_removed(tmp_path):
    (tmp_path / "sub").mkdir()
    left = tmp_path / "sub" / ".x.npz.abc.part"
    left.write_text("half")
    with sole_use(tmp_path):
        assert not left.exists()
        with pytest.raises(InputError, match="another run is writing to"), sole_use(tmp_path):
            pass
    with sole_use(tmp_path):
        pass


def test_a_directory_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"), sole_use(tmp_path / "file" / "runs"):
        pass

"""Records: what is saved comes back; what cannot be read is refused in one sentence."""

import dataclasses
import json

import numpy as np
import pytest

from landscape import InputError, Solution, load
from landscape.records import Record, atomic_file, file_name, read_about
from landscape.results import PathRecord, Profile, Surface, Trace


def solution(**changes) -> Solution:
    values = {
        "problem": "p",
        "optimizer": "sgd",
        "seed": 3,
        "theta": np.arange(6.0),
        "names": ("w", "b"),
        "shapes": ((2, 2), (2,)),
        "buffers": {"bn.mean": np.ones(3), "bn.count": np.array(7)},
        "tail": np.ones((3, 6)),
        "status": "ran 2 epochs",
        "about": {"key": "k", "settings": {"lr": 0.1, "list": [1, 2]}},
    }
    return Solution(**{**values, **changes})


def test_a_record_comes_back_as_it_was(tmp_path):
    original = solution()
    again = load(original.save(tmp_path / "deep" / "s.npz"))
    assert type(again) is Solution
    for item in dataclasses.fields(Solution):
        mine, theirs = getattr(original, item.name), getattr(again, item.name)
        if isinstance(mine, dict) and item.name == "buffers":
            assert mine.keys() == theirs.keys()
            assert all(np.array_equal(mine[k], theirs[k]) and mine[k].dtype == theirs[k].dtype for k in mine)
        elif isinstance(mine, np.ndarray):
            np.testing.assert_array_equal(mine, theirs)
        else:
            assert mine == theirs or (mine != mine and theirs != theirs), item.name
    assert read_about(tmp_path / "deep" / "s.npz") == original.about


def test_nan_survives_and_same_content_gives_same_bytes(tmp_path):
    record = Trace(
        value=float("nan"), stderr=1e-300, samples=np.array([np.nan, np.inf]), method="m", matvecs=2, dim=4
    )
    one, two = record.save(tmp_path / "a.npz"), record.save(tmp_path / "b.npz")
    assert one.read_bytes() == two.read_bytes()
    again = Trace.load(one)
    assert np.isnan(again.value)
    assert again.stderr == 1e-300
    np.testing.assert_array_equal(again.samples, record.samples)


def test_numpy_scalars_in_plain_fields_are_saved(tmp_path):
    path = Trace(
        value=np.float64(2.5),
        stderr=np.float32(0.5),  # pyright: ignore[reportArgumentType]
        samples=np.zeros(1),
        method="m",
        matvecs=np.int64(3),  # pyright: ignore[reportArgumentType]
        dim=4,
    ).save(tmp_path / "t.npz")
    assert Trace.load(path).value == 2.5
    assert Trace.load(path).matvecs == 3


def foreign(tmp_path, name):
    path = tmp_path / name
    if name == "foreign.npz":
        np.savez(path, a=np.zeros(3))
    elif name == "pickled.npz":
        np.savez(path, header=np.array({"format": "torch-landscape"}, dtype=object), theta=np.zeros(3))
    elif name == "pickled-array.npz":
        good = solution().save(tmp_path / "good.npz")
        header = np.load(good)["header"]
        np.savez(path, header=header, theta=np.array([{}, 1], dtype=object))
    elif name == "truncated.npz":
        content = solution().save(tmp_path / "good.npz").read_bytes()
        path.write_bytes(content[: len(content) // 2])
    elif name == "text.npz":
        path.write_text("not an archive")
    elif name == "empty.npz":
        path.write_bytes(b"")
    elif name == "array.npz":
        with path.open("wb") as handle:
            np.save(handle, np.zeros(3))
    elif name == "other-header.npz":
        np.savez(path, header=np.array(json.dumps({"format": "someone else's"})))
    elif name == "header-no-json.npz":
        np.savez(path, header=np.array("{"))
    elif name == "unknown-kind.npz":
        np.savez(
            path,
            header=np.array(
                json.dumps({"format": "torch-landscape", "kind": "zebra", "schema": 1, "fields": {}})
            ),
        )
    elif name == "schema.npz":
        np.savez(
            path,
            header=np.array(
                json.dumps({"format": "torch-landscape", "kind": "trace", "schema": 99, "fields": {}})
            ),
        )
    elif name == "missing-fields.npz":
        np.savez(
            path,
            header=np.array(
                json.dumps({"format": "torch-landscape", "kind": "trace", "schema": 1, "fields": {}})
            ),
        )
    elif name == "folder.npz":
        path.mkdir()
    return path


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("absent.npz", "does not exist"),
        ("folder.npz", "is a directory"),
        ("foreign.npz", "not written by torch-landscape"),
        ("pickled.npz", "pickled objects, which are never loaded"),
        ("pickled-array.npz", "pickled objects, which are never loaded"),
        ("truncated.npz", "truncated or no .npz"),
        ("text.npz", "cannot be read"),
        ("empty.npz", "truncated or no .npz"),
        ("array.npz", "cannot be read|not written"),
        ("other-header.npz", "not written by torch-landscape"),
        ("header-no-json.npz", "cannot be read"),
        ("unknown-kind.npz", "unknown kind 'zebra'"),
        ("schema.npz", "schema 99, this version reads 1"),
        ("missing-fields.npz", "fields missing"),
    ],
)
def test_a_file_that_is_no_record_is_refused(tmp_path, name, message):
    with pytest.raises(InputError, match=message) as error:
        load(foreign(tmp_path, name))
    assert name in str(error.value)
    assert "\n" not in str(error.value)


def test_a_record_of_another_kind_is_refused(tmp_path):
    path = solution().save(tmp_path / "s.npz")
    with pytest.raises(InputError, match="holds a solution, but a trace is needed"):
        Trace.load(path)


def test_a_solution_with_nan_is_refused():
    theta = np.arange(6.0)
    theta[2] = np.nan
    with pytest.raises(InputError, match="sgd/3 holds 1 values in theta that are NaN"):
        solution(theta=theta)
    with pytest.raises(InputError, match=r"theta of shape \(5,\)"):
        solution(theta=np.zeros(5))


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = solution().save(tmp_path / "s.npz")
    before = path.read_bytes()

    def interrupted():
        with atomic_file(path) as handle:
            handle.write(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["s.npz"]


def test_a_place_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        solution().save(tmp_path / "file" / "s.npz")


def test_derived_numbers():
    path = PathRecord(
        method="linear", start="a", end="b", t=np.array([0, 0.4, 1.0]), loss=np.array([1.0, 5.0, 2.0]), norm=np.ones(3),
        path_kind="segment", points=np.zeros((2, 3)), coefficients=np.zeros((0, 3)), length=1.0, gradients=0, losses=3,
        converged=True, message="",
    )  # fmt: skip
    assert (path.height, path.barrier, path.top) == (5.0, 3.0, 0.4)
    surface = Surface(
        steps1=np.array([-1.0, 0, 1]), steps2=np.array([0.0, 1]), loss=np.arange(6.0).reshape(3, 2)
    )
    assert surface.center_loss == 2.0
    assert np.isnan(Profile(steps=np.array([1.0]), loss=np.ones(1)).center_loss)


def test_every_result_is_a_known_kind():
    assert {
        "solution",
        "flatness",
        "pathrecord",
        "embedding",
        "corridor",
        "profile",
        "surface",
        "summary",
    } <= set(Record.kinds)


def test_file_names_hold_no_separators():
    assert file_name("my.module:opt(lr=0.1)/3") == "my.module_opt(lr=0.1)_3"

"""Files of solutions read in slices: as loaded whole, and refused as plainly."""

import dataclasses
import gc
import os

import numpy as np
import pytest

from landscape import InputError, Solution, load
from landscape.results import Trace
from landscape.solution_files import SolutionFile, fingerprint


def solution(dtype="float64", **changes) -> Solution:
    values = {
        "problem": "p",
        "optimizer": "sgd",
        "seed": 3,
        "theta": (np.arange(100) / 8).astype(dtype),
        "names": ("w", "b"),
        "shapes": ((9, 10), (10,)),
        "buffers": {"mean": np.ones(3)},
        "tail": np.ones((5, 100)),
        "about": {"problem_fingerprint": "f"},
    }
    return Solution(**{**values, **changes})


def joined(file: SolutionFile, width: int) -> np.ndarray:
    return np.concatenate([piece.copy() for piece in file.slices(width)])


@pytest.mark.parametrize("dtype", ["float32", "float64", ">f4", "float16"])
@pytest.mark.parametrize("width", [1, 7, 50, 100, 1000])
@pytest.mark.parametrize("compressed", [False, True])
def test_slices_are_theta(tmp_path, dtype, width, compressed):
    whole = solution(dtype)
    path = whole.save(tmp_path / "s.npz")
    if compressed:
        np.savez_compressed(path, **np.load(path))
    file = SolutionFile(path)
    for _ in range(2):  # again from the front
        np.testing.assert_array_equal(joined(file, width), whole.theta)
    assert (file.dtype, file.dim) == (np.dtype(dtype), 100)
    for name in ("label", "problem", "optimizer", "seed", "names", "shapes", "about"):
        assert getattr(file, name) == getattr(whole, name)


def test_a_stored_file_is_not_held_open(tmp_path):
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("open files are counted in /proc")
    path = solution().save(tmp_path / "s.npz")
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    running = [iter(SolutionFile(path).slices(10)) for _ in range(20)]
    for pieces in running:
        next(pieces)
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_damaged_file_is_refused(tmp_path):
    path = solution().save(tmp_path / "s.npz")
    good = path.read_bytes()
    file = SolutionFile(path)
    path.write_bytes(good[: len(good) // 3])
    with pytest.raises(
        InputError, match=r"s.npz cannot be read: it is truncated or no .npz file; make it anew"
    ):
        SolutionFile(path)
    path.write_bytes(good[:300])  # after its header was read
    with pytest.raises(
        InputError, match=r"s.npz cannot be read: it is truncated or no .npz file; make it anew"
    ):
        joined(file, 10)
    path.unlink()
    with pytest.raises(InputError, match=r"s.npz cannot be read"):
        joined(file, 10)


def test_a_changed_byte_is_found_by_the_checksum(tmp_path):
    whole = solution(
        theta=np.arange(5000.0) + 1, shapes=((499, 10), (10,))
    )  # more than zipfile reads at once
    path = whole.save(tmp_path / "s.npz")
    good = path.read_bytes()
    at = good.index(np.float64(4500).tobytes())
    path.write_bytes(good[:at] + b"\x01" + good[at + 1 :])
    with pytest.raises(InputError, match=r"s.npz cannot be read"):
        joined(SolutionFile(path), 1000)
    with pytest.raises(InputError, match=r"s.npz cannot be read"):
        load(path)


def test_what_is_no_solution_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"absent.npz does not exist"):
        SolutionFile(tmp_path / "absent.npz")
    trace = Trace(value=1.0, stderr=0.0, samples=np.zeros(1), method="m", matvecs=1, dim=1)
    with pytest.raises(InputError, match=r"t.npz holds a trace, but a solution is needed here"):
        SolutionFile(trace.save(tmp_path / "t.npz"))
    header = np.load(solution().save(tmp_path / "s.npz"))["header"]
    np.savez(tmp_path / "short.npz", header=header, theta=np.zeros(99))
    with pytest.raises(InputError, match=r"short.npz has theta of shape \(99,\), but .* make \(100,\)"):
        SolutionFile(tmp_path / "short.npz")
    np.savez(tmp_path / "bare.npz", header=header)
    with pytest.raises(InputError, match=r"bare.npz is a solution with fields missing \(.*theta"):
        SolutionFile(tmp_path / "bare.npz")
    np.savez(tmp_path / "pickled.npz", header=header, theta=np.array([{}] * 100, dtype=object))
    with pytest.raises(InputError, match=r"pickled.npz cannot be read: it holds pickled objects"):
        SolutionFile(tmp_path / "pickled.npz")


def test_a_fingerprint_tells_contents_and_order(tmp_path):
    a = SolutionFile(solution().save(tmp_path / "a.npz"))
    b = SolutionFile(dataclasses.replace(solution(), seed=4).save(tmp_path / "b.npz"))
    again = SolutionFile(solution().save(tmp_path / "elsewhere" / "a.npz"))
    assert fingerprint([a, b]) == fingerprint([again, b])
    assert len({fingerprint(files) for files in ([a, b], [b, a], [a], [a, a])}) == 4

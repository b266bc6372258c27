"""Surfaces and trajectories as VTK files, read back."""

import sys
from pathlib import Path

import numpy as np
import pytest

from landscape import InputError
from landscape.results import Projection, Surface
from landscape.vtk import save_vtk

meshio = pytest.importorskip("meshio")


def surface() -> Surface:
    rng = np.random.default_rng(0)
    return Surface(
        steps1=np.array([-1.0, 0, 2, 5]),
        steps2=np.array([0.0, 0.5, 3]),
        loss=rng.uniform(1, 2, (4, 3)),
        values={"test loss": rng.normal(size=(4, 3))},
    )


def path(label: str, count: int, seed: int) -> Projection:
    rng = np.random.default_rng(seed)
    steps, coordinates = np.arange(count) * 5.0, rng.normal(size=(count, 2))
    distance, reach, loss, on_plane = rng.uniform(1, 2, (4, count))
    return Projection(
        label=label,
        steps=steps,
        coordinates=coordinates,
        distance=distance,
        reach=reach,
        loss=loss,
        loss_on_plane=on_plane,
    )


@pytest.mark.parametrize(("height", "of"), [("loss", lambda v: v), ("log", np.log10), (None, np.zeros_like)])
def test_a_surface_comes_back_point_for_point(tmp_path: Path, height, of):
    given = surface()
    (file,) = save_vtk(given, tmp_path / "new" / "plane.vtu", height=height)
    mesh = meshio.read(file)
    for i, s in enumerate(given.steps1):
        for j, t in enumerate(given.steps2):
            np.testing.assert_array_equal(mesh.points[i * 3 + j], [s, t, of(given.loss)[i, j]])
    np.testing.assert_array_equal(mesh.point_data["loss"].reshape(4, 3), given.loss)
    np.testing.assert_array_equal(mesh.point_data["test loss"].reshape(4, 3), given.values["test loss"])
    (cells,) = mesh.cells
    assert (cells.type, cells.data.shape) == ("quad", (6, 4))
    areas = []
    for quad in cells.data:  # the shoelace formula: corners go round, counterclockwise
        x, y = mesh.points[quad, :2].T
        areas.append((x * np.roll(y, -1) - np.roll(x, -1) * y).sum() / 2)
    assert min(areas) > 0
    assert sum(areas) == pytest.approx(6 * 3)


def test_trajectories_are_lines_in_a_file_of_their_own(tmp_path: Path):
    paths = [path("sgd/0", 4, 1), path("alto/0", 3, 2), path("one", 1, 3)]
    plane, lines = save_vtk(surface(), tmp_path / "plane", projections=paths)
    assert (plane.name, lines.name) == ("plane.vtu", "plane-paths.vtu")
    mesh = meshio.read(lines)
    np.testing.assert_array_equal(mesh.points[:, :2], np.concatenate([p.coordinates for p in paths]))
    np.testing.assert_array_equal(mesh.points[:, 2], np.concatenate([p.loss for p in paths]))
    (cells,) = mesh.cells
    assert cells.type == "line"
    np.testing.assert_array_equal(cells.data, [[0, 1], [1, 2], [2, 3], [4, 5], [5, 6]])
    np.testing.assert_array_equal(mesh.point_data["trajectory"], [0] * 4 + [1] * 3 + [2])
    for name in ("steps", "distance", "loss", "loss_on_plane"):
        np.testing.assert_array_equal(
            mesh.point_data[name], np.concatenate([getattr(p, name) for p in paths])
        )


def test_what_is_not_finite_has_no_quads(tmp_path: Path):
    given = surface()
    given.loss[0, 0], given.loss[3, 2] = np.nan, np.inf
    kept = given.loss.copy()
    mesh = meshio.read(save_vtk(given, tmp_path / "plane.vtu")[0])
    assert np.isfinite(mesh.points).all()
    assert len(mesh.cells[0].data) == 4
    assert not {0, 11} & set(mesh.cells[0].data.ravel().tolist())
    np.testing.assert_array_equal(given.loss, kept)
    nothing = Surface(steps1=np.arange(2.0), steps2=np.arange(2.0), loss=np.full((2, 2), np.nan))
    assert meshio.read(save_vtk(nothing, tmp_path / "empty.vtu")[0]).points.shape == (4, 3)


def test_losses_that_are_missing_are_those_of_the_plane(tmp_path: Path):
    p = path("x", 3, 1)
    p.loss[:] = np.nan
    _, lines = save_vtk(surface(), tmp_path / "plane.vtu", projections=[p], height="log")
    np.testing.assert_array_equal(meshio.read(lines).points[:, 2], np.log10(p.loss_on_plane))


def test_what_cannot_be_written_is_refused(tmp_path: Path, monkeypatch):
    with pytest.raises(InputError, match=r"path must end in .vtu, which ParaView reads, got plane.obj"):
        save_vtk(surface(), tmp_path / "plane.obj")
    with pytest.raises(InputError, match="height must be 'loss', 'log' or None, got 'x'"):
        save_vtk(surface(), tmp_path / "plane", height="x")  # type: ignore[arg-type]
    p = path("x", 3, 1)
    line = Projection(**{**p.__dict__, "coordinates": p.coordinates[:, :1]})
    with pytest.raises(InputError, match=r"the projection 'x' must be one onto a plane, .* got \(3, 1\)"):
        save_vtk(surface(), tmp_path / "plane", projections=[line])
    monkeypatch.setitem(sys.modules, "meshio", None)
    with pytest.raises(InputError, match=r"need the package meshio.*pip install 'torch-landscape\[vtk\]'"):
        save_vtk(surface(), tmp_path / "plane")

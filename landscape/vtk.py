"""Surfaces and trajectories as VTK files, for ParaView."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from .errors import InputError
from .records import atomic_file
from .results import Projection, Surface

Array = np.ndarray
Height = Literal["loss", "log"]


def save_vtk(
    surface: Surface,
    path: str | os.PathLike[str],
    *,
    projections: Sequence[Projection] = (),
    height: Height | None = "loss",
) -> tuple[Path, ...]:
    """The paths of the files written: a surface as points (s, t, z) with quads between them, and trajectories as lines.

    Points carry every value of the surface by name; row i·n2 + j is step (i, j). Quads with a corner whose height is not
    finite are left out, and those corners are put at the highest one. Trajectories are written to ``NAME-paths.vtu``, at the
    height of their own losses (of the plane's where those are missing), with the number of the projection (``trajectory``),
    steps, distance from the plane, loss and loss_on_plane at every point.

    Args:
        path: ending in .vtu, VTK's XML format for unstructured grids; added where there is no ending.
        projections: of points onto this plane, of two coordinates.
        height: z is the "loss", its logarithm to base 10 ("log"), or 0 (None).

    Raises:
        InputError: meshio (the extra ``vtk``) is not installed, another ending, or a height that is none of these.
    """
    if height not in ("loss", "log", None):
        raise InputError(f"height must be 'loss', 'log' or None, got {height!r}.")
    path = Path(path)
    path = path if path.suffix else path.with_suffix(".vtu")
    if path.suffix != ".vtu":
        raise InputError(f"path must end in .vtu, which ParaView reads, got {path.name}.")
    n1, n2 = surface.loss.shape
    x, y = np.meshgrid(surface.steps1, surface.steps2, indexing="ij")
    z = _height(surface.loss.ravel(), height)
    index = np.arange(n1 * n2).reshape(n1, n2)
    corners = (index[:-1, :-1], index[1:, :-1], index[1:, 1:], index[:-1, 1:])
    quads = np.stack([corner.ravel() for corner in corners], axis=1)
    data = {"loss": surface.loss, **surface.values}
    points = np.stack([x.ravel(), y.ravel(), _filled(z)], axis=1)
    kept = quads[np.isfinite(z[quads]).all(axis=1)]
    written = [_write(path, points, ("quad", kept), {name: v.ravel() for name, v in data.items()})]
    if projections:
        written.append(_write_paths(path.with_stem(f"{path.stem}-paths"), projections, height))
    return tuple(written)


def _write_paths(path: Path, projections: Sequence[Projection], height: Height | None) -> Path:
    for projection in projections:
        if projection.coordinates.shape[1:] != (2,):
            raise InputError(
                f"the projection {projection.label!r} must be one onto a plane, with coordinates (T, 2), "
                f"got {projection.coordinates.shape}."
            )
    lengths = [len(p.steps) for p in projections]
    starts = np.cumsum([0, *lengths[:-1]])
    joined = [start + np.arange(length - 1) for start, length in zip(starts, lengths, strict=True)]
    first = np.concatenate(joined)

    def together(name: str) -> Array:
        return np.concatenate([getattr(p, name) for p in projections])

    names = ("steps", "distance", "loss", "loss_on_plane")
    data = {name: together(name) for name in names} | {
        "trajectory": np.repeat(np.arange(len(lengths)), lengths)
    }
    own = np.where(np.isfinite(data["loss"]), data["loss"], data["loss_on_plane"])
    points = np.column_stack([together("coordinates"), _filled(_height(own, height))])
    return _write(path, points, ("line", np.stack([first, first + 1], axis=1)), data)


def _height(loss: Array, height: Height | None) -> Array:
    if height is None:
        return np.zeros_like(loss)
    with np.errstate(divide="ignore", invalid="ignore"):
        return loss if height == "loss" else np.log10(loss)


def _filled(z: Array) -> Array:
    finite = np.isfinite(z)
    return np.where(finite, z, z[finite].max() if finite.any() else 0.0)


def _write(path: Path, points: Array, cells: tuple[str, Array], data: dict[str, Any]) -> Path:
    try:
        import meshio  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise InputError(
            "VTK files need the package meshio, which is not installed; get it by pip install 'torch-landscape[vtk]'."
        ) from error
    vertices = "vertex", np.arange(len(points))[:, None]  # where nothing joins points, they stand alone
    mesh: Any = meshio.Mesh(points, [cells if len(cells[1]) else vertices], point_data=data)
    with tempfile.TemporaryDirectory() as folder:  # meshio writes by name only
        part = Path(folder) / "mesh.vtu"
        meshio.write(part, mesh)
        with atomic_file(path) as handle:
            handle.write(part.read_bytes())
    return path

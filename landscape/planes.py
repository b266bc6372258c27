"""Lines and planes worth looking at: between solutions, through three of them, of a trajectory, at random."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, floor
from typing import Any

import torch
from torch import Tensor

from .directions import Normalization, random_direction
from .errors import InputError
from .frames import Frame, points_of, spacing, vector
from .parameters import Parameters
from .probes import Line, Plane, centered_steps

DISTANCES = "steps are distances"  # said of probes with unit directions; pictures name their axes by it
_WHOLE = 1e-9  # of a step: what is nearer to a whole number is one
_ROUNDINGS = 10  # times the spacing of numbers: what is nearer than that is the same


def line_between(
    a: Any, b: Any, *, points: int = 41, beyond: float = 0.5, labels: Sequence[str] = ()
) -> Line:
    """The line a + t(b − a) through two solutions, t from −beyond to 1 + beyond or a step further, exactly 0 and 1 among them.

    Goodfellow, Vinyals and Saxe (2015, arXiv 1412.6544). ``points`` is met as nearly as both ends allow. The ends are its marks.

    Args:
        a, b: points (P,), or solutions, which give their labels.
        points: about how many steps.
        beyond: how far it goes on at either end, in ‖b − a‖.
        labels: of the two ends.
    """
    start, end = vector(a), vector(b)
    _refuse_equal(start, end)
    if points < 2 or beyond < 0:
        raise InputError(f"a line needs points ≥ 2 and beyond ≥ 0, got {points} and {beyond}.")
    between = max(1, round((points - 1) / (1 + 2 * beyond)))
    over = ceil(beyond * between - _WHOLE)
    steps = torch.arange(-over, between + over + 1, dtype=torch.float64) / between
    marks = dict(zip(_labels((a, b), labels), (start, end), strict=True))
    drawn = f"line between two points, at a distance of {float((end - start).norm()):.4g}"
    return Line(start, end - start, steps, marks=marks, drawn=drawn)


def plane_through(
    a: Any, b: Any, c: Any, *, points: int = 25, margin: float = 0.2, labels: Sequence[str] = ()
) -> Plane:
    """The plane through three solutions, which are its marks.

    u = (b − a)/‖b − a‖, and v = what is left of c − a across u, made a unit vector (Garipov et al. 2018, arXiv 1802.10026,
    appendix). The center is a, so that one point of the grid is exactly a; steps are distances in parameter space. The
    grid spans all three points and ``margin`` of their extent more on every side.

    Args:
        a, b, c: points (P,), or solutions, which give their labels.
        points: steps along each axis, one or two more where the grid must hold 0.
        margin: beyond the points, as a share of their extent.
        labels: of the three points.

    Raises:
        InputError: two points are the same, or the three lie on one line to rounding: that of float32 where all are float32
            numbers.
    """
    theta = [vector(point) for point in (a, b, c)]
    for first, second in ((0, 1), (0, 2), (1, 2)):
        _refuse_equal(theta[first], theta[second])
    u = theta[1] - theta[0]
    u = u / u.norm()
    v = theta[2] - theta[0]
    for _ in range(2):  # orthogonalized twice
        v = v - (u @ v) * u
    _refuse_line(torch.stack([theta[1] - theta[0], theta[2] - theta[0]]), _rounding(*theta))
    marks = dict(zip(_labels((a, b, c), labels), theta, strict=True))
    return _spanning(
        theta[0], torch.stack([u, v / v.norm()]), marks, points, margin, "plane through three points"
    )


def plane_of(
    pca: Any, *, points: int = 25, margin: float = 0.2, components: tuple[int, int] = (0, 1)
) -> Plane:
    """The plane of two principal components, with a grid that spans the points they were made of.

    Args:
        pca: a record with center (P,), directions (k, P) orthonormal and coordinates (T, k), as analysis.trajectory_pca
            gives; or points themselves, an array (T, P), a trajectory, solutions or their files: then the directions are the
            first principal ones about the last point (Li et al. 2018, section 7.2), with all T points in memory.
        points: steps along each axis, one or two more where the grid must hold 0.
        margin: beyond the points, as a share of their extent.
        components: which two, from 0.

    Raises:
        InputError: fewer components than are asked for, or points that lie on one line to rounding, as plane_through says.
    """
    center, directions, coordinates, rounding = _principal(pca, components)
    _refuse_line(coordinates, rounding)
    drawn = f"principal components {components[0] + 1} and {components[1] + 1} of a trajectory"
    return _grid(center, directions, coordinates, points, margin, drawn)


def random_plane(
    theta: Tensor,
    parameters: Parameters,
    *,
    generator: torch.Generator,
    normalize: Normalization = "filter",
    orthogonal: bool = False,
    points: int = 25,
    reach: float = 1.0,
    **options: Any,
) -> Plane:
    """A plane about θ (P,) along two random directions, as ``random_direction`` draws them (Li et al. 2018, section 4).

    orthogonal: make the second one orthogonal to the first; they nearly are. points, reach: of the steps along each
    axis, an odd number with an exact 0. Other options (``transposed``) go to random_direction.
    """
    options |= {"generator": generator, "normalize": normalize}
    d1 = random_direction(theta, parameters, **options)
    d2 = random_direction(theta, parameters, orthogonal_to=d1 if orthogonal else None, **options)
    steps = centered_steps(points, reach)
    words = {"none": "not normalized", "whole": "normalized to the norm of all"}
    drawn = f"random, {words.get(normalize, f'{normalize}-normalized')}"
    return Plane(theta, d1, d2, steps, steps, drawn=drawn)


def _spanning(
    center: Tensor, directions: Tensor, marks: dict[str, Tensor], points: int, margin: float, drawn: str
) -> Plane:
    frame = Frame(center, *directions)
    places = torch.stack([torch.from_numpy(frame.place(mark)[0]) for mark in marks.values()])
    return _grid(center, directions, places, points, margin, drawn, marks)


def _grid(
    center: Tensor,
    directions: Tensor,
    coordinates: Tensor,
    points: int,
    margin: float,
    drawn: str,
    marks: dict[str, Tensor] | None = None,
) -> Plane:
    steps = [spanning_steps(column, points, margin) for column in coordinates.T]
    return Plane(center, *directions, *steps, marks=marks or {}, drawn=f"{drawn}; {DISTANCES}")


def spanning_steps(coordinates: Tensor, points: int, margin: float) -> Tensor:
    """Multiples of one number that span 0 and these coordinates (T,), with a margin: 0 is exactly one of them."""
    if points < 3 or margin < 0:
        raise InputError(f"a grid needs points ≥ 3 and margin ≥ 0, got {points} and {margin}.")
    low, high = min(0.0, float(coordinates.min())), max(0.0, float(coordinates.max()))
    extent = high - low
    if not extent > 0:
        raise InputError("the coordinates span no axis: they are all 0; choose other points.")
    low, high = low - margin * extent, high + margin * extent
    spacing = (high - low) / (points - 1)
    first, last = floor(low / spacing + _WHOLE), ceil(high / spacing - _WHOLE)
    return torch.arange(first, last + 1, dtype=torch.float64) * spacing


def _principal(pca: Any, components: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor, float]:
    """Center (P,), two directions (2, P), coordinates (T, 2), and what in these is rounding of the points."""
    if not hasattr(pca, "directions"):
        thetas = torch.stack([vector(point) for _, point in points_of(pca)])
        center, directions = thetas[-1], torch.linalg.svd(thetas - thetas[-1], full_matrices=False)[2]
        largest = directions.abs().argmax(dim=1, keepdim=True)
        directions = (
            directions * directions.gather(1, largest).sign()
        )  # signs are arbitrary: this one is kept
        coordinates = (thetas - center) @ directions.T
        rounding = _rounding(*thetas)
    else:
        given = (pca.center, pca.directions, pca.coordinates)
        center, directions, coordinates = (torch.as_tensor(array, dtype=torch.float64) for array in given)
        rounding = len(coordinates) ** 0.5 * _rounding(center) + _rounding(coordinates.ravel())
    if not 0 <= min(components) < max(components) < len(directions):
        raise InputError(f"components must be two of the {len(directions)} that there are, got {components}.")
    chosen = list(components)
    return center, directions[chosen], coordinates[:, chosen], rounding


def _labels(points: Sequence[Any], labels: Sequence[str]) -> tuple[str, ...]:
    found = tuple(labels) or tuple(str(getattr(p, "label", "abc"[i])) for i, p in enumerate(points))
    if len(found) != len(points) or len(set(found)) < len(found):
        raise InputError(f"labels must be {len(points)} different names, got {list(found)}.")
    return found


def _refuse_equal(first: Tensor, second: Tensor) -> None:
    if first.shape != second.shape:
        raise InputError(f"points must have one size, got {tuple(first.shape)} and {tuple(second.shape)}.")
    least = _ROUNDINGS * torch.finfo(torch.float64).eps * max(float(first.norm()), float(second.norm()))
    if not (first - second).norm() > least:
        raise InputError("two of the points are the same, so nothing lies between them; give different ones.")


def _refuse_line(offsets: Tensor, rounding: float) -> None:
    """Refuses offsets (T, k) of which a change by rounding makes multiples of one: the least has norm σ₂ (Eckart, Young 1936)."""
    if not torch.linalg.svdvals(offsets)[1] > rounding:
        raise InputError("the points span no plane: to rounding they lie on one line; choose others.")


def _rounding(*thetas: Tensor) -> float:
    """The norm of the changes that rounding may have made to points (P,), all together."""
    points = torch.stack(thetas)
    return _ROUNDINGS * spacing(points) * float(points.norm())

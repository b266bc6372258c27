"""Chains of points along a path, each pushed down across it: nudged elastic bands, bands that grow, and strings."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from landscape import InputError
from landscape.paths import Polyline

from .curves import between_samplings, intervals_of
from .heights import Sampled, Survey, across
from .relaxing import Force, bent, relax

# Springs, in units of (pieces)·(range of the loss along the line)/‖b − a‖². Ten times it holds images on networks up.
_STIFFNESS = 0.1
# The share of a search after which the highest image climbs.
_CLIMB = 0.5


@dataclass(frozen=True)
class _Chain:
    """So many images between the ends."""

    images: int = 15

    usual_steps: ClassVar[int] = 3000

    def __post_init__(self) -> None:
        _check_images(self.images)

    @property
    def intervals(self) -> int:
        """In which such a path has to be sampled, at least."""
        return intervals_of(self.images + 1)


@dataclass(frozen=True)
class NEB(_Chain):
    """A nudged elastic band: images pushed across the path by the loss, and along it by springs; the highest climbs.

    Force on image i, with τ the tangent towards the higher neighbour (Henkelman and Jónsson, J. Chem. Phys. 113 (2000) 9978,
    equations 8 to 12), and on the highest in the second half of the search (Henkelman, Uberuaga and Jónsson, ibid. 9901, eq. 5):

        F_i = −∇L + (∇L·τ)τ + k (‖θ_{i+1} − θ_i‖ − ‖θ_i − θ_{i−1}‖) τ        F_top = −∇L + 2 (∇L·τ)τ

    The highest image so gets to the pass itself. Between images the path is straight, so that few of them do not follow a
    winding valley: on a circular floor the height is of order (spacing)⁴. All images move together, by FIRE (relaxing.py). The
    band starts on the line, bent by ‖b − a‖/1000 to a random side.

    Cost: a sweep is one gradient an image. ``steps`` counts gradients; a sweep that they do not suffice for is not begun.

    Args:
        images: between the ends.
        climbing: let the highest climb.
    """

    climbing: bool = True

    name: ClassVar[str] = "neb"

    def search(
        self, survey: Survey, a: Tensor, b: Tensor, *, steps: int, generator: torch.Generator | None
    ) -> Iterator[Sampled]:
        """Bands in the course of the search, and the last. Ends where the loss is not finite."""
        images = bent(a, b, self.images, generator)
        line = survey.sample(Polyline(images))
        force = _band(line, _even(images), _CLIMB if self.climbing else math.inf, survey.held)
        return relax(survey, images, line, force, steps=steps)


@dataclass(frozen=True)
class AutoNEB:
    """A band that grows: images are inserted where the loss between two of them exceeds its interpolation.

    After Kolsbjerg et al. (J. Chem. Phys. 145 (2016) 094107) and Draxler et al. (2018, arXiv 1803.00885). Each cycle is a band
    as NEB; then each piece gets an image at its highest excess, if that is more than ``excess`` of the range of the loss
    along the path, the highest first. Springs keep the spacing that insertion made. The highest image climbs in the last
    cycle, to which all gradients left go once nothing is inserted.

    Cost: as NEB; gradients are shared evenly by the cycles, and a cycle with more images has fewer sweeps.

    Args:
        images: between the ends, at first; ``most``: at last.
        cycles: at most.
        excess: share of the range.
        climbing: let the highest climb.
    """

    images: int = 7
    most: int = 31
    cycles: int = 5
    excess: float = 0.1
    climbing: bool = True

    name: ClassVar[str] = "autoneb"
    usual_steps: ClassVar[int] = 3000

    def __post_init__(self) -> None:
        _check_images(self.images)
        if self.most < self.images or self.cycles < 1 or not self.excess > 0:
            raise InputError(
                "most must be at least images, cycles at least 1 and excess positive, "
                f"got most={self.most}, cycles={self.cycles}, excess={self.excess}."
            )

    @property
    def intervals(self) -> int:
        return intervals_of(self.most + 1)

    def search(
        self, survey: Survey, a: Tensor, b: Tensor, *, steps: int, generator: torch.Generator | None
    ) -> Iterator[Sampled]:
        """Bands in the course of the search, and the last. Ends where the loss is not finite."""
        images = bent(a, b, self.images, generator)
        line, shares, left, last = survey.sample(Polyline(images)), _even(images), steps, False
        for cycle in range(self.cycles):
            last = last or cycle == self.cycles - 1
            climb = _CLIMB if last and self.climbing else math.inf
            budget = left if last else left // (self.cycles - cycle)
            left -= budget
            force = _band(line, shares, climb, survey.held)
            images, found, _ = yield from relax(
                survey, images, line, force, steps=budget, pause=between_samplings(steps)
            )
            if last or not math.isfinite(found.height):
                return
            grown, shares = inserted(images, shares, found, excess=self.excess, most=self.most)
            last, images = len(grown) == len(images), grown


@dataclass(frozen=True)
class StringMethod(_Chain):
    """A string: images pushed across the path by the loss, then set evenly along it again.

    E, Ren and Vanden-Eijnden (Phys. Rev. B 66 (2002) 052301), with the tangents of NEB, its steps and its start. In their
    simplified string (J. Chem. Phys. 126 (2007) 164103) images move by the full gradient; its part along the path, which
    setting them evenly undoes, does not vanish, so steps cannot lengthen by how they do.

    No image stays at the pass, and pieces are straight: at rest the string lies above a pass at which it is bent, by an amount of
    order (spacing)⁴. find_path keeps the lowest it has seen, which may lie closer.

    Cost: as NEB.

    Args:
        images: between the ends.
    """

    name: ClassVar[str] = "string"

    def search(
        self, survey: Survey, a: Tensor, b: Tensor, *, steps: int, generator: torch.Generator | None
    ) -> Iterator[Sampled]:
        """Strings in the course of the search, and the last. Ends where the loss is not finite."""
        images = bent(a, b, self.images, generator)
        line = survey.sample(Polyline(images))

        def force(images: Tensor, loss: Tensor, gradient: Tensor, done: float) -> Tensor:
            return -across(gradient, upwind(images, loss, held=survey.held))

        return relax(survey, images, line, force, steps=steps, place=lambda images, _: evenly(images))


def upwind(images: Tensor, loss: Tensor, *, held: bool = False) -> Tensor:
    """Unit tangents (M − 2, P) at the inner of images (M, P) towards the neighbour with the higher loss (M,).

    Henkelman and Jónsson (2000), equations 8 to 11: at tops and dips both neighbours count, the higher one with the larger of
    the two differences of the loss. ``held``: without their parts along the radius.
    """
    after, before = loss[2:] - loss[1:-1], loss[:-2] - loss[1:-1]
    up, extreme = after > before, after.sign() * before.sign() >= 0
    larger, smaller = torch.maximum(after.abs(), before.abs()), torch.minimum(after.abs(), before.abs())
    flat = larger == 0
    forward = torch.where(extreme, torch.where(up, larger, smaller) + flat, up.to(loss))
    backward = torch.where(extreme, torch.where(up, smaller, larger) + flat, (~up).to(loss))
    pieces = images.diff(dim=0)
    tangent = forward[:, None] * pieces[1:] + backward[:, None] * pieces[:-1]
    if held:
        tangent = across(tangent, images[1:-1])
    return _unit(tangent)


def evenly(images: Tensor) -> Tensor:
    """As many points (M, P) at equal steps of arc length along the polygon through the images, with its ends."""
    length = images.diff(dim=0).norm(dim=1)
    arc = torch.cat([length.new_zeros(1), length.cumsum(0)])
    at = arc[-1] * torch.linspace(0, 1, len(images), dtype=arc.dtype, device=arc.device)[1:-1]
    after = torch.searchsorted(arc, at).clamp(1, len(length))
    share = ((at - arc[after - 1]) / length[after - 1])[:, None]
    return torch.cat([images[:1], torch.lerp(images[after - 1], images[after], share), images[-1:]])


def inserted(
    images: Tensor, shares: Tensor, found: Sampled, *, excess: float, most: int
) -> tuple[Tensor, Tensor]:
    """Images with new ones on the pieces where the loss, as sampled, exceeds its interpolation, and their shares of the length.

    The losses at the images are read off the samples around them.
    """
    pieces = len(images) - 1
    knots = np.arange(pieces + 1) / pieces
    over = found.loss - np.interp(found.t, knots, np.interp(knots, found.t, found.loss))
    piece = np.minimum((found.t * pieces).astype(int), pieces - 1)
    highest = [int(np.where(piece == i, over, -np.inf).argmax()) for i in range(pieces)]
    wanted = [i for i in range(pieces) if over[highest[i]] > excess * np.ptp(found.loss)]
    wanted = sorted(wanted, key=lambda i: -over[highest[i]])[: max(0, most - (len(images) - 2))]
    rows, lengths = [images[0]], []
    for i in range(pieces):
        where = found.t[highest[i]] * pieces - i
        if i in wanted and 0 < where < 1:
            rows.append(torch.lerp(images[i], images[i + 1], float(where)))
            lengths += [shares[i] * where, shares[i] * (1 - where)]
        else:
            lengths.append(shares[i])
        rows.append(images[i + 1])
    grown = torch.stack(lengths)
    return torch.stack(rows), grown * (len(grown) / grown.sum())


def _band(line: Sampled, shares: Tensor, climb: float, held: bool) -> Force:
    """The forces of NEB; springs pull pieces to their shares of the length."""
    stiffness = _STIFFNESS * len(shares) * float(np.ptp(line.loss)) / line.path.length**2

    def force(images: Tensor, loss: Tensor, gradient: Tensor, done: float) -> Tensor:
        tangent = upwind(images, loss, held=held)
        along = _along(gradient, tangent)
        stretch = images.diff(dim=0).norm(dim=1) / shares
        pull = stiffness * stretch.diff()[:, None]
        if done >= climb:
            top = loss[1:-1].argmax()
            pull[top] = along[top]
        return (along + pull) * tangent - gradient

    return force


def _even(images: Tensor) -> Tensor:
    """The shares (M − 1,) of the length that pieces have, 1 being the mean, when all are alike."""
    return images.new_ones(len(images) - 1)


def _along(rows: Tensor, units: Tensor) -> Tensor:
    """How long the rows (N, P) are along unit vectors (N, P): (N, 1)."""
    return (rows * units).sum(dim=1, keepdim=True)


def _unit(rows: Tensor) -> Tensor:
    return rows / rows.norm(dim=1, keepdim=True).clamp(min=torch.finfo(rows.dtype).tiny)


def _check_images(images: int) -> None:
    if images < 1:
        raise InputError(f"images must be at least 1, got {images}.")

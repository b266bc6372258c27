"""Analytic objectives whose minima and saddles are known: what a method must find before it is believed on a network.

Each is an ``Objective`` in float64 on R^dim. The numbers in the docstrings are rounded.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .errors import InputError
from .objective import Objective


def muller_brown() -> Objective:
    """Three minima in two bent valleys: f = Σ_k A_k exp(a_k (x−x_k)² + b_k (x−x_k)(y−y_k) + c_k (y−y_k)²).

    Müller and Brown, Theoretica Chimica Acta 53 (1979) 75. Minima (−.5582, 1.4417) −146.70, (.6235, .0280) −108.17 and
    (−.0500, .4667) −80.77; saddles (−.8220, .6243) −40.66484 and (.2125, .2930) −72.25. The lowest path between the
    two deepest minima is bent by a right angle and as high as the first saddle.
    """
    height, a, b, c, x, y = (_column(row) for row in _MULLER_BROWN)

    def f(theta: Tensor) -> Tensor:
        dx, dy = theta[0] - x, theta[1] - y
        return (height * torch.exp(a * dx**2 + b * dx * dy + c * dy**2)).sum()

    return Objective([f], 2)


def four_well() -> Objective:
    """Wells in a square, tilted until one of the four is gone: f = x⁴ + y⁴ − 2x² − 4y² + xy + .3x + .1y.

    Minima (−1.1741, 1.4771) −6.76, (1.1241, −1.4853) −6.37 and (−.8219, −1.3667) −4.14; saddles (−1.0222, −.1161)
    −1.25131, (.9410, .1313) −.64 and (−.3032, −1.4013) −3.98; maximum (.0812, .0227) .01. There are two ways from the
    deepest minimum to the next, over the first or the second saddle.
    """

    def f(theta: Tensor) -> Tensor:
        x, y = theta
        return x**4 + y**4 - 2 * x**2 - 4 * y**2 + x * y + 0.3 * x + 0.1 * y

    return Objective([f], 2)


def curvy_valley(x0: float = 5 * math.pi / 2) -> Objective:
    """Two minima joined by a winding valley: f = (y − sin x)² + ((x/x₀)² − 1)².

    Minima (±x₀, ±sin x₀) 0, saddle (0, 0) exactly 1; with the default x₀ the straight line between the minima climbs to 2.97667.
    """
    if not x0 > 0:
        raise InputError(f"x0 must be positive, since the minima lie at x = ±x0; got {x0}.")

    def f(theta: Tensor) -> Tensor:
        x, y = theta
        return (y - torch.sin(x)) ** 2 + ((x / x0) ** 2 - 1) ** 2

    return Objective([f], 2)


def two_wells() -> Objective:
    """Two wells with two hills between them: f = −Σ_i exp(−3|r−c_i|²) + Σ_j exp(−15|r−d_j|²) + 1.0190055296306975.

    The toy of Yu and Morozov (arXiv 2602.21276): c = (−.5, −.5), (.5, 0) and d = (−.2, −.4), (0, .3). Minima
    (−.6138, −.5354) .1087 and (.4881, −.0223) −.00003, saddle (−.1647, −.0699) .6243933. The paper's line, from
    (−.62, −.54) to (.49, −.02), climbs to 1.102.
    """
    wells, hills = (torch.tensor(c, dtype=torch.float64) for c in (_WELLS, _HILLS))

    def f(theta: Tensor) -> Tensor:
        to_wells, to_hills = ((theta - c).square().sum(dim=1) for c in (wells, hills))
        return torch.exp(-15 * to_hills).sum() - torch.exp(-3 * to_wells).sum() + _LIFT

    return Objective([f], 2)


def ring(dim: int = 2) -> Objective:
    """A sphere of minima: f = (‖θ‖² − 1)².

    Every ‖θ‖ = 1 is a minimum with f = 0. The chord between antipodes has a barrier of exactly 1; paths on the sphere have
    none.
    """
    if dim < 2:
        raise InputError(f"dim must be at least 2, since two points are no ring; got {dim}.")

    def f(theta: Tensor) -> Tensor:
        return (theta.square().sum() - 1) ** 2

    return Objective([f], dim)


def ladder() -> Objective:
    """Steps down a slope, one dimension: f = 1/(x/20 · sin²2x + ln(x+1)), for x > 0.

    f₁ of Zhao et al. (arXiv 2510.27153). Minima 4.085332 .552237, 5.589321 .463896, 7.129593 .408712, 8.683623 .370202
    and on, each deeper than the one before, with maxima between them at 4.612052, 6.226904, 7.817499, …
    """

    def f(theta: Tensor) -> Tensor:
        (x,) = theta
        return 1 / (0.05 * x * torch.sin(2 * x) ** 2 + torch.log(x + 1))

    return Objective([f], 1)


def ravine(growth: float = 4.0) -> Objective:
    """A straight valley that narrows on both sides: f = ½(1 + a x²) y², with a = ``growth``.

    Every y = 0 is a minimum with f = 0 and the Hessian diag(0, 1 + a x²): the flattest is at x = 0, and gradients push
    towards it only off the floor.
    """
    if not growth > 0:
        raise InputError(f"growth must be positive, since the valley narrows away from x = 0; got {growth}.")

    def f(theta: Tensor) -> Tensor:
        x, y = theta
        return 0.5 * (1 + growth * x**2) * y**2

    return Objective([f], 2)


def cardioid() -> Objective:
    """A heart-shaped valley: f = ((r² + x)² − r²)², r² = x² + y².

    f = 0 on the curve r = 1 − cos φ (φ the angle from the x axis) and nowhere else: one closed valley through (−2, 0), (0, ±1)
    and its cusp at the origin. Along it the Hessian has the eigenvalues 0 and 16 r³, from 128 at (−2, 0) down to 0 at the
    cusp, the flattest point.
    """

    def f(theta: Tensor) -> Tensor:
        x, y = theta
        square = x**2 + y**2
        return ((square + x) ** 2 - square) ** 2

    return Objective([f], 2)


def lennard_jones(atoms: int = 7, dim: int = 3) -> Objective:
    """A cluster of atoms that attract at a distance and repel when close: f = 4 Σ_{i<j} (r_ij⁻¹² − r_ij⁻⁶).

    θ (atoms·dim,) holds one position after another. Moving and turning the cluster changes nothing, so that Hessians at
    minima are singular. Seven atoms in space have the minima −16.505384, −15.935043, −15.593211 and −15.533060, up to
    relabelling. Infinite where two atoms meet.
    """
    if atoms < 2 or dim < 1:
        raise InputError(f"a cluster needs at least 2 atoms and 1 dimension, got atoms={atoms}, dim={dim}.")
    first, second = torch.triu_indices(atoms, atoms, offset=1)

    def f(theta: Tensor) -> Tensor:
        positions = theta.view(atoms, dim)
        attraction = (positions[first] - positions[second]).square().sum(dim=1) ** -3  # r⁻⁶
        return 4 * (attraction**2 - attraction).sum()

    return Objective([f], atoms * dim)


# A, a, b, c, x, y of the four terms.
_MULLER_BROWN = (
    (-200, -100, -170, 15),
    (-1, -1, -6.5, 0.7),
    (0, 0, 11, 0.6),
    (-10, -10, -6.5, 0.7),
    (1, 0, -0.5, -1),
    (0, 0.5, 1.5, 1),
)
_WELLS = ((-0.5, -0.5), (0.5, 0.0))
_HILLS = ((-0.2, -0.4), (0.0, 0.3))
_LIFT = 1.0190055296306975


def _column(values: tuple[float, ...]) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)

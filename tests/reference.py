"""What is known exactly about the potentials: stationary points by Newton's method, lines and lowest paths between minima."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from landscape import Objective
from landscape.potentials import curvy_valley, four_well, muller_brown, two_wells

Point = tuple[float, ...]
X0 = 5 * math.pi / 2


@dataclass(frozen=True)
class Stationary:
    """A point with ∇L = 0; ``index`` counts the negative eigenvalues of ∇²L."""

    potential: Callable[[], Objective]
    point: Point
    value: float
    index: int


@dataclass(frozen=True)
class Crossing:
    """Two minima, the height of the straight line between them and that of the lowest path."""

    potential: Callable[[], Objective]
    a: Point
    b: Point
    line: float
    height: float


STATIONARY = (
    # The values agree with Müller and Brown (1979) to all digits that they print.
    Stationary(muller_brown, (-0.5582236346330243, 1.4417258418046686), -146.69951721, 0),
    Stationary(muller_brown, (0.6234994049308764, 0.028037758528685675), -108.16672412, 0),
    Stationary(muller_brown, (-0.05001082299820601, 0.46669410487197205), -80.76781813, 0),
    Stationary(muller_brown, (-0.8220015587327322, 0.6243128028148713), -40.66484351, 1),
    Stationary(muller_brown, (0.21248658200066192, 0.2929883251073678), -72.24894011, 1),
    Stationary(four_well, (-1.1740560572097627, 1.4770870591140515), -6.76245257, 0),
    Stationary(four_well, (1.1241017554091355, -1.4852742781258919), -6.36895651, 0),
    Stationary(four_well, (-0.8219078272217285, -1.3667295891454303), -4.13720312, 0),
    Stationary(four_well, (-1.022244487395115, -0.1160622663838169), -1.25131237, 1),
    Stationary(four_well, (0.9409694802021209, 0.1312517227043224), -0.63656365, 1),
    Stationary(four_well, (-0.3032105577484368, -1.4013375886000128), -3.98030324, 1),
    Stationary(four_well, (0.08119930548385872, 0.02265572757397096), 0.01326895, 2),
    Stationary(curvy_valley, (X0, 1.0), 0.0, 0),
    Stationary(curvy_valley, (-X0, -1.0), 0.0, 0),
    Stationary(curvy_valley, (0.0, 0.0), 1.0, 1),
    Stationary(two_wells, (-0.6138016125151484, -0.5354155250543252), 0.10870717, 0),
    Stationary(two_wells, (0.48810021800732817, -0.022255460631840952), -0.00003090, 0),
    Stationary(two_wells, (-0.16472654854043778, -0.0699171820618782), 0.6243933472, 1),
)

CROSSINGS = {
    "muller_brown": Crossing(muller_brown, STATIONARY[0].point, STATIONARY[1].point, 12.676, -40.66484351),
    "four_well": Crossing(four_well, STATIONARY[5].point, STATIONARY[6].point, -0.00745, -1.25131237),
    "curvy_valley": Crossing(curvy_valley, (-X0, -1.0), (X0, 1.0), 2.976668, 1.0),
    "two_wells": Crossing(two_wells, (-0.62, -0.54), (0.49, -0.02), 1.102, 0.6243933472),
}

# Seven Lennard-Jones atoms: the energies of all minima, with the polyhedra that relax to them.
LENNARD_JONES_7 = {
    "pentagonal bipyramid": -16.505384,
    "capped octahedron": -15.935043,
    "tricapped tetrahedron": -15.593211,
    "bicapped trigonal bipyramid": -15.533060,
}

"""How straight the valley is along points, which stretches of it are corridors, and how much of a turn is noise.

Shapes: P parameters, T rows, each a step or the stretch between two checkpoints, T+1 points. Missing numbers are NaN.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from ..errors import InputError
from ..records import NAN, Array, Record

# To first order one step turns the gradient by κ of its length: at most a tenth, under 6 degrees and 10 % of its norm.
CORRIDOR_KAPPA = 0.1
# The loss fell as far as the gradient foretold, to a tenth. In descent on a quadratic |linearity − 1| ≤ κ/2, so this decides
# only where steps leave the gradient (noise, momentum, preconditioning) or higher orders count.
CORRIDOR_LINEARITY = 0.1
_ROUNDING = 100 * float(np.finfo(float).eps)  # what rounding may leave in a loss in float64, as a share of it


def _none() -> Array:
    return np.zeros(0)


@dataclass(frozen=True)
class CorridorInterval:
    """Successive rows first … last that are corridor, from optimizer step ``start`` to ``end``.

    decrease: how far the loss fell from start to end (negative if it rose); share: that over the decrease of the whole
    run, NaN if the run's loss did not fall.
    """

    first: int
    last: int
    start: int
    end: int
    decrease: float
    share: float

    @property
    def steps(self) -> int:
        """Its length in optimizer steps."""
        return self.end - self.start


@dataclass(frozen=True, kw_only=True, eq=False)
class Corridor(Record):
    """Raw numbers along points θ_0 … θ_T, of which the corridor measures are properties (T,): see analysis.corridor.

    At the points (T+1,): steps, the optimizer's count; loss; gradient_norm ‖g‖; travelled, the length of the way up to
    here; reach ‖θ − θ_0‖. Of the rows (T,), with Δ = θ_{t+1} − θ_t: rate h; length ‖Δ‖; image_norm ‖Hg‖; curvature gᵀHg;
    step_curvature ΔᵀHΔ; slope g·Δ; turn g_t·g_{t+1}. Where it was asked for: flow_gap and flow_error (T,); eigenvalues and
    residuals (T, k) with gradient_components vᵀg and step_components vᵀΔ (T, k); spans (W, T) ‖θ_{t+k} − θ_t‖ for the W
    windows k, in rows. rounding: the share of a loss that may be rounding, 100 eps of the precision it was computed in.
    """

    schema = 2

    steps: Array = field(default_factory=lambda: np.zeros(0, dtype=int))
    loss: Array = field(default_factory=_none)
    gradient_norm: Array = field(default_factory=_none)
    travelled: Array = field(default_factory=_none)
    reach: Array = field(default_factory=_none)
    rate: Array = field(default_factory=_none)
    length: Array = field(default_factory=_none)
    image_norm: Array = field(default_factory=_none)
    curvature: Array = field(default_factory=_none)
    step_curvature: Array = field(default_factory=_none)
    slope: Array = field(default_factory=_none)
    turn: Array = field(default_factory=_none)
    flow_gap: Array = field(default_factory=_none)
    flow_error: Array = field(default_factory=_none)
    eigenvalues: Array = field(default_factory=lambda: np.zeros((0, 0)))
    residuals: Array = field(default_factory=lambda: np.zeros((0, 0)))
    gradient_components: Array = field(default_factory=lambda: np.zeros((0, 0)))
    step_components: Array = field(default_factory=lambda: np.zeros((0, 0)))
    windows: tuple[int, ...] = ()
    spans: Array = field(default_factory=lambda: np.zeros((0, 0)))
    rounding: float = _ROUNDING
    label: str = ""
    gradients: int = 0
    matvecs: int = 0

    def by_length(self) -> Corridor:
        """The same with h the length of one step over ‖g‖: what compares optimizers whose rates are not those of descent.

        A step is ‖Δ‖ long in rows of one step. In rows of several it is a mean over them: of the way as it was recorded
        step by step, or else of ‖Δ‖, which falls short of a way that winds.
        """
        several = np.diff(self.steps) > 1
        ways = np.where(several, np.diff(self.travelled), self.length) / np.diff(self.steps)
        return replace(self, rate=ratio(ways, self.gradient_norm[:-1]))

    def at_rate(self, rate: float) -> Corridor:
        """The same with this h in every row: what compares the regions that trajectories went through.

        ``linearity`` stays that of the steps that were made; judge corridors by κ alone, ``linearity=inf``.
        """
        if not rate > 0:
            raise InputError(f"rate must be greater than 0, got {rate}.")
        return replace(self, rate=np.full(self.length.shape, float(rate)))

    @property
    def kappa(self) -> Array:
        """h‖Hg‖/‖g‖ at the start of each row: 0 in a corridor."""
        return self.rate * ratio(self.image_norm, self.gradient_norm[:-1])

    @property
    def kappa_weak(self) -> Array:
        """h gᵀHg/‖g‖²: 0 in a corridor, and where Hg is orthogonal to g."""
        return self.rate * ratio(self.curvature, self.gradient_norm[:-1] ** 2)

    @property
    def linearity(self) -> Array:
        """(L_t − L_{t+1})/(−g·Δ), the fall of the loss over its first-order prediction: 1 in a corridor. NaN where it is lost."""
        return np.where(self.lost, np.nan, ratio(np.diff(self.loss), self.slope))

    @property
    def lost(self) -> Array:
        """(T,) whether fall and prediction are both below the rounding of L, a share ``rounding`` of it: linearity is not known.

        Rounding is more than that where the loss of each example is rounded in sums far above it, as a cross-entropy below
        about 1e-4 is in float32.
        """
        largest = np.maximum(np.abs(np.diff(self.loss)), np.abs(self.slope))
        return largest <= self.rounding * np.maximum(np.abs(self.loss[:-1]), np.abs(self.loss[1:]))

    @property
    def cosine(self) -> Array:
        """Of the gradients at both ends of a row: 1 in a corridor."""
        return ratio(self.turn, self.gradient_norm[:-1] * self.gradient_norm[1:])

    @property
    def norm_ratio(self) -> Array:
        """‖g_{t+1}‖/‖g_t‖: 1 in a corridor."""
        return ratio(self.gradient_norm[1:], self.gradient_norm[:-1])

    @property
    def chord(self) -> float:
        """‖θ_T − θ_0‖ over the length of the way: 1 on a straight line."""
        return float(ratio(self.reach[-1], self.travelled[-1])) if self.reach.size else NAN

    def chord_over(self, window: int) -> Array:
        """‖θ_{t+k} − θ_t‖ over the length of the way between, (T,) for k = window rows; NaN where the run ends before.

        Raises:
            InputError: the record was made without that window.
        """
        if window not in self.windows:
            raise InputError(f"window must be one of {self.windows}, for which this was made, got {window}.")
        between = np.full(len(self.length), np.nan)
        between[: len(between) - window + 1] = self.travelled[window:] - self.travelled[:-window]
        return ratio(self.spans[self.windows.index(window)], between)

    @property
    def alignment(self) -> Array:
        """cos(Δ, −g): 1 where a step goes straight down."""
        return -ratio(self.slope, self.length * self.gradient_norm[:-1])

    @property
    def change_along(self) -> Array:
        """½h*² gᵀHg with h* = −g·Δ/‖g‖²: what curvature along the gradient adds to the loss, the part a corridor lacks."""
        return 0.5 * ratio(self.slope**2 * self.curvature, self.gradient_norm[:-1] ** 4)

    @property
    def change_beside(self) -> Array:
        """½ΔᵀHΔ − change_along: the curvature that a step meets beside the gradient, by noise, momentum, preconditioning."""
        return 0.5 * self.step_curvature - self.change_along

    @property
    def change_beyond(self) -> Array:
        """L_{t+1} − L_t − g·Δ − ½ΔᵀHΔ: third and higher orders. Known to the rounding of L."""
        return np.diff(self.loss) - self.slope - 0.5 * self.step_curvature

    @property
    def gradient_share(self) -> Array:
        """The share of ‖g‖² in the span of the eigenvectors (T,)."""
        return ratio(
            (self.gradient_components**2).sum(axis=1), self.gradient_norm[: len(self.eigenvalues)] ** 2
        )

    @property
    def step_share(self) -> Array:
        """The share of ‖Δ‖² in the span of the eigenvectors (T,)."""
        return ratio((self.step_components**2).sum(axis=1), self.length[: len(self.eigenvalues)] ** 2)

    def in_corridor(self, *, kappa: float = CORRIDOR_KAPPA, linearity: float = CORRIDOR_LINEARITY) -> Array:
        """(T,) whether κ ≤ kappa and |linearity − 1| ≤ linearity. A row in which either is NaN is in none: what is not known,
        be it lost in rounding, does not count. ``linearity=inf`` judges by κ alone, and then such rows too.
        """
        if not (kappa >= 0 and linearity >= 0):
            raise InputError(f"kappa and linearity must be at least 0, got {kappa} and {linearity}.")
        straight = (np.abs(self.linearity - 1) <= linearity) | np.isposinf(linearity)
        return (self.kappa <= kappa) & straight

    def intervals(
        self, *, kappa: float = CORRIDOR_KAPPA, linearity: float = CORRIDOR_LINEARITY
    ) -> tuple[CorridorInterval, ...]:
        """The stretches of successive rows in a corridor at these tolerances, in order."""
        inside = self.in_corridor(kappa=kappa, linearity=linearity)
        edges = np.flatnonzero(np.diff(inside, prepend=False, append=False))
        whole = self.decrease
        found = []
        for start, end in edges.reshape(-1, 2).tolist():
            fall = float(self.loss[start] - self.loss[end])
            share = fall / whole if whole > 0 else NAN
            places = int(self.steps[start]), int(self.steps[end])
            found.append(CorridorInterval(start, end - 1, *places, fall, share))
        return tuple(found)

    @property
    def decrease(self) -> float:
        """L_0 − L_T."""
        return float(self.loss[0] - self.loss[-1]) if self.loss.size else NAN

    def share_of_steps(
        self, *, kappa: float = CORRIDOR_KAPPA, linearity: float = CORRIDOR_LINEARITY
    ) -> float:
        """The share of the optimizer's steps that lie in a corridor; NaN without rows."""
        inside = self.in_corridor(kappa=kappa, linearity=linearity)
        return float(np.diff(self.steps) @ inside / (self.steps[-1] - self.steps[0])) if inside.size else NAN

    def share_of_decrease(
        self, *, kappa: float = CORRIDOR_KAPPA, linearity: float = CORRIDOR_LINEARITY
    ) -> float:
        """The loss that corridors cover over L_0 − L_T; rises inside them subtract, so that it may exceed 1 where the loss
        rose outside. NaN for a run whose loss did not fall, of which nothing can be a share."""
        inside = self.in_corridor(kappa=kappa, linearity=linearity)
        return float(-np.diff(self.loss)[inside].sum() / self.decrease) + 0.0 if self.decrease > 0 else NAN

    def longest(self, *, kappa: float = CORRIDOR_KAPPA, linearity: float = CORRIDOR_LINEARITY) -> float:
        """The steps of the longest corridor, 0 if there is none; NaN without rows."""
        found = self.intervals(kappa=kappa, linearity=linearity)
        return float(max((i.steps for i in found), default=0)) if self.length.size else NAN


def ratio(numerator: Array, denominator: Array) -> Array:
    """NaN where the denominator is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(denominator == 0, np.nan, numerator / denominator)

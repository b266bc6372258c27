"""How straight the valley is along a trajectory: the corridor measures, step by step."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from landscape import InputError, Objective
from landscape.parameters import float64_array
from landscape.progress import progress
from landscape.results import Corridor

from ..curvature.spectrum import top_eigenpairs
from ..networks.known import rounding_of
from .expansion import expand
from .flow import flow_gap
from .following import Points


def corridor(
    objective: Objective,
    thetas: Any,
    *,
    lr: Any = None,
    steps: Any = None,
    windows: Sequence[int] = (),
    flow_steps: int = 0,
    eigenvectors: int = 0,
    generator: torch.Generator | None = None,
    show_progress: bool = False,
    label: str = "",
    about: Mapping[str, Any] | None = None,
) -> Corridor:
    """Corridor measures along the points θ_0 … θ_T: the loss (T+1,) and one number a row (T,) of each measure.

    A corridor (Dherin, Rosca, arXiv 2402.08818) is a region where the curves of steepest descent are straight:
    H g = 0, gradient descent follows the gradient flow, and the loss falls linearly. With g_t = ∇L(θ_t), H_t = ∇²L(θ_t):

        kappa         h‖H_t g_t‖/‖g_t‖                                  0 in a corridor
        kappa_weak    h g_tᵀH_t g_t/‖g_t‖²                              0; weaker, since H g may be orthogonal to g
        linearity     (L_t − L_{t+1}) / g_t·(θ_t − θ_{t+1})              1
        cosine        g_t·g_{t+1}/(‖g_t‖‖g_{t+1}‖)                       1
        norm_ratio    ‖g_{t+1}‖/‖g_t‖                                    1
        chord         ‖θ_T − θ_0‖ / length of the way                    1, one number for the whole
        flow_gap      ‖θ_GD − θ_flow‖/h‖g_t‖, see analysis/corridors/flow.py     0

    For a step of gradient descent linearity is (L_t − L_{t+1})/(h‖g_t‖²) = 1 − kappa_weak/2 + …; dividing by the
    decrease that the gradient predicts for the step that was made extends it to every optimizer.

    What a step met is told apart: with Δ = θ_{t+1} − θ_t and h* = −g·Δ/‖g‖², so that Δ = −h*g + r with r ⟂ g,

        L_{t+1} − L_t = slope + change_along + change_beside + change_beyond
                      = g·Δ + ½h*²gᵀHg + (½ΔᵀHΔ − ½h*²gᵀHg) + the third order and up

    change_along is what a corridor lacks; change_beside is what noise, momentum and preconditioning meet beside it.

    Successive checkpoints of a thinned trajectory are many steps apart. A row is then the whole stretch: linearity, cosine,
    norm_ratio and the changes ask whether it is straight as a whole, while κ and flow_gap are those of one step at rate h
    from where it starts.

    Where a gradient is 0, and where a step is, what would be divided by it is NaN; so is linearity where the losses' rounding
    hides it (Corridor.lost). On piecewise linear networks H is that of the piece θ_t lies on.

    Cost: T + 1 gradients, 2T Hessian-vector products; with flow_steps n, 6n − 1 gradients a row; with eigenvectors, those
    products a row that top_eigenpairs takes, which has no warm start. Memory: three points and two gradients, and as many points
    as the longest window; k vectors more with eigenvectors.

    Args:
        thetas: (T+1, P), or a Trajectory, of which labels, steps, rates and the length of the way are taken.
        lr: h, a number or (T,). Where it is None the rates of a Trajectory are h. Where neither is known, and where it is
            NaN, h is the length of the way of one step over ‖g_t‖: for gradient descent the learning rate (see
            Corridor.by_length). The record's ``rate`` holds what was used.
        steps: (T+1,) the optimizer's count at the points of an array, 0 … T by default: of thinned ones h hangs on it.
        windows: numbers k of rows for which Corridor.chord_over(k) is wanted.
        flow_steps: substeps by which the gradient flow is followed, an even number; 0 for no flow_gap.
        eigenvectors: k, for the parts of g_t and of the step in the span of the k eigenvectors of H_t largest by |λ|: negative
            curvature bends steepest descent as positive does. Pairs that were not found are NaN.
        generator: of the start vectors of these searches.
        label: what the trajectory is called in tables and pictures.
        about: provenance for the record's header.

    Raises:
        InputError: thetas is no (T+1, P) of at least two points, lr is negative or of another length, steps do not
            ascend, a window is longer than the run, flow_steps is odd, or there are not so many eigenvectors.
    """
    points = Points.of(objective, thetas, steps=steps)
    rates = _rates(points.rates if lr is None and points.rates is not None else lr, points)
    windows = _checked(objective, tuple(windows), flow_steps, eigenvectors, rows=len(rates))
    rows = _Rows(points, rates, flow_steps, eigenvectors, generator)
    with progress("corridor", len(points), shown=show_progress) as advance:
        spans = _Spans(windows)
        for theta in points:
            rows.add(theta)
            spans.add(theta)
            advance()
    found = rows.arrays()
    known, summed = points.travelled, np.concatenate([[0], np.cumsum(found["length"])])
    about = {"travelled": "summed over rows" if known is None else "summed over steps", **(about or {})}
    return Corridor(
        **found,
        steps=points.steps,
        travelled=summed if known is None else known - known[0],
        windows=windows,
        spans=spans.array(len(rates)),
        rounding=rounding_of(objective.dtype),
        label=label or points.label,
        gradients=len(points) + len(rates) * max(6 * flow_steps - 1, 0),
        matvecs=rows.matvecs,
        about=about,
    )


@dataclass
class _Rows:
    """What is measured of successive points, two at a time."""

    points: Points
    rates: Tensor
    flow_steps: int
    eigenvectors: int
    generator: torch.Generator | None
    at: list[dict[str, Tensor]] = field(default_factory=list)  # the points
    between: list[dict[str, Tensor]] = field(default_factory=list)  # the rows
    matvecs: int = 0

    def add(self, theta: Tensor) -> None:
        if not self.at:
            self._origin = theta
        else:
            self._meet(theta)
        loss, gradient, self._product = expand(self.points.objective, theta)
        if self.between:
            self.between[-1]["turn"] = self._gradient @ gradient
        self._theta, self._gradient = theta, gradient
        reach = (theta - self._origin).norm()
        self.at.append({"loss": loss, "gradient_norm": gradient.norm(), "reach": reach})

    def _meet(self, after: Tensor) -> None:
        """The row from the last point to this one."""
        theta, gradient, move = self._theta, self._gradient, after - self._theta
        image, step_image = self._product(torch.stack([gradient, move]))
        del self._product  # with its graph, before the next one is made
        self.matvecs += 2
        norm, length, count = gradient.norm(), move.norm(), len(self.between)
        rate, step = self.rates[count], self.points.step_length(count, length)
        by_length = torch.where(norm == 0, torch.nan, step / norm)
        row = {
            "rate": torch.where(rate.isnan(), by_length, rate),
            "length": length,
            "image_norm": image.norm(),
            "curvature": gradient @ image,
            "step_curvature": move @ step_image,
            "slope": gradient @ move,
        }
        if self.flow_steps:
            row["flow_gap"], row["flow_error"] = flow_gap(
                self.points.objective, theta, gradient, rate=row["rate"], substeps=self.flow_steps
            )
        if self.eigenvectors:
            row |= self._parts(theta, gradient, move)
        self.between.append(row)

    def _parts(self, theta: Tensor, gradient: Tensor, move: Tensor) -> dict[str, Tensor]:
        """Of gradient and step along the eigenvectors of the largest |λ|."""
        objective, k = self.points.objective, self.eigenvectors
        pairs = top_eigenpairs(objective, theta, k, which="LM", generator=self.generator)
        self.matvecs += pairs.matvecs
        vectors = torch.from_numpy(pairs.vectors).to(theta)
        return {
            "eigenvalues": torch.from_numpy(pairs.values),
            "residuals": torch.from_numpy(pairs.residuals),
            "gradient_components": vectors @ gradient,
            "step_components": vectors @ move,
        }

    def arrays(self) -> dict[str, np.ndarray]:
        """By name, the points' (T+1,) and the rows' (T,)."""
        return {
            name: float64_array(torch.stack([row[name] for row in rows]))
            for rows in (self.at, self.between)
            for name in rows[0]
        }


class _Spans:
    """‖θ_{t+k} − θ_t‖ for some windows k, with as many points in memory as the longest."""

    def __init__(self, windows: tuple[int, ...]) -> None:
        self.windows, self.found = windows, [[] for _ in windows]
        self._last: deque[Tensor] = deque(maxlen=max(windows, default=0) + 1)

    def add(self, theta: Tensor) -> None:
        self._last.append(theta)
        for k, found in zip(self.windows, self.found, strict=True):
            if len(self._last) > k:
                found.append((theta - self._last[-1 - k]).norm())

    def array(self, rows: int) -> np.ndarray:
        """(W, T), NaN where a window goes beyond the end."""
        spans = np.full((len(self.windows), rows), np.nan)
        for span, found in zip(spans, self.found, strict=True):
            span[: len(found)] = float64_array(torch.stack(found))
        return spans


def _checked(
    objective: Objective, windows: tuple[int, ...], flow_steps: int, eigenvectors: int, *, rows: int
) -> tuple[int, ...]:
    if any(not 1 <= k <= rows for k in windows) or len(set(windows)) < len(windows):
        raise InputError(f"windows must be different numbers from 1 to {rows}, the rows, got {windows}.")
    if flow_steps < 0 or flow_steps % 2:
        raise InputError(
            f"flow_steps must be even, since half as many tell the error, or 0 for none, got {flow_steps}."
        )
    if not 0 <= eigenvectors <= objective.dim:
        raise InputError(f"eigenvectors must be from 0 to {objective.dim}, got {eigenvectors}.")
    return windows


def _rates(lr: Any, points: Points) -> Tensor:
    """h (T,), NaN where it is not given."""
    objective, steps = points.objective, len(points) - 1
    rates = torch.as_tensor(torch.nan if lr is None else lr, dtype=objective.dtype, device=objective.device)
    if rates.shape not in ((), (steps,)):
        raise InputError(
            f"lr must be one number or one for each of the {steps} steps, got shape {tuple(rates.shape)}."
        )
    if (rates < 0).any():
        raise InputError(f"lr must not be negative, got {float(rates.min())}.")
    return rates.expand(steps)

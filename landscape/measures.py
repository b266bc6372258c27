"""How finely solutions are measured: the settings that studies and commands share."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import ClassVar, Literal

from .engines import Engine
from .errors import InputError


@dataclass(frozen=True)
class _Positive:
    """Settings of which all numbers are greater than 0, and those in ``fewest`` at least what stands there."""

    fewest: ClassVar[dict[str, int]] = {}

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if value is None or isinstance(value, (str, bool)):
                continue
            if name in self.fewest:
                if not value >= self.fewest[name]:
                    raise InputError(f"{name} must be at least {self.fewest[name]}, got {value}.")
            elif not value > 0:
                raise InputError(f"{name} must be greater than 0, got {value}.")


@dataclass(frozen=True)
class FlatnessSettings(_Positive):
    """How the flatness of a solution is measured.

    Args:
        matvecs: Hessian-vector products for the trace, at least 4.
        eigenvalues: how many of the largest Hessian eigenvalues.
        sam_rho: radius of the ball for SAM sharpness.
        adaptive_rho: radius for adaptive sharpness, in units of |θ|.
        linf_rho: radius for adaptive sharpness in ℓ∞: the largest share by which a weight may move.
        lpf_sigma: standard deviation of the noise under which the mean loss is taken.
        pac_bayes_tolerance: the rise of the mean loss up to which noise is turned up.
        pairs: of opposite draws of noise, at least 2.
        layer: the weight whose relative flatness is measured; the last one of two axes if None.
        probes: Hessian-vector products for it, at least 2.
        descent_steps: how far the certificate of a flat minimum may descend; 0 leaves it out.
        tau: its threshold between directions along the valley and across, as a share of the largest eigenvalue.
    """

    fewest: ClassVar[dict[str, int]] = {"matvecs": 4, "pairs": 2, "probes": 2, "descent_steps": 0}

    matvecs: int = 60
    eigenvalues: int = 5
    sam_rho: float = 0.05
    adaptive_rho: float = 0.5
    linf_rho: float = 0.005
    lpf_sigma: float = 0.01
    pac_bayes_tolerance: float = 0.1
    pairs: int = 16
    layer: str | None = None
    probes: int = 30
    descent_steps: int = 0
    tau: float = 0.01


@dataclass(frozen=True)
class CurvatureSettings(_Positive):
    """How the curvature of a solution is told apart: by layer, and by eigenvalue.

    Args:
        by: parts whose traces are measured: layers, single tensors, or filters.
        matvecs: samples of each part of the traces that is not exact, at least 4.
        probes: random vectors for the density of eigenvalues, at least 2.
        steps: Hessian-vector products with each; together probes · steps vectors of all parameters are held.
        deflate: eigenvalues of largest magnitude found one by one before that, at most half of all.
    """

    fewest: ClassVar[dict[str, int]] = {"matvecs": 4, "probes": 2, "deflate": 0}

    by: Literal["layer", "parameter", "filter"] = "layer"
    matvecs: int = 10
    probes: int = 8
    steps: int = 40
    deflate: int = 10


@dataclass(frozen=True)
class PathSettings(_Positive):
    """How curved paths are searched.

    Args:
        modes: sine modes of a Fourier path at most, the kind's own number if None; other kinds ignore it.
        steps: the most gradients spent on a path; the search ends sooner where the barrier is gone or the top settled.
        negligible: what is left of a barrier that counts as gone, as a share of the straight line's.
        hold_norm: hold the norm of paths between those of their ends, since cross-entropy falls when weights grow.
        engine: how losses along paths are evaluated, as in scans.
    """

    modes: int | None = None
    steps: int = 1000
    negligible: float = 1e-5
    hold_norm: bool = False
    engine: str = "loop"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.engine != "auto":
            Engine.named(self.engine)


@dataclass(frozen=True)
class ScanSettings(_Positive):
    """How the loss around a solution is scanned, along filter-normalized directions.

    Args:
        line: points of a one-dimensional scan.
        plane: points of a two-dimensional scan along each axis.
        reach: how far scans go from the solution, in units of its filters' norms.
        engine: how points are evaluated: loop; shared, which does once what they have in common; "shared x16", 16 at once;
            auto, which measures what is fastest. The last bits of records by auto may differ from run to run.
    """

    line: int = 51
    plane: int = 25
    reach: float = 1.0
    engine: str = "loop"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.engine != "auto":
            Engine.named(self.engine)

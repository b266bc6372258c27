"""How finely solutions are measured: the settings that studies and commands share."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from .engines import Engine
from .errors import InputError


@dataclass(frozen=True)
class _Positive:
    """Settings of which all numbers are greater than 0."""

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            if not isinstance(value, str) and not value > 0:
                raise InputError(f"{name} must be greater than 0, got {value}.")


@dataclass(frozen=True)
class FlatnessSettings(_Positive):
    """How the flatness of a solution is measured.

    Args:
        matvecs: Hessian-vector products for the trace, at least 4.
        eigenvalues: how many of the largest Hessian eigenvalues.
        sam_rho: radius of the ball for SAM sharpness.
        adaptive_rho: radius for adaptive sharpness, in units of |θ|.
    """

    matvecs: int = 60
    eigenvalues: int = 5
    sam_rho: float = 0.05
    adaptive_rho: float = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.matvecs < 4:  # of which an error bar can be made
            raise InputError(f"matvecs must be at least 4, got {self.matvecs}.")


@dataclass(frozen=True)
class PathSettings(_Positive):
    """How curved paths are searched.

    Args:
        modes: sine modes of a Fourier path.
        steps: the most gradients spent on a path; the search ends sooner where the barrier is gone or the top settled.
        negligible: what is left of a barrier that counts as gone, as a share of the straight line's.
        engine: how losses along paths are evaluated, as in scans.
    """

    modes: int = 10
    steps: int = 1000
    negligible: float = 1e-5
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

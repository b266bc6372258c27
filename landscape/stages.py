"""What each task of a study does: from records to a record, with the problem at hand (a roof module, as study is)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from analysis import (
    block_traces,
    corridor,
    flatness,
    spectral_density,
    split_trace,
)
from optimizers import Recipe, fit

from .errors import InputError
from .networks import BatchNormPolicy, LossFn
from .objective import Objective
from .problems import Problem, load_problem
from .recording import Recording
from .records import Record
from .results import (
    BlockTraces,
    Corridor,
    Flatness,
    PathRecord,
    Solution,
    SpectralDensity,
    SplitTrace,
    Summary,
)
from .summary import summarize, summarize_pairs


@dataclass(frozen=True)
class Workplace:
    """What every task needs at hand: the problem (by name where it has one, so that little travels), recipes, device."""

    problem: str | Problem
    recipes: dict[str, Recipe] = field(default_factory=dict)
    dtype: str = "float64"
    device: str = "cpu"
    show_progress: bool = False

    def load(self) -> Problem:
        return self.problem if isinstance(self.problem, Problem) else load_problem(self.problem)

    def check(self) -> None:
        """Raises InputError for a dtype or device that cannot be used here."""
        if self.dtype not in ("float32", "float64"):
            raise InputError(f"dtype must be float32 or float64, got {self.dtype!r}.")
        try:
            torch.zeros(1, device=self.device, dtype=self.torch_dtype)
        except (RuntimeError, AssertionError, TypeError, NotImplementedError) as error:
            reason = str(error).splitlines()[0]
            raise InputError(f"device {self.device!r} cannot be used here: {reason}") from error

    @property
    def torch_dtype(self) -> torch.dtype:
        return getattr(torch, self.dtype)

    def objective(
        self,
        solution: Solution | None = None,
        batchnorm: BatchNormPolicy = "eval",
        measure: LossFn | None = None,
    ) -> Objective:
        problem = self.load()
        if solution is not None:
            problem.check(solution)
        return problem.objective(
            solution=solution,
            measure=measure,
            batchnorm=batchnorm,
            dtype=self.torch_dtype,
            device=self.device,
        )

    @property
    def under(self) -> dict[str, str]:
        return {"dtype": self.dtype, "device": self.device}

    def about(self, objective: Objective) -> dict[str, Any]:
        """What the header of a record says of the loss that it was measured on."""
        problem = self.load()
        return {
            "problem": problem.name,
            "problem_fingerprint": problem.fingerprint,
            "objective": {
                **objective.settings,
                "dtype": str(objective.dtype),
                "device": str(objective.device),
            },
        }

    @property
    def has_batchnorm(self) -> bool:
        return self.load().has_batch_statistics

    @property
    def policy(self) -> BatchNormPolicy:
        """Of points that are not all one solution: normalization statistics are those of the data at each point."""
        return "batch" if self.has_batchnorm else "eval"


def train(
    place: Workplace,
    *,
    generator: torch.Generator,
    label: str,
    seed: int,
    record: dict[str, Any] | None = None,
    folder: Path | None = None,
    **_: Any,
) -> Solution:
    """The solution of a recipe; with ``record``, settings of Recording, its trajectory goes into the folder."""
    problem = place.load()
    recipe = place.recipes[label].on(problem)
    return fit(
        problem,
        recipe.optimizer,
        epochs=recipe.epochs or problem.epochs,
        batch_size=recipe.batch_size,
        schedule=recipe.scheduler,
        keep=recipe.keep,
        seed=seed,
        label=label,
        dtype=place.torch_dtype,
        device=place.device,
        show_progress=place.show_progress,
        about={"recipe": str(recipe)},
        record=Recording(folder, **(record or {})) if folder else None,
    )


def measure_flatness(
    place: Workplace, solution: Solution, *, generator: torch.Generator, **settings: Any
) -> Flatness:
    objective = place.objective(solution)
    labels = {"optimizer": solution.optimizer, "seed": solution.seed, "about": place.about(objective)}
    return flatness(objective, objective.point(solution.theta), generator=generator, **labels, **settings)


def measure_layers(
    place: Workplace, solution: Solution, *, generator: torch.Generator, by: Any, matvecs: int
) -> SplitTrace | BlockTraces:
    """The trace of every layer in its Gauss–Newton and residual part; where the loss has no such parts that can be told
    apart, of the whole, and the record's message says why."""
    objective = place.objective(solution)
    theta, how = objective.point(solution.theta), {"by": by, "generator": generator}
    about = {**place.about(objective), "solution": solution.label}
    try:
        return split_trace(objective, theta, matvecs=matvecs, about=about, **how)
    except InputError as reason:
        found = block_traces(objective, theta, matvecs=_WHOLE * matvecs, about=about, **how)
        return replace(found, message=" ".join(filter(None, (f"not split: {reason}", found.message))))


def measure_density(
    place: Workplace, solution: Solution, *, generator: torch.Generator, deflate: int, **settings: Any
) -> SpectralDensity:
    objective = place.objective(solution)
    about = {**place.about(objective), "solution": solution.label}
    deflate = min(deflate, objective.dim // 2)
    theta = objective.point(solution.theta)
    return spectral_density(objective, theta, deflate=deflate, generator=generator, about=about, **settings)


def measure_corridor(place: Workplace, solution: Solution, *, generator: torch.Generator) -> Corridor:
    """Along the last steps of training, with the full-batch gradient whatever the optimizer saw; of a run that
    diverged, or whose parameters are those of an earlier epoch, which has no such steps, along none."""
    objective = place.objective(solution)
    labels = {"label": solution.label, "about": place.about(objective)}
    if len(solution.tail) < 2:
        return Corridor(**labels)
    return corridor(objective, solution.tail, **labels)


_WHOLE = 6  # times the samples where G is not told apart, whose trace a split would know exactly


def summary(place: Workplace, *records: Record, generator: torch.Generator) -> Summary:
    return summarize(_of(Solution, records), _of(Flatness, records), _of(Corridor, records))


def pair_summary(place: Workplace, *records: Record, generator: torch.Generator) -> Summary:
    return summarize_pairs(_of(PathRecord, records), _of(Solution, records))


def _of(kind: Any, records: tuple[Record, ...]) -> list[Any]:
    return [record for record in records if isinstance(record, kind)]

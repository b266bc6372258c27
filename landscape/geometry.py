"""What tasks do with where solutions and trajectories lie: scans, corridors, embeddings (a roof module, as study is)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from analysis import (
    corridor,
    corridor_map,
    corridor_noise,
    eigenvector_plane,
    function_embedding,
    kernel_pca,
    trajectory_pca,
)

from .directions import random_direction, transposed_weights
from .networks import BatchNormPolicy, model_objective
from .objective import Objective
from .planes import line_between, plane_of, plane_through, random_plane
from .probes import Line, Plane, centered_steps, scan
from .problems import SPLITS, batches
from .projections import project
from .records import Record, load
from .results import (
    Corridor,
    CorridorMap,
    CorridorNoise,
    Embedding,
    Profile,
    Projection,
    Solution,
    Surface,
    TrajectoryPCA,
)
from .stages import Workplace
from .trajectories import Trajectory


@dataclass(frozen=True)
class Files:
    """Solutions and trajectories that need not fit into memory, and the bytes of it that may be used."""

    paths: tuple[Path, ...]
    memory: int


def points_in(path: Path) -> Path | Trajectory:
    """A solution's file, or the trajectory in a directory."""
    return Trajectory(path) if path.is_dir() else path


def read_input(path: Path) -> Record | Trajectory:
    """The record in a file, or the trajectory in a directory."""
    return Trajectory(path) if path.is_dir() else load(path)


def scan_line(
    place: Workplace,
    solution: Solution,
    *,
    generator: torch.Generator,
    points: int,
    reach: float,
    engine: str,
) -> Profile:
    objective, theta = _at(place, solution)
    direction = random_direction(theta, solution.parameters, generator=generator, **_transposed(place))
    labels: dict[str, Any] = {"direction": "random, filter-normalized", "label": solution.label}
    probe = Line(theta, direction, centered_steps(points, reach))
    return scan(objective, probe, engine=engine, **labels, about=place.about(objective))


def scan_plane(
    place: Workplace, *solutions: Solution, generator: torch.Generator, points: int, reach: float, engine: str
) -> Surface:
    """Around the solution of lowest train loss."""
    deepest = min(solutions, key=lambda s: s.train_loss)
    objective, theta = _at(place, deepest)
    how = {"points": points, "reach": reach, "generator": generator, **_transposed(place)}
    plane = random_plane(theta, deepest.parameters, **how)
    return scan(objective, plane, engine=engine, label=deepest.label, about=place.about(objective))


def scan_between(
    place: Workplace,
    *solutions: Solution,
    generator: torch.Generator,
    points: int,
    engine: str,
    values: Sequence[str],
) -> Profile | Surface:
    """On the line through two solutions, or the plane through three."""
    probe = (line_between if len(solutions) == 2 else plane_through)(*solutions, points=points)
    return _scanned(place, probe, solutions[0], place.policy, engine=engine, values=values)


def scan_about(
    place: Workplace,
    solution: Solution,
    *,
    generator: torch.Generator,
    probe: str,
    points: int,
    reach: float,
    engine: str,
    values: Sequence[str],
    directions: str,
) -> Profile | Surface:
    """On a line or plane about a solution: of two Hessian eigenvectors, or random, normalized as ``directions`` says."""
    objective, theta = _at(place, solution)
    how: dict[str, Any] = {"generator": generator}
    if directions == "eigenvectors":
        found: Line | Plane = eigenvector_plane(objective, theta, points=points, **how)
    else:
        how |= {"normalize": directions, **_transposed(place)}
        found = random_plane(theta, solution.parameters, points=points, reach=reach, **how)
    if probe == "line":
        found = Line(theta, found.d1, found.steps1, drawn=found.drawn)
    return _scanned(place, found, solution, "eval", engine=engine, values=values)


def lay_plane(place: Workplace, *trajectories: Trajectory, generator: torch.Generator) -> TrajectoryPCA:
    """The plane of the first two principal components of all points of trajectories, about the end of the first."""
    return trajectory_pca(trajectories)


def scan_trajectories(
    place: Workplace,
    plane: TrajectoryPCA,
    trajectory: Trajectory,
    *,
    generator: torch.Generator,
    points: int,
    engine: str,
    values: Sequence[str],
) -> Surface:
    """On a plane of trajectories, the first of which says what the loss depends on beside θ."""
    probe = plane_of(plane, points=points)
    return _scanned(place, probe, _last(trajectory), place.policy, engine=engine, values=values)


def project_trajectory(
    place: Workplace, plane: TrajectoryPCA, trajectory: Trajectory, *, generator: torch.Generator
) -> Projection:
    """A trajectory on a plane, with its own losses and those of the plane below it."""
    objective = _along(place, trajectory)
    return project(plane_of(plane), trajectory, objective=objective, about=place.about(objective))


def follow_corridor(
    place: Workplace,
    trajectory: Trajectory,
    *,
    generator: torch.Generator,
    flow_steps: int = 0,
    eigenvectors: int = 0,
) -> Corridor:
    """Along a trajectory, with the gradient of all training data."""
    objective = _along(place, trajectory)
    how: dict[str, Any] = {"flow_steps": flow_steps, "eigenvectors": eigenvectors, "generator": generator}
    return corridor(
        objective, trajectory, **how, about=place.about(objective), show_progress=place.show_progress
    )


def follow_noise(
    place: Workplace, trajectory: Trajectory, *, generator: torch.Generator, batch_size: int, draws: int
) -> CorridorNoise:
    """Along a trajectory, with the gradients of fixed mini-batches."""
    problem, end = place.load(), _last(trajectory)
    objective = model_objective(
        problem.build(0).eval(),
        problem.loss_fn,
        list(batches(problem.train, batch_size)),
        dtype=place.torch_dtype,
        device=place.device,
        batchnorm=place.policy,
        buffers=end.buffer_tensors(),
    )
    about = {**place.about(objective), "batch_size": batch_size}
    return corridor_noise(objective, trajectory, draws=draws, generator=generator, about=about)


def map_corridor(
    place: Workplace, plane: TrajectoryPCA, trajectory: Trajectory, *, generator: torch.Generator, points: int
) -> CorridorMap:
    """On a plane of trajectories, as scan_trajectories."""
    objective = _along(place, trajectory)
    count = len(set(plane.trajectory.tolist()))
    label = trajectory.label if count == 1 else f"plane of {count} trajectories"
    return corridor_map(objective, plane_of(plane, points=points), label=label, about=place.about(objective))


def embed(place: Workplace, *solutions: Path, generator: torch.Generator) -> Embedding:
    """Of solutions on disk, which are read in slices: together they may be larger than memory."""
    return kernel_pca(solutions)


def embed_files(files: Files, *, generator: torch.Generator, kernel: Any, components: int) -> Embedding:
    """As embed, of solutions and trajectories that are read in slices."""
    found = [points_in(path) for path in files.paths]
    how: dict[str, Any] = {"kernel": kernel, "components": components, "memory": files.memory}
    return kernel_pca(found, **how, generator=generator, show_progress=True)


def embed_outputs(
    place: Workplace, *paths: Path, generator: torch.Generator, kernel: Any, components: int
) -> Embedding:
    """Of what solutions and the points of trajectories compute on test data, or on the training data where there are none."""
    problem = place.load()
    how: dict[str, Any] = {"kernel": kernel, "components": components, "generator": generator}
    how |= {"split": "test" if "test" in problem.sizes else "train", "dtype": place.torch_dtype}
    found = [points_in(path) for path in paths]
    return function_embedding(problem, found, **how, device=place.device, about={"problem": problem.name})


def _scanned(
    place: Workplace,
    probe: Line | Plane,
    solution: Solution,
    policy: BatchNormPolicy,
    *,
    engine: str,
    values: Sequence[str],
) -> Any:
    """The loss on a probe, with buffers of a solution; ``values`` names what else: splits, "accuracy", "gradient".

    Where normalization statistics are those of the data at each point, they are those of each split's own data.
    """
    problem, objective = place.load(), place.objective(solution, policy)
    how: dict[str, Any] = {"solution": solution, "dtype": place.torch_dtype, "device": place.device}
    how["batchnorm"] = policy
    also, wanted = {}, {"train", *values}
    for split in SPLITS:
        if split not in problem.sizes or split not in wanted:
            continue
        if split != "train":
            also[f"{split} loss"] = problem.objective(split, **how)
        if "accuracy" in values and problem.metric is not None:
            also[f"{split} accuracy"] = problem.objective(split, measure=problem.metric, **how)
    found = {"also": also, "gradient": "gradient" in values, "about": place.about(objective)}
    return scan(objective, probe, engine=engine, label=solution.label, **found)


def _at(place: Workplace, solution: Solution) -> tuple[Objective, torch.Tensor]:
    objective = place.objective(solution)
    return objective, objective.point(solution.theta)


def _along(place: Workplace, trajectory: Trajectory) -> Objective:
    """The loss along a trajectory, and around it."""
    return place.objective(_last(trajectory), place.policy)


def _last(trajectory: Trajectory) -> Solution:
    return trajectory.checkpoint(-1)


def _transposed(place: Workplace) -> dict[str, Any]:
    return {"transposed": transposed_weights(place.load().build(0))}

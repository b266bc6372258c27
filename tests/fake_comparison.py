"""A small made-up comparison with plausible numbers: for tests of pictures and pages, and for looking at them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np

from analysis import network_of
from landscape.comparison import Comparison
from landscape.results import (
    Corridor,
    Embedding,
    Flatness,
    PathRecord,
    Profile,
    Solution,
    Summary,
    Surface,
)

DIM = 24
# per optimizer: train loss, test loss, curvature, norm
KINDS = {
    "sgd": (6e-4, 0.083, 4.0, 6.0),
    "lbfgs": (2e-8, 0.097, 11.0, 9.0),
    "alto": (3e-5, 0.079, 2.5, 7.0),
}
GEOMETRIC = ("train_loss", "trace", "eigenvalue", "sam_sharpness", "adaptive_sharpness", "height")


def fake_comparison(
    directory: Path,
    *,
    optimizers: Sequence[str] = ("sgd", "lbfgs", "alto"),
    seeds: int = 5,
    problem: str = "digits-mlp",
) -> Comparison:
    """A comparison with every record; one optimizer with one seed has no pairs and no embedding, as in life."""
    rng = np.random.default_rng(7)
    solutions = tuple(_solution(rng, name, seed, problem) for name in optimizers for seed in range(seeds))
    paths = tuple(
        _path(rng, a, b, method) for a, b in combinations(solutions, 2) for method in ("linear", "fourier")
    )
    flatness = tuple(_flatness(rng, s) for s in solutions)
    corridors = tuple(_corridor(rng, s) for s in solutions)
    best = [min((s for s in solutions if s.optimizer == n), key=lambda s: s.train_loss) for n in optimizers]
    return Comparison(
        directory=directory,
        settings=_settings(problem, optimizers, seeds),
        solutions=solutions,
        flatness=flatness,
        corridors=corridors,
        profiles=tuple(_profile(rng, s) for s in solutions),
        surfaces=tuple(_surface(rng, s) for s in best),
        paths=paths,
        embedding=_embedding(rng, solutions) if len(solutions) > 2 else None,  # pyright: ignore[reportArgumentType]
        network=network_of(paths) if paths else None,
        summary=_summary(rng, optimizers, _solution_rows(solutions, flatness, corridors)),
        pair_summary=_summary(rng, *_pair_rows(optimizers, solutions, paths)),
    )


def _kind(name: str) -> tuple[float, float, float, float]:
    return KINDS.get(name, (1e-3, 0.09, 5.0, 8.0))


def _settings(problem: str, optimizers: Sequence[str], seeds: int) -> dict[str, Any]:
    return {
        "problem": problem,
        "optimizers": {n: f"{n}(lr=0.1), 200 epochs, batch 64" for n in optimizers},
        "seeds": seeds,
        "dtype": "float64",
        "command": f"landscape compare {problem} --seeds {seeds}",
        "data": {"train": 1078, "validation": 359, "test": 360},
        "parameters": DIM,
        "versions": {"torch-landscape": "0.1.0", "python": "3.11.2", "torch": "2.13.0"},
        "path_budget": 3000,
    }


def _solution(rng: np.random.Generator, name: str, seed: int, problem: str) -> Solution:
    train, test, _, norm = _kind(name)
    train *= float(np.exp(rng.normal(0, 0.5)))
    theta = rng.normal(size=DIM)
    theta *= norm * (1 + 0.03 * rng.normal()) / np.linalg.norm(theta)
    epoch = np.arange(61.0)
    curve = train + 2.3 * np.exp(-epoch / 60 * np.log(2.3 / train)) * np.exp(
        0.1 * rng.normal(size=epoch.size)
    )
    validation = 0.08 + 2.2 * np.exp(-epoch / 8) + 0.0005 * epoch + 0.003 * rng.normal(size=epoch.size)
    return Solution(
        problem=problem,
        optimizer=name,
        seed=seed,
        theta=theta,
        names=("weight",),
        shapes=((DIM,),),
        train_loss=train,
        validation_loss=float(validation[-1]),
        test_loss=test * float(1 + 0.05 * rng.normal()),
        train_accuracy=1.0,
        validation_accuracy=0.972,
        test_accuracy=0.975 + 0.005 * float(rng.normal()),
        curve_epoch=epoch,
        curve_train=curve,
        curve_validation=validation,
        gradients=float(60 + rng.integers(0, 40)),
        losses=120.0,
        status="all epochs done",
    )


def _flatness(rng: np.random.Generator, solution: Solution) -> Flatness:
    curvature = _kind(solution.optimizer)[2] * float(np.exp(0.2 * rng.normal()))
    values = curvature * np.array([0.3, 0.2, 0.14, 0.1, 0.05])
    return Flatness(
        optimizer=solution.optimizer,
        seed=solution.seed,
        loss=solution.train_loss,
        gradient_norm=1e-3,
        theta_norm=solution.norm,
        dim=DIM,
        trace=curvature,
        trace_stderr=0.05 * curvature,
        trace_method="xtrace",
        frobenius=0.5 * curvature,
        frobenius_stderr=0.02 * curvature,
        eigenvalues=values,
        residuals=1e-6 * values,
        sam_step=0.001 * curvature,
        sam_sharpness=0.0012 * curvature,
        sam_rho=0.05,
        adaptive_sharpness=0.01 * float(np.exp(0.2 * rng.normal())),
        adaptive_rho=0.5,
        gradients=40,
        matvecs=120,
    )


def _corridor(rng: np.random.Generator, solution: Solution, steps: int = 40) -> Corridor:
    kappa = 0.02 * _kind(solution.optimizer)[2] * np.exp(0.3 * rng.normal(size=steps))
    linearity = 1 - 0.5 * kappa + 0.1 * rng.normal(size=steps)
    rate, norm = 0.1, 0.2 * solution.train_loss**0.5 * 0.99 ** np.arange(steps + 1)
    slope = -rate * norm[:-1] ** 2
    return Corridor(
        steps=np.arange(steps + 1),
        loss=solution.train_loss + np.concatenate([[0], np.cumsum(linearity * slope)]),
        gradient_norm=norm,
        travelled=rate * np.concatenate([[0], np.cumsum(norm[:-1])]),
        reach=0.7 * rate * np.concatenate([[0], np.cumsum(norm[:-1])]),
        rate=np.full(steps, rate),
        length=rate * norm[:-1],
        image_norm=kappa * norm[:-1] / rate,
        curvature=0.5 * kappa * norm[:-1] ** 2 / rate,
        step_curvature=0.5 * kappa * rate * norm[:-1] ** 2,
        slope=slope,
        turn=0.9 * norm[:-1] * norm[1:],
        label=solution.label,
    )


def _profile(rng: np.random.Generator, solution: Solution) -> Profile:
    steps = np.linspace(-1, 1, 41)
    rise = _kind(solution.optimizer)[2] * np.exp(0.2 * rng.normal())
    loss = solution.train_loss + rise * (steps**2 + 0.2 * steps**3)
    return Profile(steps=steps, loss=loss, direction="random, filter-normalized", label=solution.label)


def _surface(rng: np.random.Generator, solution: Solution) -> Surface:
    s1, s2 = np.linspace(-1, 1, 25), np.linspace(-1, 1, 21)
    x, y = s1[:, None], s2[None, :]
    tilt = 0.5 * rng.normal()
    loss = solution.train_loss + _kind(solution.optimizer)[2] * (
        x**2 + 0.4 * y**2 + tilt * x * y**2 + 0.3 * y**4
    )
    return Surface(
        steps1=s1, steps2=s2, loss=np.abs(loss), direction="random, filter-normalized", label=solution.label
    )


def _path(rng: np.random.Generator, a: Solution, b: Solution, method: str) -> PathRecord:
    t = np.linspace(0, 1, 61)
    top = (5.0 if method == "linear" else 4e-4 * (1 + (a.optimizer != b.optimizer))) * np.exp(
        0.5 * rng.normal()
    )
    loss = (1 - t) * a.train_loss + t * b.train_loss + top * np.sin(np.pi * t) ** 2
    return PathRecord(
        method=method,
        start=a.label,
        end=b.label,
        t=t,
        loss=loss,
        norm=(1 - t) * a.norm + t * b.norm,
        path_kind="segment",
        points=np.stack([a.theta, b.theta]),
        coefficients=np.zeros((0, 0)),
        length=float(np.linalg.norm(a.theta - b.theta)),
        gradients=0,
        losses=61,
        converged=method == "linear" or bool(rng.random() > 0.1),
        message="",
    )


def _embedding(rng: np.random.Generator, solutions: Sequence[Solution]) -> Embedding:
    points = np.stack([s.theta for s in solutions])
    norms = np.array([s.norm for s in solutions])
    pc1 = 0.1 * (norms - norms.mean()) + 0.01 * rng.normal(size=norms.size)
    return Embedding(
        coordinates=np.stack([pc1, 0.2 * rng.normal(size=norms.size)], axis=1),
        eigenvalues=np.array(
            [0.34, 0.17, *[0.49 / (norms.size - 2)] * (norms.size - 2)]
        ),  # those of all add up to 1
        kernel_means=np.full(norms.size, 0.5),
        labels=tuple(s.label for s in solutions),
        groups=tuple(s.optimizer for s in solutions),
        steps=np.full(norms.size, np.nan),
        trajectory=np.full(norms.size, -1),
        norms=norms,
        distances=np.linalg.norm(points[:, None] - points[None], axis=2),
        kernel="rbf",
        gamma=1 / DIM,
        norm_correlation=np.array([0.97, -0.1]),
        folds=5,
        accuracies={"norm": np.array([13 / 15, 1]), "centroid": np.ones(2), "kernel": np.ones(2)},
    )


def _solution_rows(
    solutions: Sequence[Solution], flatness: Sequence[Flatness], corridors: Sequence[Corridor]
) -> dict[str, dict[str, list[float]]]:
    rows: dict[str, dict[str, list[float]]] = {}
    for s, f, c in zip(solutions, flatness, corridors, strict=True):
        values = {
            "train_loss": s.train_loss,
            "validation_loss": s.validation_loss,
            "test_loss": s.test_loss,
            "test_accuracy": s.test_accuracy,
            "trace": f.trace,
            "eigenvalue": f.eigenvalues[0],
            "sam_sharpness": f.sam_sharpness,
            "adaptive_sharpness": f.adaptive_sharpness,
            "norm": s.norm,
            "kappa": float(np.median(c.kappa)),
            "linearity": float(np.median(c.linearity)),
            "gradients": s.gradients,
        }
        for key, value in values.items():
            rows.setdefault(key, {}).setdefault(s.optimizer, []).append(float(value))
    return rows


def _pair_rows(
    optimizers: Sequence[str], solutions: Sequence[Solution], paths: Sequence[PathRecord]
) -> tuple[list[str], dict[str, dict[str, list[float]]]]:
    names = {s.label: s.optimizer for s in solutions}
    rows: dict[str, dict[str, list[float]]] = {}
    groups = [f"{a} – {b}" for i, a in enumerate(optimizers) for b in optimizers[i:]]
    for p in paths:
        group = f"{names[p.start]} – {names[p.end]}"
        values = (
            {"linear_barrier": p.barrier}
            if p.method == "linear"
            else {"barrier": p.barrier, "height": p.height, "settled": float(p.converged)}
        )
        if p.method == "linear":
            values["distance"] = p.length
        for key, value in values.items():
            rows.setdefault(key, {}).setdefault(group, []).append(value)
    present = {g for row in rows.values() for g in row}
    return [g for g in groups if g in present], rows


def _summary(
    rng: np.random.Generator, groups: Sequence[str], rows: dict[str, dict[str, list[float]]]
) -> Summary:
    shape = (len(rows), len(groups))
    center, low, high, counts = (np.full(shape, np.nan) for _ in range(4))
    for i, (key, row) in enumerate(rows.items()):
        for j, group in enumerate(groups):
            values = np.array(row.get(group, []))
            counts[i, j] = values.size
            if not values.size:
                continue
            average = (lambda v: np.exp(np.log(v).mean(-1))) if key in GEOMETRIC else (lambda v: v.mean(-1))
            center[i, j] = average(values)
            if values.size > 1:
                draws = average(values[rng.integers(0, values.size, (500, values.size))])
                low[i, j], high[i, j] = np.quantile(draws, [0.025, 0.975])
    return Summary(
        metrics=tuple(rows),
        groups=tuple(groups),
        scales=tuple("geometric mean" if key in GEOMETRIC else "mean" for key in rows),
        center=center,
        low=low,
        high=high,
        counts=counts.astype(int),
        confidence=0.95,
    )

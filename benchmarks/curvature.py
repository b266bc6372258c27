"""Trace, top eigenvalues and spectral density: ours beside other packages, at random weights and at trained ones.

    python -m benchmarks.curvature                                 # some 15 minutes
    python -m benchmarks.curvature --only trace --cases mlp digits
    python -m benchmarks.curvature --write docs/performance.md     # also puts the tables between the page's markers

Times are medians of works that take turns in one run, where said in units of one gradient; what takes over 10 seconds is run
once. Ours are timed as a user calls them, set-up and choice of an engine included; of peers (benchmarks/peers_curvature.py) the
set-up is not counted. The points are those of benchmarks/solutions.py.
"""

import argparse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch

from analysis import hessian_trace, spectral_density, top_eigenpairs
from analysis.curvature.split import split_trace

from .measure import Work, head, machine, peak_bytes, replaced, row, turns
from .needed import LADDER, RUNS, SAMPLES, needed
from .peers import missing
from .peers_curvature import DENSITIES, EIGENVALUES, TRACES, pyhessian_stopped
from .solutions import Spot, spots

EXAMPLES = {"mlp": 2048, "digits": 1024, "resnet20": 16, "gpt": 4}
PEERS = ("pyhessian", "curvlinops", "hessian-eigenthings")
RTOL = 0.01  # the standard error of a trace
TIMED = 24  # products by which a peer's estimator of the trace is timed
AFFORDABLE = 500  # products of Hutchinson's estimator that ours is run with
K, TOLERANCE = 5, 1e-4
PROBES, LANCZOS = 8, 40
LONG, GRADIENTS = 10.0, 5
SEEDS = count()
GENERATORS = (torch.Generator().manual_seed(seed) for seed in SEEDS)


def main(only: str, cases: list[str], repeats: int, write: str) -> None:
    for name, packages in missing().items():
        if name in PEERS:
            print(f"{name} is not installed and has no column: {packages}")
    parts = {"trace": trace, "eigenvalues": eigenvalues, "density": density, "memory": memory}
    text = f"{machine()}; {repeats} turns:\n"
    for part in [parts[only]] if only else parts.values():
        for line in part(cases, repeats):
            print(line, flush=True)
            text += f"\n{line}"
        text += "\n"
    if write:
        replaced(Path(write), "curvature", text.rstrip())


def trace(cases: list[str], repeats: int) -> Iterator[str]:
    """To a standard error of 1 %: a peer's cost is the products that its estimator needs, times its own seconds for one."""
    ours = ("split: passes + products", "xtrace", "hutchinson", "split off by")
    ratios = ("best peer / split", "best peer / best of ours")
    yield from head(
        "trace of", "loss", "gradient, ms", "tr H", *ours, *TRACES, *ratios, "pyhessian's own stop"
    )
    for spot in _all(cases):
        budgets, (reference, error) = needed(spot, RTOL, GENERATORS)
        works = {name: _ours(work, spot) for name, work in _methods(budgets).items()}
        peers = {name: _seeded(partial(make(spot.case), TIMED)) for name, make in TRACES.items()}
        gradient, found = _timed(spot, works | peers, repeats)
        cost = {name: found[name].seconds / gradient for name in works}
        plain = f"({budgets['hutchinson']:.0f})"  # not run, where it needs too many
        products = {name: budgets[name.partition(", ")[2]] for name in TRACES}
        theirs = {name: products[name] * found[name].seconds / TIMED / gradient for name in TRACES}
        best, split = min(theirs.values(), default=np.nan), found["split"]
        yield row(
            spot.name,
            f"{float(spot.objective(spot.theta)):.2g}",
            f"{1e3 * gradient:.3g}",
            f"{reference:.4g} ± {error:.1g}",
            f"{split.last.passes} + {_spent(split.last)} → {cost['split']:.0f}",
            *(f"{_spent(found[name].last)} → {c:.0f}" for name, c in cost.items() if name != "split"),
            *([plain] if "hutchinson" not in works else []),
            f"{_rms([run.value for run in split.results], reference):.1%}"
            if error < RTOL * abs(reference)
            else "",
            *(f"{products[name]:.0f} → {theirs[name]:.0f}" for name in TRACES),
            f"**{best / cost['split']:.2f}**",
            f"{best / min(cost.values()):.2f}",
            _stopped(spot, reference),
        )
    yield (
        f"\nproducts → gradients (time over that of one gradient), to a standard error of {RTOL:.0%}; *: not reached; "
        f"(n): too many to run. Products that peers need: of Hutchinson's estimator from the variance of {SAMPLES} samples; "
        "of the others the first of "
        f"{', '.join(map(str, LADDER))} at which {RUNS} runs differ by no more (standard deviation), inf if none. "
        "pyhessian's own stop: products and root mean square error at tol=1e-3."
    )


def eigenvalues(cases: list[str], repeats: int) -> Iterator[str]:
    """The largest, to a residual or change of 1e-4, against double precision with 1e-8."""
    yield from head("largest eigenvalues of", "first … fifth", "ours", *EIGENVALUES, "best right peer / ours")
    for spot in _all(cases):
        double = spot.double
        exact = top_eigenpairs(double.objective, double.theta, K, tolerance=1e-8, generator=next(GENERATORS))
        works = {name: _seeded(partial(make(spot.case), K, TOLERANCE)) for name, make in EIGENVALUES.items()}
        ours = _ours(partial(top_eigenpairs, k=K, tolerance=TOLERANCE), spot)
        _, found = _timed(spot, {"ours": ours} | works, repeats)
        off = {name: _off(work.last.values, exact.values) for name, work in found.items()}
        right = [found[name].seconds for name in EIGENVALUES if off[name] <= TOLERANCE]
        yield row(
            spot.name,
            f"{exact.values[0]:.4g} … {exact.values[-1]:.4g}{_reached(exact)}",
            f"{found['ours'].last.matvecs}, {found['ours'].seconds:.2g} s, {off['ours']:.0e}",
            *(
                f"{found[name].last.products}, {found[name].seconds:.2g} s, {off[name]:.0e}"
                + " wrong" * (off[name] > TOLERANCE)
                for name in EIGENVALUES
            ),
            f"**{min(right) / found['ours'].seconds:.2f}**" if right else "none right",
        )
    yield (
        f"\nproducts, seconds, largest relative error of the {K} values; wrong: more than {TOLERANCE:g}. pyhessian looks for the "
        "largest in magnitude, in at most 100 products each (its default). hessian-eigenthings has to be told its "
        "number of steps: the least sufficient one of a few, and full reorthogonalization. SciPy's eigsh on curvlinops' operator."
    )


def density(cases: list[str], repeats: int) -> Iterator[str]:
    yield from head("density of", "ours, s", *(f"{name}, s" for name in DENSITIES), "best peer / ours")
    for spot in _all(cases, trained_only=True):
        works = {name: _seeded(partial(make(spot.case), PROBES, LANCZOS)) for name, make in DENSITIES.items()}
        ours = _ours(partial(spectral_density, probes=PROBES, steps=LANCZOS), spot)
        _, found = _timed(spot, {"ours": ours} | works, repeats)
        seconds = {name: work.seconds for name, work in found.items()}
        best = min((seconds[name] for name in DENSITIES), default=np.nan)
        yield row(spot.name, *(f"{s:.3g}" for s in seconds.values()), f"**{best / seconds['ours']:.2f}**")
    yield f"\n{PROBES} probes of {LANCZOS} steps; curvlinops' without reorthogonalization."


def memory(cases: list[str], repeats: int) -> Iterator[str]:
    """The most bytes of tensors at a time, beyond the model, its data and θ."""
    works: dict[str, Callable[..., Any]] = {
        "split": split_trace,
        "xtrace, 60 products": hessian_trace,
        f"{K} eigenvalues": partial(top_eigenpairs, k=K, tolerance=TOLERANCE),
        f"density, {PROBES} × {LANCZOS}": partial(spectral_density, probes=PROBES, steps=LANCZOS),
    }
    yield from head("peak memory of", "one vector, MiB", "one gradient, MiB", *works)
    for spot in _all(cases, trained_only=True):
        gradient = peak_bytes(partial(spot.objective.grad, spot.theta))
        peaks = [peak_bytes(_ours(work, spot)) for work in works.values()]
        yield row(
            spot.name,
            *(f"{size / 2**20:.3g}" for size in (spot.theta.nbytes, gradient)),
            *(f"{peak / 2**20:.3g} MiB, {peak / gradient:.1f} gradients" for peak in peaks),
        )


@dataclass(frozen=True, eq=False)
class Timed:
    """Median seconds of a work, and what it gave each time."""

    seconds: float
    results: list[Any]

    @property
    def last(self) -> Any:
        return self.results[-1]


def _timed(spot: Spot, works: dict[str, Work], repeats: int) -> tuple[float, dict[str, Timed]]:
    """Seconds of one gradient, and of works that take turns with it after a first round, the only one of those above LONG."""

    def gradients() -> None:
        for _ in range(GRADIENTS):
            spot.objective.grad(spot.theta)

    every, results = {"gradient": gradients} | works, {name: [] for name in ("gradient", *works)}

    def kept(name: str) -> Work:
        return lambda: results[name].append(every[name]())

    seconds = dict(zip(every, turns([kept(name) for name in every], 1, warm_up=0)[0], strict=True))
    quick = [name for name in every if seconds[name] < LONG]
    medians = np.median(turns([kept(name) for name in quick], repeats, warm_up=0), axis=0)
    seconds |= dict(zip(quick, medians, strict=True))
    found = {name: Timed(float(seconds[name]), results[name]) for name in works}
    return float(seconds["gradient"]) / GRADIENTS, found


def _methods(budgets: dict[str, float]) -> dict[str, Callable[..., Any]]:
    """Ours to RTOL, by name."""
    methods: dict[str, Callable[..., Any]] = {
        "split": partial(split_trace, rtol=RTOL),
        "xtrace": partial(hessian_trace, rtol=RTOL),
    }
    if budgets["hutchinson"] < AFFORDABLE:
        methods["hutchinson"] = partial(hessian_trace, method="hutchinson", rtol=RTOL)
    return methods


def _stopped(spot: Spot, reference: float) -> str:
    """Mean products and error of pyhessian's trace where it stops by itself."""
    if "pyhessian" in missing():
        return ""
    runs = [pyhessian_stopped(spot.case, next(SEEDS)) for _ in range(RUNS)]
    return f"{np.mean([n for _, n in runs]):.0f}, {_rms([value for value, _ in runs], reference):.1%}"


def _all(cases: list[str], *, trained_only: bool = False) -> Iterator[Spot]:
    for name in cases:
        random, trained = spots(name, EXAMPLES[name])
        yield from [trained] if trained_only else [random, trained]


def _ours(work: Callable[..., Any], spot: Spot) -> Work:
    return lambda: work(spot.objective, spot.theta, generator=next(GENERATORS))


def _seeded(work: Callable[..., Any]) -> Work:
    return lambda: work(next(SEEDS))


def _rms(values: list[float], reference: float) -> float:
    return float(np.sqrt(np.mean((np.array(values) / reference - 1) ** 2)))


def _off(values: np.ndarray, exact: np.ndarray) -> float:
    return float(np.max(np.abs(values - exact) / np.abs(exact)))


def _spent(record: Any) -> str:
    return f"{record.matvecs}{_reached(record)}"


def _reached(record: Any) -> str:
    return "" if record.converged else "*"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only",
        default="",
        choices=("", "trace", "eigenvalues", "density", "memory"),
        help="that part alone",
    )
    parser.add_argument("--cases", nargs="+", default=list(EXAMPLES), choices=list(EXAMPLES))
    parser.add_argument("--repeats", type=int, default=3, help="turns of each work")
    parser.add_argument("--write", default="", help="a page with <!-- curvature --> … <!-- end -->")
    given = parser.parse_args()
    main(given.only, given.cases, given.repeats, given.write)

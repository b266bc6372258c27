"""Planes and Hessian-vector products: our engines beside other packages, and how far from the machine's limits.

    python -m benchmarks.probes                                # some 15 minutes
    python -m benchmarks.probes --only planes --repeats 5
    python -m benchmarks.probes --write docs/performance.md    # also puts the tables between the page's markers

Ratios are of medians over works that take turns in one run. A plane is 51 × 51 points: the engine is chosen for all of them, and
timed beside the peers on fewer where a point is slow. Set-up (capturing, compiling) is told apart; "first" is one whole plane by
engine="auto", measuring and set-up included, as predicted from both. Peers: benchmarks/peers.py.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from landscape import Family, HessianProducts, Objective, Plane, losses, model_objective
from landscape.choosing import choose

from .measure import gemm_rate, head, machine, memory_rate, peak_bytes, replaced, row, turns
from .models import Case, case
from .peers import HVPS, INEXACT, PLANES, missing

SIDE = 51
ON_PLANES = {  # case, examples, engine -> points timed along each axis
    ("mlp", 128, "auto"): 51,
    ("mlp", 128, "shared x64 compiled"): 51,
    ("mlp", 2048, "auto"): 15,
    ("lenet", 2048, "auto"): 5,
    ("resnet20", 128, "auto"): 5,
    ("resnet20", 128, "auto bfloat16"): 5,
    ("gpt", 16, "auto"): 7,
}
ON_PRODUCTS = (("mlp", 128), ("mlp", 2048), ("lenet", 128), ("resnet20", 16), ("gpt", 4))
WAYS = (
    "rebuild",
    "double-backward",
    "replay",
    "tangent",
    "replay x4",
    "tangent x4",
    "replay x16",
    "tangent x16",
)
VECTORS, CHOICES = 16, 10
RUN = 45.0  # seconds of double backward that a choice is made for, too few to compile
PICTURE = Path("docs/probes.png")


def main(only: str, repeats: int, write: str) -> None:
    parts: dict[str, Callable[[int], Iterator[str]]] = {
        "planes": planes,
        "products": products,
        "scaling": scaling,
    }
    for name, packages in missing().items():
        print(f"{name} is not installed and has no column: {packages}")
    for name, part in parts.items():
        if only in ("", name):
            text = f"{machine()}; {repeats} turns:\n"
            for line in part(repeats):
                print(line, flush=True)
                text += f"\n{line}"
            if write:
                replaced(Path(write), name, text)


def planes(repeats: int) -> Iterator[str]:
    rate = gemm_rate()
    ours = ("ours", "engine", "best peer / ours", "set-up, s", "first, s", "off by", "of GEMM rate")
    yield from head("plane of", "loop, ms a point", *map(_noted, PLANES), *ours)
    for (name, examples, engine), side in ON_PLANES.items():
        given = case(name, examples)
        objective, theta = objective_of(given)
        directions = _directions(theta)
        family = _plane(theta, directions, SIDE).family(objective)
        start = time.perf_counter()
        chosen = engine
        if engine.startswith("auto"):
            chosen = choose(objective, family, bfloat16=engine.endswith("bfloat16")).engine.name
        plane, points = _plane(theta, directions, side), side**2
        family = plane.family(objective)
        mine, loop = (_evaluation(objective, family, way) for way in (chosen, "loop"))
        found, exact = mine(), loop()
        setup = time.perf_counter() - start
        peers = [_peer(peer, given, plane) for peer in PLANES.values()]
        seconds = np.median(turns([mine, loop, *peers], repeats, warm_up=1), axis=0) / points
        off = float(((found - exact).abs() / exact.abs()).max())
        best = min(seconds[2:], default=np.nan)
        yield row(
            f"{name}, {examples}",
            *(f"{1e3 * s:.3g}" for s in seconds[[1, *range(2, len(seconds)), 0]]),
            chosen if engine.startswith("auto") else f"{chosen} (named)",
            f"**{best / seconds[0]:.2f}**",
            f"{setup:.2g}",
            f"{setup + seconds[0] * SIDE**2:.3g}",
            f"{off:.1e}",
            f"{_flops(objective, theta) / seconds[0] / rate:.2f}",
        )
    yield (
        f"\nGEMM {rate / 1e9:.0f} GFLOP/s, memory {memory_rate() / 1e9:.0f} GB/s (read and written). "
        + " ".join(f"*{name}: {said}." for name, said in INEXACT.items() if name in PLANES)
    )


def products(repeats: int) -> Iterator[str]:
    rate = gemm_rate()
    ours = ("chosen", "best peer / chosen", "near the best", "measuring, s", "repaid after", "of GEMM rate")
    yield from head("product of", "gradient, ms", *WAYS, *map(_noted, HVPS), *ours)
    for name, examples in ON_PRODUCTS:
        given = case(name, examples)
        objective, theta = objective_of(given)
        vectors = torch.randn(VECTORS, objective.dim, generator=torch.Generator().manual_seed(0))
        works = [partial(_gradients, objective, theta)]
        works += [partial(HessianProducts(objective, theta, engine=way), vectors) for way in WAYS]
        works += [partial(make(given), vectors) for make in HVPS.values()]
        seconds = np.median(turns(works, repeats, warm_up=1), axis=0) / VECTORS
        mine, theirs = dict(zip(WAYS, seconds[1:], strict=False)), seconds[1 + len(WAYS) :]
        choices = [_choice(given, vectors, RUN / mine["double-backward"]) for _ in range(CHOICES)]
        names = [choice.engine.name for choice in choices]
        chosen = max(mine, key=names.count)
        spent = float(np.median([choice.spent for choice in choices]))
        gain = mine["double-backward"] - mine[chosen]
        needed = 2 * 3 * _flops(objective, theta)  # a gradient is three losses, a product two gradients
        yield row(
            f"{name}, {examples}",
            f"{1e3 * seconds[0]:.3g}",
            *(
                f"{'**' * (way == chosen)}{s / seconds[0]:.2f}{'**' * (way == chosen)}"
                for way, s in mine.items()
            ),
            *(f"{s / seconds[0]:.2f}" for s in theirs),
            chosen,
            f"**{min(theirs, default=np.nan) / mine[chosen]:.2f}**",
            f"{sum(mine[n] <= 1.1 * min(mine.values()) for n in names)} of {CHOICES}",
            f"{spent:.2g}",
            f"{spent / gain:.0f} products" if gain > 0 else "never",
            f"{needed / mine[chosen] / rate:.2f}",
        )
    yield (
        f"\nIn gradients; {VECTORS} vectors a call; set-up is not counted; chosen for {RUN:.0f} s of double backward. "
        + " ".join(f"*{name}: {said}." for name, said in INEXACT.items() if name in HVPS)
    )


def scaling(repeats: int) -> Iterator[str]:
    """Cost against points, parameters and data, and peak memory against points, as a picture."""
    figure = Figure(figsize=(11, 3), layout="constrained")
    axes = figure.subplots(1, 4)
    engines = ("loop", "shared", "shared x16")
    points = (16, 64, 256, 1024, 4096)
    families = [_family("mlp", 128, n) for n in points]
    _lines(axes[0], points, families, engines, repeats, "points")
    data = (128, 512, 2048, 8192)
    _lines(axes[1], data, [_family("mlp", n, 64) for n in data], engines, repeats, "images")
    widths = (50, 100, 200, 400, 800)
    wide = [_family("mlp", 128, 64, width=width) for width in widths]
    _lines(axes[2], [o.dim for o, _ in wide], wide, engines, repeats, "parameters")
    for engine in engines:
        peaks = [peak_bytes(_evaluation(o, f, engine)) / 2**20 for o, f in families]
        axes[3].plot(points, peaks, marker="o", label=engine)
        yield f"{engine}: peak {', '.join(f'{p:.1f}' for p in peaks)} MiB at {', '.join(map(str, points))} points"
    axes[3].set(xscale="log", yscale="log", xlabel="points", ylabel="peak MiB")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=3)
    figure.savefig(PICTURE, dpi=90)
    yield f"\n![Seconds against points, images and parameters, and peak memory against points]({PICTURE.name})"


def _lines(
    ax: Any, at: Any, work: list[tuple[Objective, Family]], engines: Any, repeats: int, xlabel: str
) -> None:
    for engine in engines:
        works = [_evaluation(o, f, engine) for o, f in work]
        ax.plot(at, np.median(turns(works, repeats, warm_up=1), axis=0), marker="o", label=engine)
    ax.set(xscale="log", yscale="log", xlabel=xlabel, ylabel="seconds")


def _family(name: str, examples: int, points: int, width: int = 50) -> tuple[Objective, Family]:
    given = case(name, examples)
    if width != 50:
        layers = (
            torch.nn.Linear(784, width),
            torch.nn.ReLU(),
            torch.nn.Linear(width, width),
            torch.nn.ReLU(),
        )
        given = Case(
            name, torch.nn.Sequential(*layers, torch.nn.Linear(width, 10)), given.loss_fn, given.batch
        )
    objective, theta = objective_of(given)
    coordinates = torch.rand(points, 2, generator=torch.Generator().manual_seed(0))
    return objective, Family(theta, torch.stack(_directions(theta)), coordinates)


def objective_of(given: Case) -> tuple[Objective, Tensor]:
    objective = model_objective(given.model, given.loss_fn, [given.batch])
    assert objective.parameters is not None
    return objective, objective.parameters.theta(given.model)


def _directions(theta: Tensor) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    d1, d2 = (torch.randn(len(theta), generator=generator) * theta.std() for _ in range(2))
    return d1, d2


def _plane(theta: Tensor, directions: tuple[Tensor, Tensor], side: int) -> Plane:
    steps = torch.linspace(-1, 1, side)
    return Plane(theta, *directions, steps, steps)


def _evaluation(objective: Objective, family: Family, engine: str) -> Callable[[], Tensor]:
    return lambda: losses(objective, family, engine=engine)[0]


def _peer(peer: Any, given: Case, plane: Plane) -> Callable[[], Any]:
    return lambda: peer(given, plane.d1, plane.d2, plane.steps1, plane.steps2)


def _gradients(objective: Objective, theta: Tensor) -> None:
    for _ in range(VECTORS):
        objective.grad(theta)


def _choice(given: Case, vectors: Tensor, count: float) -> Any:
    objective, theta = objective_of(given)
    times = HessianProducts(objective, theta, count=int(count))
    times(vectors)
    return times.choice


def _flops(objective: Objective, theta: Tensor) -> int:
    """Of the matrix products and convolutions of one loss."""
    counter = FlopCounterMode(display=False)
    with counter:
        objective(theta)
    return counter.get_total_flops()


def _noted(name: str) -> str:
    return f"{name}*" if name.partition(",")[0] in INEXACT else name


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", default="", choices=("", "planes", "products", "scaling"), help="that part alone"
    )
    parser.add_argument("--repeats", type=int, default=9, help="turns of each work")
    parser.add_argument(
        "--write", default="", help="a page with <!-- part --> markers, such as docs/performance.md"
    )
    given = parser.parse_args()
    main(given.only, given.repeats, given.write)

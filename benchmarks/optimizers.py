"""What a step costs: E, ALTO, Lamb, QHM, SAM and NSO beside their bases and peers, side by side in one run.

    python -m benchmarks.optimizers                  # about a minute
    python -m benchmarks.optimizers --repeats 100    # on a busy machine

Each line is the ratio of two medians over steps that take turns, and the quartiles of the ratio from turn to turn. 10
million float32 parameters, in the 147 tensors of a transformer (12 blocks of width 256) or in 150 equal ones. Peers
(e-optimizer-adaptor, pytorch_optimizer) come with the extra `bench`; where one is not installed its line says so.
"""

import argparse
import importlib
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer

from optimizers.alto import ALTO
from optimizers.e import E
from optimizers.lamb import Lamb
from optimizers.nso import NSO
from optimizers.qhm import QHM
from optimizers.sam import SAM

from .measure import machine, peak_bytes, turns

Step = Callable[[], Any]
BLOCK = [(768, 256), (768,), (256, 256), (256,), (1024, 256), (1024,), (256, 1024), (256,), *[(256,)] * 4]
SHAPES = {"transformer": [*BLOCK * 12, (2048, 256), (256,), (256,)], "equal": [(66_667,)] * 150}


def main(repeats: int) -> None:
    print(machine())
    print(f"\n{'step':50} {'ms':>7} {'other':>7} {'ratio':>6}  quartiles")
    for name, shapes in SHAPES.items():
        for skip in (True, False):
            for fused in (False, True):
                adapted = step_of(lambda p: E(AdamW(p, fused=fused), skip_nonfinite=skip), shapes)  # noqa: B023
                base = step_of(lambda p: AdamW(p, fused=fused), shapes)  # noqa: B023
                label = f"E(AdamW{', fused' * fused}) / without E, {name}{'' if skip else ', no check'}"
                compare(label, adapted, base, repeats)
        qhm, sgd = step_of(lambda p: QHM(p, lr=1e-3), shapes), step_of(momentum, shapes)
        compare(f"QHM / SGD with momentum, {name}", qhm, sgd, repeats)
        beside_peers(name, shapes, repeats)
    in_gradients(repeats)
    print(f"\n{'memory, bytes per parameter (float32)':50} {'state':>7} {'extra inside a step':>20}")
    for label, make in OPTIMIZERS.items():
        kept, peak = memory(make, SHAPES["equal"])
        print(f"{label:50} {kept:7.2f} {peak:20.2f}")


def momentum(parameters: Iterable[Tensor]) -> Optimizer:
    return SGD(parameters, lr=1e-3, momentum=0.9)


OPTIMIZERS: dict[str, Callable[[list[nn.Parameter]], Optimizer]] = {
    "SGD with momentum": momentum,
    "E(SGD with momentum)": lambda p: E(momentum(p)),
    "AdamW": AdamW,
    "E(AdamW)": lambda p: E(AdamW(p)),
    "E(AdamW), alpha=-80": lambda p: E(AdamW(p), alpha=-80.0),
    "QHM": lambda p: QHM(p, lr=1e-3),
    "Lamb": lambda p: Lamb(p, lr=1e-3),
    "ALTO": lambda p: ALTO(p, lr=1e-3),
    "ALTO, clip_norm=1": lambda p: ALTO(p, lr=1e-3, clip_norm=1.0),
}


def beside_peers(name: str, shapes: Sequence[tuple[int, ...]], repeats: int) -> None:
    """ALTO and Lamb with the options under which each takes the very steps of its peer."""
    like_authors = {"lr": 1e-3, "betas": (0.99, 0.9, 0.99), "eps": 1e-6, "weight_decay": 1e-4}
    ours = {
        "ALTO": lambda p: ALTO(p, **like_authors, clip_norm=1.0, trust_ratio="decayed"),
        "Lamb": lambda p: Lamb(p, lr=1e-3, weight_decay=1e-4, bias_correction=False, trust_ratio="decayed"),
    }
    theirs = {
        "ALTO": lambda module, p: module.ALTO(p, **like_authors, alp=-5),
        "Lamb": lambda module, p: module.Lamb(p, lr=1e-3, weight_decay=1e-4, weight_decouple=False),
    }
    for rule, package, install in (
        ("ALTO", "ALTO", "e-optimizer-adaptor"),
        ("Lamb", "pytorch_optimizer", "pytorch_optimizer"),
    ):
        try:
            module = importlib.import_module(package)
        except ImportError:
            print(f"{rule} has no peer to stand beside here: install {install} (the extra bench).")
            continue
        peer = step_of(lambda p: theirs[rule](module, p), shapes)  # noqa: B023
        compare(f"{rule} / {install}'s, {name}", step_of(ours[rule], shapes), peer, repeats)


def in_gradients(repeats: int) -> None:
    """SAM and NSO in units of one gradient with the base's step."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(256, 512, generator=generator)
    targets = torch.randint(10, (256,), generator=generator)

    def training(wrap: Callable[[Optimizer], Optimizer]) -> Step:
        model = nn.Sequential(
            nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)
        )
        optimizer = wrap(momentum(model.parameters()))

        def closure() -> Tensor:
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(inputs), targets)
            loss.backward()
            return loss

        return partial(optimizer.step, closure)  # type: ignore[arg-type]

    compare(
        "SAM(SGD) / SGD, whole step, MLP",
        training(lambda o: SAM(o, rho=0.05)),
        training(lambda o: o),
        repeats,
    )
    nso = training(lambda o: NSO(o, sigma=0.01, generator=generator))
    compare("NSO(SGD) / SGD, whole step, MLP", nso, training(lambda o: o), repeats)


def step_of(make: Callable[[list[nn.Parameter]], Optimizer], shapes: Sequence[tuple[int, ...]]) -> Step:
    """The step of a new optimizer on new parameters with random gradients."""
    generator = torch.Generator().manual_seed(0)
    parameters = [nn.Parameter(torch.randn(shape, generator=generator)) for shape in shapes]
    for p in parameters:
        p.grad = torch.randn(p.shape, generator=generator)
    return make(parameters).step


def compare(label: str, ours: Step, other: Step, repeats: int) -> None:
    """Prints the ratio of the medians of two steps that take turns."""
    seconds = turns([ours, other], repeats)
    mine, base = 1e3 * np.median(seconds, axis=0)
    low, high = np.quantile(seconds[:, 0] / seconds[:, 1], (0.25, 0.75))
    print(f"{label:50} {mine:7.2f} {base:7.2f} {mine / base:6.2f}  {low:.2f} to {high:.2f}", flush=True)


def memory(
    make: Callable[[list[nn.Parameter]], Optimizer], shapes: Sequence[tuple[int, ...]]
) -> tuple[float, float]:
    """(bytes of state, most bytes more in use inside a step than before it), each per parameter."""
    parameters = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    count = sum(p.numel() for p in parameters)
    for p in parameters:
        p.grad = torch.randn_like(p)
    optimizer = make(parameters)
    optimizer.step()
    return held(optimizer) / count, peak_bytes(optimizer.step) / count


def held(optimizer: Optimizer) -> int:
    """Bytes of all tensors in the state, of an adaptor's base too."""
    own = sum(
        value.nbytes
        for state in optimizer.state.values()
        for value in state.values()
        if isinstance(value, Tensor)
    )
    return own + (held(optimizer.base) if isinstance(optimizer, E) else 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=40, help="how many steps of each kind")
    main(parser.parse_args().repeats)

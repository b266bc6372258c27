"""What E does on four toy valleys, always beside a base without E whose momentum is equally long.

python -m scripts.valleys          # about a minute: five tables and a picture
Settings are the paper's toy ones (Zhao et al., 2025: Adam with first moment 0.95; β = 0.99, α = −80), and α on plain SGD.
The control's first moment is equal_momentum(α, β₂). From the first gradient it is torch's SGD with dampening, else QHM.

Args:
    out: the picture.
"""

import math
from functools import partial
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.optim import SGD, Adam

from landscape.plots.style import PALETTE, dress
from landscape.potentials import cardioid, ladder, ravine
from optimizers import QHM, E, equal_momentum
from scripts.study import command, save

LR, STEPS, RATES = 0.03, 3000, (0.003, 0.01, 0.02, 0.03, 0.05)
ALPHAS = (0.0, -5.0, -10.0, -20.0, -30.0, -40.0, -50.0, -60.0, -70.0, -80.0, -90.0, -95.0)
DEPTHS, ANGLES = torch.linspace(1.5, 8, 131).double(), 0.2 + torch.arange(12) * math.pi / 6
RING = torch.stack([2 * ANGLES.cos() - 0.5, 2 * ANGLES.sin()])
LOOKS = {"base": (PALETTE[0], "o"), "E": (PALETTE[1], "s"), "control": (PALETTE[2], "^")}
STYLES: dict[str, Any] = {name: {"c": c, "marker": m, "ms": 4} for name, (c, m) in LOOKS.items()}


def main(out: Path = Path("runs/valleys.png")) -> None:
    figure = Figure(figsize=(9.6, 7.6), layout="constrained")
    a, b, c, d = figure.subplots(2, 2).flat
    x = -torch.tensor(ALPHAS)
    paths, _ = walks("ladder: x", RATES, adams, ladder().terms[0], torch.tensor([2.3]), lambda x: x)
    for name, path in paths[RATES.index(LR)].items():
        a.plot(path, label=name, markevery=300, **STYLES[name])
    _, ends = walks("deepest well passed", ALPHAS, sgds, well, -5 + 0 * DEPTHS, lambda x: DEPTHS[x > 5].max())
    for name in ("E", "control"):
        b.plot(x, ends[name], label=name, **STYLES[name])
    for init, style in {"zero": {}, "first": {"ls": "--", "mfc": "white"}}.items():
        makes, f, start = partial(sgds, init=init), ravine().terms[0], torch.tensor([2, 0.5])
        _, ends = walks(f"ravine, from {init}: |x|", ALPHAS, makes, f, start, lambda x: x[0].abs())
        for name in ("E", "control"):
            c.plot(x, ends[name], label=f"{name}, from {init}", **STYLES[name], **style)
    f, turn = cardioid().terms[0], torch.linspace(0, 2 * math.pi, 200)
    paths, _ = walks("cardioid: sharpness", RATES, adams, f, RING, lambda x: (16 * x.norm(dim=0) ** 3).mean())
    d.plot((1 - turn.cos()) * turn.cos(), (1 - turn.cos()) * turn.sin(), c="#AAAAAA", lw=1, label="zero loss")
    d.plot(*RING, "x", c="#767676", ms=4, label="starts")
    for name, path in paths[RATES.index(LR)].items():
        d.plot(*path[-1], ls="", label=f"ends of {name}", **STYLES[name])
    dress(a, title="Ladder, Adam: the minimum reached", xlabel=f"step, learning rate {LR}", ylabel="x")
    dress(b, title="Slope with a well, SGD", xlabel="−α", ylabel="deepest well passed")
    dress(c, title="Ravine, SGD: its middle is flattest", xlabel="−α", ylabel="final |x|").set_ylim(top=2.6)
    dress(d, title="Cardioid, Adam: the cusp is flattest", xlabel="x", ylabel="y").set_ylim(top=3.6)
    for ax in (a, b, c, d):
        ax.legend(fontsize=8, frameon=False, ncols=2)
    save(figure, out, dpi=100)


def adams(lr: float) -> dict[str, Any]:
    adam, late = partial(Adam, lr=lr, betas=(0.95, 0.99)), (equal_momentum(-80.0, 0.95), 0.99)
    return {"base": adam, "E": lambda p: E(adam(p), -80.0, 0.99), "control": partial(Adam, lr=lr, betas=late)}


def sgds(alpha: float, init: Any = "zero") -> dict[str, Any]:
    late = equal_momentum(alpha, 0.0)
    control = partial(QHM, nu=1.0) if init == "zero" else partial(SGD, dampening=late)
    control = partial(control, lr=LR, momentum=late)
    return {"E": lambda p: E(SGD(p, lr=LR), alpha, 0.99, init=init), "control": control}


def walks(title: str, settings: Any, makes: Any, f: Any, start: Tensor, number: Any) -> tuple[Any, Any]:
    """Paths by setting and name, and a number of their ends, also printed. Many starts go at once: no rule here mixes them."""
    paths, ends = [], {name: [] for name in makes(0.0)}
    print(f"\n{title}, at the end; {'learning rate' if settings is RATES else 'α'}, {', '.join(ends)}")
    for setting in settings:
        paths.append({})
        for name, make in makes(setting).items():
            theta = nn.Parameter(start.clone().double())
            optimizer, places = make([theta]), [start.double()]
            for _ in range(STEPS):
                (theta.grad,) = torch.autograd.grad(f(theta).sum(), theta)
                optimizer.step()
                places.append(theta.detach().clone())
            paths[-1][name] = torch.stack(places)
            ends[name].append(number(places[-1]).item())
        print("|", " | ".join(f"{x:.3g}" for x in (setting, *(found[-1] for found in ends.values()))), "|")
    return paths, ends


def well(x: Tensor) -> Tensor:
    return -x - DEPTHS * torch.exp(-(x**2) / 2)


if __name__ == "__main__":
    command(main)

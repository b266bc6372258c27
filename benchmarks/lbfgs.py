"""How deep each L-BFGS comes for how many evaluations: 5,000 images of MNIST, 784-50-50-10 with softplus, float64.

    python -m benchmarks.lbfgs --seeds 3 --picture docs/optimizers/lbfgs.png

Golden section and strong Wolfe (ours), torch.optim.LBFGS with strong Wolfe, and SciPy's L-BFGS-B, all with ten pairs and
full batches, from the same initialisations, until the loss is 1e-10 or the evaluations are spent. Counted are calls: of
a gradient (the loss comes with it), and of a loss alone, which is taken as a third of a gradient and also counted whole.
What it takes on this machine is measured. The data are MNIST's files, in the directory LANDSCAPE_DATA or downloaded.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from statistics import median

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy.optimize import minimize
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from landscape import Problem, load_problem
from landscape.networks import placed
from landscape.plots.style import MARKERS, MUTED, PALETTE, dress, legend
from optimizers import LBFGS, DataClosure
from scripts.study import command

DEPTHS = (1e-2, 1e-4, 1e-7, 1e-10)
ENOUGH = DEPTHS[-1]
MANY = 10**9


class Meter:
    """A closure that counts, keeps (gradients, losses, lowest loss so far) after every call, and stops a run that is over."""

    def __init__(self, problem: Problem, seed: int, budget: float) -> None:
        model, cpu = problem.build(seed).double(), torch.device("cpu")
        self.closure = DataClosure(model, problem.loss_fn, placed(problem.train, torch.float64, cpu))
        self.parameters, self.budget = list(model.parameters()), budget
        self.gradients, self.losses, self.rows = 0, 0, []

    def __call__(self) -> Tensor:
        self.gradients += 1
        return self._noted(self.closure())

    def loss(self) -> Tensor:
        self.losses += 1
        return self._noted(self.closure.loss())

    def flat(self, theta: np.ndarray) -> tuple[float, np.ndarray]:
        """(loss, gradient) at θ (P,), as SciPy wants them."""
        vector_to_parameters(torch.from_numpy(theta), self.parameters)
        loss = self().item()
        return loss, torch.cat([p.grad.reshape(-1) for p in self.parameters if p.grad is not None]).numpy()

    def _noted(self, loss: Tensor) -> Tensor:
        lowest = min(loss.item(), self.rows[-1][2]) if self.rows else loss.item()
        self.rows.append((self.gradients, self.losses, lowest))
        if lowest <= ENOUGH or self.gradients + self.losses / 3 >= self.budget:
            raise StopIteration
        return loss


def ours(**settings: object) -> Callable[[Meter], object]:
    def run(meter: Meter) -> object:
        return LBFGS(meter.parameters, iterations=MANY, **settings).step(meter)  # type: ignore[arg-type]

    return run


def torchs(meter: Meter) -> object:
    ends = {"max_iter": MANY, "max_eval": MANY, "tolerance_grad": 0.0, "tolerance_change": 0.0}
    optimizer = torch.optim.LBFGS(meter.parameters, history_size=10, line_search_fn="strong_wolfe", **ends)  # type: ignore[arg-type]
    return optimizer.step(meter)  # type: ignore[arg-type]


def scipys(meter: Meter) -> object:
    start = parameters_to_vector(meter.parameters).detach().numpy().copy()
    options = {"maxcor": 10, "ftol": 0.0, "gtol": 0.0, "maxfun": MANY, "maxiter": MANY}
    return minimize(meter.flat, start, jac=True, method="L-BFGS-B", options=options)


METHODS = {
    "torch.optim.LBFGS": torchs,
    "SciPy L-BFGS-B": scipys,
    "strong Wolfe": ours(line_search="strong-wolfe"),
    "golden section": ours(),
    "golden section, paper's δ": ours(safeguard=False, curvature_offset=1e-6),
}
OURS = ("strong Wolfe", "golden section", "golden section, paper's δ")


def main(
    problem: str = "mnist-fcp(train=5000)", seeds: int = 3, budget: float = 500, picture: Path | None = None
) -> None:
    """Print what each method takes to reach losses of 1e-2, 1e-4, 1e-7 and 1e-10, and where it ends.

    Args:
        problem: its train split is fitted.
        seeds: initialisations.
        budget: gradients a run may take, a loss alone taken as a third.
        picture: where to draw the loss over evaluations, if anywhere.
    """
    found = load_problem(problem)
    print(
        f"{found.name}, {torch.get_num_threads()} thread(s): a loss takes {loss_share(found):.2f} of a gradient"
    )
    print(
        "medians over seeds of gradients + losses (in all, a loss taken as a third), and the range of the loss at the end"
    )
    print(f"{'':28s}" + "".join(f"{f'to {depth:g}':>20s}" for depth in DEPTHS) + f"{'end':>22s}")
    curves = {}
    for name, run in METHODS.items():
        curves[name] = [curve(found, run, seed, budget) for seed in range(seeds)]
        ends = sorted(rows[-1, 2] for rows in curves[name])
        reached = "".join(f"{taken(curves[name], depth):>20s}" for depth in DEPTHS)
        print(f"{name:28s}{reached}{f'{ends[0]:.1e} to {ends[-1]:.1e}':>22s}", flush=True)
    if picture is not None:
        draw(curves, picture)


def loss_share(problem: Problem, repeats: int = 15) -> float:
    """What a loss takes of the time of a gradient, measured in turns."""
    closure = Meter(problem, 0, budget=1).closure
    times: dict[Callable[[], Tensor], list[float]] = {closure: [], closure.loss: []}
    for _ in range(repeats):
        for call, taken in times.items():
            start = time.perf_counter()
            call()
            taken.append(time.perf_counter() - start)
    gradient, loss = map(median, times.values())
    return loss / gradient


def curve(problem: Problem, run: Callable[[Meter], object], seed: int, budget: float) -> np.ndarray:
    """(gradients, losses, lowest loss) after every evaluation (n, 3)."""
    meter = Meter(problem, seed, budget)
    with suppress(StopIteration):
        run(meter)
    return np.array(meter.rows)


def taken(curves: list[np.ndarray], depth: float) -> str:
    """ "120 + 604": evaluations to a loss, medians over the runs; a dash if any run ended above it."""
    if any(rows[-1, 2] > depth for rows in curves):
        return "—"
    first = [rows[np.argmax(rows[:, 2] <= depth)] for rows in curves]
    gradients, losses, _ = np.median(first, axis=0)
    return f"{gradients:.0f} + {losses:.0f} ({gradients + losses / 3:.0f})"


def draw(curves: dict[str, list[np.ndarray]], path: Path) -> None:
    figure = Figure(figsize=(9.6, 4.0), layout="constrained")
    counts = {
        "evaluations, a loss taken as a third of a gradient": 1 / 3,
        "evaluations, each taken as one": 1.0,
    }
    axes = figure.subplots(1, 2, sharey=True)
    for ax, (label, share) in zip(axes, counts.items(), strict=True):
        for (name, runs), color, marker in zip(curves.items(), PALETTE, MARKERS, strict=False):
            for rows in runs:
                x = rows[:, 0] + share * rows[:, 1]
                every = max(1, len(x) // 6)
                look = (
                    {"lw": 1.2} if name in OURS else {"lw": 3, "alpha": 0.5}
                )  # so that lines which coincide are seen
                ax.plot(x, rows[:, 2], color=color, marker=marker, markevery=every, ms=4, label=name, **look)
        ax.set(xscale="log", yscale="log", xlim=10)
        ax.axhline(1e-7, color=MUTED, linewidth=0.8, linestyle="--")
        dress(ax, xlabel=label)
    axes[0].set_ylabel("lowest train loss so far", fontsize=9.5)
    legend(axes[0], loc="lower left")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    command(main)

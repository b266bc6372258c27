"""What each number is called, in which unit, and what it means; and how a number is written."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """A number of a summary. invariant: whether a rescaling of layers that leaves the function as it is leaves it too,
    None where the question does not arise. lower: whether less of it is what one wants or names first."""

    key: str
    name: str
    symbol: str = ""
    unit: str = ""
    section: str = "Other"
    invariant: bool | None = None
    percent: bool = False
    lower: bool = True
    meaning: str = ""

    @property
    def axis(self) -> str:
        """The label of an axis: name, symbol and unit."""
        name = f"{self.name} {self.symbol}".strip()
        return f"{name} ({self.unit})" if self.unit else name

    def write(self, value: float) -> str:
        return percent(value) if self.percent else number(value)


_METRICS = (
    Metric(
        "train_loss",
        "train loss",
        section="Depth",
        meaning="Mean loss over all training examples where the run ended: how deep the minimum is.",
    ),
    Metric(
        "validation_loss",
        "validation loss",
        section="Depth",
        meaning="Mean loss over examples that were kept from training and may guide choices of settings.",
    ),
    Metric(
        "test_loss",
        "test loss",
        section="Depth",
        meaning="Mean loss over examples used for nothing but this number.",
    ),
    Metric(
        "test_accuracy",
        "test accuracy",
        section="Depth",
        percent=True,
        lower=False,
        meaning="Share of the test examples that are classified correctly.",
    ),
    Metric(
        "trace",
        "Hessian trace",
        "tr ∇²L",
        "loss / θ²",
        "Flatness",
        False,
        meaning="Sum of all curvatures of the training loss at the solution, estimated with random probes; each estimate has "
        "a standard error. Rescaling layers changes it and leaves the network's function alone, so it is to be read beside "
        "an invariant measure.",
    ),
    Metric(
        "eigenvalue",
        "top eigenvalue",
        "λ₁",
        "loss / θ²",
        "Flatness",
        False,
        meaning="Curvature in the steepest direction: the largest eigenvalue of ∇²L, by Lanczos, with its residual.",
    ),
    Metric(
        "frobenius",
        "Frobenius norm",
        "‖∇²L‖",
        "loss / θ²",
        "Flatness",
        False,
        meaning="Root of the sum of all squared eigenvalues of ∇²L, from the products that the trace took.",
    ),
    Metric(
        "mean_trace",
        "mean curvature",
        "tr ∇²L / P",
        "loss / θ²",
        "Flatness",
        False,
        meaning="The trace per parameter: the mean of all eigenvalues.",
    ),
    Metric(
        "sam_step",
        "SAM step",
        section="Flatness",
        unit="loss",
        invariant=False,
        meaning="Rise after one step of length ρ up the gradient, as SAM takes it.",
    ),
    Metric(
        "sam_sharpness",
        "SAM sharpness",
        section="Flatness",
        unit="loss",
        invariant=False,
        meaning="Largest rise L(θ+ε) − L(θ) found by iterated ascent within ‖ε‖ ≤ ρ; the true maximum is at least this.",
    ),
    Metric(
        "adaptive_sharpness",
        "adaptive sharpness",
        section="Flatness",
        unit="loss",
        invariant=True,
        meaning="The same with every weight moved in units of its own size, ‖ε/|θ|‖ ≤ ρ. It does not change when layers are "
        "rescaled against each other.",
    ),
    Metric(
        "adaptive_linf_sharpness",
        "adaptive ℓ∞ sharpness",
        section="Flatness",
        unit="loss",
        invariant=True,
        meaning="Largest rise found while no weight moves by more than a share ρ of its own size.",
    ),
    Metric(
        "adaptive_average",
        "average sharpness",
        section="Flatness",
        unit="loss",
        invariant=True,
        meaning="Mean rise under noise in units of every weight's own size, as large as the radius of adaptive sharpness.",
    ),
    Metric(
        "relative_flatness",
        "relative flatness",
        section="Flatness",
        invariant=True,
        meaning="Curvature of a layer weighed with its weights, Σ ⟨w_s, w_s′⟩ tr H_ss′ (Petzka et al. 2021).",
    ),
    Metric(
        "fisher_rao",
        "Fisher–Rao norm",
        "⟨θ, Iθ⟩",
        section="Flatness",
        invariant=True,
        meaning="Length of θ as the Fisher matrix I measures it: how much the predictions change when all weights grow.",
    ),
    Metric(
        "lpf",
        "loss under noise",
        "LPF",
        "loss",
        "Flatness",
        False,
        meaning="Mean loss under Gaussian noise of one standard deviation on all weights.",
    ),
    Metric(
        "pac_bayes_sigma",
        "noise allowed",
        "σ",
        "θ",
        "Flatness",
        False,
        lower=False,
        meaning="Standard deviation of the noise on all weights that raises the mean loss by the tolerance (PAC-Bayes).",
    ),
    Metric(
        "epsilon",
        "way to the valley floor",
        "ε",
        "θ",
        "Flatness",
        False,
        meaning="Distance to the end of gradient flow: how far the solution is from a minimum.",
    ),
    Metric(
        "epsilon_prime",
        "slope along the valley",
        "ε′",
        "loss / θ³",
        "Flatness",
        False,
        meaning="Slope of the mean curvature along the valley floor there: 0 at a flat minimum.",
    ),
    Metric(
        "norm",
        "norm",
        "‖θ‖",
        section="Position",
        invariant=False,
        meaning="Euclidean length of all parameters. Cross-entropy falls when weights grow along a separating direction, so "
        "depth and norm can go together.",
    ),
    Metric(
        "kappa",
        "corridor curvature",
        "κ",
        section="Corridor",
        meaning="h‖Hg‖/‖g‖ along the last steps of training, g the gradient on all data and h the length of the step over ‖g‖: "
        "0 in a corridor, where descent follows a straight line, and small wherever steps are.",
    ),
    Metric(
        "linearity",
        "corridor linearity",
        section="Corridor",
        lower=False,
        meaning="Fall of the loss over its first-order prediction h‖g‖²: 1 in a corridor, negative where a step went up.",
    ),
    Metric(
        "corridor_steps",
        "steps in corridors",
        section="Corridor",
        percent=True,
        lower=False,
        meaning="Share of the optimizer's steps at which κ and the defect of linearity were within their tolerances.",
    ),
    Metric(
        "corridor_decrease",
        "fall of the loss in corridors",
        section="Corridor",
        percent=True,
        lower=False,
        meaning="Share of the whole fall of the loss that corridors carry; rises in them subtract.",
    ),
    Metric(
        "corridor_longest",
        "longest corridor",
        section="Corridor",
        unit="steps",
        lower=False,
        meaning="Steps of the longest stretch of training that was a corridor without a break.",
    ),
    Metric(
        "fall",
        "fall of the loss",
        section="Corridor",
        lower=False,
        meaning="Train loss at the start less at the end.",
    ),
    Metric(
        "foretold",
        "fall foretold by gradients",
        section="Corridor",
        meaning="−g·Δ summed over all steps: how far the loss would have fallen if it had been linear on each.",
    ),
    Metric(
        "change_along",
        "taken back along the gradient",
        section="Corridor",
        meaning="½h²gᵀHg summed over all steps: what curvature along the gradient took back; a corridor has none.",
    ),
    Metric(
        "change_beside",
        "taken back beside it",
        section="Corridor",
        meaning="What curvature took back where steps left the gradient, by noise, momentum or preconditioning.",
    ),
    Metric(
        "change_beyond",
        "taken back by higher orders",
        section="Corridor",
        meaning="Change of the loss of third order and up, summed over all steps.",
    ),
    Metric(
        "gradients",
        "gradient evaluations",
        section="Cost",
        unit="full-batch",
        meaning="Gradients spent in training, counted in passes over the training data.",
    ),
    Metric(
        "distance",
        "distance",
        "‖θ − θ′‖",
        section="Pairs",
        invariant=False,
        meaning="Euclidean distance between two solutions as they are: neurons are not permuted to match.",
    ),
    Metric(
        "linear_barrier",
        "linear barrier",
        section="Pairs",
        unit="loss",
        meaning="Largest loss on the straight line between two solutions, minus the larger loss of its ends.",
    ),
    Metric(
        "barrier",
        "Fourier barrier",
        section="Pairs",
        unit="loss",
        meaning="The same on a path bent by sine modes to avoid high loss. Every path found is an upper bound: a better "
        "search can only lower the barrier.",
    ),
    Metric(
        "height",
        "Fourier height",
        section="Pairs",
        unit="loss",
        meaning="Largest loss on that path itself, an absolute loss: a barrier plus the larger loss of the ends.",
    ),
    Metric(
        "settled",
        "searches settled",
        section="Pairs",
        unit="share",
        meaning="Share of the searches for those paths that converged. What is left of the others' barriers may fall on.",
    ),
)
METRICS = {m.key: m for m in _METRICS}


def metric(key: str) -> Metric:
    """What is known of a metric; of an unknown one, its key in words."""
    return METRICS.get(key) or Metric(key, key.replace("_", " "))


def number(value: float, digits: int = 3) -> str:
    """A number at its significant digits: 0.0123, 4,560, 1.26×10⁻⁸; a dash for NaN."""
    value = float(value)
    if not math.isfinite(value):
        return "–" if math.isnan(value) else ("∞" if value > 0 else "−∞")
    mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
    power = int(exponent)
    if value == 0:
        text = "0"
    elif -4 < power < 0 or 0 <= power < digits:
        text = f"{float(f'{mantissa}e{power}'):.{digits - 1 - power}f}"
    elif digits <= power < 6:
        text = f"{float(f'{mantissa}e{power}'):,.0f}"
    else:
        text = f"{mantissa}×10{str(power).translate(_SUPERSCRIPT)}"
    return text.replace("-", "−")


def bounded(center: float, low: float, high: float) -> str:
    """A number and its interval, as "1.52 (1.2 to 1.8)", or "993 (991 to 995)" where two digits do not tell its ends apart."""
    digits = 2 if number(low, 2) != number(high, 2) else 3
    return f"{number(center)} ({number(low, digits)} to {number(high, digits)})"


def percent(value: float) -> str:
    """A share as per cent, with one decimal; a dash for NaN."""
    return f"{100 * value:.1f} %" if math.isfinite(value) else "–"


_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")

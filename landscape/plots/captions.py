"""Titles and captions of a comparison's pictures: what is drawn, then what it shows, computed from the records."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from scipy.stats import rankdata

from ..comparison import Comparison
from .figures import pair_groups
from .findings import join, listing, standings, verdict, words
from .flatness import FLATNESS
from .labels import metric as about
from .labels import number, percent
from .paths import METHODS

LISTED_GROUPS = 6  # pairs of optimizers that a sentence lists one by one
TITLES = {
    "curves": "Training curves",
    "depth": "Depth against flatness",
    "flatness": "Flatness of every solution",
    "spectrum": "The largest eigenvalues",
    "barriers": "Barriers between all solutions",
    "paths": "The loss along the paths",
    "network": "What joins the minima, and how high",
    "embedding": "Where the solutions lie",
    "profiles": "Along a random line",
    "surfaces": "On a random plane",
    "corridors": "Was the end of training a corridor?",
}


def comparison_captions(comparison: Comparison) -> dict[str, str]:
    """A caption by name for every figure of comparison_figures: what is drawn, then what it shows here."""
    return {
        name: " ".join(part for part in (seen, found(comparison)) if part)
        for name, (seen, found) in _CAPTIONS.items()
    }


def _depth_finding(comparison: Comparison) -> str:
    """Rank correlation of trace and test loss over all solutions, and that groups make such a number."""
    trace = {f.label: f.trace for f in comparison.flatness}
    both = np.array(
        [(trace[s.label], s.test_loss) for s in comparison.solutions if s.label in trace]
    ).reshape(-1, 2)
    both = both[np.isfinite(both).all(1)]
    if len(both) < 4 or (np.ptp(both, axis=0) == 0).any():
        return ""
    rho = float(np.corrcoef(rankdata(both, axis=0), rowvar=False)[0, 1])
    pooled = (
        "; pooled over optimizers, it may come from their differences alone"
        if len(comparison.optimizers) > 1
        else ""
    )
    return f"Spearman's ρ of trace and test loss over these {len(both)} solutions: {number(rho)}{pooled}."


def _flatness_finding(comparison: Comparison) -> str:
    """Which optimizer each measure finds flattest on average."""
    named: dict[str, list[str]] = {}
    for key in FLATNESS:
        found = standings(comparison.summary, key)
        if len(found) > 1:
            named.setdefault(found[0].group, []).append(about(key).name)
    parts = [f"{group} by {words(measures)}" for group, measures in named.items()]
    return f"Flattest on average: {'; '.join(parts)}." if parts else ""


def _barriers_finding(comparison: Comparison) -> str:
    """The lowest and the highest barrier of each method."""
    parts = []
    for method in dict.fromkeys(p.method for p in comparison.paths):
        paths = sorted((p for p in comparison.paths if p.method == method), key=lambda p: p.barrier)
        name, low, high = METHODS.get(method, (method, "", ""))[0], paths[0], paths[-1]
        parts.append(f"{name} {number(low.barrier)} to {number(high.barrier)} ({high.start} – {high.end})")
    return f"From the lowest to the highest barrier: {'; '.join(parts)}." if parts else ""


def _embedding_finding(comparison: Comparison) -> str:
    """The share of variance shown, and the first component's rank correlation with the norm."""
    e = comparison.embedding
    if e is None or not len(e.norm_correlation):
        return ""
    return (
        f"The two components hold {percent(float(np.sum(e.explained[:2])))} of the kernel's variance; Spearman's ρ of the first "
        f"with the norm is {number(e.norm_correlation[0])}."
    )


def _paths_finding(comparison: Comparison) -> str:
    """Largest height on a bent path per group, or the range of these where groups are many."""
    heights = {
        group: max(curved)
        for group, paths in pair_groups(comparison).items()
        if (curved := [p.height for p in paths if p.method != "linear"])
    }
    parts = [f"{group} {number(height)}" for group, height in heights.items()]
    if len(parts) > LISTED_GROUPS:
        ends = sorted(heights, key=lambda group: heights[group])
        low, high = (f"{number(heights[group])} ({group})" for group in (ends[0], ends[-1]))
        return f"Largest loss on a Fourier path, by pair of optimizers: from {low} to {high}."
    return f"Largest loss on a Fourier path: {'; '.join(parts)}." if parts else ""


def _network_finding(comparison: Comparison) -> str:
    """The height at which all are joined, whose search decides it, and how many merges hang on searches that did not settle."""
    network = comparison.network
    if network is None or not network.merges:
        return ""
    last, early = network.merges[-1], sum(not merge.settled for merge in network.merges)
    ends = " – ".join(network.labels[i] for i in last.edge)
    if not np.isfinite(last.height):
        return "Not all of them are joined by paths of finite loss."
    doubt = (
        f" {early} of {len(network.merges)} merges hang on searches that have not settled." if early else ""
    )
    return f"All are joined at a loss of {number(last.height)} ({ends}).{doubt}"


def _curves_finding(comparison: Comparison) -> str:
    """The range of final train losses per optimizer."""
    return _ranges(
        comparison, [s.train_loss for s in comparison.solutions], "Train loss at the end, over all seeds"
    )


def _profiles_finding(comparison: Comparison) -> str:
    """The range of the higher end's loss per optimizer."""
    ends = [float(max(p.loss[0], p.loss[-1])) if p.loss.size else np.nan for p in comparison.profiles]
    return _ranges(comparison, ends, "Higher end of the line")


def _surfaces_finding(comparison: Comparison) -> str:
    edges = [f"{s.label} {number(float(np.median(_edge(s.loss))))}" for s in comparison.surfaces]
    return f"Median loss on the edge of the plane: {'; '.join(edges)}." if edges else ""


def _edge(loss: np.ndarray) -> np.ndarray:
    return np.concatenate([loss[0], loss[-1], loss[1:-1, 0], loss[1:-1, -1]])


def _ranges(comparison: Comparison, values: Sequence[float], lead: str) -> str:
    parts = []
    for name in comparison.optimizers:
        mine = [
            v
            for s, v in zip(comparison.solutions, values, strict=False)
            if s.optimizer == name and np.isfinite(v)
        ]
        if mine:
            low, high = number(min(mine)), number(max(mine))
            parts.append(f"{name} {low}" if low == high else f"{name} {low} to {high}")
    return f"{lead}: {'; '.join(parts)}." if parts else ""


_CAPTIONS: dict[str, tuple[str, Callable[[Comparison], str]]] = {
    "curves": (
        "Every run is one line; an epoch is a pass over the training data, for a full-batch optimizer one step.",
        _curves_finding,
    ),
    "depth": (
        "Every mark is one solution: its loss on training data (left) and on test data (right) against the trace of its Hessian. "
        "If flatter meant better, the right-hand marks would rise from left to right.",
        _depth_finding,
    ),
    "flatness": (
        "Every mark is one solution, with the standard error of its estimate where that exceeds the mark; black: mean of the "
        "optimizer with its interval. The first three change when layers are rescaled, the last does not.",
        _flatness_finding,
    ),
    "spectrum": (
        "The top of the spectrum of ∇²L at every solution.",
        lambda c: join(verdict(c.summary, "eigenvalue"), listing(c.summary, "eigenvalue")),
    ),
    "barriers": (
        "Rows and columns are the solutions, ordered by optimizer and seed; darker is a higher barrier, on a logarithmic scale. "
        "In the blocks of two optimizers, the diagonal joins runs of one seed, which started at the same point.",
        _barriers_finding,
    ),
    "paths": (
        "All pairs, by the optimizers they join: the loss on the straight line and on the path that was bent to avoid it. "
        "An open circle is the top of a path whose search has not settled: it may be lower.",
        _paths_finding,
    ),
    "network": (
        "The disconnectivity graph: every minimum is a branch that starts at its loss, and branches merge at the least height "
        "that joins them, over any chain of the paths found. Across, places mean nothing. Open circles may be lower.",
        _network_finding,
    ),
    "embedding": (
        "Left: kernel PCA of all parameter vectors. Right, the control: the first component against the norm. Where those points "
        "lie on one curve, the component says no more than the norm. Hidden units are not permuted to match.",
        _embedding_finding,
    ),
    "profiles": (
        "The loss along one random direction through every solution, each filter of the direction as long as that filter of the "
        "solution. The middle is the solution itself.",
        _profiles_finding,
    ),
    "surfaces": (
        "The loss on the plane of two random filter-normalized directions through each optimizer's deepest solution (cross), "
        "with the same colours for all. Two directions out of many: a valley need not show.",
        _surfaces_finding,
    ),
    "corridors": (
        "Every run is one line: κ, 0 in a corridor, and linearity, 1 in a corridor, at each of its last steps.",
        lambda c: join(verdict(c.summary, "linearity"), listing(c.summary, "linearity")),
    ),
}

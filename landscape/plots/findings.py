"""What a comparison found, in sentences computed from its numbers: who comes first, and whether the intervals say so."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..comparison import Comparison
from ..results import Embedding, Summary
from .labels import metric as about
from .labels import number, percent
from .paths import METHODS

LISTED = 3  # groups that a sentence lists; the table holds all


@dataclass(frozen=True)
class Finding:
    """A topic, what was found in a sentence or two, and the numbers behind them."""

    topic: str
    headline: str
    evidence: str


@dataclass(frozen=True)
class Standing:
    """One group's center and interval of one metric."""

    group: str
    center: float
    low: float
    high: float
    count: int

    @property
    def has_interval(self) -> bool:
        return self.count > 1 and bool(np.isfinite([self.low, self.high]).all())


_CORRIDOR = "κ grows with the step h at the end of training, which optimizers and schedules set: it is listed, not ranked."


def comparison_findings(comparison: Comparison) -> list[Finding]:
    """The comparison in brief, one finding a topic; topics without numbers are left out."""
    summary = comparison.summary
    findings = [
        Finding("Depth", verdict(summary, "train_loss"), listing(summary, "train_loss")),
        Finding("Generalization", verdict(summary, "test_loss"), listing(summary, "test_loss")),
        _flatness(summary),
        _barriers(comparison),
        _position(comparison),
        Finding("Corridor", _CORRIDOR if len(summary.groups) > 1 else "", listing(summary, "kappa")),
    ]
    return [f for f in findings if f.headline or f.evidence]


def standings(summary: Summary, key: str) -> list[Standing]:
    """The groups that have this metric, the best first (the lowest, unless more is better); empty where there are none."""
    if key not in summary.metrics:
        return []
    row = summary.metrics.index(key)
    table = zip(
        summary.groups,
        summary.center[row],
        summary.low[row],
        summary.high[row],
        summary.counts[row],
        strict=True,
    )
    found = [Standing(g, float(c), float(lo), float(hi), int(n)) for g, c, lo, hi, n in table]
    sign = 1 if about(key).lower else -1
    return sorted((s for s in found if np.isfinite(s.center)), key=lambda s: sign * s.center)


def apart(a: Standing, b: Standing) -> bool | None:
    """Whether two intervals are disjoint; None where one of them is missing."""
    if not (a.has_interval and b.has_interval):
        return None
    return a.high < b.low or b.high < a.low


def verdict(summary: Summary, key: str) -> str:
    """Who comes first in a metric, as far as the intervals say; empty for fewer than two groups."""
    found = standings(summary, key)
    if len(found) < 2:
        return ""
    first, known = found[0], about(key)
    best = f"{'lowest' if known.lower else 'highest'} {known.name}"
    equal = [s.group for s in found if s.center == first.center]
    if len(equal) > 1:
        return f"{words(equal)} share the {best}, {known.write(first.center)}."
    doubts = {s.group: apart(first, s) for s in found[1:] if not apart(first, s)}
    if not doubts:
        return f"{first.group} has the {best}."
    if None in doubts.values():
        return f"{first.group} has the {best} here, with no intervals to judge by."
    if len(doubts) >= LISTED:
        return f"The {best} is not settled: the interval of {first.group} overlaps those of {len(doubts)} others."
    return f"The {best} is not settled between {words([first.group, *doubts])}: their intervals overlap."


def listing(summary: Summary, key: str) -> str:
    """The first groups of a metric with their intervals: "Train loss: lbfgs 0.10 [0.08, 0.12], sgd …."."""
    found = [written(s, key) for s in standings(summary, key)]
    more = f" and {len(found) - LISTED} more" if len(found) > LISTED else ""
    return f"{capital(about(key).name)}: {', '.join(found[:LISTED])}{more}." if found else ""


def written(standing: Standing, key: str) -> str:
    """ "lbfgs 0.10 [0.08, 0.12]" """
    write = about(key).write
    interval = f" [{write(standing.low)}, {write(standing.high)}]" if standing.has_interval else ""
    return f"{standing.group} {write(standing.center)}{interval}"


def join(*sentences: str) -> str:
    """Those sentences that are not empty, as one paragraph."""
    return " ".join(s for s in sentences if s)


def words(names: list[str]) -> str:
    """ "a, b and c" """
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def capital(text: str) -> str:
    """The text with its first letter a capital."""
    return text[:1].upper() + text[1:]


def _flatness(summary: Summary) -> Finding:
    """The order by trace, and whether the invariant measure says the same."""
    trace, adaptive = verdict(summary, "trace"), verdict(summary, "adaptive_sharpness")
    lists = join(listing(summary, "trace"), listing(summary, "adaptive_sharpness"))
    if not trace or not adaptive:
        return Finding("Flatness", trace or adaptive, lists)
    flattest = standings(summary, "trace")[0].group
    first, *others = standings(summary, "adaptive_sharpness")
    there = next((s for s in others if s.group == flattest), first)
    if there is first:
        says = "names it first as well" + (
            "" if all(apart(first, s) for s in others) else ", but not beyond doubt"
        )
    elif apart(first, there):
        says = f"says otherwise: by it, {flattest} is sharper than {first.group}"
    else:
        says = f"does not tell {flattest} from {first.group}"
    invariant = f"Adaptive sharpness, which rescaling of layers does not change, {says}."
    return Finding("Flatness", join(trace, invariant), lists)


def _barriers(comparison: Comparison) -> Finding:
    """Medians over all pairs by method, who joins over the lowest barrier, and how many searches stopped early."""
    medians: dict[str, float] = {}
    stopped = []
    for method in dict.fromkeys(p.method for p in comparison.paths):
        paths = [p for p in comparison.paths if p.method == method]
        name = METHODS.get(method, (method, "", ""))[0]
        medians[name] = float(np.median([p.barrier for p in paths]))
        early = sum(not p.converged for p in paths)
        if early:
            stopped.append(
                f"{early} of {len(paths)} searches for a {name} stopped before they had converged: a longer search may "
                "lower their barriers."
            )
    if not medians:
        return Finding("Barriers", "", "")
    pairs = {frozenset((p.start, p.end)) for p in comparison.paths}
    count = "1 pair" if len(pairs) == 1 else f"{len(pairs)} pairs"
    median = (
        f"Median barrier over {count}: {', '.join(f'{number(m)} on the {n}' for n, m in medians.items())}."
    )
    summary = comparison.pair_summary
    groups = standings(summary, "barrier")
    highest = f"Highest Fourier barrier: {written(groups[-1], 'barrier')}." if len(groups) > 1 else ""
    return Finding(
        "Barriers",
        join(_bending(medians), verdict(summary, "barrier")),
        join(median, highest, *stopped),
    )


def _bending(medians: dict[str, float]) -> str:
    """Whether bending the path lowered the median barrier."""
    straight, bent = (medians.get(METHODS[method][0]) for method in ("linear", "fourier"))
    if straight is None or bent is None:
        return ""
    if bent == 0 < straight:
        return "Bending the straight line leaves no barrier between at least half of the pairs."
    if bent >= straight:
        return "Bending the path does not lower the median barrier."
    share = (
        f" to {percent(bent / straight)} of it"
        if bent > 1e-3 * straight
        else " by more than a factor of 1,000"
    )
    return f"Bending the straight line lowers the median barrier{share}."


def _position(comparison: Comparison) -> Finding:
    """How well optimizers are told apart by the coordinates, and whether the norm alone does it as well."""
    e = comparison.embedding
    if e is None or len(set(e.groups)) < 2 or not np.isfinite([e.kernel_accuracy, e.norm_accuracy]).all():
        return Finding("Position", "", "")
    by = [
        f"{percent(getattr(e, f'{control}_accuracy'))} {said}{_chance_of(e.p_value(control))}"
        for control, said in (
            ("kernel", "by the kernel PCA coordinates"),
            ("norm", "by the norm"),
            ("centroid", "by the nearest centroid"),
        )
    ]
    evidence = (
        f"Held out in {e.folds}-fold cross-validation, a solution is given the right optimizer in {by[0]}, {by[1]} and {by[2]}; "
        f"chance alone gives {percent(e.chance)}. p is the chance of groups as far apart under permuted names."
    )
    if not _tells(e, "kernel"):
        norm = "the norm ‖θ‖ does" if _tells(e, "norm") else "nor does the norm ‖θ‖"
        headline = f"The kernel PCA coordinates do not tell the optimizers apart; {norm}."
    elif e.norm_accuracy >= e.kernel_accuracy:
        headline = "The norm ‖θ‖ alone tells the optimizers apart at least as well as kernel PCA does."
    else:
        headline = "Kernel PCA tells the optimizers apart better than the norm ‖θ‖ alone."
    return Finding("Position", headline, evidence)


def _tells(embedding: Embedding, control: str) -> bool:
    """Whether groups are told apart by a control better than by chance, as far as a test at 5 % was made."""
    accuracy = getattr(embedding, f"{control}_accuracy")
    return accuracy > embedding.chance and not embedding.p_value(control) > 0.05


def _chance_of(p: float) -> str:
    return f" (p = {number(p, 2)})" if np.isfinite(p) else ""

"""A comparison: the records of one run of ``landscape compare``, as they lie in its directory."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import InputError
from .records import load
from .results import (
    Corridor,
    Embedding,
    Flatness,
    MinimaNetwork,
    PathRecord,
    Profile,
    Solution,
    Summary,
    Surface,
)

SETTINGS = "comparison.json"


@dataclass(frozen=True)
class Comparison:
    """Everything a report is made from. Tuples follow the order of ``solutions``: by optimizer, then seed.

    settings: problem, optimizers (label and recipe in full), seeds and options, as JSON holds them.
    flatness, corridors, profiles: one a solution. surfaces: one an optimizer, at its deepest solution.
    paths: one a pair and method ("linear", "fourier"). summary: groups are optimizers; pair_summary: groups are
    pairs of optimizers, "sgd – sgd" or "sgd – lbfgs".
    """

    directory: Path
    settings: dict[str, Any]
    solutions: tuple[Solution, ...]
    flatness: tuple[Flatness, ...]
    corridors: tuple[Corridor, ...]
    profiles: tuple[Profile, ...]
    surfaces: tuple[Surface, ...]
    paths: tuple[PathRecord, ...]
    embedding: Embedding | None  # None for fewer than three solutions
    network: MinimaNetwork | None  # what joins them at which height; None for a single one
    summary: Summary
    pair_summary: Summary

    @property
    def optimizers(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(s.optimizer for s in self.solutions))

    @property
    def report(self) -> Path:
        return self.directory / "report.html"


def load_comparison(directory: str | os.PathLike[str]) -> Comparison:
    """The comparison in a directory; InputError if there is none, or it is not finished."""
    directory = Path(directory)
    try:
        manifest = json.loads((directory / SETTINGS).read_text())
        files = {kind: [directory / name for name in names] for kind, names in manifest["files"].items()}
    except (OSError, ValueError, KeyError, AttributeError, TypeError) as error:
        raise InputError(
            f"{directory} holds no comparison ({SETTINGS} is missing or damaged); make one with landscape compare."
        ) from error
    for path in (p for paths in files.values() for p in paths):
        if not path.exists():
            raise InputError(
                f"the comparison in {directory} is not finished: {path.name} is missing; run landscape compare again."
            )
    records = {kind: tuple(load(path) for path in paths) for kind, paths in files.items()}
    return Comparison(
        directory=directory,
        settings=manifest["settings"],
        **{k: records[k] for k in ("solutions", "flatness", "corridors", "profiles", "surfaces", "paths")},
        embedding=next(iter(records["embedding"]), None),
        network=next(iter(records.get("network", ())), None),
        summary=records["summary"][0],
        pair_summary=records["pair_summary"][0],
    )

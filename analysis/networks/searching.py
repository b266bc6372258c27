"""How the network of minima is searched: every line, path and minimum is made once, or read where it is on disk."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from scipy.optimize import minimize
from scipy.signal import find_peaks
from torch import Tensor

from landscape import InputError, Objective
from landscape.parameters import float64_array
from landscape.records import Record, file_name
from landscape.results import PathRecord, Solution

from ..paths.find import find_path, linear_path
from .known import Known, Pair

_DIP = 0.01  # of a path's barrier: how deep what may be a minimum is
_DESCENT = 1000  # steps of L-BFGS at most
_LONGEST = 60  # letters of a label in the name of a file

Kind = TypeVar("Kind", bound=Record)


@dataclass(eq=False)
class Search:
    """What is known, and how to know more: each line, path and minimum is made once, or read if it is on disk."""

    objective: Objective
    rows: list[Tensor]
    known: Known
    lined: dict[str, Any]  # settings of linear_path, and beside those of find_path
    searched: dict[str, Any]
    minima: bool
    seed: int
    folder: Path | None
    on_path: Callable[[PathRecord], None]
    about: dict[str, Any]

    def line(self, pair: Pair) -> None:
        if pair not in self.known.lines:
            key = digest("linear", self.lined["hold_norm"], *self._ends(pair))
            how = {**self._names(pair), **self.lined}

            def sample() -> PathRecord:
                return linear_path(self.objective, *self._ends(pair), **how)

            self.take(pair, self._kept(pair, "line", key, PathRecord, sample))

    def path(self, pair: Pair) -> PathRecord:
        ends, given = self._ends(pair), max(pair) < len(self.rows) - len(self.known.found)
        seed = int(digest(self.seed, *ends), 16) % 2**63
        how = {**self._names(pair), **self.lined, **self.searched, "minima": self.minima and given}

        def find() -> PathRecord:
            return find_path(self.objective, *ends, generator=torch.Generator().manual_seed(seed), **how)

        key = digest(sorted(self.searched.items()), self.lined["hold_norm"], self.seed, *ends)
        path = self._kept(pair, "path", key, PathRecord, find)
        self.take(pair, path)
        return path

    def take(self, pair: Pair, path: PathRecord, *, turned: bool = False) -> None:
        """Adds a path, if its ends are what they should be."""
        theirs = [float(path.loss[-1 if turned else 0]), float(path.loss[0 if turned else -1])]
        ours = [self.known.loss[i] for i in pair]
        scale = max(np.abs(path.loss[np.isfinite(path.loss)]).max(initial=0), *np.abs(ours))
        near = math.sqrt(torch.finfo(self.objective.dtype).eps) * scale
        if not np.allclose(theirs, ours, rtol=0, atol=near):
            names = " and ".join(self.known.labels[i] for i in pair)
            raise InputError(
                f"a path that is to join {names} has losses {theirs[0]:.6g} and {theirs[1]:.6g} at its ends, but the minima have "
                f"{ours[0]:.6g} and {ours[1]:.6g}: it is of others, or of another loss; leave it out, or take another folder."
            )
        self.known.add(pair, path)
        self.on_path(path)

    def minima_below(self, pair: Pair, path: PathRecord, most: int) -> list[int]:
        """The numbers of minima, at most so many, that were added since the path of a pair dips to them."""
        new: list[int] = []
        deep = _DIP * path.barrier
        for dip in find_peaks(-path.loss, prominence=deep)[0] if deep > 0 and most > 0 else ():
            if len(new) < most:
                new += self._adopt(pair, self.objective.point(path.path(float(path.t[dip]))), deep)
        return new

    def _adopt(self, pair: Pair, start: Tensor, deep: float) -> list[int]:
        """The number of the minimum below a point, if the straight line to each other one has a barrier as high as this."""
        key = digest("descent", start)
        found = self._kept(pair, "minimum", key, Solution, lambda: _descend(self.objective, start))
        self.known.gradients += int(found.gradients)
        theta = self.objective.point(found.theta)
        if any(theta.equal(row) for row in self.rows):
            return []
        number = self.known.grow(self._free_label(), "found", found.train_loss)
        self.rows.append(theta)
        for other in range(number):
            self.line((other, number))
            if self.known.lines[other, number].height < max(self.known.loss[other], found.train_loss) + deep:
                self.rows.pop()
                self.known.shrink()
                return []
        self.known.found.append(found.theta)
        return [number]

    def _free_label(self) -> str:
        number = len(self.known.found)
        while (label := f"found/{number}") in self.known.labels:
            number += 1
        return label

    def _ends(self, pair: Pair) -> tuple[Tensor, Tensor]:
        return self.rows[pair[0]], self.rows[pair[1]]

    def _names(self, pair: Pair) -> dict[str, Any]:
        return {"start": self.known.labels[pair[0]], "end": self.known.labels[pair[1]], "about": self.about}

    def _kept(self, pair: Pair, what: str, key: str, kind: type[Kind], make: Callable[[], Kind]) -> Kind:
        """What was made before and is on disk; or else it is made, and saved if there is a folder."""
        if self.folder is None:
            return make()
        names = "--".join(self.known.labels[i][:_LONGEST] for i in pair)
        file = self.folder / f"{file_name(names)}-{what}-{key}.npz"
        if file.exists():
            return kind.load(file)
        record = make()
        record.save(file)
        return record


def _descend(objective: Objective, start: Tensor) -> Solution:
    """The minimum that L-BFGS comes to."""

    def value_and_grad(theta: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = objective.value_and_grad(objective.point(theta))
        return float(value), float64_array(gradient)

    settings = {"maxiter": _DESCENT, "ftol": 0.0, "gtol": 0.0}  # as far down as rounding lets it
    end = minimize(value_and_grad, float64_array(start), jac=True, method="L-BFGS-B", options=settings)
    return Solution(
        problem="",
        optimizer="found",
        seed=0,
        theta=end.x,
        names=("theta",),
        shapes=(end.x.shape,),
        train_loss=float(end.fun),
        gradients=end.nfev,
        status=str(end.message),
    )


def digest(*parts: Any) -> str:
    """Sixteen hexadecimal digits of tensors and what else tells two results apart."""
    told = hashlib.sha256()
    for part in parts:
        told.update(content(part) if isinstance(part, Tensor) else repr(part).encode())
    return told.hexdigest()[:16]


def content(row: Tensor) -> bytes:
    return (float64_array(row) + 0.0).tobytes()  # −0 is 0

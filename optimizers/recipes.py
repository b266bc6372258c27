"""Recipes: an optimizer with its settings and how long it runs, written as ``alto(lr=0.01, epochs=500)``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any, get_args

import torch
from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler

from landscape import InputError, Problem
from landscape.calls import format_call, import_attribute, parse_call

from .alto import ALTO
from .clr import CLR
from .e import E
from .fit import Kept
from .lamb import Lamb
from .lbfgs import LBFGS
from .nso import NSO
from .qhm import QHM
from .sam import SAM
from .sharpness_aware import SharpnessAwarePerturbation
from .smoothed import SmoothedPerturbation

_RUN_OPTIONS = ("epochs", "batch_size", "schedule", "keep")
_LABELLED = re.compile(r"^\s*(?P<label>[\w.\-]+)\s*=\s*(?P<call>.+)$", re.DOTALL)


@dataclass(frozen=True)
class Recipe:
    """How one optimizer is run: ``make(params, **settings)`` for ``epochs`` at a batch size and a schedule.

    epochs None means as many as the problem says.
    batch_size None takes the whole data for every step. schedule is "constant" or "cosine" (to zero over the run).
    keep is "last" or "validation", as fit has it.
    """

    name: str
    make: Callable[..., Optimizer]
    settings: dict[str, Any] = field(default_factory=dict)
    epochs: int | None = None
    batch_size: int | None = 64
    schedule: str = "constant"
    keep: Kept = "last"
    label: str = ""

    def __post_init__(self) -> None:
        if self.schedule not in ("constant", "cosine"):
            raise InputError(
                f"schedule must be 'constant' or 'cosine', got {self.schedule!r} in {self.name}."
            )
        if self.keep not in get_args(Kept):
            raise InputError(f"keep must be 'last' or 'validation', got {self.keep!r} in {self.name}.")
        for name in ("epochs", "batch_size"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise InputError(
                    f"{name} must be a whole number of at least 1, or None, got {value!r} in {self.name}."
                )
        self.optimizer(
            [nn.Parameter(torch.zeros(2, 2))]
        )  # so that a wrong setting shows before anything is run

    def __str__(self) -> str:
        """The recipe in full, so that it can be read and repeated."""
        run = {name: getattr(self, name) for name in _RUN_OPTIONS}
        if self.keep == "last":
            del run["keep"]
        return format_call(self.name, {**self.settings, **run})

    def optimizer(self, params: Iterable[nn.Parameter]) -> Optimizer:
        try:
            made = self.make(params, **self.settings)
        except Exception as error:
            raise InputError(
                f"the optimizer {self.name!r} cannot be made with {self.settings}: {error}"
            ) from error
        if not isinstance(made, Optimizer):
            raise InputError(f"{self.name!r} must make a torch.optim.Optimizer, got a {type(made).__name__}.")
        return made

    @property
    def scheduler(self) -> Callable[[Optimizer], LRScheduler] | None:
        """optimizer -> learning-rate scheduler over the run; None for a constant rate."""
        if self.schedule == "constant":
            return None
        return lambda optimizer: CosineAnnealingLR(optimizer, self.epochs or 1)

    def on(self, problem: Problem) -> Recipe:
        """The recipe with its number of epochs settled."""
        return self if self.epochs else replace(self, epochs=problem.epochs)


def _around(adaptor: Callable[..., Optimizer], base: type[Optimizer], *own: str) -> Callable[..., Optimizer]:
    """(params, **settings) -> the adaptor, with those settings that are its own, around the base, with the others."""

    def make(params: Iterable[nn.Parameter], **settings: Any) -> Optimizer:
        mine = {name: settings.pop(name) for name in own if name in settings}
        return adaptor(base(params, **settings), **mine)  # type: ignore[call-arg]

    return make


_E = ("alpha", "beta", "init")

RECIPES: dict[str, Recipe] = {
    # lr 0.1 at batch 64 over 75 epochs of MNIST reproduces the SGD rows of Yu and Morozov (2026).
    "sgd": Recipe("sgd", SGD, {"lr": 0.1}),
    "adamw": Recipe("adamw", AdamW, {"lr": 1e-3}),
    # Yu and Morozov (2026): full batch, at most 1000 iterations. The tolerance, that of
    # torch.optim.LBFGS, ends at losses like theirs, about 1e-8.
    "lbfgs": Recipe("lbfgs", LBFGS, {"gradient_tolerance": 1e-7}, epochs=1000, batch_size=None),
    # alpha = -5 is its authors' choice for batches of 1,000 and more. Lamb is ALTO without E.
    "alto": Recipe("alto", ALTO, {"lr": 0.01}, batch_size=2048, schedule="cosine"),
    "lamb": Recipe("lamb", Lamb, {"lr": 0.01}, batch_size=2048, schedule="cosine"),
    "e-sgd": Recipe("e-sgd", _around(E, SGD, *_E), {"lr": 0.1}),
    "e-adamw": Recipe("e-adamw", _around(E, AdamW, *_E), {"lr": 1e-3}),
    "qhm": Recipe("qhm", QHM, {"lr": 0.1}),
    "sam": Recipe("sam", _around(SAM, SGD, "rho", "adaptive"), {"lr": 0.1}),
    "nso": Recipe("nso", _around(NSO, SGD, "sigma", "samples"), {"lr": 0.1}),
    "clr": Recipe("clr", CLR, {"max_lr": 3.0}),  # the bare rule leaves some problems at once
    "rs": Recipe("rs", SmoothedPerturbation, {"lr": 0.1, "rho": 0.1}, batch_size=None),
    "sa": Recipe("sa", SharpnessAwarePerturbation, {"lr": 0.1, "rho": 0.1}, batch_size=None),
}


def parse_recipe(text: str) -> Recipe:
    """The recipe of ``name``, ``name(key=value, …)`` or ``label=name(…)``.

    The name is one of RECIPES, or ``package.module:attribute`` of a function (params, **settings) -> optimizer. The
    keys epochs, batch_size, schedule and keep belong to the run, the others go to the optimizer. A changed recipe is
    labelled by its whole text, unless it is given a label.
    """
    labelled = _LABELLED.match(text)
    call = labelled["call"] if labelled else text
    name, settings = parse_call(call)
    label = labelled["label"] if labelled else format_call(name, settings)
    run = {key: settings.pop(key) for key in _RUN_OPTIONS if key in settings}
    if ":" in name:
        return Recipe(name, import_attribute(name), settings, label=label, **run)
    if name not in RECIPES:
        raise InputError(
            f"there is no optimizer {name!r}; choose one of {', '.join(RECIPES)}, or name your own as package.module:attribute."
        )
    known = RECIPES[name]
    return replace(known, settings={**known.settings, **settings}, label=label, **run)

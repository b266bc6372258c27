"""Adaptor: an optimizer around another one, and to its user an ordinary torch optimizer."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable
from typing import Any, ClassVar

from torch.optim import Optimizer

from landscape import InputError


class Adaptor(Optimizer, ABC):
    """Changes what a base optimizer sees, and leaves the step to it. Abstract: E, SAM, NSO and CLR are the final ones.

    The parameter groups are the base's own, so schedulers, ``add_param_group`` and ``zero_grad`` act on both. Step
    the adaptor, never the base. An adaptor may itself be the base of another.

    A subclass names its settings, which become attributes and part of the state dict, in ``_settings``.

    Raises:
        InputError: a base that is no optimizer, or one that calls a closure several times a step.
    """

    base: Optimizer
    _settings: ClassVar[tuple[str, ...]]

    def __init__(self, base_optimizer: Optimizer, **settings: Any) -> None:
        _check_base(base_optimizer)
        # Optimizer.__init__ would make groups of its own; what else it sets up, __setstate__ sets up too.
        self.__setstate__(
            {
                "base": base_optimizer,
                "state": defaultdict(dict),
                "defaults": base_optimizer.defaults,
                **settings,
            }
        )

    @abstractmethod
    def step(self, closure: Callable[[], Any] | None = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The closure's loss (None without one), after one step of the base."""

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The base's groups: the same list, also after either of the two has loaded a state."""
        return self.base.param_groups

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        self.base.add_param_group(param_group)

    def state_dict(self) -> dict[str, Any]:
        """This optimizer's own state, its settings, and the base's state dict under "base"."""
        settings = {name: getattr(self, name) for name in self._settings}
        return {**super().state_dict(), "base": self.base.state_dict(), "settings": settings}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Resume exactly where the state dict was taken: own state, settings and base."""
        name, settings = type(self).__name__, state_dict.get("settings")
        if "base" not in state_dict or not isinstance(settings, dict) or set(settings) != set(self._settings):
            raise InputError(
                f"state_dict must be one of {name}, with 'base' and the settings {', '.join(self._settings)}, but it holds "
                f"{list(state_dict)}; load the state of a bare optimizer into it before wrapping it in {name}."
            )
        self.base.load_state_dict(state_dict["base"])
        super().load_state_dict({key: state_dict[key] for key in ("state", "param_groups")})
        for setting, value in settings.items():
            setattr(self, setting, value)

    def __getstate__(self) -> dict[str, Any]:
        return {key: self.__dict__[key] for key in ("base", "state", "defaults", *self._settings)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({key: value for key, value in state.items() if key != "param_groups"})

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={getattr(self, name)!r}" for name in self._settings)
        return f"{type(self).__name__}({settings}, base={self.base!r})"


def _check_base(base: object) -> None:
    if not isinstance(base, Optimizer):
        raise InputError(f"base_optimizer must be a torch.optim.Optimizer, got {base!r}; build it first.")
    if getattr(base, "needs_loss", False):
        name = type(base).__name__
        raise InputError(
            f"base_optimizer must step on gradients alone, but {name} needs the loss as well; put it outside, {name}(…) around "
            "the others."
        )
    closure = inspect.signature(base.step).parameters.get("closure")
    evaluates = getattr(base, "evaluates_closure", False)
    if evaluates or (closure is not None and closure.default is inspect.Parameter.empty):
        raise InputError(
            f"base_optimizer must step on the gradients it finds, but {type(base).__name__} calls a closure several "
            "times a step, where an adaptor cannot change what it sees; take a first-order one such as SGD or Adam."
        )

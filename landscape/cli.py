"""The ``landscape`` command: options from the functions in ``commands``, and errors as people read them.

Input that cannot be used ends in one sentence on standard error and exit code 2; with LANDSCAPE_DEBUG set, in the
traceback, which shows where in one's own module an error was raised.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from jsonargparse import ArgumentParser

from . import __version__, commands
from .errors import InputError

DESCRIPTION = (
    "Which minima did my optimizers find? Depth, flatness, barriers, valleys and corridors of PyTorch models."
)


COMMANDS: dict[str, Callable[..., None]] = {
    "compare": commands.compare_optimizers,
    "train": commands.train,
    "flatness": commands.flatness,
    "barrier": commands.barrier,
    "network": commands.network,
    "embed": commands.embed,
    "scan": commands.scan,
    "surface": commands.surface,
    "corridor": commands.corridor,
    "report": commands.report,
}
_LISTS: dict[str, dict[str, Any]] = {
    "compare": {
        "--optimizers": {
            "nargs": "+",
            "default": ["sgd", "lbfgs", "alto"],
            "metavar": "RECIPE",
            "help": "sgd, adamw, lbfgs, alto, lamb, e-sgd, e-adamw, qhm, sam, nso, clr, rs, sa, with settings as in "
            "'alto(lr=0.01, epochs=500)', named as in "
            "'slow=sgd(lr=0.01)', or your own as package.module:attribute.",
        }
    },
    "flatness": {"solutions": {"nargs": "+", "metavar": "SOLUTION", "help": "files of solutions (.npz)."}},
    "network": {
        "solutions": {"nargs": "+", "metavar": "SOLUTION", "help": "files of solutions (.npz), two or more."}
    },
    "embed": {
        "solutions": {
            "nargs": "+",
            "metavar": "SOLUTION",
            "help": "files of solutions (.npz), or folders of trajectories; three points or more.",
        }
    },
    "scan": {
        "solutions": {
            "nargs": "+",
            "metavar": "SOLUTION",
            "help": "files of one, two or three solutions (.npz), or folders of trajectories.",
        },
        "--also": {
            "nargs": "+",
            "default": [],
            "choices": ["validation", "test", "accuracy", "gradient"],
            "help": "what is recorded beside the train loss: the losses of other splits, accuracies, the gradient's norm.",
        },
    },
    "surface": {
        "records": {"nargs": "+", "metavar": "RECORD", "help": "planes that landscape scan recorded (.npz)."}
    },
    "corridor": {
        "trajectories": {"nargs": "+", "metavar": "TRAJECTORY", "help": "folders of recorded trajectories."}
    },
}


class _Parser(ArgumentParser):
    """Reports a wrong option in one line."""

    def error(self, message: str, ex: Exception | None = None) -> Any:
        sentence = " ".join(message.split())
        _fail(f"{sentence} (landscape --help lists the options)")


def parser() -> ArgumentParser:
    top = _Parser(prog="landscape", description=DESCRIPTION, version=__version__)
    commands = top.add_subcommands(dest="command", metavar="COMMAND")
    for name, function in COMMANDS.items():
        summary = (function.__doc__ or "").partition("\n")[0]
        sub = _Parser(prog=f"landscape {name}", description=summary)
        lists = _LISTS.get(name, {})
        sub.add_function_arguments(
            function, as_group=False, as_positional=True, skip={key.lstrip("-") for key in lists}
        )
        for key, settings in lists.items():
            sub.add_argument(key, type=str, **settings)
        sub.add_argument("--config", action="config", help="a YAML file with any of these options.")
        commands.add_subcommand(name, sub, help=summary)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; 0 if it went well, 2 for input that cannot be used, 130 if it was interrupted."""
    top = parser()
    try:
        given = list(sys.argv[1:] if arguments is None else arguments)
        parsed = top.instantiate(top.parse_args(_config_first(given)))
        name = parsed.command
        options = {key: value for key, value in vars(parsed[name]).items() if key != "config"}
        COMMANDS[name](**options)
    except InputError as error:
        if os.environ.get("LANDSCAPE_DEBUG"):
            raise
        _fail(str(error))
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)  # noqa: T201
        return 130
    return 0


def _config_first(arguments: list[str]) -> list[str]:
    """The arguments with config files before all other options, so that what is typed wins over what is in a file."""
    files, others = [], []
    for i, argument in enumerate(arguments):
        follows = i > 0 and arguments[i - 1] == "--config"
        (files if argument == "--config" or argument.startswith("--config=") or follows else others).append(
            argument
        )
    return others[:1] + files + others[1:]


def _fail(sentence: str) -> None:
    print(f"landscape: {sentence}", file=sys.stderr)  # noqa: T201
    sys.stderr.flush()
    raise SystemExit(2)


if __name__ == "__main__":
    sys.exit(main())

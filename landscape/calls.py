"""Names with settings, as users write them: ``alto(lr=0.01)``, ``mnist-fcp(train=5000)``, ``mypackage.module:thing``."""

from __future__ import annotations

import ast
import importlib
import re
import sys
from pathlib import Path
from typing import Any

from .errors import InputError, told

_CALL = re.compile(r"^\s*(?P<name>[\w.:\-]+)\s*(?:\((?P<arguments>.*)\))?\s*$", re.DOTALL)


def parse_call(text: str) -> tuple[str, dict[str, Any]]:
    """(name, settings) of ``name`` or ``name(key=value, …)``; values are Python literals.

    >>> parse_call("alto(lr=0.01, betas=(0.9, 0.9, 0.99))")
    ('alto', {'lr': 0.01, 'betas': (0.9, 0.9, 0.99)})
    """
    match = _CALL.match(text)
    if match is None:
        raise InputError(f"{text!r} is no name; write name or name(key=value), for example alto(lr=0.01).")
    try:
        call = ast.parse(f"f({match['arguments'] or ''})", mode="eval").body
        if not isinstance(call, ast.Call) or call.args or any(k.arg is None for k in call.keywords):
            raise ValueError("only key=value is allowed")
        return match["name"], {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
    except (SyntaxError, ValueError, TypeError) as error:
        raise InputError(
            f"the settings in {text!r} cannot be read; write name(key=value) with plain Python values, for example alto(lr=0.01)."
        ) from error


def format_call(name: str, settings: dict[str, Any]) -> str:
    """The inverse of parse_call, in one spelling."""
    inside = ", ".join(f"{key}={value!r}" for key, value in settings.items())
    return f"{name}({inside})" if inside else name


def import_attribute(name: str) -> Any:
    """The object that ``package.module:attribute`` names; the working directory is searched too."""
    module_name, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in module_name.split(".")) or not attribute.isidentifier():
        raise InputError(f"{name!r} is no name of an attribute; write package.module:attribute.")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise InputError(
                f"the module {module_name!r} needs {error.name!r}, which is not installed; install it."
            ) from error
        raise InputError(
            f"the module {module_name!r} of {name!r} cannot be found from {here}; check its name, or install it."
        ) from error
    except Exception as error:
        raise InputError(
            f"the module {module_name!r} of {name!r} cannot be imported: {told(error)}."
        ) from error
    if not hasattr(module, attribute):
        raise InputError(
            f"the module {module_name!r} has no attribute {attribute!r}; check the name after the colon."
        )
    return getattr(module, attribute)

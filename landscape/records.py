"""Records: every result as a frozen dataclass, saved as .npz without pickle under a JSON header.

Arrays and numbers are raw data; what can be derived from them is a property. θ is NumPy here and lives on
a device only inside a stage. A record needs neither model nor GPU to be read, drawn or reported.
"""

from __future__ import annotations

import json
import os
import platform
import re
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from .errors import InputError

FORMAT = "torch-landscape"
Array = np.ndarray
NAN = float("nan")


@dataclass(frozen=True, kw_only=True, eq=False)
class Record:
    """What all results share: saving, loading, and ``about``, the JSON header's provenance.

    A subclass is frozen; its array fields hold np.ndarray, the others whatever JSON holds. Its class name in
    lower case is the kind in the header; ``schema`` counts its incompatible versions.
    """

    schema: ClassVar[int] = 1
    kinds: ClassVar[dict[str, type[Record]]] = {}

    about: dict[str, Any] = field(default_factory=dict)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        Record.kinds[cls.kind()] = cls

    @classmethod
    def kind(cls) -> str:
        return cls.__name__.lower()

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the record atomically (a killed process leaves the old file or none), making folders as needed."""
        arrays, plain = {}, {}
        for item in fields(self):
            value = getattr(self, item.name)
            if isinstance(value, np.ndarray):
                arrays[item.name] = value
            elif isinstance(value, Mapping) and any(isinstance(v, np.ndarray) for v in value.values()):
                arrays |= {f"{item.name}/{key}": np.asarray(v) for key, v in value.items()}
                plain[item.name] = None
            else:
                plain[item.name] = value
        header = {"format": FORMAT, "kind": self.kind(), "schema": self.schema, "fields": plain}
        text = np.array(json.dumps(header, sort_keys=True, default=_python_number))
        with atomic_file(path) as handle:
            np.savez(handle, header=text, **arrays)
        return Path(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """The record in a file; InputError if it is not one of this class."""
        record = load(path)
        if not isinstance(record, cls):
            raise _of_another_kind(path, type(record), cls)
        return record


def load(path: str | os.PathLike[str]) -> Any:
    """The record in a .npz file, of whatever kind it is. Cost: one read.

    Raises:
        InputError: the file is missing, truncated, holds pickled objects, was not written by torch-landscape, or
            by a version whose layout differs.
    """
    header, arrays = _read(Path(path))
    cls = _class(path, header)
    values = dict(header["fields"])
    for name, array in arrays.items():
        outer, _, inner = name.partition("/")
        if inner:
            values[outer] = {**(values[outer] or {}), inner: array}
        else:
            values[outer] = array
    known = {item.name for item in fields(cls)}
    try:
        return cls(
            **{
                name: _tuples(value) if name != "about" else value
                for name, value in values.items()
                if name in known
            }
        )
    except TypeError as error:
        raise InputError(f"{path} is a {cls.kind()} with fields missing ({error}); make it anew.") from error


def read_fields(path: str | os.PathLike[str], cls: type[Record]) -> dict[str, Any]:
    """The fields of a record that are no arrays, without reading those. Raises InputError as cls.load does."""
    header, _ = _read(Path(path), with_arrays=False)
    found = _class(path, header)
    if not issubclass(found, cls):
        raise _of_another_kind(path, found, cls)
    return {name: _tuples(value) if name != "about" else value for name, value in header["fields"].items()}


def read_about(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The provenance of a record, without reading its arrays. Raises InputError as load does."""
    header, _ = _read(Path(path), with_arrays=False)
    return header["fields"].get("about") or {}


class atomic_file:
    """A binary file that appears under its name only when its ``with`` block ends well."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def __enter__(self) -> Any:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor, name = tempfile.mkstemp(
                dir=self.path.parent, prefix=f".{self.path.name}.", suffix=".part"
            )
        except OSError as error:
            raise InputError(
                f"{self.path} cannot be written ({error.strerror or error}); choose another place."
            ) from error
        os.chmod(name, 0o666 & ~_umask())
        self._part = Path(name)
        self._handle = os.fdopen(descriptor, "wb")
        return self._handle

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        self._handle.flush()
        os.fsync(self._handle.fileno())
        self._handle.close()
        if failed is None:
            os.replace(self._part, self.path)
        else:
            self._part.unlink(missing_ok=True)


def check_writable(directory: Path) -> None:
    """Raises InputError if files cannot be made in a directory that is there or could be made."""
    above = directory
    while not above.exists() and above != above.parent:
        above = above.parent
    if not (above.is_dir() and os.access(above, os.W_OK | os.X_OK)):
        reason = "no permission" if above.is_dir() else f"{above} is no directory"
        raise InputError(f"{directory} cannot be written ({reason}); choose another --out.")


def file_name(label: str) -> str:
    """A label as a file's name: what file systems may not hold becomes an underscore."""
    return re.sub(r"[^\w.+=()-]+", "_", label)


def versions() -> dict[str, str]:
    """The versions a result depends on."""
    import scipy
    import torch

    from . import __version__

    return {
        "torch-landscape": __version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
    }


def unreadable(path: Path, error: Exception) -> InputError:
    """What is said of a record's file in which anything failed to be read."""
    pickled = "ickle" in str(error) and zipfile.is_zipfile(path)  # NumPy takes any other file for a pickle
    reason = (
        "it holds pickled objects, which are never loaded" if pickled else "it is truncated or no .npz file"
    )
    return InputError(f"{path} cannot be read: {reason}; make it anew with landscape train or compare.")


def _read(path: Path, *, with_arrays: bool = True) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    if path.is_dir():
        raise InputError(f"{path} is a directory; name a record file (.npz).")
    try:
        with np.load(path, allow_pickle=False) as archive:
            if not isinstance(archive, np.lib.npyio.NpzFile) or "header" not in archive.files:
                raise InputError(f"{path} was not written by torch-landscape: it has no header.")
            header = json.loads(str(archive["header"][()]))
            if not isinstance(header, dict) or header.get("format") != FORMAT:
                raise InputError(
                    f"{path} was not written by torch-landscape: its header says something else."
                )
            names = [n for n in archive.files if n != "header"] if with_arrays else []
            return header, {name: archive[name] for name in names}
    except FileNotFoundError as error:
        raise InputError(f"{path} does not exist; name a record file (.npz).") from error
    except InputError:
        raise
    except Exception as error:  # a damaged archive fails in many ways, none of which is more than that
        raise unreadable(path, error) from error


def _class(path: str | os.PathLike[str], header: Mapping[str, Any]) -> type[Record]:
    """The class of a record that has this header."""
    kind = header.get("kind")
    cls = Record.kinds.get(kind) if isinstance(kind, str) else None
    if cls is None:
        raise InputError(f"{path} holds a record of unknown kind {kind!r}; known are {sorted(Record.kinds)}.")
    if header.get("schema") != cls.schema:
        raise InputError(
            f"{path} is a {kind} of schema {header.get('schema')}, this version reads {cls.schema}; make it anew."
        )
    return cls


def _of_another_kind(path: str | os.PathLike[str], found: type[Record], needed: type[Record]) -> InputError:
    return InputError(f"{path} holds a {found.kind()}, but a {needed.kind()} is needed here.")


def _tuples(value: Any) -> Any:
    """JSON's lists as tuples, at every depth."""
    if isinstance(value, list):
        return tuple(_tuples(item) for item in value)
    return value


def _python_number(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"a record cannot hold a {type(value).__name__}")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask

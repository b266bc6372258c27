"""Files of solutions of which θ is read in slices, so that hundreds of them need not fit into memory."""

from __future__ import annotations

import hashlib
import os
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np

from .errors import InputError
from .parameters import Parameters
from .records import read_fields, unreadable
from .results import Solution

LOCAL_HEADER = 30  # bytes of a member's own header in a zip archive, before its name (APPNOTE.TXT, 4.3.7)


class SolutionFile:
    """A solution on disk: what its header says, and its θ (P,) in slices.

    Has the label, problem, optimizer, seed, names, shapes and about of the Solution in the file. Cost: one read of the
    header, then one read of θ each time it is gone through; no other array is read.

    Raises:
        InputError: the file is missing, truncated, no solution, or θ does not have as many entries as its shapes say.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        fields = read_fields(self.path, Solution)
        try:
            self.problem: str = fields["problem"]
            self.optimizer: str = fields["optimizer"]
            self.seed: int = fields["seed"]
            self.step: int | None = fields.get("step")  # of a checkpoint
            self.parameters = Parameters(fields["names"], fields["shapes"])
            self.about = fields.get("about") or {}
            with zipfile.ZipFile(self.path) as archive:
                self._member = archive.getinfo("theta.npy")
                with archive.open(self._member) as stream:
                    shape, self.dtype = _array_header(stream)
                    self._data = stream.tell()  # where in the member the numbers begin
        except KeyError as error:
            raise InputError(
                f"{self.path} is a solution with fields missing ({error}); make it anew."
            ) from error
        except Exception as error:  # as in records: a damaged archive fails in many ways
            raise unreadable(self.path, error) from error
        self.dim = self.parameters.dim
        if shape != (self.dim,):
            raise InputError(
                f"{self.path} has theta of shape {shape}, but its named parameters make ({self.dim},)."
            )

    @property
    def label(self) -> str:
        return f"{self.optimizer}/{self.seed}" + ("" if self.step is None else f"@{self.step}")

    @property
    def names(self) -> tuple[str, ...]:
        return self.parameters.names

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        return self.parameters.shapes

    def slices(self, width: int) -> Iterator[np.ndarray]:
        """θ from front to back, ``width`` entries at a time; each slice overwrites the one before.

        Memory: one slice. The archive's checksum is compared at the end, as when a file is loaded whole. A record is
        stored uncompressed, and no file stays open between slices; one that was compressed since does.
        """
        buffer = np.empty(min(width, self.dim), self.dtype)
        pieces = (buffer[: min(width, self.dim - first)] for first in range(0, self.dim, width))
        stored = self._member.compress_type == zipfile.ZIP_STORED
        try:
            yield from self._stored(pieces) if stored else self._compressed(pieces)
        except (OSError, EOFError, struct.error, zipfile.BadZipFile, zlib.error) as error:
            raise unreadable(self.path, error) from error

    def _stored(self, pieces: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        with self.path.open("rb") as file:
            file.seek(self._member.header_offset + LOCAL_HEADER - 4)
            name, extra = struct.unpack("<HH", file.read(4))
            file.seek(name + extra, os.SEEK_CUR)
            checksum = zlib.crc32(file.read(self._data))
            position = file.tell()
        for piece in pieces:
            with self.path.open("rb", buffering=0) as file:
                file.seek(position)
                _fill(piece, file)
                position = file.tell()
            checksum = zlib.crc32(piece.view(np.uint8).data, checksum)
            yield piece
        if checksum != self._member.CRC:
            raise zipfile.BadZipFile("the checksum of theta differs")

    def _compressed(self, pieces: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
        with zipfile.ZipFile(self.path) as archive, archive.open(self._member) as stream:
            stream.read(self._data)
            for piece in pieces:
                _fill(piece, stream)
                yield piece
            stream.read()  # to the end, where zipfile compares the checksum


def fingerprint(files: Iterable[SolutionFile]) -> str:
    """What tells these files, in this order, from any others: a hash of all they hold. Cost: one read of each."""
    digest = hashlib.sha256()
    for file in files:
        with file.path.open("rb") as handle:
            digest.update(hashlib.file_digest(handle, "sha256").digest())
    return digest.hexdigest()[:16]


def _array_header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of the array in an .npy stream."""
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(stream)
    if dtype.hasobject:
        raise ValueError("a pickled array")
    return shape, dtype


def _fill(piece: np.ndarray, stream: Any) -> None:
    """Fill an array with the next bytes of a stream; a raw one may give fewer at a time than it is asked for."""
    left = piece.view(np.uint8).data
    while left:
        count = stream.readinto(left)
        if not count:
            raise EOFError("the file ends within theta")
        left = left[count:]

"""The data that named problems use: scikit-learn's digits (offline) and MNIST (four idx files)."""

from __future__ import annotations

import gzip
import hashlib
import os
import urllib.error
import urllib.request
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .errors import InputError
from .records import atomic_file

Pair = tuple[Tensor, Tensor]

# SHA-256 of the unpacked files, since mirrors pack them differently.
MNIST_FILES = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
MNIST_MIRRORS = (
    "https://ossci-datasets.s3.amazonaws.com/mnist/",
    "https://storage.googleapis.com/cvdf-datasets/mnist/",
)
_SPLIT_SEED = 20  # of the fixed train/validation/test split of digits and train/validation split of MNIST


def digits() -> tuple[Pair, Pair, Pair]:
    """(train, validation, test) of scikit-learn's digits: 1,077 + 360 + 360 images (n, 64) in [0, 1], labels (n,).

    1,797 handwritten digits of 8 × 8 pixels (E. Alpaydin, C. Kaynak). The split is fixed and stratified by class.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    whole: Any = load_digits()
    labels = np.asarray(whole["target"])
    rest, test = train_test_split(
        np.arange(len(labels)), test_size=360, stratify=labels, random_state=_SPLIT_SEED
    )
    train, validation = train_test_split(rest, test_size=360, stratify=labels[rest], random_state=_SPLIT_SEED)
    images = np.asarray(whole["data"]) / 16
    return (
        _pair(images[train], labels[train]),
        _pair(images[validation], labels[validation]),
        _pair(images[test], labels[test]),
    )


def mnist() -> tuple[Pair, Pair, Pair]:
    """(train, validation, test) of MNIST: 50,000 + 10,000 + 10,000 images (n, 784) in [0, 1], labels (n,).

    LeCun, Cortes, Burges. Validation is a fixed random part of the 60,000 training images. Files are looked for in
    LANDSCAPE_DATA (there or in its folder mnist, packed or not), then in the user's cache, then downloaded there
    and checked against their SHA-256.
    """
    images, labels, test_images, test_labels = (_idx(_mnist_bytes(name)) for name in MNIST_FILES)
    order = np.random.default_rng(_SPLIT_SEED).permutation(len(images))
    train, validation = order[:50_000], order[50_000:]

    def pair(x: np.ndarray, y: np.ndarray) -> Pair:
        return _pair(x.reshape(len(x), -1).astype(np.float32) / 255, y)

    return (
        pair(images[train], labels[train]),
        pair(images[validation], labels[validation]),
        pair(test_images, test_labels),
    )


def _pair(x: np.ndarray, y: np.ndarray) -> Pair:
    return torch.from_numpy(np.ascontiguousarray(x)), torch.from_numpy(y.astype(np.int64))


def _mnist_bytes(name: str) -> bytes:
    given = os.environ.get("LANDSCAPE_DATA")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "torch-landscape" / "mnist"
    folders = [Path(given), Path(given) / "mnist"] if given else []
    for folder in [*folders, cache]:
        for path in (folder / f"{name}.gz", folder / name):
            if path.is_file():
                return _checked(path.read_bytes(), name, str(path))
    if given:
        raise InputError(
            f"LANDSCAPE_DATA is {given}, but {name}.gz is neither there nor in its folder mnist; correct or unset it."
        )
    packed = _download(name, cache)
    data = _checked(packed, name, "the download")
    with atomic_file(cache / f"{name}.gz") as handle:
        handle.write(packed)
    return data


def _download(name: str, cache: Path) -> bytes:
    reasons = []
    for mirror in MNIST_MIRRORS:
        try:
            with urllib.request.urlopen(f"{mirror}{name}.gz", timeout=30) as answer:
                return answer.read()
        except (urllib.error.URLError, OSError) as error:
            reasons.append(f"{mirror}: {getattr(error, 'reason', error)}")
    raise InputError(
        f"MNIST cannot be had: {name}.gz is not in {cache}, and no mirror answered ({'; '.join(reasons)}); "
        "put the four idx files in a folder and set LANDSCAPE_DATA to it."
    )


def _checked(data: bytes, name: str, source: str) -> bytes:
    try:
        data = gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{source} is a damaged gzip file; delete it and run again.") from error
    if hashlib.sha256(data).hexdigest() != MNIST_FILES[name]:
        raise InputError(f"{source} is not MNIST's {name}: its SHA-256 differs; delete it and run again.")
    return data


def _idx(data: bytes) -> np.ndarray:
    """The array in an idx file of unsigned bytes: magic (0, 0, 8, rank), big-endian sizes, values."""
    rank = data[3]
    shape = np.frombuffer(data, dtype=">i4", count=rank, offset=4)
    return np.frombuffer(data, dtype=np.uint8, offset=4 + 4 * rank).reshape(tuple(int(s) for s in shape))

"""Batches that are read when they are needed: data larger than memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves
from torch.utils.data import DataLoader, IterableDataset

from .errors import InputError

Place = Callable[[Any], Any]


class StreamedBatches:
    """The batches of a DataLoader, each read anew whenever it is needed: one is in memory at a time.

    For model_objective(model, loss_fn, StreamedBatches(loader)). Only the order of the loader's sampler, its dataset and its
    collate_fn are used: reading is in this process. An evaluation of the loss, a gradient or a product reads all data once.

    Raises:
        InputError: a dataset without random access, a loader whose order changes from pass to pass, or data that do.
    """

    def __init__(self, loader: DataLoader) -> None:
        if isinstance(loader.dataset, IterableDataset) or loader.batch_sampler is None:
            raise InputError(
                "the loader must have a dataset with random access and make batches, got one that is iterated over; "
                "pass its batches as a list, or write a Dataset with __getitem__ and __len__."
            )
        self._indices: Sequence[list[int]] = [list(batch) for batch in loader.batch_sampler]
        if self._indices != [list(batch) for batch in loader.batch_sampler]:
            raise InputError(
                "the loader's order differs between two passes, so its batches cannot be read again; pass shuffle=False."
            )
        self._loader = loader
        self._last: tuple[int, Any] | None = None
        if self._indices and not _equal(self._read(0), self._read(0)):
            raise InputError(
                "the data differ between two readings of the first batch; turn random augmentation off."
            )

    def __len__(self) -> int:
        return len(self._indices)

    @property
    def counts(self) -> list[int]:
        """Examples in each batch."""
        return [len(indices) for indices in self._indices]

    def readers(self, place: Place) -> list[Callable[[], Any]]:
        """For each batch a function that gives it, placed; the one read last is kept."""

        def reader(index: int) -> Callable[[], Any]:
            def read() -> Any:
                if self._last is None or self._last[0] != index:
                    self._last = None  # let go before the next one comes
                    self._last = index, place(self._read(index))
                return self._last[1]

            return read

        return [reader(i) for i in range(len(self))]

    def _read(self, index: int) -> Any:
        dataset = self._loader.dataset
        return self._loader.collate_fn([dataset[i] for i in self._indices[index]])


def _equal(first: Any, second: Any) -> bool:
    pairs = zip(tree_leaves(first), tree_leaves(second), strict=True)
    return all(a.equal(b) if isinstance(a, Tensor) else a == b for a, b in pairs)

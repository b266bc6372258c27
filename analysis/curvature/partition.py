"""Blocks of θ: its entries by layer, by tensor, by filter, or by groups of parameter names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from landscape import InputError
from landscape.parameters import Parameters

Groups = Literal["layer", "parameter", "filter"] | Mapping[str, Iterable[str]]


@dataclass(frozen=True)
class Partition:
    """Names of B blocks, and for every entry of θ the number of its block: index (P,), B where it is in none."""

    names: tuple[str, ...]
    index: Tensor

    @property
    def sizes(self) -> Tensor:
        """Entries in each block (B,)."""
        return torch.bincount(self.index, minlength=len(self.names) + 1)[: len(self.names)]

    def sums(self, rows: Tensor) -> Tensor:
        """The sums over each block, (K, P) -> (K, B), in main memory and double precision."""
        sums = torch.zeros(len(rows), len(self.names) + 1, dtype=torch.float64, device=rows.device)
        return sums.index_add_(1, self.index.to(rows.device), rows.double())[:, :-1].cpu()


def partition_of(parameters: Parameters, by: Groups) -> Partition:
    """The blocks of θ.

    Args:
        by: "layer": the parameters of one module, by the module's name, which is what stands before the last dot of theirs (a
            name without a dot is its own block). "parameter": each tensor. "filter": each slice i along the first dimension
            of a tensor of two or more, called "name[i]", and in it entry i of its bias, if that has as many (the bias of
            "conv.weight" is "conv.bias", that of "rnn.weight_ih_l0" is "rnn.bias_ih_l0"); other tensors are blocks of their
            own. A mapping: names of parameters by the name of their block; parameters that it does not name are left out.

    Raises:
        InputError: an unknown word, an unknown parameter, a parameter in two blocks, or a block of nothing.
    """
    # Of every tensor the names of its blocks: one for each slice along its first dimension, or one for all of it.
    if isinstance(by, Mapping):
        blocks = {name: [block] for name, block in _blocks_by_name(parameters, by).items()}
    elif by == "filter":
        blocks = _filters(parameters)
    elif by == "parameter":
        blocks = {name: [name] for name in parameters.names}
    elif by == "layer":
        blocks = {name: [name.rpartition(".")[0] or name] for name in parameters.names}
    else:
        raise InputError(
            f"by must be 'layer', 'parameter', 'filter', or a mapping from names of groups to parameter names, got {by!r}."
        )
    names = tuple(dict.fromkeys(block for of_tensor in blocks.values() for block in of_tensor))
    if isinstance(by, Mapping):
        names = tuple(by)
    number = {name: i for i, name in enumerate(names)}
    index = []
    for name, size in zip(parameters.names, parameters.sizes, strict=True):
        numbers = torch.tensor([number[block] for block in blocks[name]] if name in blocks else [len(names)])
        index.append(numbers.repeat_interleave(size // len(numbers)))
    return Partition(names, torch.cat(index))


def _blocks_by_name(parameters: Parameters, by: Mapping[str, Iterable[str]]) -> dict[str, str]:
    """The block of each parameter that is in one."""
    block_of: dict[str, str] = {}
    for block, names in by.items():
        names = (names,) if isinstance(names, str) else tuple(names)
        if not names:
            raise InputError(f"by must name at least one parameter for every group, got none for {block!r}.")
        for name in names:
            if name not in parameters.names:
                raise InputError(
                    f"by must name parameters of the objective, got {name!r} in the group {block!r}; "
                    f"they are {', '.join(parameters.names[:8])}{', …' if len(parameters.names) > 8 else ''}."
                )
            if name in block_of:
                raise InputError(
                    f"by must put a parameter into one group, got {name!r} in {block_of[name]!r} and in {block!r}."
                )
            block_of[name] = block
    if not block_of:
        raise InputError("by must hold at least one group of parameter names, got an empty mapping.")
    return block_of


def _filters(parameters: Parameters) -> dict[str, list[str]]:
    shapes = dict(zip(parameters.names, parameters.shapes, strict=True))
    blocks = {
        name: [f"{name}[{i}]" for i in range(shape[0])] for name, shape in shapes.items() if len(shape) > 1
    }
    for name in list(blocks):
        module, dot, tensor = name.rpartition(".")
        bias = module + dot + tensor.replace("weight", "bias")
        if bias != name and shapes.get(bias) == (len(blocks[name]),):
            blocks[bias] = blocks[name]
    return {name: blocks.get(name, [name]) for name in parameters.names}

"""Several residual streams of one token batch, stacked along the batch axis, through layers that were told about one.

A mask [B,1,T,T] must become [k*B,1,T,T], BLOOM's ALiBi [B*H,1,T] must become [k*B*H,1,T], MPT's [H,1,T] must stay.
Which leading axes follow the batch is not guessed from sizes: it is measured once at load from two batches of
different size.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from dense_adapters.skeleton import LayerCall

Path = tuple[int | str, ...]
BatchUnits = dict[Path, int]
"""For each tensor argument that follows the batch: rows of its leading axis per example."""


def tensor_leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Tensor]]:
    """All tensors inside nested tuples, lists and dicts, with the keys that lead to each."""
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from tensor_leaves(inner, (*path, key))
    elif isinstance(value, tuple | list):
        for position, inner in enumerate(value):
            yield from tensor_leaves(inner, (*path, position))


def measure_batch_units(two: LayerCall, three: LayerCall) -> BatchUnits:
    """Rows per example of every tensor argument whose leading axis grows from a batch of two to a batch of three."""
    sizes = {path: tensor.shape[0] for path, tensor in tensor_leaves(two) if tensor.ndim}
    units: BatchUnits = {}
    for path, tensor in tensor_leaves(three):
        before = sizes.get(path)
        if before is not None and tensor.shape[0] * 2 == before * 3:
            units[path] = before // 2
    return units


def repeat_rows(call: LayerCall, streams: int, batch: int, units: BatchUnits, done: dict[int, Tensor]) -> LayerCall:
    """The layer call for `streams` stacked copies of the token batch.

    A tensor that could follow the batch but has one row (positions shared by all examples) broadcasts and is left
    alone.
    done: repeated tensors by id, so that layers that share a mask share its repetition.
    """

    def repeat(value: Any, path: Path) -> Any:
        if isinstance(value, Tensor):
            unit = units.get(path)
            if unit is None or not value.ndim or value.shape[0] != unit * batch or value.shape[0] == 1:
                return value
            if id(value) not in done:
                done[id(value)] = torch.cat([value] * streams)
            return done[id(value)]
        if isinstance(value, dict):
            return {key: repeat(inner, (*path, key)) for key, inner in value.items()}
        if isinstance(value, tuple | list):
            return type(value)(repeat(inner, (*path, position)) for position, inner in enumerate(value))
        return value

    args, kwargs = call
    return repeat(args, (0,)), repeat(kwargs, (1,))

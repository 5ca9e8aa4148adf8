"""Magnitudes as integers: dropping the sign bit of an IEEE float leaves an integer that orders as |x| does.

NumPy selects among integers several times faster than among floats, fp16 and bf16 need no type of NumPy's own, and
a product of the integers with a mask zeroes what is dropped without rounding, NaN and −0 included. NaN counts as
larger than infinity.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def as_integers(x: Tensor) -> NDArray[Any]:
    """The bits of a floating-point CPU tensor as signed integers of the same width, sharing its memory."""
    integers: NDArray[Any] = x.detach().view(_INTEGERS[x.element_size()]).numpy()
    return integers


def magnitudes(bits: NDArray[Any]) -> NDArray[Any]:
    """|x| as integers, from the bits of x."""
    return np.bitwise_and(bits, np.iinfo(bits.dtype).max)


def keep_largest_per_row(magnitude: NDArray[Any], k: int) -> NDArray[np.bool_]:
    """Mask of the k < W largest entries of each row of [R, W]; ties go to the lower column."""
    place = magnitude.shape[1] - k
    order = magnitude.copy()
    order.partition(place, axis=1)
    threshold = order[:, place : place + 1]
    mask = magnitude >= threshold
    if np.count_nonzero(mask) != k * len(magnitude):
        tied = np.flatnonzero(magnitude == threshold)
        rows = tied // magnitude.shape[1]
        until_row_ends = np.searchsorted(rows, rows, side="right") - np.arange(len(rows))
        surplus = mask.view(np.uint8).sum(axis=1, dtype=np.int32) - k
        mask.reshape(-1)[tied[until_row_ends <= surplus[rows]]] = False
    return mask


def keep_largest(magnitude: NDArray[Any], k: int) -> NDArray[np.bool_]:
    """Mask of the k < n largest of all entries, of any shape; ties go to the earlier entry in row-major order."""
    flat = magnitude.reshape(-1)
    nonzero = np.count_nonzero(flat)
    if nonzero <= k:
        threshold = flat.dtype.type(0)
    elif nonzero < flat.size // 2:  # selection among a great many equal entries is slow: leave the zeros out
        threshold = np.partition(flat[flat > 0], nonzero - k)[nonzero - k]
    else:
        threshold = np.partition(flat, flat.size - k)[flat.size - k]
    mask = flat >= threshold
    surplus = np.count_nonzero(mask) - k
    if surplus:
        mask[np.flatnonzero(flat == threshold)[-surplus:]] = False
    return mask.reshape(magnitude.shape)

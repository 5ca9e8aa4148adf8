"""AbsTopK decided for a few channels of many: which of them are among the k largest in magnitude, ties to the lower.

A circuit's program knows most channels as constants. `kept_of_varying` compares channels that vary with each other and
with constants sorted once; `count_above` ranks values in rows of a sorted table.
"""

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def kept_of_varying(
    varying: Float[Tensor, "R V"],
    channels: Int[Tensor, " V"],
    chosen: Int[Tensor, " C"],
    static: Float[Tensor, " F"],
    static_channels: Int[Tensor, " F"],
    k: int,
) -> Bool[Tensor, "R C"]:
    """Whether the varying channels at places `chosen` are among the k largest of the varying and static ones.

    Args:
        varying: magnitudes of the varying channels, whose numbers are `channels` (rising).
        static: magnitudes of all others, falling; their numbers are `static_channels`.
    """
    magnitude = varying[:, chosen]
    if k >= varying.shape[1] + len(static):
        return torch.ones_like(magnitude, dtype=torch.bool)
    # the threshold lies between the k-th and the (k - V)-th static one: larger static ones are always above it
    above = max(0, k - varying.shape[1])
    candidates = static[above:k].expand(len(varying), -1)
    threshold = _largest(torch.cat([varying, candidates], 1), k - above)
    kept = magnitude > threshold
    tied = (magnitude == threshold) & (magnitude > 0)  # the k-th itself, nearly always
    rows = tied.any(1).nonzero().flatten()
    if len(rows):
        kept[rows] = _ranks(varying[rows], channels, chosen, static, static_channels) < k
    return kept


def _largest(x: Float[Tensor, "R W"], k: int) -> Float[Tensor, "R 1"]:
    """The k-th largest entry of every row."""
    if x.device.type != "cpu":
        return x.kthvalue(x.shape[1] - k + 1, dim=1, keepdim=True).values
    place = x.shape[1] - k
    return torch.from_numpy(np.ascontiguousarray(np.partition(x.numpy(), place, axis=1)[:, place : place + 1]))


def _ranks(varying: Tensor, channels: Tensor, chosen: Tensor, static: Tensor, static_channels: Tensor) -> Tensor:
    """How many channels come before each chosen one, [R, C]: larger, or as large and lower."""
    found = []
    for place in chosen.tolist():
        x, channel = varying[:, place : place + 1], channels[place]
        before = (varying > x) | ((varying == x) & (channels < channel))
        before_static = (static > x) | ((static == x) & (static_channels < channel))
        found.append(before.sum(1) + before_static.sum(1))
    return torch.stack(found, 1)


def count_above(
    table: Float[Tensor, "U W"], row: Int[Tensor, " R"], x: Float[Tensor, "R C"], or_equal: bool = False
) -> Int[Tensor, "R C"]:
    """How many entries of the rising row `table[row]` are larger than x (with `or_equal`: at least x).

    A binary search by gathering, so that the table's rows need not be copied.
    """
    flat, width = table.flatten(), table.shape[1]
    start = (row * width - 1)[:, None]
    below = torch.zeros_like(x, dtype=torch.int64)  # this many entries are known to come before x
    step = 1 << (width.bit_length() - 1)
    while step:
        probe = below + step
        entry = flat[start + probe.clamp(max=width)]
        before = entry < x if or_equal else entry <= x
        below = torch.where((probe <= width) & before, probe, below)
        step >>= 1
    return width - below


def count_before(
    entries: Float[Tensor, "R W"],
    entry_channels: Int[Tensor, " W"],
    x: Float[Tensor, "R C"],
    channels: Int[Tensor, " C"],
) -> Int[Tensor, "R C"]:
    """How many entries of each row AbsTopK prefers to each x of that row: larger, or as large and of lower channel.

    Args:
        entry_channels, channels: channel numbers of entries (rising) and of x.
    """
    counts = torch.zeros(x.shape, dtype=torch.int64, device=x.device)
    splits = torch.searchsorted(entry_channels, channels).tolist()
    for place, split in enumerate(splits):
        one = x[:, place : place + 1]
        for before in (entries[:, :split] >= one, entries[:, split:] > one):
            if before.device.type == "cpu":  # NumPy sums bytes in registers; torch widens each to 64 bits first
                counted = before.view(torch.uint8).numpy().sum(1, dtype=np.uint16)
                counts[:, place] += torch.from_numpy(counted.astype(np.int64))
            else:
                counts[:, place] += before.sum(1)
    return counts

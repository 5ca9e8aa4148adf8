"""AbsTopK decided for a few channels of many: which of them are among the k largest in magnitude, ties to the lower.

A small circuit's pass knows most channels as constants. `kept_of_varying` compares channels that vary with each other and
with constants sorted once.
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
    compared = torch.cat([varying, candidates], 1)
    threshold = _largest(compared, k - above)
    kept = magnitude >= threshold
    rows = ((magnitude == threshold) & (magnitude > 0)).any(1).nonzero().flatten()
    rows = rows[_count(compared[rows] >= threshold[rows]) > k - above]  # more than the k-th itself
    if len(rows):
        kept[rows] = _ranks(varying[rows], channels, chosen, static, static_channels) < k
    return kept


def _largest(x: Float[Tensor, "R W"], k: int) -> Float[Tensor, "R 1"]:
    """The k-th largest entry of every row; leaves the rows in another order on the CPU."""
    if x.device.type != "cpu":
        return x.kthvalue(x.shape[1] - k + 1, dim=1, keepdim=True).values
    place = x.shape[1] - k
    x.numpy().partition(place, axis=1)
    return x[:, place : place + 1].clone()


def _ranks(varying: Tensor, channels: Tensor, chosen: Tensor, static: Tensor, static_channels: Tensor) -> Tensor:
    """How many channels come before each chosen one, [R, C]: larger, or as large and lower."""
    found = []
    for place in chosen.tolist():
        x, channel = varying[:, place : place + 1], channels[place]
        before = (varying > x) | ((varying == x) & (channels < channel))
        before_static = (static > x) | ((static == x) & (static_channels < channel))
        found.append(before.sum(1) + before_static.sum(1))
    return torch.stack(found, 1)


def _count(marked: Bool[Tensor, "E W"]) -> Int[Tensor, " E"]:
    if marked.device.type != "cpu":
        return marked.sum(1)
    # NumPy sums bytes in registers; torch widens each to 64 bits first
    return torch.from_numpy(marked.view(torch.uint8).numpy().sum(1, dtype=np.uint16).astype(np.int64))

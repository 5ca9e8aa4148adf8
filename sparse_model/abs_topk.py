"""AbsTopK: keep the k entries largest in magnitude along the channel axis, zero the rest (METHOD §1).

The k-th magnitude of each row is a threshold; on the CPU NumPy's vectorised partition finds it about four
times faster than `torch.topk`, rows split over threads (it releases the interpreter lock). Ties are broken
towards the lower channel, so the result is a function of the values alone.
"""

from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

ROWS_PER_TASK = 256


def abs_topk_reference(x: Float[Tensor, "*B W"], k: int) -> Float[Tensor, "*B W"]:
    """The definition in plain torch; what `abs_topk` is tested against."""
    if k >= x.shape[-1]:
        return x
    order = x.detach().abs().sort(dim=-1, descending=True, stable=True).indices[..., :k]
    mask = torch.zeros_like(x, dtype=torch.bool).scatter_(-1, order, True)
    return torch.where(mask, x, 0.0)


def abs_topk(x: Float[Tensor, "*B W"], k: int) -> Float[Tensor, "*B W"]:
    """Keep the k largest-magnitude channels; the gradient passes through the kept ones only.

    Args:
        x: activations, any leading axes.
        k: channels kept, at least 1; k ≥ W returns x unchanged.
    """
    if k >= x.shape[-1]:
        return x
    result: Tensor = _AbsTopK.apply(x, k)
    return result


class _AbsTopK(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, k: int) -> Tensor:
        mask = _keep_mask(x, k)
        ctx.save_for_backward(mask)
        return x * mask

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (mask,) = ctx.saved_tensors
        return gradient * mask, None


def _keep_mask(x: Tensor, k: int) -> Bool[Tensor, "*B W"]:
    if x.device.type != "cpu" or x.dtype not in (torch.float32, torch.float64):
        order = x.abs().topk(k, dim=-1, sorted=False).indices
        return torch.zeros_like(x, dtype=torch.bool).scatter_(-1, order, True)
    magnitude = x.abs()
    threshold = _row_threshold(magnitude, k)
    mask = magnitude >= threshold
    if int(mask.sum()) != k * threshold.numel():  # ties at the threshold: keep the lowest channels among them
        above = magnitude > threshold
        tied = mask & ~above
        room = k - above.sum(-1, keepdim=True)
        mask = above | (tied & (tied.cumsum(-1) <= room))
    return mask


def _row_threshold(magnitude: Tensor, k: int) -> Tensor:
    """The k-th largest entry of every row, [*B, 1]."""
    width = magnitude.shape[-1]
    rows = magnitude.contiguous().view(-1, width).numpy()
    place = width - k
    if len(rows) <= ROWS_PER_TASK:
        found = np.partition(rows, place, axis=-1)[:, place]
    else:
        threads = torch.get_num_threads()
        parts = np.array_split(rows, max(threads, 1))
        found = np.concatenate(
            list(_pool(threads).map(lambda part: np.partition(part, place, axis=-1)[:, place], parts))
        )
    return torch.from_numpy(np.ascontiguousarray(found)).view(*magnitude.shape[:-1], 1)


@lru_cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="abs-topk")

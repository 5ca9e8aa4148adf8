"""AbsTopK on GPUs: one kernel that reads each row once, finds its threshold in registers and writes it once.

Magnitudes are compared as integers, with the channel in the lower bits where there is room for it (fp16, bf16), so
that no two entries are alike. The threshold is searched for by counting: a first guess from the row's mean magnitude,
then steps to the place where the counts so far put it, with a halving now and then that bounds the number of counts.
What is found does not depend on the guess: exactly k entries reach it. Entries of fp32 that share the k-th magnitude are
ranked by a second search over their channels. Ties go to the lower channel.

The backward pass needs no mask: what was kept is what is not zero in the output, which the next map holds on to
anyway. Only a row with fewer than k nonzeros also kept zeros; the last column of those is stored per row.

`benchmarks/abs_topk_kernel.py` counts instructions and searches without a GPU.
"""

from functools import lru_cache
from math import pi, sqrt
from statistics import NormalDist
from typing import Any

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

WIDEST = 2**15
"""Channels of a row that still fits in the registers of one block."""
MANTISSA = {torch.float32: 23, torch.float16: 10, torch.bfloat16: 7}
"""Bits of a mantissa: magnitudes as integers count 2 to this power in each octave."""
DTYPES = tuple(MANTISSA)


@triton.jit
def _magnitude(x, BITS: tl.constexpr):
    if BITS == 16:  # noqa: SIM108 (a branch of the compiler's: the other one would not even type)
        magnitude = x.to(tl.int16, bitcast=True).to(tl.int32) & 0x7FFF
    else:
        magnitude = x.to(tl.int32, bitcast=True) & 0x7FFFFFFF
    return magnitude


@triton.jit
def _reaching(keys, least, AS_FLOATS: tl.constexpr):
    """How many keys are at least `least`; integers below that of infinity order alike as floats, which compare faster."""
    if AS_FLOATS:  # noqa: SIM108
        reaches = keys.to(tl.float32, bitcast=True) >= least.to(tl.float32, bitcast=True)
    else:
        reaches = keys >= least
    return tl.sum(reaches.to(tl.float32), axis=0).to(tl.int32)


@triton.jit
def _threshold(keys, k, width, guess, pace, TOP: tl.constexpr, AS_FLOATS: tl.constexpr):
    """A threshold in [1, TOP] that exactly k of `width` keys reach or, where ties forbid that, the k-th largest key.

    Returns the threshold, how many keys reach it, and how many are larger than it when they are not k.
    `pace` is by how much to move at first per key too many or too few.
    """
    low, high = width * 0, width * 0 + TOP  # at least k keys reach `low`, fewer than k `high + 1`
    reach_low, reach_above = width, width * 0
    turn = 0
    while (low < high) & (reach_low != k):
        candidate = tl.minimum(tl.maximum(guess, low + 1), high)
        reached = _reaching(keys, candidate, AS_FLOATS)
        enough = reached >= k
        low = tl.where(enough, candidate, low)
        reach_low = tl.where(enough, reached, reach_low)
        high = tl.where(enough, high, candidate - 1)
        reach_above = tl.where(enough, reach_above, reached)

        turn += 1
        share = tl.where(turn % 4 == 0, 0.5, (reach_low - k + 0.5) / (reach_low - reach_above))
        between = low + ((high - low).to(tl.float32) * share).to(tl.int32)
        step = pace * (reached - k + tl.where(enough, 1, -1))
        beyond = candidate + tl.minimum(tl.maximum(step, -0.25 * TOP), 0.25 * TOP).to(tl.int32)
        pace = tl.minimum(4 * pace, 1.0 * TOP)
        is_bracketed = (low > 0) & (high < TOP)
        guess = tl.where(is_bracketed | (turn % 4 == 0), between, beyond)
    return low, reach_low, reach_above


@triton.jit
def _keep(
    x_start, y_start, cut_start, width, stride, k, threshold_per_sum,
    BITS: tl.constexpr, MANTISSA: tl.constexpr, BLOCK: tl.constexpr, IS_FULL: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < (BLOCK if IS_FULL else width)
    x = tl.load(x_start + row * stride + columns, mask=inside, other=0.0)
    magnitude = _magnitude(x, BITS)
    mean_like = tl.sum(tl.abs(x.to(tl.float32)), axis=0) * threshold_per_sum
    guess = _magnitude(mean_like.to(x.dtype), BITS)
    if BITS == 16:
        SPACING: tl.constexpr = 2**15 // BLOCK
        FIRST: tl.constexpr = 2**23  # the smallest key, so that none is a subnormal float
        keys = FIRST + (magnitude << 15) + (BLOCK - 1 - columns) * SPACING
        pace = 1.7 * 2 ** (MANTISSA + 15) / width
        least, _, _ = _threshold(
            tl.where(inside, keys, -1), k, width, FIRST + (guess << 15), pace, TOP=FIRST + 2**30 - 1, AS_FLOATS=True
        )
        kept = keys >= least
        cut = BLOCK - 1 - (least - FIRST + SPACING - 1) // SPACING
    else:
        keys = tl.where(inside, magnitude, -1)
        pace = 1.7 * 2**MANTISSA / width
        least, reached, above = _threshold(keys, k, width, guess, pace, TOP=0x7FFFFFFF, AS_FLOATS=False)
        kept = keys >= least
        cut = -1
        if reached != k:
            room, tied = k - above, reached - above
            places = tl.where(keys == least, BLOCK - columns, 0)
            spread = BLOCK / tied
            guess = BLOCK - (room * spread).to(tl.int32)
            place, _, _ = _threshold(places, room, width, guess, spread, TOP=BLOCK, AS_FLOATS=False)
            kept = (keys > least) | (places >= place)
            cut = tl.where(least == 0, BLOCK - place, -1)
    tl.store(y_start + row * width + columns, tl.where(kept, x, 0.0), mask=inside)
    tl.store(cut_start + row, cut)


@triton.jit
def _pass_back(
    gradient_start, y_start, cut_start, x_gradient_start, width, stride, BITS: tl.constexpr, BLOCK: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    y = tl.load(y_start + row * width + columns, mask=inside, other=0.0)
    gradient = tl.load(gradient_start + row * stride + columns, mask=inside, other=0.0)
    kept = (_magnitude(y, BITS) != 0) | (columns <= tl.load(cut_start + row))
    tl.store(x_gradient_start + row * width + columns, tl.where(kept, gradient, 0.0), mask=inside)


def serves(x: Tensor) -> bool:
    """Whether the kernel takes this tensor; `abs_topk` has another way for the rest."""
    return x.dtype in DTYPES and x.shape[-1] <= WIDEST


class AbsTopKTriton(torch.autograd.Function):
    """`abs_topk` for k < W on the GPU; equal to `abs_topk_reference` in values and gradient."""

    @staticmethod
    def forward(ctx: Any, x: Float[Tensor, "*B W"], k: int) -> Float[Tensor, "*B W"]:
        rows = _rows(x)
        y = torch.empty(rows.shape, dtype=x.dtype, device=x.device)
        cut = torch.empty(len(rows), dtype=torch.int32, device=x.device)
        if len(rows):
            width = rows.shape[1]
            first = _normal_threshold_per_sum(k, width)
            _keep[(len(rows),)](rows, y, cut, width, rows.stride(0), k, first, **sizes(x.dtype, width))
        y = y.view(x.shape)
        ctx.save_for_backward(y, cut)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Float[Tensor, "*B W"]) -> tuple[Float[Tensor, "*B W"], None]:
        y, cut = ctx.saved_tensors
        rows = _rows(gradient)
        passed = torch.empty(rows.shape, dtype=gradient.dtype, device=gradient.device)
        if len(rows):
            _pass_back[(len(rows),)](
                rows, y, cut, passed, rows.shape[1], rows.stride(0), **_launch(y.dtype, y.shape[-1])
            )
        return passed.view(gradient.shape), None


@lru_cache
def _normal_threshold_per_sum(k: int, width: int) -> float:
    """The k-th largest magnitude of `width` normal values over the sum of their magnitudes: where to look first."""
    quantile = NormalDist().inv_cdf(1 - k / (2 * width))
    return quantile / (width * sqrt(2 / pi))


def _rows(x: Tensor) -> Tensor:
    rows = x.detach().reshape(-1, x.shape[-1])  # a slice of a wider tensor, as q of qkv, is read in place
    return rows if rows.stride(1) == 1 else rows.contiguous()


def sizes(dtype: torch.dtype, width: int) -> dict[str, int]:
    """What the forward kernel is compiled for; one warp up to 2048 channels, so that counting needs no barrier."""
    block = triton.next_power_of_2(width)
    return {"MANTISSA": MANTISSA[dtype], "IS_FULL": width == block, **_launch(dtype, width)}


def _launch(dtype: torch.dtype, width: int) -> dict[str, int]:
    block = triton.next_power_of_2(width)
    return {"BITS": 8 * dtype.itemsize, "BLOCK": block, "num_warps": min(max(block // 2048, 1), 16)}

"""AbsTopK on GPUs: one kernel that reads each row once, finds its threshold in registers and writes it once.

The k-th largest magnitude is built bit by bit from the top: a bit stays set while at least k magnitudes reach it
(31 counts for fp32, 15 for fp16 and bf16, whatever the width). Ties go to the lower channel.

The backward pass needs no mask: what was kept is what is not zero in the output, which the next map holds on to
anyway. Only a row with fewer than k nonzeros also kept zeros; the last column of those is stored per row.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor

WIDEST = 2**15
"""Channels of a row that still fits in the registers of one block."""
DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@triton.jit
def _magnitude(x, BITS: tl.constexpr):
    if BITS == 16:  # noqa: SIM108 (a branch of the compiler's: the other one would not even type)
        magnitude = x.to(tl.int16, bitcast=True).to(tl.int32) & 0x7FFF
    else:
        magnitude = x.to(tl.int32, bitcast=True) & 0x7FFFFFFF
    return magnitude


@triton.jit
def _keep(x_start, y_start, cut_start, width, stride, k, BITS: tl.constexpr, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    columns = tl.arange(0, BLOCK)
    inside = columns < width
    x = tl.load(x_start + row * stride + columns, mask=inside, other=0.0)
    magnitude = tl.where(inside, _magnitude(x, BITS), -1)
    threshold = 0
    for place in tl.static_range(BITS - 1):
        candidate = threshold | (1 << (BITS - 2 - place))
        reached = tl.sum((magnitude >= candidate).to(tl.int32), axis=0)
        threshold = tl.where(reached >= k, candidate, threshold)
    above = magnitude > threshold
    tied = magnitude == threshold
    room = k - tl.sum(above.to(tl.int32), axis=0)
    kept_tied = tied & (tl.cumsum(tied.to(tl.int32), axis=0) <= room)
    tl.store(y_start + row * width + columns, tl.where(above | kept_tied, x, 0.0), mask=inside)
    tl.store(cut_start + row, tl.max(tl.where(kept_tied & (threshold == 0), columns, -1), axis=0))


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
            _keep[(len(rows),)](rows, y, cut, rows.shape[1], rows.stride(0), k, **_launch(x))
        y = y.view(x.shape)
        ctx.save_for_backward(y, cut)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Float[Tensor, "*B W"]) -> tuple[Float[Tensor, "*B W"], None]:
        y, cut = ctx.saved_tensors
        rows = _rows(gradient)
        passed = torch.empty(rows.shape, dtype=gradient.dtype, device=gradient.device)
        if len(rows):
            _pass_back[(len(rows),)](rows, y, cut, passed, rows.shape[1], rows.stride(0), **_launch(y))
        return passed.view(gradient.shape), None


def _rows(x: Tensor) -> Tensor:
    rows = x.detach().reshape(-1, x.shape[-1])  # a slice of a wider tensor, as q of qkv, is read in place
    return rows if rows.stride(1) == 1 else rows.contiguous()


def _launch(x: Tensor) -> dict[str, int]:
    """Compile-time sizes; one warp up to 2048 channels, so that counting needs no barrier."""
    block = triton.next_power_of_2(x.shape[-1])
    return {"BITS": 8 * x.element_size(), "BLOCK": block, "num_warps": min(max(block // 2048, 1), 16)}

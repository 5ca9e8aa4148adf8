"""How much of the machine a run uses: its matrix products per second over what the machine can do.

    MFU = matrix-product FLOPs of one step / (seconds per step · measured rate)

FLOPs are those of the matrix products and attention of one real step, forward and backward, counted as they run (a causal
mask saves none). The rate is measured once, on large square matrices of the training precision.
"""

import functools
import time
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

Shape = tuple[int, ...]
ATTENTION = (
    "_scaled_dot_product_flash_attention_for_cpu",
    "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention",
    "_scaled_dot_product_cudnn_attention",
)
"""torch's fused attention operators; each has a `_backward`."""
CPU_SIZE, DEVICE_SIZE = 1024, 4096
"""Side of the square matrices the rate is measured on."""


def count_flops() -> FlopCounterMode:
    """A context in which matrix products are counted; read `get_total_flops()` afterwards."""
    formulas: dict[Any, Any] = {}
    for name in ATTENTION:
        for suffix, formula in (("", attention_flops), ("_backward", attention_backward_flops)):
            operator = getattr(torch.ops.aten, name + suffix, None)  # which there are depends on torch's version
            if operator is not None:
                formulas[operator] = formula
    return FlopCounterMode(display=False, custom_mapping=formulas)


def attention_flops(query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    """Of the scores and of mixing the values, [B, H, T, K] each.

    Keys may have fewer heads than queries (grouped queries), which the formulas of older torch refuse: every query head
    meets all keys.
    """
    B, H, T, K = query
    return 2 * B * H * T * key[-2] * (K + value[-1])


def attention_backward_flops(_: Shape, query: Shape, key: Shape, value: Shape, *__: Any, **___: Any) -> int:
    """Of the five products of a fused backward pass: the scores once more, and the gradients of scores, q, k and v."""
    B, H, T, K = query
    return 2 * B * H * T * key[-2] * (3 * K + 2 * value[-1])


@functools.cache
def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Multiply–add FLOPs per second of one large product: the best of three, after one to warm up."""
    size = CPU_SIZE if device.type == "cpu" else DEVICE_SIZE
    left = torch.ones(size, size, device=device, dtype=dtype)
    fastest = float("inf")
    for attempt in range(4):
        _wait(device)
        start = time.perf_counter()
        torch.mm(left, left)
        _wait(device)
        if attempt:
            fastest = min(fastest, time.perf_counter() - start)
    return 2 * size**3 / fastest


def _wait(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)

"""How much of the machine a run uses: its matrix products per second over what the machine can do.

    MFU = matrix-product FLOPs of one step / (seconds per step · measured rate)

FLOPs are those of the matrix products and attention of one real step, forward and backward, counted as they run (a causal
mask saves none). The rate is measured once, on large square matrices of the training precision.
"""

import functools
import time
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

Shape = tuple[int, ...]
CPU_SIZE, DEVICE_SIZE = 1024, 4096
"""Side of the square matrices the rate is measured on."""


def count_flops() -> FlopCounterMode:
    """A context in which matrix products are counted; read `get_total_flops()` afterwards."""
    aten: Any = torch.ops.aten
    on_cpu = {  # the rest is known to the counter
        aten._scaled_dot_product_flash_attention_for_cpu: _attention,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
    }
    return FlopCounterMode(display=False, custom_mapping=on_cpu)


def _attention(query: Shape, key: Shape, value: Shape, *_: Any, **__: Any) -> int:
    return int(sdpa_flop_count(query, key, value))


def _attention_backward(_: Shape, query: Shape, key: Shape, value: Shape, *__: Any, **___: Any) -> int:
    return int(sdpa_backward_flop_count(query, query, key, value))


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

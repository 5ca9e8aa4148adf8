"""AbsTopK: keep the k entries largest in magnitude along the channel axis, zero the rest (METHOD §1).

The k-th magnitude of each row is a threshold. On the CPU NumPy's vectorised partition finds it among the integers
that the magnitudes are (`sparse_model.magnitude`), in blocks of rows small enough for the cache, split over threads.
Ties go to the lower channel, so the result is a function of the values alone. CUDA tensors take the kernel of
`sparse_model.abs_topk_triton` where Triton is installed, and the plain definition elsewhere.
"""

import importlib
import importlib.util
from functools import lru_cache
from types import ModuleType
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from sparse_model.magnitude import as_integers, keep_largest_per_row, magnitudes
from sparse_model.threads import each

BLOCK = 2**17
"""Entries a thread works on at a time: with its copies a few hundred kilobytes, which stay in a core's cache."""


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
    return _keep(x, k)


@torch.compiler.disable  # NumPy on threads and a kernel of its own are nothing for torch's compiler to trace
def _keep(x: Tensor, k: int) -> Tensor:
    if x.device.type == "cpu":
        on_cpu: Tensor = _AbsTopK.apply(x, k)
        return on_cpu
    kernel = _gpu_kernel() if x.device.type == "cuda" else None
    if kernel is None or not kernel.serves(x):
        return abs_topk_reference(x, k)
    with torch.cuda.device(x.device):
        on_gpu: Tensor = kernel.AbsTopKTriton.apply(x, k)
    return on_gpu


@lru_cache
def _gpu_kernel() -> ModuleType | None:
    """The Triton kernel where Triton is installed; looked for once a tensor is on a GPU."""
    if importlib.util.find_spec("triton") is None:
        return None
    return importlib.import_module("sparse_model.abs_topk_triton")


class _AbsTopK(torch.autograd.Function):
    """The CPU path; the mask, one byte an entry, is all that the backward pass keeps."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, k: int) -> Tensor:
        rows = x.reshape(-1, x.shape[-1])
        kept = torch.empty(rows.shape, dtype=x.dtype)
        mask = torch.empty(rows.shape, dtype=torch.bool)
        bits, kept_bits, mask_array = as_integers(rows), as_integers(kept), mask.numpy()

        def keep(part: slice) -> None:
            mask_array[part] = keep_largest_per_row(magnitudes(bits[part]), k)
            np.multiply(bits[part], mask_array[part], out=kept_bits[part])

        each(keep, _blocks(*rows.shape))
        ctx.save_for_backward(mask)
        return kept.view(x.shape)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (mask,) = ctx.saved_tensors
        passed = torch.empty(mask.shape, dtype=gradient.dtype)
        bits, passed_bits = as_integers(gradient.reshape(mask.shape)), as_integers(passed)
        mask_array = mask.numpy()

        def keep(part: slice) -> None:
            np.multiply(bits[part], mask_array[part], out=passed_bits[part])

        each(keep, _blocks(*mask.shape))
        return passed.view(gradient.shape), None


def _blocks(rows: int, width: int) -> list[slice]:
    size = max(1, BLOCK // width)
    return [slice(start, start + size) for start in range(0, rows, size)]

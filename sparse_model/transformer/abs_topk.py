"""AbsTopK: keep the k entries largest in magnitude along the channel axis, zero the rest (METHOD §1).

The k-th magnitude of each row is a threshold. On the CPU NumPy's vectorised partition finds it among the integers
that the magnitudes are (`sparse_model.transformer.magnitude`), in blocks of rows small enough for the cache, split over threads.
Ties go to the lower channel, so the result is a function of the values alone. CUDA tensors take the kernel of
`sparse_model.transformer.abs_topk_triton` where Triton is installed, and the plain definition elsewhere.
"""

import importlib
import importlib.util
from functools import lru_cache
from types import ModuleType
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from sparse_model.transformer.magnitude import as_integers, keep_largest_per_row, magnitudes
from sparse_model.transformer.threads import each

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
    if torch.compiler.is_compiling() and x.device.type == "cpu":
        return _keep_largest(x, k)[0]
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
    return importlib.import_module("sparse_model.transformer.abs_topk_triton")


class _AbsTopK(torch.autograd.Function):
    """The CPU path; which entries were kept, one bit each, is all that the backward pass needs."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, k: int) -> Tensor:
        kept, packed = _select(x, k)
        ctx.save_for_backward(packed)
        return kept

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (packed,) = ctx.saved_tensors
        return _pass_back(gradient, packed), None


def _select(x: Float[Tensor, "*B W"], k: int) -> tuple[Float[Tensor, "*B W"], UInt8[Tensor, "R bytes"]]:
    """The kept entries, and which they are: a bit each, every row from a byte of its own on."""
    rows = x.reshape(-1, x.shape[-1])
    kept, packed = torch.empty(x.shape, dtype=x.dtype), torch.empty(_packed_shape(x), dtype=torch.uint8)
    bits, kept_bits, packed_bytes = as_integers(rows), as_integers(kept.view(rows.shape)), packed.numpy()

    def keep(part: slice) -> None:
        mask = keep_largest_per_row(magnitudes(bits[part]), k)
        packed_bytes[part] = np.packbits(mask, axis=1)
        np.multiply(bits[part], mask, out=kept_bits[part])

    each(keep, _blocks(*rows.shape))
    return kept, packed


def _pass_back(gradient: Float[Tensor, "*B W"], packed: UInt8[Tensor, "R bytes"]) -> Float[Tensor, "*B W"]:
    """The gradient where an entry was kept, 0 elsewhere."""
    rows = gradient.reshape(-1, gradient.shape[-1])
    passed = torch.empty(gradient.shape, dtype=gradient.dtype)
    bits, passed_bits, packed_bytes = (
        as_integers(rows),
        as_integers(passed.view(rows.shape)),
        packed.numpy(),
    )

    def keep(part: slice) -> None:
        mask = np.unpackbits(packed_bytes[part], axis=1, count=rows.shape[1]).view(np.bool_)
        np.multiply(bits[part], mask, out=passed_bits[part])

    each(keep, _blocks(*rows.shape))
    return passed


def _packed_shape(x: Tensor) -> tuple[int, int]:
    return x.numel() // x.shape[-1], -(-x.shape[-1] // 8)


@torch.library.custom_op("sparse_model::keep_largest", mutates_args=())
def _keep_largest(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """`_select` as one operation, where torch's compiler would otherwise break its graph.

    It keeps a mask of x's shape: compiled graphs fail on what they save in a shape of its own.
    """
    kept, packed = _select(x, k)
    mask = np.unpackbits(packed.numpy(), axis=1, count=x.shape[-1])
    return kept, torch.from_numpy(mask.view(np.bool_)).view(x.shape)


@torch.library.custom_op("sparse_model::pass_back", mutates_args=())
def _pass_back_operation(gradient: Tensor, mask: Tensor) -> Tensor:
    return _pass_back(gradient, torch.from_numpy(np.packbits(mask.reshape(-1, mask.shape[-1]).numpy(), axis=1)))


@_keep_largest.register_fake
def _(x: Tensor, k: int) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape, dtype=torch.bool)


@_pass_back_operation.register_fake
def _(gradient: Tensor, mask: Tensor) -> Tensor:
    return gradient.new_empty(mask.shape)


def _remember_which(ctx: Any, inputs: tuple[Tensor, int], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(output[1])
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, gradient: Tensor, _: Any) -> tuple[Tensor, None]:
    return _pass_back_operation(gradient, ctx.saved_tensors[0]), None


_keep_largest.register_autograd(_backward, setup_context=_remember_which)


def _blocks(rows: int, width: int) -> list[slice]:
    size = max(1, BLOCK // width)
    return [slice(start, start + size) for start in range(0, rows, size)]

"""How a linear map is computed: densely, or from its nonzero weights alone.

A map in evaluation mode, without gradients, on the CPU in fp32, multiplies by a compressed copy of its weight
(CSR) where `choose` expects that to pay; everywhere else it is the ordinary product. The copy belongs to one
weight at one version: an in-place change, a new tensor or a move makes a new one. (A write through `.data`, which
autograd does not see either, is not seen here.) Nothing is stored in the module, so saving, copying and training
are as for any `nn.Linear`.

The product is made in tiles of tokens: the transposed tile stays in the core's cache, where the nonzeros gather
from it.
"""

import warnings
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

TILE = 32
"""Tokens per product: the transposed tile of a map of a few thousand inputs stays in a core's cache."""
MIN_ENTRIES = 2**18
"""Smaller matrices stay dense: there the call costs what the zeros save (docs/performance.md, single matrices)."""
MAX_DENSITY = 0.1
"""Denser matrices stay dense: at 20 % the smallest ones no longer gain (the same table)."""


@dataclass(frozen=True)
class Execution:
    """How a weight is multiplied in evaluation, and why."""

    kind: Literal["csr", "dense"]
    reason: str


def choose(weight: Tensor) -> Execution:
    """The execution `SparseLinear` takes for this weight [outputs, inputs] in evaluation without gradients."""
    if weight.device.type != "cpu":
        return Execution("dense", f"on {weight.device.type}: CSR is for the CPU")
    if weight.dtype != torch.float32:
        return Execution("dense", f"{str(weight.dtype).removeprefix('torch.')}: CSR is for float32")
    if weight.numel() < MIN_ENTRIES:
        return Execution("dense", f"{weight.numel():,} entries, below {MIN_ENTRIES:,}")
    density = int(weight.count_nonzero()) / weight.numel()
    if density > MAX_DENSITY:
        return Execution("dense", f"{density:.2%} nonzero, above {MAX_DENSITY:.0%}")
    if not torch.backends.mkl.is_available():
        return Execution("dense", "this build of torch has no MKL, so no fast sparse product")
    return Execution("csr", f"{density:.2%} nonzero, at most {MAX_DENSITY:.0%}")


def executions(model: nn.Module) -> dict[str, Execution]:
    """`choose` for every `SparseLinear` of the model, by the name of its weight."""
    return {
        f"{name}.weight": choose(module.weight)
        for name, module in model.named_modules()
        if isinstance(module, SparseLinear)
    }


class SparseLinear(nn.Linear):
    """A linear map that leaves zero weights out of the product where that is faster and no gradient is asked for."""

    def forward(self, input: Float[Tensor, "*B I"]) -> Float[Tensor, "*B O"]:
        """x·Wᵀ + b, equal to the dense product up to the order of summation."""
        if self.training or torch.is_grad_enabled() or not _is_plain(input, self.weight):
            return F.linear(input, self.weight, self.bias)
        compressed = _compressed(self.weight)
        if compressed is None:
            return F.linear(input, self.weight, self.bias)
        rows = input.reshape(-1, self.in_features)
        return multiply(rows, compressed, self.bias).view(*input.shape[:-1], self.out_features)


def compress(weight: Float[Tensor, "O I"]) -> Tensor:
    """The weight in CSR with 32-bit indices, as MKL takes them without conversion."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        csr = weight.detach().to_sparse_csr()
        return torch.sparse_csr_tensor(
            csr.crow_indices().int(), csr.col_indices().int(), csr.values(), csr.shape, check_invariants=False
        )


def multiply(x: Float[Tensor, "n I"], weight: Tensor, bias: Float[Tensor, " O"] | None) -> Float[Tensor, "n O"]:
    """x·Wᵀ + b for a W of `compress`, a tile of tokens at a time."""
    y = x.new_empty(len(x), weight.shape[0])
    if len(x) == 1:
        torch.mv(weight, x[0], out=y[0])
        return y if bias is None else y.add_(bias)
    for start in range(0, len(x), TILE):
        product = weight @ x[start : start + TILE].T.contiguous()
        if bias is None:
            y[start : start + TILE] = product.T
        else:
            torch.add(product.T, bias, out=y[start : start + TILE])
    return y


@dataclass(frozen=True)
class _Compressed:
    """The copy made of a weight when it lay at `address` in `version`; None where the weight runs dense."""

    address: int
    version: int
    csr: Tensor | None


_copies: Any = WeakIdKeyDictionary()  # a weight that is gone takes its copy along


def _compressed(weight: Tensor) -> Tensor | None:
    copy: _Compressed | None = _copies.get(weight)
    if copy is None or copy.address != weight.data_ptr() or copy.version != weight._version:
        csr = compress(weight) if choose(weight).kind == "csr" else None
        copy = _Compressed(weight.data_ptr(), weight._version, csr)
        _copies[weight] = copy
    return copy.csr


def _is_plain(x: Tensor, weight: Tensor) -> bool:
    """Whether both are ordinary fp32 CPU tensors whose changes can be told, in a pass that nothing transforms."""
    return (
        not torch.compiler.is_compiling()
        and isinstance(weight, nn.Parameter)
        and type(x) is Tensor
        and x.dtype == weight.dtype == torch.float32
        and x.device.type == weight.device.type == "cpu"
        and not weight.is_inference()
        and not torch.is_autocast_enabled("cpu")
    )

"""Weight projection (METHOD §2): after every step keep the largest-magnitude entries of each weight tensor.

Exact top-k per tensor. Neurons and attention channels keep at least j entries of each map that reads into or
writes out of them; those floor entries count towards k. Ties go to the earlier entry.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from sparse_model.layers import Attention, Mlp
from sparse_model.model import SparseTransformer

DENSE_SUFFIXES = ("sink_logit", "bigram_table")  # small or dense by definition


@dataclass(frozen=True)
class SparseTensor:
    """One projected parameter; `floor_axis` is the axis summed over for the floor (None: no floor)."""

    name: str
    parameter: nn.Parameter
    floor_axis: int | None


def sparse_tensors(model: nn.Module) -> tuple[SparseTensor, ...]:
    """Every weight matrix, bias and embedding of the model; norm gains, sinks, bigram tables and sinusoids stay dense."""
    return tuple(_sparse_tensors(model))


def _sparse_tensors(model: nn.Module) -> Iterator[SparseTensor]:
    floors = {}
    for module in model.modules():
        if isinstance(module, Attention):
            floors[module.c_attn.weight], floors[module.c_proj.weight] = 1, 0
        elif isinstance(module, Mlp):
            floors[module.c_fc.weight], floors[module.c_proj.weight] = 1, 0
    norms = {p for m in model.modules() if isinstance(m, nn.RMSNorm | nn.LayerNorm) for p in m.parameters()}
    fixed = {
        m.transformer["wpe"].weight
        for m in model.modules()
        if isinstance(m, SparseTransformer) and m.config.position != "none" and not m.config.position_trainable
    }
    for name, parameter in model.named_parameters():
        if parameter not in norms | fixed and not name.endswith(DENSE_SUFFIXES):
            yield SparseTensor(name, parameter, floors.get(parameter))


@torch.no_grad()
def project(tensors: tuple[SparseTensor, ...], density: float, floor: int) -> None:
    """Zero, in place, everything but the kept entries of each tensor.

    Args:
        density: kept fraction, the same for every tensor (at least one entry each).
        floor: entries kept per neuron or attention channel, 0 for none.
    """
    if density >= 1:
        return
    for tensor in tensors:
        keep = max(1, round(density * tensor.parameter.numel()))
        axis = tensor.floor_axis if floor else None
        tensor.parameter.masked_fill_(~kept_entries(tensor.parameter, keep, axis, floor), 0.0)


def kept_entries(weight: Tensor, k: int, floor_axis: int | None, floor: int) -> Tensor:
    """Mask of the k largest-magnitude entries, the `floor` largest along `floor_axis` first among them.

    Where the floors alone ask for more than k entries, exactly the floors are kept.
    """
    priority = weight.abs()
    if floor_axis is not None:
        floor = min(floor, weight.shape[floor_axis])
        best = priority.topk(floor, dim=floor_axis).indices
        floors = torch.zeros_like(weight, dtype=torch.bool).scatter_(floor_axis, best, True)
        priority = priority.masked_fill(floors, float("inf"))
        k = max(k, best.numel())
    return _largest(priority, k)


def _largest(priority: Tensor, k: int) -> Tensor:
    flat = priority.reshape(-1)
    if k >= len(flat):
        return torch.ones_like(priority, dtype=torch.bool)
    if flat.device.type == "cpu":
        place = len(flat) - k
        threshold = torch.tensor(np.partition(flat.numpy(), place)[place])
    else:
        threshold = flat.kthvalue(len(flat) - k + 1).values
    above = flat > threshold
    tied = flat == threshold
    mask = above | (tied & (tied.cumsum(0) <= k - above.sum()))
    return mask.view(priority.shape)


def density_report(model: nn.Module) -> dict[str, float]:
    """Nonzero fraction of every projected tensor, and of all together under 'total'."""
    tensors = sparse_tensors(model)
    counts = {t.name: (int(t.parameter.count_nonzero()), t.parameter.numel()) for t in tensors}
    report = {name: nonzero / total for name, (nonzero, total) in counts.items()}
    report["total"] = sum(n for n, _ in counts.values()) / sum(t for _, t in counts.values())
    return report

"""Weight projection (METHOD §2): after every step keep the largest-magnitude entries of each weight tensor.

Exact top-k per tensor, whole even where it is split over processes. Neurons and attention channels keep at least j
entries of each map that reads into or writes out of them; those floor entries count towards k. Ties go to the
earlier entry.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.autograd.graph import increment_version
from torch.distributed.tensor import DTensor

from sparse_model.training.sharding import opened, whole
from sparse_model.training.train_config import TensorKind
from sparse_model.transformer.layers import Attention, Mlp
from sparse_model.transformer.magnitude import as_integers, keep_largest, keep_largest_per_row, magnitudes
from sparse_model.transformer.model import SparseTransformer
from sparse_model.transformer.threads import each

BATCH = 2**26
"""Entries projected at once on a device: 256 MiB in fp32, and a few times that in temporaries."""
DENSE_SUFFIXES = ("sink_logit", "bigram_table")  # small or dense by definition


@dataclass(frozen=True)
class SparseTensor:
    """One projected parameter; `floor_axis` is the axis summed over for the floor (None: no floor), `kind` what its density
    goes by."""

    name: str
    parameter: nn.Parameter
    floor_axis: int | None
    kind: TensorKind = "matrix"

    def density_of(self, density: float | Mapping[TensorKind, float]) -> float:
        """This tensor's own, where densities are given by kind."""
        return density[self.kind] if isinstance(density, Mapping) else density

    def kept(self, density: float | Mapping[TensorKind, float]) -> int:
        """How many entries that density keeps, before floors: at least one."""
        return max(1, round(self.density_of(density) * self.parameter.numel()))


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
            yield SparseTensor(name, parameter, floors.get(parameter), _kind(name, parameter))


def _kind(name: str, parameter: nn.Parameter) -> TensorKind:
    """Embeddings tied to the head count as embeddings, under which name they come first."""
    if parameter.dim() < 2:
        return "bias"
    table = name.rpartition(".")[0].rpartition(".")[2]
    return "embedding" if table in ("wte", "wpe") else "head" if table == "lm_head" else "matrix"


@torch.no_grad()
def project(tensors: tuple[SparseTensor, ...], density: float | Mapping[TensorKind, float], floor: int) -> None:
    """Zero, in place, everything but the kept entries of each tensor.

    Args:
        density: kept fraction, the same for every tensor or by kind (at least one entry each).
        floor: entries kept per neuron or attention channel, 0 for none.
    """
    tensors = tuple(tensor for tensor in tensors if tensor.density_of(density) < 1)

    def shrink(tensor: SparseTensor) -> None:
        with opened(tensor.parameter.detach()) as (weight,):
            kept = kept_entries(weight, tensor.kept(density), tensor.floor_axis, floor)
            if weight.device.type == "cpu":
                bits = as_integers(weight)
                np.multiply(bits, kept.numpy(), out=bits)
                increment_version(weight)  # NumPy's write is a change to autograd as well
            else:
                weight.masked_fill_(~kept, 0.0)

    def on_cpu(tensor: SparseTensor) -> bool:
        return tensor.parameter.device.type == "cpu" and not isinstance(tensor.parameter, DTensor)

    largest_first = sorted(filter(on_cpu, tensors), key=lambda tensor: -tensor.parameter.numel())
    each(shrink, largest_first)  # so that no thread waits long
    for tensor in tensors:
        if isinstance(tensor.parameter, DTensor):
            shrink(tensor)
    project_on_device(
        tuple(t for t in tensors if not on_cpu(t) and not isinstance(t.parameter, DTensor)), density, floor
    )


@torch.no_grad()
def project_on_device(
    tensors: tuple[SparseTensor, ...], density: float | Mapping[TensorKind, float], floor: int
) -> None:
    """`project` where launches cost more than arithmetic: tensors of one shape that keep as many entries as a batch, so that
    depth adds no operators.

    Nothing waits for the device.
    """
    groups: dict[tuple[torch.Size, int | None, int], list[Tensor]] = {}
    for tensor in tensors:
        group = tensor.parameter.shape, tensor.floor_axis, tensor.kept(density)
        groups.setdefault(group, []).append(tensor.parameter.detach())
    for (shape, axis, k), weights in groups.items():
        most = max(1, BATCH // shape.numel())
        for start in range(0, len(weights), most):
            part = weights[start : start + most]
            batch = torch.stack(part)
            batch.masked_fill_(~_kept_in_batch(batch, k, axis if floor else None, floor), 0.0)
            torch._foreach_copy_(part, batch.unbind())


def kept_entries(weight: Tensor, k: int, floor_axis: int | None, floor: int) -> Tensor:
    """Mask of the k largest-magnitude entries, the `floor` largest along `floor_axis` first among them.

    Where the floors alone ask for more than k entries, exactly the floors are kept. Ties go to the earlier entry.
    """
    if floor == 0:
        floor_axis = None
    if weight.device.type == "cpu":
        return _kept_on_cpu(weight, k, floor_axis, floor)
    return kept_entries_reference(weight, k, floor_axis, floor)


def kept_entries_reference(weight: Tensor, k: int, floor_axis: int | None, floor: int) -> Tensor:
    """`kept_entries` in plain torch; it never waits for the device, and runs there."""
    return _kept_in_batch(weight[None], k, floor_axis, floor)[0]


def _kept_in_batch(weights: Tensor, k: int, floor_axis: int | None, floor: int) -> Tensor:
    """Masks of the entries kept of each of a batch of tensors [n, ...]."""
    priority = weights.abs()
    if floor_axis is not None:
        shape = weights.shape[1:]
        floor = min(floor, shape[floor_axis])
        k = max(k, floor * shape[1 - floor_axis])
        lines = priority.movedim(1 + floor_axis, -1)
        floors = _largest(lines, floor).movedim(-1, 1 + floor_axis)
        priority = priority.masked_fill_(floors, float("inf"))
    return _largest(priority.flatten(1), k).view(weights.shape)


def _largest(rows: Tensor, k: int) -> Tensor:
    """Mask of the k largest entries of each row, ties to the earlier; sizes are known beforehand, values are not read."""
    if k >= rows.shape[-1]:
        return torch.ones_like(rows, dtype=torch.bool)
    threshold = rows.topk(k, dim=-1, sorted=False).values.amin(-1, keepdim=True)
    above, tied = rows > threshold, rows == threshold
    room = k - above.sum(-1, keepdim=True, dtype=torch.int32)
    return tied.logical_and_(tied.cumsum(-1, dtype=torch.int32) <= room).logical_or_(above)


def _kept_on_cpu(weight: Tensor, k: int, floor_axis: int | None, floor: int) -> Tensor:
    """The same on integers (`sparse_model.transformer.magnitude`), where NumPy selects several times faster."""
    priority = magnitudes(as_integers(weight))
    if floor_axis is not None:
        floor = min(floor, weight.shape[floor_axis])
        k = max(k, floor * weight.shape[1 - floor_axis])
        lines = priority if floor_axis == 1 else _transposed(priority)
        floors = keep_largest_per_row(lines, floor) if floor < lines.shape[1] else np.ones(lines.shape, dtype=bool)
        first = np.multiply(
            floors if floor_axis == 1 else _transposed(floors), np.iinfo(priority.dtype).max, dtype=priority.dtype
        )
        np.bitwise_or(priority, first, out=priority)
    if k >= priority.size:
        return torch.ones(weight.shape, dtype=torch.bool)
    return torch.from_numpy(keep_largest(priority, k))


def _transposed(matrix: NDArray[Any]) -> NDArray[Any]:
    return torch.from_numpy(matrix).t().contiguous().numpy()  # torch copies by blocks, NumPy line by line


def density_report(model: nn.Module) -> dict[str, float]:
    """Nonzero fraction of every projected tensor, and of all together under 'total'."""
    tensors = sparse_tensors(model)
    counts = {t.name: (int(whole(t.parameter).count_nonzero()), t.parameter.numel()) for t in tensors}
    report = {name: nonzero / total for name, (nonzero, total) in counts.items()}
    report["total"] = sum(n for n, _ in counts.values()) / sum(t for _, t in counts.values())
    return report

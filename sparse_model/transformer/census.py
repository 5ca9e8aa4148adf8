"""What a sparse model is made of, from its weights alone: nonzeros per tensor, dead neurons and channels (METHOD §2).

dead neuron      no weight reads into it, or none writes out of it
dead QK channel  its query or its key is zero whatever the input, so it adds nothing to any attention logit
dead V channel   its value is zero whatever the input, or no weight carries it out
"""

from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from sparse_model.training.projection import sparse_tensors
from sparse_model.transformer.layers import Block
from sparse_model.transformer.model import SparseTransformer


@dataclass(frozen=True)
class TensorCount:
    """Nonzeros of one parameter; `projected` says whether training keeps it sparse."""

    name: str
    shape: tuple[int, ...]
    nonzero: int
    size: int
    projected: bool

    @property
    def density(self) -> float:
        """Nonzero fraction."""
        return self.nonzero / self.size


@dataclass(frozen=True)
class LayerCount:
    """Dead parts of one layer, in channels and neurons."""

    layer: int
    channels: int
    dead_qk: int
    dead_v: int
    neurons: int
    dead_neurons: int


@dataclass(frozen=True)
class Census:
    """Counts over the whole model."""

    tensors: tuple[TensorCount, ...]
    layers: tuple[LayerCount, ...]

    @property
    def parameters(self) -> int:
        """Entries of all parameters, zeros included."""
        return sum(tensor.size for tensor in self.tensors)

    @property
    def nonzero(self) -> int:
        """Nonzero entries of all parameters."""
        return sum(tensor.nonzero for tensor in self.tensors)

    @property
    def density(self) -> float:
        """Nonzero fraction of the tensors that training keeps sparse."""
        projected = [tensor for tensor in self.tensors if tensor.projected]
        return sum(tensor.nonzero for tensor in projected) / sum(tensor.size for tensor in projected)

    def to_json(self) -> dict[str, Any]:
        """`parameters`, `nonzero`, `density`, and the counts per tensor and layer."""
        return {
            "parameters": self.parameters,
            "nonzero": self.nonzero,
            "density": self.density,
            "tensors": [{**asdict(tensor), "density": tensor.density} for tensor in self.tensors],
            "layers": [asdict(layer) for layer in self.layers],
        }


@torch.no_grad()
def take_census(model: SparseTransformer) -> Census:
    """Count what is nonzero and what is dead."""
    projected = {tensor.name for tensor in sparse_tensors(model)}
    tensors = tuple(
        TensorCount(name, tuple(value.shape), int(value.count_nonzero()), value.numel(), name in projected)
        for name, value in model.named_parameters()
    )
    return Census(tensors, tuple(_layer(layer, block) for layer, block in enumerate(model.blocks)))


def _layer(layer: int, block: Block) -> LayerCount:
    attention, mlp = block.attn, block.mlp
    silent_q, silent_k, silent_v = _silent(attention.c_attn).chunk(3)
    unread_v = ~attention.c_proj.weight.bool().any(0)
    unfed = ~mlp.c_fc.weight.bool().any(1)
    unread = ~mlp.c_proj.weight.bool().any(0)
    return LayerCount(
        layer=layer,
        channels=len(silent_q),
        dead_qk=int((silent_q | silent_k).sum()),
        dead_v=int((silent_v | unread_v).sum()),
        neurons=len(unfed),
        dead_neurons=int((unfed | unread).sum()),
    )


def _silent(linear: nn.Linear) -> Bool[Tensor, " out"]:
    """Outputs that are zero whatever the input."""
    heard = linear.weight.bool().any(1)
    return ~(heard if linear.bias is None else heard | linear.bias.bool())

"""Ablation: what a removed node is frozen at, and the tap that removes nodes.

Mean ablation freezes a node at its mean over the pretraining distribution; zero ablation at 0 (usually smaller
circuits, further from anything the model has seen). A circuit says which it used.
"""

from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from sparse_model.transformer.model import SparseTransformer
from sparse_model.transformer.nodes import node_locations

AblationKind = Literal["mean", "zero"]


@torch.no_grad()
def ablation_values(
    model: SparseTransformer, blocks: NDArray[np.integer], kind: AblationKind = "mean", batch_size: int = 16
) -> dict[str, Float[Tensor, " W"]]:
    """Per node location, the value a removed channel is frozen at.

    Args:
        blocks: token blocks [N, T] of the pretraining distribution.
    """
    widths = node_locations(model.config)
    totals = {name: torch.zeros(width, dtype=torch.float64) for name, width in widths.items()}
    if kind == "zero":
        return {name: total.float() for name, total in totals.items()}

    def add(name: str, tensor: Tensor, /) -> Tensor:
        if name in totals:
            totals[name] += tensor.sum((0, 1)).double().cpu()
        return tensor

    for start in range(0, len(blocks), batch_size):
        tokens = torch.from_numpy(np.asarray(blocks[start : start + batch_size], dtype=np.int64)).to(model.device)
        model(tokens, tap=add)
    return {name: (total / blocks.size).float().to(model.device) for name, total in totals.items()}


class Ablate:
    """A tap that keeps `keep[location]` of each node and freezes the rest at its ablation value.

    Args:
        keep: per node location a mask [W] of booleans, or of numbers in [0, 1] that carry a gradient.
        values: per node location what a removed channel is frozen at [W].
    """

    def __init__(self, keep: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
        self.keep, self.values = keep, values

    def __call__(self, name: str, tensor: Tensor, /) -> Tensor:
        keep = self.keep.get(name)
        if keep is None:
            return tensor
        value = self.values[name]
        if keep.dtype == torch.bool:
            return torch.where(keep, tensor, value)
        return value + (tensor - value) * keep


def final_logits(
    model: SparseTransformer, tokens: Int[Tensor, "M T"], last: Int[Tensor, " M"], tap: object = None
) -> Float[Tensor, "M V"]:
    """Logits after position `last` of each sequence; what follows it is never read."""
    walk = model.walk(tokens)
    h = walk.embedding()
    for i in range(len(model.sublayers)):
        h = walk.sublayer(i, h) if tap is None else walk.sublayer(i, h, tap=tap)  # type: ignore[arg-type]
    rows = torch.arange(len(tokens), device=tokens.device)
    if model.bigram_table is not None:
        return walk.unembed(h)[rows, last]
    return walk.unembed(h[rows, last][:, None])[:, 0]

"""Where in ordinary text a circuit's nodes are most active: the contexts a person reads to guess what a node stands for.

The whole model runs, not the circuit. Per node the positions of largest magnitude, at most one per passage of equal text.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from sparse_model.transformer.model import SparseTransformer
from sparse_model.transformer.nodes import Node
from sparse_model.transformer.taps import Recorder

CANDIDATES = 8
"""Positions looked at per context asked for, since equal passages count once."""


@dataclass(frozen=True)
class Context:
    """Token ids around a position; `at` is the position's index among them, `activation` the node's value there."""

    tokens: tuple[int, ...]
    at: int
    activation: float


def top_contexts(
    model: SparseTransformer,
    nodes: Sequence[Node],
    blocks: NDArray[np.integer],
    count: int = 5,
    before: int = 14,
    after: int = 4,
    batch_size: int = 16,
) -> dict[Node, list[Context]]:
    """Per node the `count` passages of `blocks` [N, T] where its activation is largest in magnitude, largest first.

    Args:
        before, after: tokens shown on either side.

    A node that is zero everywhere has none.
    """
    activations = _activations(model, nodes, blocks, batch_size)
    found: dict[Node, list[Context]] = {}
    length = blocks.shape[1]
    for number, node in enumerate(nodes):
        values = activations[number]
        order = values.abs().topk(min(count * CANDIDATES, len(values))).indices.tolist()
        passages: dict[tuple[int, ...], Context] = {}
        for place in order:
            row, position = divmod(place, length)
            start = max(0, position - before)
            tokens = tuple(int(token) for token in blocks[row, start : position + 1 + after])
            passage = tokens[: position - start + 1][-4:]
            if float(values[place]) != 0 and passage not in passages:
                passages[passage] = Context(tokens, position - start, float(values[place]))
            if len(passages) == count:
                break
        found[node] = list(passages.values())
    return found


@torch.no_grad()
def _activations(
    model: SparseTransformer, nodes: Sequence[Node], blocks: NDArray[np.integer], batch_size: int
) -> Float[Tensor, "nodes NT"]:
    """Every node's activation at every position."""
    rows = []
    for start in tqdm(range(0, len(blocks), batch_size), desc="reading text", unit="batch", delay=2, leave=False):
        recorder = Recorder({node.location for node in nodes})
        tokens = torch.from_numpy(np.asarray(blocks[start : start + batch_size], dtype=np.int64)).to(model.device)
        model(tokens, tap=recorder)
        rows.append(
            torch.stack([recorder.activations[node.location][..., node.channel].flatten().float() for node in nodes])
        )
    return torch.cat(rows, dim=1).cpu()

"""Tiny models, reference text and a paired run of every read."""

from collections.abc import Callable
from typing import NamedTuple

import pytest
import torch

from bridges.bridge import Bridge
from bridges.edits.mapping import map_nodes
from bridges.edits.paired import Direction, PairedRun
from bridges.validation.isolation import ReferenceText
from dense_adapters import DenseStack
from sparse_model import SparseTransformer
from sparse_model.transformer.nodes import Node


class Validated(NamedTuple):
    """Two models, their bridge, text and a run."""

    sparse: SparseTransformer
    dense: DenseStack
    bridge: Bridge
    text: ReferenceText
    run: PairedRun


@pytest.fixture(scope="session")
def validated(pair: Callable) -> Validated:
    """All read channels of two sublayers are mapped."""
    sparse, dense, bridge = pair()
    for module in (sparse, dense.model, bridge):
        module.requires_grad_(False)
    generator = torch.Generator().manual_seed(5)
    base = torch.randint(0, 40, (6, 7), generator=generator)
    other = base.clone()
    other[:, 2] = (base[:, 2] + 11) % 40
    original = torch.randint(0, 20, (6,), generator=generator)
    last = torch.tensor([6, 6, 5, 6, 4, 6])
    direction = Direction(base, other, last, original, original + 20)
    nodes = [Node(layer, "attn", "act_in", channel) for layer in (0, 1) for channel in range(24)]
    run = PairedRun(direction, map_nodes(nodes, bridge, sparse, dense), bridge, sparse, dense)
    blocks = torch.randint(0, 40, (6, 14), generator=generator).numpy()
    return Validated(sparse, dense, bridge, ReferenceText(dense, blocks), run)

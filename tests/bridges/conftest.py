"""What the bridge tests share: a small sparse and a small dense model with a bridge between them."""

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from transformers import GPT2LMHeadModel

from bridges.alignment import align
from bridges.bridge import Bridge
from dense_adapters import DenseStack
from sparse_model import SparseTransformer


class Pair(NamedTuple):
    """Two models and their bridge."""

    sparse: SparseTransformer
    dense: DenseStack
    bridge: Bridge


@pytest.fixture(scope="session")
def pair(
    tiny_sparse: Callable[..., SparseTransformer], tiny_gpt2: Callable[..., GPT2LMHeadModel]
) -> Callable[..., Pair]:
    """Random models of given depths; keywords go to the sparse one."""

    def make(n_layer: int = 2, dense_layers: int = 2, **changes: Any) -> Pair:
        sparse, dense = tiny_sparse(n_layer=n_layer, **changes), DenseStack(tiny_gpt2(n_layer=dense_layers))
        bridge = Bridge(align(sparse, dense), sparse.d_model, dense.d_model, 0.25)
        with torch.no_grad():
            for parameter in bridge.parameters():
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)))
        return Pair(sparse, dense, bridge)

    return make

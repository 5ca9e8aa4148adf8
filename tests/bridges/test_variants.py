"""Every published variant of the sparse model trains when bridged: its own parameters move, and nonzeros per kind are exact."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bridges.alignment import align
from bridges.bridge import Bridge
from bridges.bridge_config import BridgeConfig
from bridges.objective import BridgedObjective
from dense_adapters import DenseStack
from sparse_model.training.batches import Batches
from sparse_model.training.loop import train
from sparse_model.training.projection import sparse_tensors
from sparse_model.training.train_config import TrainConfig
from sparse_model.transformer.model import SparseTransformer
from sparse_model.transformer.shape import SparseShape

SHAPE = {"n_layer": 2, "d_model": 24, "n_head": 3, "d_head": 4}
TRAIN = {
    "steps": 4,
    "batch_size": 4,
    "density": 0.2,
    "floor": 0,
    "evaluate_every": 0,
    "diagnose_every": 0,
    "log_to": "none",
}
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "no positions": ({}, {}),
    "positions added": ({"position": "added"}, {}),
    "sinks": ({"attention_sink": True}, {}),
    "bigram table": ({"bigram_table": True}, {}),
    "AbsTopK on the stream": ({"residual_topk": True}, {}),
    "densities by kind": ({}, {"embedding_density": 0.5, "head_density": 0.4, "bias_density": 1.0}),
    "exponential anneal": ({}, {"anneal_shape": "exponential"}),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_trains_when_bridged_and_keeps_exactly_what_its_densities_say(
    variant: str, tiny_gpt2: Callable, blocks: np.ndarray, tmp_path: Path
) -> None:
    shape, changes = VARIANTS[variant]
    dense, settings = DenseStack(tiny_gpt2().requires_grad_(False)), SparseShape(**{**SHAPE, **shape})
    model = SparseTransformer(settings.config(40, 16))
    bridge = Bridge(align(model, dense, "every"), model.d_model, dense.d_model, 0.25)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    config = TrainConfig(**{**TRAIN, **changes})
    train(BridgedObjective(model, dense, bridge, BridgeConfig()), Batches(blocks, 4, 0), config, tmp_path)
    for name, value in model.named_parameters():
        assert not torch.equal(value, before[name]), name
        assert value.isfinite().all(), name
    for tensor in sparse_tensors(model):
        if tensor.kind != "bias":  # which start at zero and may have fewer nonzeros than they may keep
            expected = max(1, round(config.final_densities()[tensor.kind] * tensor.parameter.numel()))
            assert int(tensor.parameter.count_nonzero()) == expected, tensor.name


def test_abs_topk_on_the_stream_leaves_a_quarter_of_it_after_every_sublayer(tokens: torch.Tensor) -> None:
    kept = {}
    for residual in (False, True):
        torch.manual_seed(0)
        model = SparseTransformer(SparseShape(**SHAPE, residual_topk=residual).config(40, 16))
        walk = model.walk(tokens)
        h = walk.embedding()
        kept[residual] = set()
        for i in range(4):
            h = walk.sublayer(i, h)
            kept[residual] |= set((h != 0).sum(-1).flatten().tolist())
    assert kept[True] == {6}
    assert kept[False] == {24}

"""Contexts are the places of largest activation, each passage once."""

from collections.abc import Callable

import numpy as np
import torch

from sparse_model import SparseTransformer
from sparse_model.circuits.contexts import top_contexts
from sparse_model.transformer.nodes import Node
from sparse_model.transformer.taps import Recorder

NODES = [Node.parse("1.attn.act_in:3"), Node.parse("1.mlp.post_act:5")]


def test_contexts_are_the_positions_of_largest_magnitude_with_the_text_around_them(
    tiny_sparse: Callable[..., SparseTransformer],
) -> None:
    model = tiny_sparse()
    blocks = np.random.default_rng(0).integers(0, 40, (7, 12))
    found = top_contexts(model, NODES, blocks, count=4, before=3, after=2, batch_size=3)
    recorder = Recorder({node.location for node in NODES})
    model(torch.from_numpy(blocks), tap=recorder)
    for node in NODES:
        values = recorder.activations[node.location][..., node.channel].detach()
        largest = values.flatten().abs().sort(descending=True).values[:4]
        assert [abs(context.activation) for context in found[node]] == largest.tolist()
        for context in found[node]:
            ((row, position),) = (values == context.activation).nonzero().tolist()
            assert list(context.tokens) == blocks[row, max(0, position - 3) : position + 3].tolist()
            assert context.tokens[context.at] == blocks[row, position]


def test_a_passage_counts_once_and_a_silent_node_has_none(tiny_sparse: Callable[..., SparseTransformer]) -> None:
    model = tiny_sparse()
    blocks = np.repeat(np.random.default_rng(1).integers(0, 40, (1, 12)), 5, axis=0)
    passages = [context.tokens[: context.at + 1] for context in top_contexts(model, NODES, blocks, count=5)[NODES[0]]]
    assert len(set(passages)) == len(passages) > 1
    with torch.no_grad():
        model.norm(2).weight[3] = 0
    assert top_contexts(model, NODES, blocks)[NODES[0]] == []

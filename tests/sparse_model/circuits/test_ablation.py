"""What removed nodes are frozen at, and what keeping all or none of them leaves."""

from collections.abc import Callable

import numpy as np
import torch

from sparse_model import SparseTransformer
from sparse_model.circuits.ablation import Ablate, ablation_values, final_logits
from sparse_model.transformer.nodes import node_locations
from sparse_model.transformer.taps import Recorder


def test_mean_values_are_the_means_of_a_recorded_forward(
    tiny_sparse: Callable[..., SparseTransformer], blocks: np.ndarray
) -> None:
    model = tiny_sparse()
    found = ablation_values(model, blocks[:10], "mean", batch_size=3)
    recorder = Recorder()
    with torch.no_grad():
        model(torch.from_numpy(blocks[:10].astype(np.int64)), tap=recorder)
    assert set(found) == set(node_locations(model.config))
    for name, value in found.items():
        torch.testing.assert_close(value, recorder.activations[name].mean((0, 1)), atol=1e-5, rtol=1e-4)
    assert max(value.abs().max() for value in found.values()) > 0.1


def test_zero_values_are_zero_at_every_node(tiny_sparse: Callable[..., SparseTransformer], blocks: np.ndarray) -> None:
    found = ablation_values(tiny_sparse(), blocks[:2], "zero")
    assert {name: len(value) for name, value in found.items()} == node_locations(tiny_sparse().config)
    assert all(not value.any() for value in found.values())


@torch.no_grad()
def test_keeping_all_nodes_is_the_whole_model_and_keeping_none_forgets_the_prompt(known, tokens: torch.Tensor) -> None:
    model, values = known.model, known.values
    shapes = {name: torch.ones(len(value), dtype=torch.bool) for name, value in values.items()}
    everything = model(tokens, tap=Ablate(shapes, values)).logits
    torch.testing.assert_close(everything, model(tokens).logits, atol=0, rtol=0)
    nothing = model(tokens, tap=Ablate({name: ~mask for name, mask in shapes.items()}, values)).logits
    # all writes frozen: the stream is the embedding plus constants
    h = model.walk(tokens).embedding()
    for layer in range(model.config.n_layer):
        h = h + values[f"{layer}.attn.resid_delta"] + values[f"{layer}.mlp.resid_delta"]
    torch.testing.assert_close(nothing, model.walk(tokens).unembed(h), atol=1e-4, rtol=1e-4)
    assert not torch.allclose(nothing, everything, atol=0.1)


@torch.no_grad()
def test_a_removed_channel_stands_at_its_value_and_a_kept_one_at_its_own(known, tokens: torch.Tensor) -> None:
    name = "0.mlp.post_act"
    keep = torch.zeros(len(known.values[name]), dtype=torch.bool)
    keep[4] = True
    tensor = torch.randn(2, 3, len(keep))
    found = Ablate({name: keep}, known.values)(name, tensor)
    assert torch.equal(found[..., 4], tensor[..., 4])
    assert torch.equal(found[..., 5], known.values[name][5].expand(2, 3))
    soft = Ablate({name: keep.float()}, known.values)(name, tensor)
    torch.testing.assert_close(soft, found)
    assert Ablate({name: keep}, known.values)("final_resid", tensor) is tensor


@torch.no_grad()
def test_final_logits_are_the_forward_logits_at_the_last_tokens(
    tiny_sparse: Callable[..., SparseTransformer], tokens: torch.Tensor
) -> None:
    last = torch.tensor([3, 11, 7])
    for switches in ({}, {"bigram_table": "learned"}, {"position": "added"}):
        model = tiny_sparse(**switches)
        expected = model(tokens).logits[torch.arange(3), last]
        torch.testing.assert_close(final_logits(model, tokens, last), expected, atol=1e-5, rtol=1e-5)

"""The census counts nonzeros and finds parts that cannot do anything."""

from collections.abc import Callable

import pytest
import torch

from sparse_model import SparseTransformer
from sparse_model.training.projection import density_report, project, sparse_tensors
from sparse_model.transformer.census import take_census
from sparse_model.transformer.taps import At

Make = Callable[..., SparseTransformer]


def test_counts_are_those_of_the_parameters(tiny_sparse: Make) -> None:
    model = tiny_sparse(bigram_table="learned")
    project(sparse_tensors(model), 0.1, 0)
    census = take_census(model)
    assert census.parameters == sum(p.numel() for p in model.parameters())
    assert census.nonzero == sum(int(p.count_nonzero()) for p in model.parameters())
    assert census.density == pytest.approx(density_report(model)["total"])
    assert {tensor.name for tensor in census.tensors if not tensor.projected} >= {
        "bigram_table",
        "transformer.ln_f.weight",
    }


def test_a_dense_random_model_has_nothing_dead(tiny_sparse: Make) -> None:
    assert [(x.dead_qk, x.dead_v, x.dead_neurons) for x in take_census(tiny_sparse()).layers] == [(0, 0, 0)] * 2


@torch.no_grad()
def kill(model: SparseTransformer) -> None:
    """In layer 1, silence query 0 and key 5, value 2 (unread) and 3 (unfed), neurons 4 (unread) and 6 (unfed)."""
    attention, mlp = model.transformer["h"][1].attn, model.transformer["h"][1].mlp
    for row in (0, 12 + 5, 24 + 3):
        attention.c_attn.weight[row] = 0
        attention.c_attn.bias[row] = 0
    attention.c_proj.weight[:, 2] = 0
    mlp.c_proj.weight[:, 4] = 0
    mlp.c_fc.weight[6] = 0


def test_dead_parts_are_counted_once_in_their_layer(tiny_sparse: Make) -> None:
    model = tiny_sparse()
    kill(model)
    first, second = take_census(model).layers
    assert (first.dead_qk, first.dead_v, first.dead_neurons) == (0, 0, 0)
    assert (second.dead_qk, second.dead_v, second.dead_neurons) == (2, 2, 2)
    assert (second.channels, second.neurons) == (12, 32)


def test_dead_channels_change_nothing_and_live_ones_do(tiny_sparse: Make, tokens: torch.Tensor) -> None:
    model = tiny_sparse(topk_fraction=None)
    kill(model)

    def without(part: str, channel: int) -> torch.Tensor:
        def remove(x: torch.Tensor) -> torch.Tensor:
            return x * (torch.arange(x.shape[-1]) != channel)

        return model(tokens, tap=At({f"1.{part}": remove})).logits

    whole = model(tokens).logits
    for part, dead, live in (
        ("attn.k", 0, 1),
        ("attn.q", 5, 1),
        ("attn.v", 2, 1),
        ("attn.v", 3, 1),
        ("mlp.post_act", 4, 1),
    ):
        torch.testing.assert_close(without(part, dead), whole)
        assert not torch.allclose(without(part, live), whole), part


def test_a_bias_keeps_a_channel_alive(tiny_sparse: Make) -> None:
    model = tiny_sparse()
    with torch.no_grad():
        model.transformer["h"][0].attn.c_attn.weight[0] = 0
    assert take_census(model).layers[0].dead_qk == 0

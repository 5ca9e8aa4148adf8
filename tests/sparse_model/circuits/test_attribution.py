"""Attribution is the derivative of the logit difference towards removing a node; exact where the model is linear in it."""

from collections.abc import Callable

import pytest
import torch

from sparse_model import SparseTransformer
from sparse_model.circuits.ablation import Ablate, final_logits
from sparse_model.circuits.attribution import attribution_scores, break_ties
from sparse_model.circuits.prompts import Prompts
from sparse_model.tasks.loss import logit_difference
from sparse_model.transformer.nodes import node_locations
from tests.sparse_model.circuits.conftest import own_pairs


def values_of(model: SparseTransformer) -> dict[str, torch.Tensor]:
    return {name: 0.5 * torch.ones(width) for name, width in node_locations(model.config).items()}


def difference(model, pairs, values, name: str, channel: int, mask: float) -> float:
    """Mean logit difference with one node partly removed."""
    keep = torch.ones(len(values[name]))
    keep[channel] = mask
    batch = pairs.prompts()
    with torch.no_grad():
        logits = final_logits(model, batch.tokens, batch.last, Ablate({name: keep}, values)).double()
    return float(logit_difference(logits, batch.answer, batch.other).mean())


@pytest.mark.parametrize(
    "name", ["0.attn.act_in", "0.attn.q", "1.attn.k", "1.attn.v", "0.mlp.post_act", "1.mlp.act_in"]
)
def test_it_is_the_finite_difference_towards_removing_the_node(
    tiny_sparse: Callable[..., SparseTransformer], name: str
) -> None:
    model = tiny_sparse(topk_fraction=None)
    model.requires_grad_(False)
    pairs, values = own_pairs(model, 1), values_of(model)
    scores = attribution_scores(Prompts(model, pairs), values, tied=False)[name]
    channel = int(scores.argmax())
    at = [difference(model, pairs, values, name, channel, 1 - step) for step in (-1e-2, 1e-2)]
    assert abs(at[1] - at[0]) / 2e-2 == pytest.approx(float(scores[channel]), rel=0.02)


def test_where_the_output_is_linear_in_a_node_it_is_exactly_what_removal_does(
    tiny_sparse: Callable[..., SparseTransformer],
) -> None:
    """Without AbsTopK, and with a final norm of constant scale, the last write is linear."""
    model = tiny_sparse(topk_fraction=None)
    model.requires_grad_(False)
    model.norm(4).eps = 1e6
    model.lm_head.weight *= 1e3
    pairs, values, name = own_pairs(model, 1), values_of(model), "1.mlp.resid_delta"
    scores = attribution_scores(Prompts(model, pairs), values)[name]
    for channel in (0, 5, 9):
        whole, removed = (difference(model, pairs, values, name, channel, mask) for mask in (1.0, 0.0))
        assert abs(whole - removed) == pytest.approx(float(scores[channel]), rel=1e-3)
    assert scores.max() > 3 * scores.min()


def test_a_tied_query_and_key_share_the_sum_of_their_attributions(known) -> None:
    tied = attribution_scores(Prompts(known.model, known.train), known.values)
    loose = attribution_scores(Prompts(known.model, known.train), known.values, tied=False)
    assert torch.equal(tied["0.attn.q"], tied["0.attn.k"])
    assert bool((tied["0.attn.q"] <= loose["0.attn.q"] + loose["0.attn.k"] + 1e-6).all())
    assert not torch.equal(tied["0.attn.q"], loose["0.attn.q"])


def test_only_saturated_scores_are_told_apart_and_no_sign_changes() -> None:
    scores = {"x": torch.tensor([1.0, 1.0, 0.4, -1.0]), "y": torch.tensor([-1.0, -0.2, -1.0])}
    importance = {"x": torch.tensor([0.1, 0.9, 5.0, 0.3]), "y": torch.tensor([0.7, 9.0, 0.2])}
    found = break_ties(scores, importance)
    assert found["x"][1] > found["x"][0] >= 1
    assert found["y"][0] > found["x"][3] > found["y"][2] >= -1
    assert (found["x"][2], found["y"][1]) == (scores["x"][2], scores["y"][1])
    assert all(torch.equal(found[name] > 0, score > 0) for name, score in scores.items())

"""Node sets as changes of the stream: each channel once, at its own site, among those that differ."""

import pytest
import torch

from bridges.validation.contrast import masked
from bridges.validation.node_sets import SiteChannels, Translation, by_place, matched_sets, scaled_like
from sparse_model.transformer.nodes import Node
from sparse_model.transformer.taps import Recorder


def nodes(*names: str) -> tuple[Node, ...]:
    return tuple(map(Node.parse, names))


@pytest.fixture(scope="module")
def found(validated) -> Translation:
    return Translation(validated.contrast, validated.sparse, validated.dense, validated.bridge)


def test_reads_stand_at_their_own_site_writes_after_their_sublayer_and_a_channel_counts_once(validated) -> None:
    names = ("0.attn.act_in:1", "0.attn.resid_delta:4", "0.mlp.act_in:4", "0.mlp.act_in:7", "1.mlp.resid_delta:9")
    placed = by_place(nodes(*names, "0.attn.q:3", "1.mlp.post_act:5"), validated.bridge, 24)
    assert placed == {
        0: SiteChannels(0, (1,), ()),
        1: SiteChannels(1, (4, 7), ()),
        4: SiteChannels(4, (), (9,)),
    }


def test_nodes_of_a_site_without_a_dense_one_are_left_out_and_none_is_added_twice(pair) -> None:
    sparse, _, bridge = pair(dense_layers=4)
    placed = by_place(nodes("0.mlp.act_in:2", "1.attn.act_in:2", "0.attn.resid_delta:3"), bridge, sparse.d_model)
    assert placed == {1: SiteChannels(1, (2,), ())}


@torch.no_grad()
def test_a_read_changes_its_whole_channel_and_a_write_what_its_sublayer_wrote(found: Translation, validated) -> None:
    change = found.sparse_change(SiteChannels(3, (2, 5), (8,)))
    whole = found.sparse.difference(3)
    torch.testing.assert_close(change[..., [2, 5]], whole[..., [2, 5]])
    written = []
    for tokens in (validated.contrast.counterfactual, validated.contrast.base):
        recorder = Recorder(["1.attn.resid_delta"])
        validated.sparse(tokens, tap=recorder)
        written.append(recorder.activations["1.attn.resid_delta"][..., 8])
    torch.testing.assert_close(change[..., 8], written[0] - written[1])
    rest = [c for c in range(24) if c not in (2, 5, 8)]
    assert not change[..., rest].any()
    carried = found.dense_change(3, change)
    torch.testing.assert_close(carried, change @ validated.bridge.decoders[3].weight.T)


def test_inner_places_are_neither_the_embedding_nor_the_final_stream(found: Translation) -> None:
    assert found.inner_places == (1, 2, 3)


def test_matched_sets_are_as_many_of_either_kind_live_and_outside_the_circuit() -> None:
    circuit = SiteChannels(1, (0, 1), (2,))
    live = torch.arange(24) < 12
    written = torch.arange(24) < 8
    sets = matched_sets(circuit, live, written, 50, torch.Generator().manual_seed(0))
    assert len(sets) == 50
    for one in sets:
        assert (len(one.read), len(one.written)) == (2, 1)
        assert not set(one.channels) & {0, 1, 2}
        assert max(one.read) < 12
        assert max(one.written) < 8
        assert len(set(one.channels)) == 3
    assert len({one.channels for one in sets}) > 20
    everything = SiteChannels(1, tuple(range(24)), ())
    assert matched_sets(everything, live, written, 5, torch.Generator()) == []


def test_a_scaled_change_has_the_others_norm_at_every_token_and_keeps_its_direction() -> None:
    change, like = torch.randn(3, 4, 5), torch.randn(3, 4, 5)
    change[0, 0] = 0
    scaled = scaled_like(change, like)
    norms = like.norm(dim=-1)
    norms[0, 0] = 0
    torch.testing.assert_close(scaled.norm(dim=-1), norms)
    cosine = torch.cosine_similarity(scaled, change, dim=-1)
    torch.testing.assert_close(cosine[1:], torch.ones_like(cosine[1:]))


@torch.no_grad()
def test_live_channels_are_those_that_differ_at_the_positions(found: Translation, validated) -> None:
    counted = validated.contrast.counted
    live = found.live(2, counted)
    whole = masked(found.sparse.difference(2), counted)
    assert torch.equal(live, (whole != 0).any(0).any(0))
    assert not found.live(0, counted).any(), "before the first attention nothing after the change differs"

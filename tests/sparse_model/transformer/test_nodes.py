"""Node addresses: one spelling per node, everything else refused."""

import contextlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from foundation.errors import UserError
from sparse_model import SparseConfig
from sparse_model.transformer.nodes import NODE_PARTS, Node, check_location, locations, node_locations

PARTS = [(block, part) for block, parts in NODE_PARTS.items() for part in parts]


@given(st.integers(0, 10**6), st.sampled_from(PARTS), st.integers(0, 10**9))
def test_every_node_round_trips_through_its_text(layer: int, place: tuple[str, str], channel: int) -> None:
    node = Node(layer, *place, channel)
    assert Node.parse(str(node)) == node


@given(st.text(alphabet="0123456789²٣.:-+ _atnmlpqkvyescid\n", max_size=24))
def test_text_is_either_the_one_spelling_of_a_node_or_refused(text: str) -> None:
    with contextlib.suppress(UserError):
        assert str(Node.parse(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "0.attn.act_in",
        "0.attn.act_in:",
        "00.attn.q:1",
        "0.attn.q:01",
        "².attn.q:1",
        "-1.attn.q:1",
        "0.attn.q:1 ",
        "attn.q:1",
    ],
)
def test_a_malformed_address_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UserError, match="such as"):
        Node.parse(text)


@pytest.mark.parametrize("text", ["0.attn.y:1", "0.mlp.q:1", "0.resid.act_in:1"])
def test_a_part_that_holds_no_nodes_is_refused_with_the_valid_ones(text: str) -> None:
    with pytest.raises(UserError, match=r"attn\.act_in, .*mlp\.post_act"):
        Node.parse(text)


def test_a_node_beyond_the_model_is_refused(tiny_config: Callable[..., SparseConfig]) -> None:
    config = tiny_config(n_layer=2, d_mlp=32)
    assert Node.parse("1.mlp.post_act:31").check(config).channel == 31
    with pytest.raises(UserError, match="layers 0 to 1"):
        Node.parse("2.mlp.post_act:0").check(config)
    with pytest.raises(UserError, match="channels 0 to 31"):
        Node.parse("1.mlp.post_act:32").check(config)


def test_an_unknown_location_is_refused_with_the_nearest(tiny_config: Callable[..., SparseConfig]) -> None:
    with pytest.raises(UserError, match=r"did you mean '1\.attn\.resid_delta'"):
        check_location(tiny_config(), "1.attn.resid_delt")


def test_node_locations_are_the_locations_that_can_be_masked(tiny_config: Callable[..., SparseConfig]) -> None:
    config = tiny_config(position="concatenated", d_position=6)
    nodes, all_locations = node_locations(config), locations(config)
    assert nodes.items() <= all_locations.items()
    assert {name.split(".", 1)[-1] for name in set(all_locations) - set(nodes)} == {
        "resid_in", "resid_mid", "attn.y", "final_resid",
    }  # fmt: skip
    assert nodes["0.attn.act_in"] == config.d_model + 6


def test_sublayers_of_nodes_count_attention_then_mlp() -> None:
    assert [Node.parse(text).sublayer for text in ("0.attn.q:0", "0.mlp.act_in:0", "3.attn.v:1", "3.mlp.act_in:1")] == [
        0,
        1,
        6,
        7,
    ]

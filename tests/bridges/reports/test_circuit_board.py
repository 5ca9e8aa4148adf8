"""The board holds all of a circuit, puts nodes where they work, and its page needs nothing else."""

import re
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from bridges.reports.board_page import board_page
from bridges.reports.circuit_board import TokenEffects, circuit_board, place_of, token_effects
from bridges.reports.circuit_graph import shortest
from bridges.reports.figures.board_drawing import board_drawing
from bridges.reports.figures.board_layout import lay_out_board
from sparse_model.circuits.ablation import final_logits
from sparse_model.circuits.prune import trim
from sparse_model.corpus.reference_text import builtin_blocks
from sparse_model.transformer.nodes import Node
from sparse_model.transformer.taps import At, Chain

from .conftest import Explained


@pytest.fixture(scope="module")
def board(explained: Explained) -> dict[str, Any]:
    blocks = builtin_blocks(explained.tokenizer, "held_out", 4, 24)
    return circuit_board(explained.model, explained.circuit, explained.pairs, explained.tokenizer, blocks, contexts=2)


def test_an_effect_is_the_slope_of_the_logit_difference_as_the_node_is_ablated_at_that_token(
    explained: Explained,
) -> None:
    pair = trim(explained.pairs.select([shortest(explained.pairs)]))
    model, circuit = explained.model.double(), explained.circuit
    nodes = list(circuit.nodes)
    effects = token_effects(model, circuit, pair, nodes)
    batch = pair.prompts()

    def difference(node: Node, token: int, share: float) -> torch.Tensor:
        def shift(tensor: torch.Tensor) -> torch.Tensor:
            moved = tensor.clone()
            value = circuit.values[node.location][node.channel]
            moved[:, token, node.channel] += share * (value - tensor[:, token, node.channel])
            return moved

        with torch.no_grad():
            logits = final_logits(model, batch.tokens, batch.last, Chain(circuit.only(), At({node.location: shift})))
        return (logits.gather(1, batch.answer[:, None]) - logits.gather(1, batch.other[:, None]))[:, 0]

    checked = 0
    for node in nodes[::3]:
        if node.part not in ("v", "resid_delta", "post_act"):  # past the last AbsTopK that a small step could flip
            continue
        ablated = effects[node].ablated
        token = int(ablated.argmax())
        slope = (difference(node, token, 1e-5) - difference(node, token, -1e-5)).abs().sum() / 2e-5
        if float(ablated[token]) > 1e-3:
            assert float(slope) == pytest.approx(float(ablated[token]), rel=1e-3)
            checked += 1
    explained.model.float()
    assert checked > 3


def test_a_node_stands_where_its_effect_is_largest_else_where_it_could_have_one_else_where_it_is_active() -> None:
    active = {"a": [0.0, 0.0, -2.0, 0.0], "b": [1.0, 0.0, 0.0, 0.0]}
    none, some, other = torch.zeros(4), torch.tensor([0.0, 3.0, 1.0, 0.0]), torch.tensor([2.0, 0.0, 0.0, 1.0])
    assert place_of(TokenEffects(some, other), active) == 1
    assert place_of(TokenEffects(none, other), active) == 0
    assert place_of(TokenEffects(none, other), active, reader=3) == 0
    assert place_of(TokenEffects(none, none), active, reader=3) == 3
    assert place_of(TokenEffects(none, none), active) == 2
    assert place_of(TokenEffects(none, none), {"a": [0.0] * 4, "b": [0.0] * 4}) == 3


def test_inputs_and_outputs_are_the_models_own_weights(explained: Explained, board: dict[str, Any]) -> None:
    pair = trim(explained.pairs.select([shortest(explained.pairs)]))
    words = explained.model.embeddings("wte").weight
    assert board["inputs"]
    for entry in board["inputs"]:
        node = Node.parse(entry["target"])
        tokens = pair.tokens_b if entry["side"] == "b" else pair.tokens_a
        assert entry["weight"] == float(words[tokens[0, entry["token"]], node.channel])
    gain = explained.model.norm_gain(len(explained.model.sublayers))
    writes = [node for node in explained.circuit.nodes if node.part == "resid_delta"]
    assert len(board["outputs"]) == 2 * len(writes)
    for entry in board["outputs"]:
        answer = int((pair.answer_a if entry["side"] == "a" else pair.answer_b)[0])
        channel = Node.parse(entry["source"]).channel
        expected = explained.model.lm_head.weight[answer, channel] * gain[channel]
        assert entry["weight"] == pytest.approx(float(expected))


def test_used_weights_are_the_circuits_edges_and_the_total_every_nonzero_weight_of_the_node(
    explained: Explained, board: dict[str, Any]
) -> None:
    for node in board["nodes"]:
        mine = [e for e in board["edges"] if node["address"] in (e["source"], e["target"])]
        assert node["edges_used"] == len(mine) <= node["edges_total"]
        if node["part"] == "post_act":
            mlp, channel = explained.model.blocks[node["layer"]].mlp, node["channel"]
            weights = mlp.c_fc.weight[channel].count_nonzero() + mlp.c_proj.weight[:, channel].count_nonzero()
            assert node["edges_total"] == int(weights)
    assert any(node["edges_used"] for node in board["nodes"])


def test_every_node_weight_link_and_end_is_a_mark_of_the_drawing(board: dict[str, Any]) -> None:
    svg = board_drawing(board, "x")
    ElementTree.fromstring(svg)
    ids = set(re.findall(r'id="x-([a-z-]+?-\d+)"', svg))
    for kind, count in (
        ("node", len(board["nodes"])),
        ("edge", len(board["edges"])),
        ("link", len(board["residual_links"])),
        ("head", len(board["heads"])),
        ("token-weight", sum(entry["side"] != "position" for entry in board["inputs"])),
        ("output", len(board["outputs"])),
    ):
        assert {mark for mark in ids if mark.rsplit("-", 1)[0] == kind} == {f"{kind}-{i}" for i in range(count)}


def test_the_page_has_a_panel_for_every_node_and_asks_for_nothing_from_outside(board: dict[str, Any]) -> None:
    page = board_page(board, "a <rule>")
    assert all(f"<h2>{node['address']}</h2>" in page for node in board["nodes"])
    assert "A &lt;rule&gt;" in page
    assert not re.findall(r"""(?:src|href)=["'](?!#)|@import|url\((?!#)""", page)
    first = board["nodes"][0]["contexts"][0]
    assert len(first["tokens"]) > first["at"]


def test_nodes_keep_apart_and_to_their_columns(board: dict[str, Any]) -> None:
    tokens = len(board["example"]["a"]["tokens"])
    links = [(edge["source"], edge["target"]) for edge in board["edges"]]
    layout = lay_out_board(board["nodes"], links, tokens)
    places = np.array([layout.places[node["address"]] for node in board["nodes"]])
    distances = np.linalg.norm(places[:, None] - places[None], axis=-1) + 10 * np.eye(len(places))
    assert distances.min() > 0.6
    for node, (x, _) in zip(board["nodes"], places, strict=True):
        left, right = layout.columns[node["token"]]
        assert left <= x <= right
    ups = {node["address"]: layout.places[node["address"]][1] for node in board["nodes"]}
    assert all(ups[source] < ups[target] for source, target in links)

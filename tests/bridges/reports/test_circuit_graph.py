"""The graph of a circuit says exactly what the circuit holds, and its drawing leaves out nothing unannounced."""

import itertools
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from bridges.reports.circuit_graph import bare_graph, circuit_graph, residual_links
from bridges.reports.circuit_section import circuit_blocks
from bridges.reports.figures.circuit_drawing import circuit_drawing, strongest
from bridges.reports.layout import lay_out
from foundation.errors import UserError
from sparse_model.circuits.circuit import circuit_edges
from sparse_model.transformer.nodes import Node, node_locations
from sparse_model.transformer.taps import Recorder

from .conftest import Explained


@pytest.fixture(scope="module")
def graph(explained: Explained) -> dict[str, Any]:
    return explained.report["tasks"]["closing_quote"]["circuit"]


def test_the_graph_has_exactly_the_circuits_nodes_and_edges(explained: Explained, graph: dict[str, Any]) -> None:
    addresses = [node["address"] for node in graph["nodes"]]
    assert sorted(addresses) == sorted(str(node) for node in explained.circuit.nodes)
    places = [list(node_locations(explained.model.config)).index(address.split(":")[0]) for address in addresses]
    assert places == sorted(places)
    edges = {(str(e.source), str(e.target)): e.weight for e in circuit_edges(explained.model, explained.circuit.keep)}
    assert edges
    assert {(e["source"], e["target"]): e["weight"] for e in graph["edges"]} == edges
    assert len(graph["edges"]) == len(edges)


def test_residual_links_go_from_every_write_to_every_later_read_of_its_channel_only(graph: dict[str, Any]) -> None:
    links = {(link["source"], link["target"]) for link in graph["residual_links"]}
    nodes = [Node.parse(node["address"]) for node in graph["nodes"]]
    assert links == {
        (str(write), str(read))
        for write in nodes
        for read in nodes
        if (write.part, read.part) == ("resid_delta", "act_in")
        and write.channel == read.channel
        and 2 * read.layer + (read.block == "mlp") > 2 * write.layer + (write.block == "mlp")
    }
    assert links


def test_a_write_does_not_feed_its_own_sublayer_or_an_earlier_one() -> None:
    nodes = [
        Node.parse(text)
        for text in ("1.attn.act_in:3", "1.attn.resid_delta:3", "1.mlp.act_in:3", "0.mlp.act_in:3", "1.mlp.act_in:4")
    ]
    assert residual_links(nodes) == [{"source": "1.attn.resid_delta:3", "target": "1.mlp.act_in:3"}]


def test_activations_are_those_of_the_whole_model_on_each_prompt_by_itself(
    explained: Explained, graph: dict[str, Any]
) -> None:
    pairs, model = explained.pairs, explained.model
    node = next(found for found in graph["nodes"] if found["difference"])
    location = node["address"].split(":")[0]
    at_last, at_contrast = [], []
    for n in range(len(pairs)):
        length = int(pairs.last[n]) + 1
        both = []
        for tokens in (pairs.tokens_a, pairs.tokens_b):
            recorder = Recorder([location])
            with torch.no_grad():
                model(tokens[n : n + 1, :length], tap=recorder)
            both.append(recorder.activations[location][0, :, node["channel"]])
        at_last.append([float(x[-1]) for x in both])
        place = int((both[0] - both[1]).abs().argmax())
        at_contrast.append([float(x[place]) for x in both])
    np.testing.assert_allclose(np.mean(at_last, axis=0), [node["mean_a_last"], node["mean_b_last"]], atol=1e-5)
    np.testing.assert_allclose(
        np.mean(at_contrast, axis=0), [node["mean_a_contrast"], node["mean_b_contrast"]], atol=1e-5
    )


def test_the_example_is_a_pair_with_an_activation_per_token_and_node(
    explained: Explained, graph: dict[str, Any]
) -> None:
    example = graph["example"]
    texts = {(text.prompt_a, text.prompt_b) for text in explained.pairs.texts}
    shown = tuple("".join(example[side]["tokens"]) for side in "ab")
    assert any(a in shown[0] and b in shown[1] for a, b in texts)
    for node in graph["nodes"]:
        for side in "ab":
            assert len(node["activations"][side]) == len(example[side]["tokens"])
        assert -1 <= node["selectivity"] <= 1
        assert 0 <= node["relative_difference"] <= 1


def test_another_models_circuit_is_refused(explained: Explained) -> None:
    from dataclasses import replace

    foreign = replace(explained.circuit, model_fingerprint="0" * 64)
    with pytest.raises(UserError, match="another sparse model"):
        circuit_graph(explained.model, foreign, explained.pairs, explained.tokenizer)


def test_up_to_the_limit_nothing_is_left_out_and_above_it_the_number_is_said(graph: dict[str, Any]) -> None:
    total = len(graph["nodes"])
    assert strongest(graph, total) == (graph["nodes"], 0)
    drawn, left_out = strongest(graph, 10)
    assert (len(drawn), left_out) == (10, total - 10)
    weakest_drawn = min(node["relative_difference"] for node in drawn)
    others = [node for node in graph["nodes"] if node not in drawn]
    assert all(node["relative_difference"] <= weakest_drawn for node in others)
    captions = [block.caption for block in circuit_blocks(graph, "x") if block.kind == "drawing"]
    assert total > 60
    assert f"{total - 60} more" in captions[0]


def test_every_drawn_node_is_in_the_drawing(graph: dict[str, Any]) -> None:
    small = bare_graph("x", [node["address"] for node in graph["nodes"][::4]])
    root = ElementTree.fromstring(circuit_drawing(small, "x"))
    words = [element.text for element in root.iter() if element.text and element.text.strip()]
    for node in small["nodes"]:
        label = f"{node['part'] if node['part'] in 'qkv' else ''}{node['channel']}"
        assert label in words


def test_nodes_of_a_row_keep_their_distance_and_layers_go_up(graph: dict[str, Any]) -> None:
    links = [(link["source"], link["target"]) for link in (*graph["edges"], *graph["residual_links"])]
    layout = lay_out(graph["nodes"], links)
    assert set(layout.places) == {node["address"] for node in graph["nodes"]}
    for row in layout.rows:
        xs = [layout.places[address][0] for address in row.addresses]
        assert all(right - left >= 1 - 1e-9 for left, right in itertools.pairwise(xs))
        assert xs[0] >= -1e-9
        assert xs[-1] <= layout.width + 1e-9
    heights = [row.y for row in layout.rows]
    assert heights == sorted(heights)
    for source, target in links:
        assert layout.places[source][1] < layout.places[target][1]


def test_links_draw_their_nodes_together() -> None:
    nodes = [Node.parse(f"0.mlp.{part}:{channel}") for part in ("act_in", "post_act") for channel in range(4)]
    described = bare_graph("x", map(str, nodes))["nodes"]
    crossed = [(f"0.mlp.act_in:{c}", f"0.mlp.post_act:{3 - c}") for c in range(4)]
    places = lay_out(described, crossed).places
    for source, target in crossed:
        assert places[source][0] == pytest.approx(places[target][0])


def test_an_empty_circuit_has_a_section() -> None:
    assert [block.kind for block in circuit_blocks(bare_graph("x", []), "x")] == ["prose"]

"""A circuit on a page: the drawing, activations on the example, and tables of nodes and weights."""

from collections.abc import Mapping
from typing import Any

from bridges.reports.blocks import Block, Drawing, Prose, Table
from bridges.reports.figures.activations import activation_map, activation_rows
from bridges.reports.figures.circuit_drawing import MOST_NODES, circuit_drawing, strongest
from bridges.reports.numbers import figure

PARTS = {
    "act_in": "read",
    "q": "query",
    "k": "key",
    "v": "value",
    "post_act": "neuron",
    "resid_delta": "write",
}


def circuit_blocks(graph: Mapping[str, Any], anchor: str) -> list[Block]:
    """Drawing, activations and tables; a graph without activations has neither colours nor an activation map."""
    blocks: list[Block] = []
    nodes = graph["nodes"]
    if not nodes:
        return [Prose("The circuit is empty: no node was kept.")]
    with_activations = "activations" in nodes[0]
    if with_activations or len(nodes) <= MOST_NODES:
        caption = _caption(graph, with_activations)
        blocks.append(Drawing(circuit_drawing(graph, f"{anchor}-circuit"), caption, wide=True, on_paper=True))
    else:
        told = (
            f"A drawing shows at most {MOST_NODES} nodes; without activations nothing says which of these {len(nodes)}."
        )
        blocks.append(Prose(told))
    if with_activations and graph.get("example"):
        shown = len(activation_rows(graph))
        which = "All nodes" if shown == len(nodes) else f"The {shown} of {len(nodes)} nodes that differ most"
        caption = (
            f"{which} on the example pair, token by token; green is positive, purple negative, each row scaled by its "
            "largest value. In the prompts · is a blank and ⏎ a line end."
        )
        blocks.append(Drawing(activation_map(graph, f"{anchor}-activations"), caption, wide=True))
    blocks.append(_nodes(graph, with_activations))
    if graph["edges"]:
        blocks.append(_edges(graph))
    return blocks


def _caption(graph: Mapping[str, Any], with_activations: bool) -> str:
    drawn, left_out = strongest(graph)
    parts = [
        "Bottom to top: what each sublayer reads from the residual stream, what it computes, what it writes back. "
        "Numbers are channels."
    ]
    if with_activations:
        parts.append(
            "Colour: on which prompts a node's activation is larger, at the token where it differs most; area: by "
            "how much, relative to the largest difference of its location."
        )
    if left_out:
        parts.append(
            f"The {len(drawn)} nodes of largest difference are drawn; {left_out} more, and their lines, are left "
            "out and listed below."
        )
    elif graph["edges"]:
        parts.append(f"All {len(drawn)} nodes and {len(graph['edges'])} weights are drawn.")
    else:
        parts.append(f"All {len(drawn)} nodes are drawn; weights are not part of this drawing.")
    return " ".join(parts)


def _nodes(graph: Mapping[str, Any], with_activations: bool) -> Table:
    places = ("node", "layer", "sublayer", "part", "channel")
    means = ("last token: a", "last token: b", "most differing token: a", "most differing token: b", "difference a − b")
    rows = [
        [
            node["address"],
            figure(node["layer"]),
            "attention" if node["block"] == "attn" else "MLP",
            PARTS[node["part"]],
            figure(node["channel"]),
            *(
                figure(node[key])
                for key in ("mean_a_last", "mean_b_last", "mean_a_contrast", "mean_b_contrast", "difference")
                if with_activations
            ),
        ]
        for node in graph["nodes"]
    ]
    caption = "Every node of the circuit."
    if with_activations:
        caption += (
            f" Mean activations in the whole sparse model over {graph['pairs']} pairs, on a and on b prompts: at "
            "the last token, and at each pair's token where the node differs most."
        )
    return Table.of(
        caption, places + (means if with_activations else ()), rows, fold=f"All {len(rows)} nodes", text_columns=4
    )


def _edges(graph: Mapping[str, Any]) -> Table:
    edges = sorted(graph["edges"], key=lambda edge: -abs(edge["weight"]))
    rows = [[edge["source"], edge["target"], figure(edge["weight"])] for edge in edges]
    caption = "Every nonzero weight between two nodes of the circuit, largest first."
    return Table.of(caption, ("from", "to", "weight"), rows, fold=f"All {len(rows)} weights", text_columns=2)

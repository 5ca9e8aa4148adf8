"""Activations of a circuit's nodes along the example pair: one row per node, one column per token, a beside b."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.colors import LinearSegmentedColormap

from bridges.reports.figures.canvas import make_figure, style, to_svg

MOST_NODES, MOST_TOKENS = 24, 40
COLOURS = LinearSegmentedColormap.from_list("signed", ["#8e2f7c", "#e3bcdb", "#ffffff", "#b5dccd", "#00684a"])


def activation_rows(graph: Mapping[str, Any], most: int = MOST_NODES) -> list[Mapping[str, Any]]:
    """The nodes that are shown, in forward order: those that differ most relative to their location."""
    ranked = sorted(graph["nodes"], key=lambda node: node["relative_difference"], reverse=True)[:most]
    chosen = {node["address"] for node in ranked}
    return [node for node in graph["nodes"] if node["address"] in chosen]


def activation_map(
    graph: Mapping[str, Any], name: str, most_nodes: int = MOST_NODES, most_tokens: int = MOST_TOKENS
) -> str:
    """The example of a circuit graph as SVG; rows scaled by their largest magnitude, long prompts keep their end."""
    nodes = activation_rows(graph, most_nodes)[::-1]
    sides = [np.array([node["activations"][side][-most_tokens:] for node in nodes]) for side in "ab"]
    scale = np.maximum(np.abs(np.concatenate(sides, axis=1)).max(axis=1, keepdims=True), 1e-12)
    labels = [graph["example"][side]["tokens"][-most_tokens:] for side in "ab"]
    columns = sides[0].shape[1]
    with style():
        figure = make_figure(1.9 + 2 * (0.2 + 0.135 * max(columns, 12)), 1.5 + 0.19 * len(nodes))
        for axes, values, tokens, side in zip(figure.subplots(1, 2, sharey=True), sides, labels, "ab", strict=True):
            axes.pcolormesh(values / scale, cmap=COLOURS, vmin=-1, vmax=1, edgecolors="#eeeeee", linewidth=0.3)
            axes.set_title(f"prompt {side}")
            axes.set_xticks(np.arange(columns) + 0.5, [visible(token) for token in tokens], rotation=90, fontsize=7)
            axes.set_yticks(np.arange(len(nodes)) + 0.5, [node["address"] for node in nodes], fontsize=7.5)
            axes.tick_params(length=0, pad=2)
            for spine in axes.spines.values():
                spine.set_visible(False)
        return to_svg(
            figure, name, f"Activations of {len(nodes)} nodes at each token of the example pair, scaled node by node."
        )


def visible(token: str) -> str:
    """A token as it can be read on an axis: blanks and line ends shown, anything exotic escaped."""
    shown = token.replace(" ", "·").replace("\n", "⏎").replace("\t", "→").replace("\r", "")
    return "".join(
        c if (c.isascii() and c.isprintable()) or c in "·⏎→" else c.encode("unicode_escape").decode() for c in shown
    )

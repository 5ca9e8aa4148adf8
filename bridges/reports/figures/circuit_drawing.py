"""A circuit drawn from the embeddings (bottom) to the logits (top): nodes, weights, and links through the residual
stream.

Colour says on which prompts of the pairs a node is larger, area how much its activation differs within its location.
A line is a weight (thickness its size; purple and dotted where it is negative), a dashed arc the residual stream from
a write to a later read.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import PathPatch
from matplotlib.path import Path

from bridges.reports.figures.canvas import BACKWARD, FAINT, FORWARD, INK, style, to_svg
from bridges.reports.layout import GROUPS, Layout, Row, lay_out

MOST_NODES = 60
LEAST_WIDTH = 6.6
"""Inches the legend needs."""
NEGATIVE = "#8e2f7c"
POSITIVE = "#3a3a3a"
COLOURS = LinearSegmentedColormap.from_list("b to a", [BACKWARD, "#f3c9a8", "#f4f4f4", "#a9d0ea", FORWARD])
STAGE_NAMES = {"attn": ("reads", "q, k, v", "writes"), "mlp": ("reads", "neurons", "writes")}


def strongest(graph: Mapping[str, Any], most: int = MOST_NODES) -> tuple[list[Mapping[str, Any]], int]:
    """The nodes that are drawn, in forward order, and the number left out.

    Above `most`, those whose activation differs most between a and b prompts, relative to the largest difference of
    their location (activations of different locations have different scales).
    """
    nodes = list(graph["nodes"])
    if len(nodes) <= most:
        return nodes, 0
    ranked = sorted(nodes, key=lambda node: node.get("relative_difference", 0.0), reverse=True)
    drawn = {node["address"] for node in ranked[:most]}
    return [node for node in nodes if node["address"] in drawn], len(nodes) - most


def circuit_drawing(graph: Mapping[str, Any], name: str, most: int = MOST_NODES) -> str:
    """A circuit graph (`circuit_graph`) as SVG."""
    nodes, _ = strongest(graph, most)
    drawn = {node["address"] for node in nodes}
    edges = [edge for edge in graph["edges"] if edge["source"] in drawn and edge["target"] in drawn]
    links = [link for link in graph["residual_links"] if link["source"] in drawn and link["target"] in drawn]
    layout = lay_out(nodes, [(link["source"], link["target"]) for link in (*edges, *links)])
    with style():
        span, rise = max(layout.width, 1.0), max(layout.height, 1.0)
        unit = min(0.5, 9.4 / span)
        left, right, bottom, top = 1.75, 0.35, 1.1, 0.5
        width, height = max(left + span * unit + right, LEAST_WIDTH), bottom + rise * 0.62 + top
        figure = Figure(figsize=(width, height))
        axes = figure.add_axes((left / width, bottom / height, span * unit / width, rise * 0.62 / height))
        axes.set_xlim(0, span)
        axes.set_ylim(0, rise)
        axes.set_axis_off()
        for link in links:
            _arc(axes, layout, link["source"], link["target"])
        largest = max((abs(edge["weight"]) for edge in edges), default=1.0)
        for edge in sorted(edges, key=lambda edge: abs(edge["weight"])):
            _weight(axes, layout, edge, largest)
        for node in nodes:
            _node(axes, node, layout.places[node["address"]], crowded=unit < 0.3)
        _name_rows(axes, layout.rows, layout.width, unit)
        _legend(figure, width, height, activations=bool(nodes) and "selectivity" in nodes[0])
        summary = (
            f"Circuit of {len(graph['nodes'])} nodes, {len(graph['edges'])} weights and "
            f"{len(graph['residual_links'])} residual links; {len(nodes)} nodes drawn. Every node and its "
            "activations are in the table below."
        )
        return to_svg(figure, name, summary)


def _curve(layout: Layout, source: str, target: str, bow: float) -> Path:
    (x0, y0), (x1, y1) = layout.places[source], layout.places[target]
    rise = (y1 - y0) * 0.45
    points = [(x0, y0), (x0 + bow, y0 + rise), (x1 + bow, y1 - rise), (x1, y1)]
    return Path(points, [Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4])


def _arc(axes: Axes, layout: Layout, source: str, target: str) -> None:
    """A residual link; one that passes other rows bows out, so that it does not run through their nodes."""
    (x0, y0), (x1, y1) = layout.places[source], layout.places[target]
    bow = 0.0 if y1 - y0 < 2 else (0.55 if x0 + x1 < layout.width else -0.55) * min(3.0, (y1 - y0) / 2)
    path = _curve(layout, source, target, bow)
    axes.add_patch(
        PathPatch(
            path, fill=False, edgecolor="#8a8a8a", linewidth=0.8, linestyle=(0, (4, 2.5)), zorder=1, clip_on=False
        )
    )


def _weight(axes: Axes, layout: Layout, edge: Mapping[str, Any], largest: float) -> None:
    negative = edge["weight"] < 0
    axes.add_patch(
        PathPatch(
            _curve(layout, edge["source"], edge["target"], 0.0),
            fill=False,
            edgecolor=NEGATIVE if negative else POSITIVE,
            linewidth=0.5 + 2.3 * abs(edge["weight"]) / largest,
            linestyle=(0, (1, 0.7)) if negative else "-",
            alpha=0.8,
            zorder=2,
            clip_on=False,
        )
    )


def _node(axes: Axes, node: Mapping[str, Any], place: tuple[float, float], crowded: bool) -> None:
    colour = COLOURS((node["selectivity"] + 1) / 2) if "selectivity" in node else "#f4f4f4"
    size = (5 + 6 * node.get("relative_difference", 0.5)) * (0.75 if crowded else 1)
    axes.plot(
        *place, "o", color=colour, markersize=size, markeredgecolor=INK, markeredgewidth=0.8, zorder=3, clip_on=False
    )
    axes.annotate(
        f"{node['part'] if node['part'] in GROUPS else ''}{node['channel']}",
        place,
        (0, -size / 2 - 1.5),
        textcoords="offset points",
        fontsize=6.2 if crowded else 7.5,
        rotation=45 if crowded else 0,
        ha="right" if crowded else "center",
        va="top",
        zorder=4,
        bbox={"boxstyle": "square,pad=0.05", "facecolor": "white", "edgecolor": "none", "alpha": 0.75},
        annotation_clip=False,
    )


def _name_rows(axes: Axes, rows: Sequence[Row], width: float, unit: float) -> None:
    """Names of rows and sublayers on the left, and what is below and above."""
    edge = -0.45 / unit
    for row in rows:
        axes.annotate(
            STAGE_NAMES[row.block][row.stage],
            (edge, row.y),
            fontsize=8,
            color=FAINT,
            ha="right",
            va="center",
            annotation_clip=False,
        )
    sublayers: dict[tuple[int, str], list[float]] = {}
    for row in rows:
        sublayers.setdefault((row.layer, row.block), []).append(row.y)
    for (layer, block), heights in sublayers.items():
        middle = (min(heights) + max(heights)) / 2
        text = f"layer {layer}\n{'attention' if block == 'attn' else 'MLP'}"
        axes.annotate(text, (edge - 0.68 / unit, middle), fontsize=8.5, ha="right", va="center", annotation_clip=False)
        bar = edge - 0.6 / unit
        axes.plot([bar, bar], [min(heights) - 0.2, max(heights) + 0.2], color=FAINT, linewidth=0.9, clip_on=False)
    top = rows[-1].y if rows else 0.0
    for text, y, offset, vertical in (
        ("↑ from the embeddings", 0.0, -26, "top"),
        ("↑ to the logits", top, 12, "bottom"),
    ):
        axes.annotate(text, (width / 2, y), (0, offset), textcoords="offset points", fontsize=8.5, color=FAINT,
                      ha="center", va=vertical, annotation_clip=False)  # fmt: skip


def _legend(figure: Figure, width: float, height: float, activations: bool) -> None:
    handles = [
        Line2D([], [], color=POSITIVE, linewidth=1.8, label="weight > 0"),
        Line2D([], [], color=NEGATIVE, linewidth=1.8, linestyle=(0, (1, 0.7)), label="weight < 0"),
        Line2D([], [], color="#8a8a8a", linewidth=0.9, linestyle=(0, (4, 2.5)), label="residual stream"),
    ]
    figure.legend(handles=handles, loc="lower left", bbox_to_anchor=(0.1 / width, 0.02 / height), ncols=3, fontsize=8.5)
    if not activations:
        return
    bar = figure.add_axes((1 - 2.6 / width, 0.32 / height, 2.2 / width, 0.12 / height))
    bar.pcolormesh(np.linspace(-1, 1, 41)[None], cmap=COLOURS, edgecolors="face")
    bar.set_yticks([])
    bar.set_xticks([0.5, 20.5, 40.5], ["larger on b", "same", "larger on a"], fontsize=8)
    bar.spines[:].set_visible(False)
    bar.tick_params(length=0)

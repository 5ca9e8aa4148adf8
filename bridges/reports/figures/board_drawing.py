"""A circuit as people draw it on a whiteboard: sublayers up, tokens of the example across, channels as nodes.

Every node and every weight of the circuit is there, with where it begins (token and position embeddings, below) and ends (the
two answers, above). Lines: solid a positive weight, dotted purple a negative one, thickness its size among its kind; dashed grey
the residual stream, from a write to every later read of its channel; a yellow bracket a query and a key that meet.
Every mark has an id (`node-0`, `edge-0`, `link-0`, …, in the order of the board's lists), so that a page can react to it.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import PathPatch
from matplotlib.path import Path

from bridges.reports.figures.activations import visible
from bridges.reports.figures.board_layout import Band, Board, lay_out_board
from bridges.reports.figures.canvas import BACKWARD, FAINT, FORWARD, INK, RULE, style, to_svg
from bridges.reports.figures.circuit_drawing import COLOURS, NEGATIVE, POSITIVE, STAGE_NAMES
from bridges.reports.layout import GROUPS

LEAST, MOST = 0.36, 0.56
"""Inches between neighbouring nodes; as many as fit a board of WIDTH inches."""
WIDTH = 10.5
MOST_LABELS = 60
"""Weights written beside their lines; above that the lines alone, and the page's panel, say them."""
RISE = 0.62
"""Inches per unit of height."""
MARGINS = {"left": 1.55, "right": 0.35, "bottom": 0.95, "top": 0.35}
CHIP_DROP, POSITION_DROP, ANSWER_RISE = 1.25, 1.95, 1.25


def board_drawing(board: Mapping[str, Any], name: str) -> str:
    """A circuit board (`circuit_board`) as SVG."""
    nodes, links = board["nodes"], [(link["source"], link["target"]) for link in board["residual_links"]]
    joined = [*((edge["source"], edge["target"]) for edge in board["edges"]), *links]
    tokens = board["example"]["a"]["tokens"]
    layout = lay_out_board(nodes, joined, len(tokens))
    unit = min(max(WIDTH / layout.width, LEAST), MOST)
    width = MARGINS["left"] + layout.width * unit + MARGINS["right"]
    rise = (layout.height + POSITION_DROP + ANSWER_RISE) * RISE
    height = MARGINS["bottom"] + rise + MARGINS["top"]
    with style():
        figure = Figure(figsize=(width, height))
        axes = figure.add_axes(
            (MARGINS["left"] / width, MARGINS["bottom"] / height, layout.width * unit / width, rise / height)
        )
        axes.set_xlim(0, layout.width)
        axes.set_ylim(-POSITION_DROP, layout.height + ANSWER_RISE)
        axes.set_axis_off()
        _columns(axes, layout, board["example"])
        for number, link in enumerate(links):
            start, end = layout.places[link[0]], layout.places[link[1]]
            _line(axes, start, end, f"link-{number}", "#8a8a8a", 0.8, (0, (4, 2.5)), 1, _bow(start, end, layout.width))
        for number, head in enumerate(board["heads"]):
            start, end = layout.places[head["query"]], layout.places[head["key"]]
            _bracket(axes, start, end, f"head-{number}")
        edges = [(layout.places[e["source"]], layout.places[e["target"]], e["weight"]) for e in board["edges"]]
        _weights(axes, "edge", edges, written=len(edges) <= MOST_LABELS)
        _ends(axes, layout, board)
        for number, node in enumerate(nodes):
            _node(axes, node, layout.places[node["address"]], number)
        _rows(axes, layout.bands, unit)
        _legend(figure, width, height, bool(board["heads"]))
        return to_svg(figure, name, board_label(board))


def board_label(board: Mapping[str, Any]) -> str:
    """What the drawing shows, in a sentence."""
    counts = [
        (len(board["nodes"]), "node", "nodes"),
        (len(board["edges"]), "weight between them", "weights between them"),
        (len(board["residual_links"]), "residual link", "residual links"),
        (len(board["inputs"]), "embedding entry read", "embedding entries read"),
        (len(board["outputs"]), "weight to the two answers", "weights to the two answers"),
    ]
    return f"Circuit of {board['task']}, all of it: {', '.join(f'{n} {one if n == 1 else more}' for n, one, more in counts)}."


def _line(
    axes: Axes,
    start: tuple[float, float],
    end: tuple[float, float],
    gid: str,
    colour: str,
    thickness: float,
    dashes: Any,
    order: int,
    bow: float = 0.0,
) -> None:
    (x0, y0), (x1, y1) = start, end
    rise = (y1 - y0) * 0.45
    path = Path(
        [(x0, y0), (x0 + bow, y0 + rise), (x1 + bow, y1 - rise), (x1, y1)],
        [Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4],
    )
    axes.add_patch(
        PathPatch(
            path, fill=False, edgecolor=colour, linewidth=thickness, linestyle=dashes, zorder=order, gid=gid, clip_on=False,
            alpha=0.8,
        )
    )  # fmt: skip


def _bow(start: tuple[float, float], end: tuple[float, float], width: float) -> float:
    """How far a link that passes other rows swings outwards."""
    rise = end[1] - start[1]
    outwards = 1 if start[0] + end[0] > width else -1
    return 0.0 if rise < 2 else outwards * min(1.6, rise / 4)


def _weights(
    axes: Axes,
    kind: str,
    lines: Sequence[tuple[tuple[float, float], tuple[float, float], float]],
    written: bool = False,
) -> None:
    """Lines whose thickness is the weight's size among their own kind."""
    largest = max((abs(weight) for _, _, weight in lines), default=1.0)
    for number, (start, end, weight) in enumerate(lines):
        thickness = 0.4 + 2.4 * abs(weight) / largest
        dashes = (0, (1, 0.8)) if weight < 0 else "-"
        _line(axes, start, end, f"{kind}-{number}", NEGATIVE if weight < 0 else POSITIVE, thickness, dashes, 2)
        if written:
            at = (0.3, 0.5, 0.7)[number % 3]  # neighbours' numbers at different heights
            across = 3 * at**2 - 2 * at**3  # where the curve is at that height
            place = (start[0] + (end[0] - start[0]) * across, start[1] + (end[1] - start[1]) * at)
            _write(axes, place, f"{weight:+.2f}", NEGATIVE if weight < 0 else POSITIVE, f"{kind}-{number}-weight")


def _write(axes: Axes, place: tuple[float, float], text: str, colour: str, gid: str) -> None:
    """A weight on its line."""
    axes.annotate(
        text, place, fontsize=5.4, color=colour, ha="center", va="center", annotation_clip=False, zorder=3, gid=gid,
        bbox={"boxstyle": "square,pad=0.03", "facecolor": "white", "edgecolor": "none", "alpha": 0.7},
    )  # fmt: skip


def _bracket(axes: Axes, start: tuple[float, float], end: tuple[float, float], gid: str) -> None:
    """A query and its key, below the row."""
    (x0, y0), (x1, y1) = start, end
    low = min(y0, y1) - 0.36
    path = Path([(x0, y0), (x0, low), (x1, low), (x1, y1)], [Path.MOVETO, Path.CURVE4, Path.CURVE4, Path.CURVE4])
    axes.add_patch(
        PathPatch(path, fill=False, edgecolor="#b58900", linewidth=1.0, zorder=1.5, gid=gid, clip_on=False, alpha=0.9)
    )


def _node(axes: Axes, node: Mapping[str, Any], place: tuple[float, float], number: int) -> None:
    size = 9 + 5 * node["relative_difference"]
    axes.plot(
        *place, "o", color=COLOURS((node["selectivity"] + 1) / 2), markersize=size, markeredgecolor=INK,
        markeredgewidth=0.8, zorder=4, clip_on=False, gid=f"node-{number}",
    )  # fmt: skip
    axes.annotate(
        f"{node['part'] if node['part'] in GROUPS else ''}{node['channel']}",
        place, (0, -size / 2 - 1), textcoords="offset points", fontsize=6.6, ha="center", va="top", zorder=5,
        annotation_clip=False, gid=f"label-{number}",
        bbox={"boxstyle": "square,pad=0.04", "facecolor": "white", "edgecolor": "none", "alpha": 0.75},
    )  # fmt: skip


def _columns(axes: Axes, layout: Board, example: Mapping[str, Any]) -> None:
    """The tokens of both prompts under their columns, those that differ one above the other, and hairlines between."""
    top = layout.height + 0.6
    last = len(layout.columns) - 1
    for number, (left, right) in enumerate(layout.columns):
        a, b = (example[side]["tokens"][number] for side in "ab")
        wide = right - left > 1
        if wide or number == last:
            for edge in (left, right):
                axes.plot([edge, edge], [-CHIP_DROP + 0.35, top], color=RULE, linewidth=0.6, zorder=0, clip_on=False)
        middle = (left + right) / 2
        for side, text, drop in (("ab", a, 0.0),) if a == b else (("a", a, 0.16), ("b", b, -0.16)):
            colour = {"ab": INK, "a": FORWARD, "b": BACKWARD}[side]
            weight = "bold" if side != "ab" else "normal"
            axes.annotate(
                visible(text), (middle, -CHIP_DROP + drop), fontsize=8.5 if wide else 7, color=colour, weight=weight,
                ha="center", va="center", rotation=0 if wide or len(text) < 2 or side != "ab" else 55,
                annotation_clip=False, zorder=6, gid=f"token-{number}-{side}",
                bbox={"boxstyle": "round,pad=0.18", "facecolor": "white", "edgecolor": RULE if wide else "none"},
            )  # fmt: skip


def _ends(axes: Axes, layout: Board, board: Mapping[str, Any]) -> None:
    """Lines from the embeddings and to the answers, and the chips of positions and answers."""
    tokens, positions = [], []
    for entry in board["inputs"]:
        x = layout.middle(entry["token"])
        if entry["side"] == "position":
            positions.append(((x, -POSITION_DROP), layout.places[entry["target"]], entry["weight"]))
        else:
            y = -CHIP_DROP + {"ab": 0.0, "a": 0.16, "b": -0.16}[entry["side"]] + 0.12
            tokens.append(((x, y), layout.places[entry["target"]], entry["weight"]))
    _weights(axes, "token-weight", tokens)
    _weights(axes, "position-weight", positions)
    for token in sorted({entry["token"] for entry in board["inputs"] if entry["side"] == "position"}):
        _chip(axes, (layout.middle(token), -POSITION_DROP), f"position {token}", FAINT, f"position-{token}", 7)
    last = layout.middle(len(layout.columns) - 1)
    spread = min(2.6, layout.width / 5)
    start = min(max(last, spread + 0.5), layout.width - spread)
    y = layout.height + ANSWER_RISE
    answers = {"a": (start - spread, y), "b": (start + spread, y)}
    _weights(axes, "output", [(layout.places[o["source"]], answers[o["side"]], o["weight"]) for o in board["outputs"]])
    for side, colour in (("a", FORWARD), ("b", BACKWARD)):
        text = f"logit {side}: {visible(board['example'][side]['answer'])}"
        _chip(axes, answers[side], text, colour, f"answer-{side}", 9)


def _chip(axes: Axes, place: tuple[float, float], text: str, colour: str, gid: str, size: float) -> None:
    axes.annotate(
        text, place, fontsize=size, color=colour, ha="center", va="center", annotation_clip=False, zorder=6, gid=gid,
        bbox={"boxstyle": "round,pad=0.3", "facecolor": "white", "edgecolor": colour, "linewidth": 0.8},
    )  # fmt: skip


def _rows(axes: Axes, bands: Sequence[Band], unit: float) -> None:
    """Names of rows and sublayers on the left."""
    edge = -0.12 / unit
    for band in bands:
        axes.annotate(
            STAGE_NAMES[band.block][band.stage], (edge, (band.low + band.high) / 2), fontsize=8, color=FAINT, ha="right",
            va="center", annotation_clip=False,
        )  # fmt: skip
    for sublayer in sorted({band.sublayer for band in bands}):
        mine = [band for band in bands if band.sublayer == sublayer]
        low, high = mine[0].low - 0.2, mine[-1].high + 0.2
        bar = edge - 0.62 / unit
        axes.plot([bar, bar], [low, high], color=FAINT, linewidth=0.9, clip_on=False)
        text = f"layer {mine[0].layer}\n{'attention' if mine[0].block == 'attn' else 'MLP'}"
        axes.annotate(
            text, (bar - 0.08 / unit, (low + high) / 2), fontsize=8.5, ha="right", va="center", annotation_clip=False
        )
    axes.annotate("tokens", (edge, -CHIP_DROP), fontsize=8, color=FAINT, ha="right", va="center", annotation_clip=False)


def _legend(figure: Figure, width: float, height: float, heads: bool) -> None:
    handles = [
        Line2D([], [], color=POSITIVE, linewidth=1.8, label="weight > 0"),
        Line2D([], [], color=NEGATIVE, linewidth=1.8, linestyle=(0, (1, 0.8)), label="weight < 0"),
        Line2D([], [], color="#8a8a8a", linewidth=0.9, linestyle=(0, (4, 2.5)), label="residual stream, no weight"),
    ]
    if heads:
        handles.append(Line2D([], [], color="#b58900", linewidth=1.0, label="query meets key"))
    for colour, text in ((FORWARD, "larger on a"), ("#f4f4f4", "same"), (BACKWARD, "larger on b")):
        handles.append(
            Line2D([], [], color=colour, marker="o", markersize=8, markeredgecolor=INK, linestyle="none", label=text)
        )
    figure.legend(
        handles=handles, loc="lower left", bbox_to_anchor=(0.1 / width, 0.02 / height), ncols=4 if width < 11 else 7,
        fontsize=8.5, columnspacing=1.4,
    )  # fmt: skip

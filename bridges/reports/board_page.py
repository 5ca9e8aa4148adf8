"""A circuit's board as one self-contained HTML page: the drawing, and beside it whatever node one points at.

Pointing at a node keeps what it joins and dims the rest; clicking holds it. The panel shows the node's activations on both
prompts, its weights, and the passages of ordinary text where it is most active. Without scripts all panels follow below.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from bridges.reports.circuit_section import PARTS
from bridges.reports.figures.activations import visible
from bridges.reports.figures.board_drawing import board_drawing, board_label
from bridges.reports.numbers import figure
from foundation.text import drawn

NAME = "board"


def board_page(board: Mapping[str, Any], description: str) -> str:
    """The page of a circuit board (`circuit_board`).

    Args:
        description: the task's rule, in a sentence.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, finalize=drawn, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    numbers = {node["address"]: number for number, node in enumerate(board["nodes"])}
    joints = _joints(board, numbers)
    panels = [_panel(node, board, joints, numbers) for node in board["nodes"]]
    return environment.get_template("board.html").render(
        task=board["task"], description=description, label=board_label(board), ablation=board["ablation"],
        svg=Markup(board_drawing(board, NAME)), panels=panels, pairs=board["pairs"],
        template=board["example"]["template"],
        joints=Markup(json.dumps([[mark, *ends] for mark, ends, _, _ in joints])), count=len(panels), name=NAME,
    )  # fmt: skip


Joint = tuple[str, tuple[str, str], float | None, tuple[str, str]]
"""Id of the mark, the ids it joins, its weight (None for none), and how the two ends are named."""


def _joints(board: Mapping[str, Any], numbers: Mapping[str, int]) -> list[Joint]:
    """Everything drawn between two marks, under the ids of `board_drawing`."""

    def node(address: str) -> str:
        return f"node-{numbers[address]}"

    found: list[Joint] = []
    for kind, lines in (("edge", board["edges"]), ("link", board["residual_links"])):
        for number, line in enumerate(lines):
            source, target = line["source"], line["target"]
            found.append((f"{kind}-{number}", (node(source), node(target)), line.get("weight"), (source, target)))
    for number, head in enumerate(board["heads"]):
        ends = (head["query"], head["key"])
        found.append((f"head-{number}", (node(ends[0]), node(ends[1])), None, ends))
    words = [entry for entry in board["inputs"] if entry["side"] != "position"]
    for number, entry in enumerate(words):
        side = "a" if entry["side"] == "ab" else entry["side"]
        text = visible(board["example"][side]["tokens"][entry["token"]])
        mark = f"token-{entry['token']}-{entry['side']}"
        named = f"embedding of {text}" + (f" (prompt {side})" if entry["side"] != "ab" else "")
        found.append(
            (f"token-weight-{number}", (mark, node(entry["target"])), entry["weight"], (named, entry["target"]))
        )
    places = [entry for entry in board["inputs"] if entry["side"] == "position"]
    for number, entry in enumerate(places):
        ends, named = (f"position-{entry['token']}", node(entry["target"])), f"position {entry['token']}"
        found.append((f"position-weight-{number}", ends, entry["weight"], (named, entry["target"])))
    for number, output in enumerate(board["outputs"]):
        side = output["side"]
        named = f"logit {side}: {visible(board['example'][side]['answer'])}"
        found.append(
            (
                f"output-{number}",
                (node(output["source"]), f"answer-{side}"),
                output["weight"],
                (output["source"], named),
            )
        )
    return found


def _panel(
    node: Mapping[str, Any], board: Mapping[str, Any], joints: list[Joint], numbers: Mapping[str, int]
) -> dict[str, Any]:
    """What is written about one node."""
    mine = f"node-{numbers[node['address']]}"
    into = [(ends[0], weight) for _, marks, weight, ends in joints if marks[1] == mine]
    out = [(ends[1], weight) for _, marks, weight, ends in joints if marks[0] == mine]
    scale = max((abs(value) for side in "ab" for value in node["activations"][side]), default=0.0) or 1.0
    strips = {
        side: [
            (visible(token), figure(value), _tint(value / scale))
            for token, value in zip(board["example"][side]["tokens"], node["activations"][side], strict=True)
        ]
        for side in "ab"
    }
    contexts = [
        {
            "before": "".join(context["tokens"][: context["at"]]),
            "token": context["tokens"][context["at"]],
            "after": "".join(context["tokens"][context["at"] + 1 :]),
            "activation": figure(context["activation"]),
        }
        for context in node["contexts"]
    ]
    block = "attention" if node["block"] == "attn" else "MLP"
    return {
        "address": node["address"],
        "what": f"layer {node['layer']} {block}, {PARTS[node['part']]}, channel {node['channel']}",
        "description": node["description"],
        "weights": f"{node['edges_used']} / {node['edges_total']}",
        "means": [(side, figure(node[f"mean_{side}_contrast"]), figure(node[f"mean_{side}_last"])) for side in "ab"],
        "token": f"{visible(board['example']['a']['tokens'][node['token']])} (token {node['token']})",
        "strips": strips,
        "into": _by_size(into),
        "out": _by_size(out),
        "contexts": contexts,
    }


def _by_size(ends: list[tuple[str, float | None]]) -> list[tuple[str, str]]:
    """Largest weights first, what has none last."""
    ranked = sorted(ends, key=lambda end: -1.0 if end[1] is None else abs(end[1]), reverse=True)
    return [(name, "no weight" if weight is None else f"{weight:+.3f}") for name, weight in ranked]


def _tint(share: float) -> str:
    """Background for an activation from −1 to 1 of the node's largest."""
    red, green, blue = (0, 104, 74) if share > 0 else (142, 47, 124)
    return f"rgba({red},{green},{blue},{abs(share) * 0.55:.2f})"

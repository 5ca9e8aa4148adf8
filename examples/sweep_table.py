"""Figures of a sweep as Markdown: `python examples/sweep_table.py runs/sweep/sweep.json --into docs/training.md`."""

import argparse
import json
from pathlib import Path
from typing import Any

from sparse_model.studies.page import publish


def table(sweep: dict[str, Any]) -> str:
    """One line per model: circuit size, loss and what the size is made of."""
    tasks = list(sweep["points"][0]["circuits"])
    head = ["model", "series", "density", "nonzeros", "cross-entropy", "edges"]
    lines = ["| " + " | ".join([*head, *tasks]) + " |", "|---" * (len(head) + len(tasks)) + "|"]
    for point in sweep["points"]:
        size = "–" if point["circuit_size"] is None else f"{point['circuit_size']:.0f}"
        cells = [f"S = {point['width']}", point["series"], f"{point['density']:.2%}", f"{point['nonzero']:,}"]
        cells += [f"{point['cross_entropy']['mixture']:.3f}", size]
        cells += [_circuit(point["circuits"][task]) for task in tasks]
        lines.append("| " + " | ".join(cells) + " |")
    steps = f"{sweep['points'][0]['tokens']:,} tokens each, one seed"
    shared = ", ".join(sweep["tasks"]) or "no task: none is done by every model"
    by_task = (
        "By task: edges, and binary loss in nats on held-out templates (chance 0.693) of the circuit alone, uncalibrated, beside "
        "that of the whole model; where a task is not done, the whole model's on the pairs that decide."
    )
    lines += ["", f"{steps}. Edges: geometric mean over {shared}. {by_task}"]
    return "\n".join(lines)


def _circuit(found: dict[str, Any]) -> str:
    if "edges" not in found:
        return f"not done ({found['full_loss']:.2f})"
    return f"{found['edges']} ({found['held_out_loss']:.2f}, whole {found['held_out_full_loss']:.2f})"


def main() -> None:
    """Parse the command line and print or replace."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sweep", type=Path)
    parser.add_argument("--into", type=Path, help="write between the `sweep` comments of this page")
    arguments = parser.parse_args()
    publish(table(json.loads(arguments.sweep.read_text("utf-8"))), "sweep", arguments.into)


if __name__ == "__main__":
    main()

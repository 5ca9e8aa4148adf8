"""Print the figures of a demo report as Markdown: `python examples/results_table.py sparsebridge-demo/report.json`.

With `--into README.md` the table between the two `results` comments of that file is replaced.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from sparse_model.studies.page import publish


def table(report: dict[str, Any]) -> str:
    """The main figures, each beside what it is compared to."""
    lines = [
        f"{report['density']:.2%} of the sparse model's weights are nonzero. Held-out text, nats/token:",
        "",
        "| text | CE dense | CE sparse | KL(dense ‖ sparse) | KL on random mixed paths | yardstick: KL unigram |",
        "|---|---|---|---|---|---|",
    ]
    for name, found in report["evaluation"].items():
        keys = ("ce_dense", "ce_sparse", "kl_dense_sparse", "kl_mixed_paths", "kl_unigram")
        lines.append("| " + " | ".join([name, *(f"{found[key]['value']:.3f}" for key in keys)]) + " |")
    lines += [
        "",
        "| held-out prompts | " + " | ".join(report["tasks"]) + " |",
        "|---|" + "---|" * len(report["tasks"]),
    ]
    for label, cell in ROWS:
        lines.append(f"| {label} | " + " | ".join(cell(task) for task in report["tasks"].values()) + " |")
    return "\n".join(lines)


def _interval(found: dict[str, float]) -> str:
    return f"{found['value']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"


ROWS: list[tuple[str, Any]] = [
    ("verdict", lambda t: t["verdict"]),
    ("circuit: nodes / edges", lambda t: f"{t['nodes']} / {t['edges']}"),
    (
        "task loss of the circuit alone (whole model; chance 0.693)",
        lambda t: f"{t['task_loss']:.3f} ({t['task_loss_full_model']:.4f})",
    ),
    (
        "… with the circuit removed (as many nodes outside it; drawn from all nodes)",
        lambda t: f"{t['necessity_loss']:.2f} ({t['necessity_random_loss']:.4f}; {t['necessity_any_loss']:.3f})",
    ),
    (
        "… that loss over the loss without as many other nodes (outside; any)",
        lambda t: "{:.0f}; {:.1f}".format(
            *(t["necessity_loss"] / t[f"necessity_{drawn}_loss"] for drawn in ("random", "any"))
        ),
    ),
    ("paired edit recovers, a → b (full patch 1)", lambda t: _interval(t["recovered"]["a_to_b"])),
    ("paired edit recovers, b → a", lambda t: _interval(t["recovered"]["b_to_a"])),
    ("random directions recover, worse direction (p)", lambda t: f"{t['random_recovered']:.3f} ({t['p_value']:.4f})"),
    (
        "P(target) edited (none; random; full patch)",
        lambda t: "{edited:.3f} ({none:.4f}; {random:.4f}; {full_patch:.3f})".format(**t["p_target"]),
    ),
    ("standing edit flips, worse direction", lambda t: f"{t['standing_flip_rate']:.3f}"),
    ("standing edit's KL on unrelated text, nats/token", lambda t: f"{t['isolation_kl']:.4f}"),
]


def main() -> None:
    """Parse the command line and print or replace."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("report", type=Path)
    parser.add_argument("--into", type=Path)
    arguments = parser.parse_args()
    publish(table(json.loads(arguments.report.read_text("utf-8"))), "results", arguments.into)


if __name__ == "__main__":
    main()

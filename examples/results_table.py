"""Print the figures of a demo report as Markdown: `python examples/results_table.py sparsebridge-demo/report.json`.

With `--into docs/index.md` the table between the two `results` comments of that file is replaced.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sparse_model.studies.page import publish

Task = dict[str, Any]


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


def _interval(found: dict[str, float] | None) -> str:
    return "–" if found is None else f"{found['value']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"


def _effect(name: str) -> Callable[[Task], str]:
    return lambda task: _interval(task["effect"] and task["effect"][name])


def _failed(task: Task) -> str:
    failed = [gate["name"] for gate in task["details"]["verdict"]["gates"] if not gate["passed"]]
    return ", ".join(failed) or "none"


def _baseline(task: Task) -> str:
    if task["baselines"] is None:
        return "–"
    best = task["beats_baselines"]["best"]
    return f"{_interval(task['baselines'][best])} ({best.replace('_', ' ')})"


def _number(task: Task, key: str, digits: int) -> str:
    return "–" if task[key] is None else f"{task[key]:.{digits}f}"


ROWS: list[tuple[str, Callable[[Task], str]]] = [
    ("**verdict**", lambda t: f"**{t['verdict']}**"),
    ("gates that do not hold", _failed),
    ("circuit: nodes / edges", lambda t: f"{t['nodes']} / {t['edges']}"),
    (
        "task loss of the circuit alone, calibrated (whole model; chance 0.693)",
        lambda t: f"{t['task_loss_calibrated']:.3f} ({t['task_loss_full_model']:.4f})",
    ),
    ("sparse model's answer that goes with the circuit", lambda t: _interval(t["details"]["in_sparse"]["necessity"])),
    ("circuit's edit in the dense model, share of its own difference", _effect("circuit")),
    (
        "… the dense model's own patch there; the whole stream decoded",
        lambda t: f"{_effect('patch')(t)}; {_effect('decoded')(t)}",
    ),
    (
        "… more than matched sets outside the circuit (M7)",
        lambda t: _interval(t["specificity"] and t["specificity"]["difference"]),
    ),
    (
        "M6: slope of dense over sparse effects; R²",
        lambda t: f"{_interval(t['transfer']['slope'])}; {_interval(t['transfer']['r2'])}",
    ),
    ("best edit without a bridge, at equal norm", _baseline),
    ("standing edit flips, worse direction", lambda t: _number(t, "standing_flip_rate", 3)),
    ("standing edit's KL on unrelated text, nats/token", lambda t: _number(t, "isolation_kl", 4)),
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

"""What the verdicts of several bridged models come to, side by side, from folders that `verdict_table.py` wrote.

    python examples/models_table.py "bundled GPT-2, 2 layers=runs/verdicts" "SmolLM2-135M, 30 layers=runs/smollm" --into README.md

One column a model, one row a figure; with --into the table between the two `models` comments of that file is replaced.
"""

import argparse
import json
import math
import statistics
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from foundation.verdicts import WORDS
from sparse_model.studies.page import publish

Report = dict[str, Any]


def judged(folder: Path) -> list[Report]:
    """The reports of all tasks that have a verdict, by name."""
    reports = [json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("*.json"))]
    return [report for report in reports if "details" in report]


def tried(folder: Path) -> int:
    """How many tasks were tried."""
    return len(list(folder.glob("*.json")))


def verdicts(reports: Sequence[Report]) -> str:
    """How often each word was given."""
    words = [report["details"]["verdict"]["word"] for report in reports]
    return ", ".join(f"{words.count(word)} {word}" for word in WORDS)


def explained(reports: Sequence[Report]) -> str:
    """The tasks that are explained."""
    return ", ".join(r["task"] for r in reports if r["details"]["verdict"]["word"] == "explains") or "none"


def sizes(reports: Sequence[Report]) -> str:
    """Geometric means of nodes and edges; less than one counts as one."""

    def mean(name: str) -> float:
        return math.exp(statistics.fmean(math.log(max(1, report[name])) for report in reports))

    return f"{mean('nodes'):.0f} / {mean('edges'):.0f}"


def median(*path: str) -> Callable[[Sequence[Report]], str]:
    """Median and range of one figure over the tasks where it could be measured (R² above 0: there was something to act on)."""

    def row(reports: Sequence[Report]) -> str:
        found = [value for report in reports if (value := figure(report, path)) is not None]
        if not found:
            return "–"
        return f"{statistics.median(found):.2f} ({min(found):.2f} to {max(found):.2f}; {len(found)} tasks)"

    return row


def figure(report: Report, path: Sequence[str]) -> float | None:
    """A figure's value; None where the task left nothing to measure it on."""
    found: Any = report["details"]
    if not found.get("effect") or not any(found["transfer"]["r2"].values()):
        return None
    for name in path:
        found = (found or {}).get(name)
    return None if found is None else float(found["value"])


def beaten(reports: Sequence[Report]) -> str:
    """How often an edit that needs no bridge does more at equal norm."""
    measured = [r["details"] for r in reports if figure(r, ("effect", "circuit")) is not None]
    outcomes = [details["beats_baselines"]["outcome"] for details in measured if details.get("beats_baselines")]
    return f"{outcomes.count('loses to')} of {len(outcomes)}"


ROWS: dict[str, Callable[[Sequence[Report]], str]] = {
    "verdicts": verdicts,
    "explained": explained,
    "nodes / edges of a circuit, geometric means": sizes,
    "decoded stream brings (upper bound of any edit)": median("effect", "decoded"),
    "M6: slope of dense on sparse effects": median("transfer", "slope"),
    "M6: R²": median("transfer", "r2"),
    "circuit's edit brings, at one site": median("effect", "circuit"),
    "M7: more than matched sets by": median("specificity", "difference"),
    "tasks where class means or leading directions bring more": beaten,
}


def table(models: dict[str, Path]) -> str:
    """Markdown: one column a model."""
    found = {name: judged(folder) for name, folder in models.items()}
    lines = ["| | " + " | ".join(models) + " |", "|---" * (len(models) + 1) + "|"]
    lines.append(
        "| tasks judged, of those tried | "
        + " | ".join(f"{len(found[n])} of {tried(models[n])}" for n in models)
        + " |"
    )
    lines += [f"| {label} | " + " | ".join(row(found[name]) for name in models) + " |" for label, row in ROWS.items()]
    return "\n".join(lines)


def main() -> None:
    """Parse the command line and print or replace."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", metavar="NAME=RUNS")
    parser.add_argument("--into", type=Path)
    arguments = parser.parse_args()
    pairs = [item.rsplit("=", 1) for item in arguments.models]
    if any(len(pair) != 2 for pair in pairs):
        parser.error("every model is NAME=RUNS")
    publish(table({name: Path(folder) for name, folder in pairs}), "models", arguments.into)


if __name__ == "__main__":
    main()

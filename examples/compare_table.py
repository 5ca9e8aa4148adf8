"""Print a comparison of a sparse and a dense model as Markdown: `python examples/compare_table.py runs/compare`.

With `--into docs/circuits.md` the text between the two `compare` comments of that file is replaced, and the picture is copied
beside it.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from cli.output import interval
from sparse_model.studies.page import publish
from sparse_model.tasks import TASKS

PICTURE = "sparse_against_dense.png"
MODELS = ("sparse", "dense")


def text(report: dict[str, Any]) -> str:
    """The main figure, the models, and both tables."""
    models = report["models"]
    main = next(row for row in report["rows"] if row["target"] == report["at"])
    whole = models["dense"]["edges"] / models["sparse"]["edges"]
    ratio, tasks = interval(main["ratio"], 1), len(main["tasks"])
    lines = [
        f"At a task loss of {report['at']:g} the dense model's circuits have **{ratio} times** the edges of",
        f"the sparse model's (geometric mean over {tasks} of the {len(TASKS)} tasks, 95 % bootstrap interval over tasks;",
        f"published: about 16 at its scale). The two whole models differ by {whole:.2f} times.",
    ]
    if main["ratio_needed"]:
        means = " against ".join(f"{interval(main['edges_needed'][name], 0)} {name}" for name in reversed(MODELS))
        lines += [
            "With edge masks learned on top, which drop weights between kept nodes that the task does not need, it is",
            f"{interval(main['ratio_needed'], 1)} times ({means}).",
        ]
    losses = main["held_out_loss"]
    lines += [
        "",
        f"Mean loss of these circuits on held-out templates: sparse {losses['sparse']:.3f}, dense {losses['dense']:.3f}.",
        "",
        f"![Circuit edges of both models over target losses]({PICTURE})",
        "",
        "| | sparse | dense | sparse − dense |",
        "|---|---|---|---|",
        "| width S | " + " | ".join(str(models[name]["width"]) for name in MODELS) + " | |",
        "| nonzero weights | " + " | ".join(f"{models[name]['nonzero']:,}" for name in MODELS) + " | |",
        "| edges of the whole model | " + " | ".join(f"{models[name]['edges']:,}" for name in MODELS) + " | |",
    ]
    for source in models["difference"]:
        cells = [interval(models[name]["cross_entropy"][source], 3) for name in MODELS]
        lines.append(f"| cross-entropy, {source} | {' | '.join(cells)} | {interval(models['difference'][source], 3)} |")
    lines += ["", "| task loss | tasks | edges sparse | edges dense | dense / sparse |", "|---|---|---|---|---|"]
    for row in report["rows"]:
        if row["ratio"]:
            cells = [interval(row["edges"][name], 0) for name in MODELS]
            lines.append(
                f"| {row['target']:g} | {len(row['tasks'])} | {' | '.join(cells)} | {interval(row['ratio'], 2)} |"
            )
    lines += [
        "",
        f"Tasks at {report['at']:g}, nodes / edges:",
        "",
        "| task | sparse | dense | dense / sparse edges |",
        "|---|---|---|---|",
    ]
    for task, found in main["tasks"].items():
        cells = [f"{found[name]['nodes']} / {found[name]['edges']}" for name in MODELS]
        quotient = max(1, found["dense"]["edges"]) / max(1, found["sparse"]["edges"])
        lines.append(f"| `{task}` | {' | '.join(cells)} | {quotient:.1f} |")
    if main["missing"]:
        lines += ["", f"Without a circuit in one of the models: {', '.join(main['missing'])}."]
    return "\n".join(lines)


def main() -> None:
    """Parse the command line and print or replace."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("comparison", type=Path)
    parser.add_argument("--into", type=Path)
    arguments = parser.parse_args()
    found = json.loads((arguments.comparison / "comparison.json").read_text("utf-8"))
    publish(text(found), "compare", arguments.into)
    if arguments.into is not None:
        shutil.copyfile(arguments.comparison / "comparison.png", arguments.into.parent / PICTURE)


if __name__ == "__main__":
    main()

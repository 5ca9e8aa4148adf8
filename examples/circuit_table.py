"""Prune and question circuits of many tasks, and write the table: `python examples/circuit_table.py runs/circuits`.

One folder per task under the given one; what is already there (TASK/circuit, TASK/evidence.json) is not made again, so a
stopped run goes on, circuits of another command can be put there, and several processes may each make some of the tasks
(`--tasks A B`, one thread each) in one folder, from which `--table-only` then writes the table of all. With
`--into docs/circuits.md` the table between the two `circuits` comments of that file (`--block`: others) is replaced.
`--tasks` takes some of them (all twenty by default), `--prune` passes further options to `circuit prune`.
"""

import argparse
import json
import math
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from sparse_model.circuits.evidence.controls import SEPARATES
from sparse_model.circuits.evidence.grades import GATES
from sparse_model.circuits.prune_config import PruneConfig
from sparse_model.studies.page import publish, write_between

BUNDLED = Path(__file__).resolve().parent.parent / "cli" / "bundled" / "bridge"
HEAD = (
    "task", "grade", "nodes", "edges", "calibrated loss", "worst template", "logits as they are", "whole model",
    "removed (outside; any)", "norms frozen", "interchange, worst", "adversary", "two-valued", "nonsense", "reversed",
    "arbitrary", "shuffled weights", "Jaccard (lowest; core)", "CPR / CMD", "CPU s (wall)",
)  # fmt: skip


def main() -> None:
    """Make what is missing, then the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="one folder per task is kept here")
    parser.add_argument("--model", type=Path, default=BUNDLED, help="a sparse model or bridge folder")
    parser.add_argument("--tasks", nargs="*", help="unset: all")
    parser.add_argument("--seeds", default="2", help="mask seeds per circuit")
    parser.add_argument("--draws", default="50", help="random node sets per control")
    parser.add_argument(
        "--prune", nargs=argparse.REMAINDER, default=[], help="options of circuit prune; must come last"
    )
    parser.add_argument("--into", type=Path)
    parser.add_argument("--block", default="circuits", help="name of the two comments that the table stands between")
    parser.add_argument("--table-only", action="store_true", help="make nothing, only the table of what is there")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    names = arguments.tasks or list(sparsebridge("task", "list", "--json")["tasks"])
    for name in [] if arguments.table_only else names:
        make(arguments.folder / name, name, arguments)
    found = {name: json.loads((arguments.folder / name / "evidence.json").read_text("utf-8")) for name in names
             if (arguments.folder / name / "evidence.json").is_file()}  # fmt: skip
    refused = {name: (arguments.folder / name / "refused.txt").read_text("utf-8").strip() for name in names
               if (arguments.folder / name / "refused.txt").is_file()}  # fmt: skip
    publish(table(found, refused), arguments.block, arguments.into)
    if arguments.into is not None:
        write_between(arguments.into, "gates", gates())


def gates() -> str:
    """Markdown of the gates that grades rest on."""
    lines = ["| gate | kind | threshold | passes if |", "|---|---|---|---|"]
    return "\n".join([*lines, *(f"| {g.name} | {g.kind} | {g.threshold:g} | {g.reason} |" for g in GATES)])


def make(folder: Path, name: str, arguments: argparse.Namespace) -> None:
    """Prune and evaluate one task, unless its evidence (or the reason why there is none) is there."""
    if (folder / "evidence.json").is_file() or (folder / "refused.txt").is_file():
        return
    folder.mkdir(parents=True, exist_ok=True)
    started, cpu_before = time.perf_counter(), children_cpu()
    model = str(arguments.model)
    try:
        if not (folder / "circuit" / "circuit.json").is_file():
            sparsebridge(
                "circuit", "prune", model, "--task", name, "--out", str(folder / "circuit"), "--seeds", arguments.seeds,
                *arguments.prune, "--json",
            )  # fmt: skip
        found = sparsebridge(
            "circuit", "evaluate", str(folder / "circuit"), "--model", model, "--draws", arguments.draws, "--json"
        )
    except subprocess.CalledProcessError as error:
        if error.returncode != 2:
            raise
        (folder / "refused.txt").write_text(error.stderr.strip().splitlines()[-1] + "\n", encoding="utf-8")
        return
    found["seconds"] = time.perf_counter() - started
    found["cpu_seconds"] = children_cpu() - cpu_before
    temporary = folder / "evidence.json.part"
    temporary.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    temporary.rename(folder / "evidence.json")
    print(
        f"{name}: grade {found['evidence']['grade']['letter']}, {found['seconds']:.0f} s", file=sys.stderr, flush=True
    )


def sparsebridge(*arguments: str) -> Any:
    """What one command prints as JSON."""
    command = [sys.executable, "-m", "cli.main", *arguments]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def children_cpu() -> float:
    """CPU seconds of all finished commands: an upper bound on what they take on an otherwise idle machine."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def table(found: dict[str, Any], refused: dict[str, str]) -> str:
    """Markdown: one row per task, the geometric means, and what was refused."""
    if not found:
        return "\n".join(["no circuits yet", *(f"- {name}: {reason}" for name, reason in refused.items())])
    lines = ["| " + " | ".join(HEAD) + " |", "|---" * len(HEAD) + "|"]
    lines += ["| " + " | ".join([name, *row(task)]) + " |" for name, task in found.items()]
    means = [
        math.exp(sum(math.log(max(1, task[key])) for task in found.values()) / len(found)) for key in ("nodes", "edges")
    ]
    grades = [task["evidence"]["grade"]["letter"] for task in found.values()]
    counts = ", ".join(f"{grades.count(letter)} {letter}" for letter in "ABCD" if letter in grades)
    lines += ["", f"{len(found)} tasks: {counts}; geometric means {means[0]:.0f} nodes, {means[1]:.0f} edges."]
    held = sum(task["calibrated_loss"] <= TARGET for task in found.values())
    lines.append(f"On the pairs that decide, all reach {TARGET} nats; on held-out templates {held} of {len(found)} do.")
    lines += ["", *(reached(found, name, label) for name, label in CONTROLS.items()), "", shrink(found)]
    return "\n".join([*lines, *(f"- not pruned: {name}: {reason}" for name, reason in refused.items())])


TARGET = PruneConfig().target_loss
CONTROLS = {
    "nonsense": "answers that follow no rule",
    "reversed": "the wrong answer of every pair",
    "arbitrary": "unrelated tokens in the answers' place",
    "random_weights": "the task on shuffled weights",
}


def reached(found: dict[str, Any], name: str, label: str) -> str:
    """On how many tasks a control was brought to the target loss, with how many times the task's nodes."""
    controls = [task["evidence"]["findings"][name] for task in found.values() if name in task["evidence"]["findings"]]
    ratios = sorted(control["ratio"] for control in controls if control["ratio"] is not None)
    lowest = [control["loss"] for control in controls if control["ratio"] is None]
    parts = [f"- {label}: brought to the target on {len(ratios)} of {len(controls)} tasks"]
    if ratios:
        span = f"{ratios[0]:.1f}" if len(ratios) == 1 else f"{ratios[0]:.1f} to {ratios[-1]:.1f}"
        parts.append(f"with {span} times the task's nodes")
    if lowest:
        parts.append(f"elsewhere to {min(lowest):.2f} nats at the lowest")
    return ", ".join(parts) + "."


def shrink(found: dict[str, Any]) -> str:
    """Whether the controls come out as small as the tasks."""
    runs = [
        task["evidence"]["findings"][name] for task in found.values() for name in CONTROLS
        if name in task["evidence"]["findings"]
    ]  # fmt: skip
    never = sum(run["ratio"] is None for run in runs)
    small = sum(run["ratio"] is not None and run["ratio"] < SEPARATES for run in runs)
    return (
        f"Of {len(runs)} control runs, pruned with the same decision, {never} are never brought to the target, "
        f"{len(runs) - never - small} need at least {SEPARATES:g} times the nodes of their task, and {small} fewer."
    )


def row(task: dict[str, Any]) -> list[str]:
    """One task's figures."""
    evidence = task["evidence"]
    says = evidence["findings"]
    agreement, faithful, norms = says.get("agreement"), says.get("faithfulness"), says.get("frozen_norm")
    return [
        evidence["grade"]["letter"],
        str(task["nodes"]),
        str(task["edges"]),
        interval(says["sufficiency"]["calibrated_loss"]),
        f"{says['sufficiency']['worst_template_loss']:.3f}",
        f"{task['task_loss']:.3f}",
        f"{task['full_loss']:.3f}",
        f"{task['necessity_loss']:.2f} ({task['necessity_random_loss']:.3f}; {task['necessity_any_loss']:.3f})",
        "—" if norms is None else bounded(norms["frozen_norm_loss"]),
        bounded(says["interchange"]["worst"]),
        bounded(says["adversarial"]["adversarial_loss"], 1),
        f"{says['binarised']['binarised_loss']['value']:.2f}",
        control(says.get("nonsense")),
        control(says.get("reversed")),
        control(says.get("arbitrary")),
        control(says.get("random_weights")),
        "—"
        if agreement is None
        else f"{agreement['jaccard']:.2f} ({agreement['lowest']:.2f}; {len(agreement['core'])})",
        "—" if faithful is None else f"{faithful['cpr']['value']:.2f} / {faithful['cmd']['value']:.2f}",
        f"{task['cpu_seconds']:.0f} ({task['seconds']:.0f})",
    ]


def control(found: dict[str, Any] | None) -> str:
    """Nodes of a control relative to the task's at equal loss, or the lowest loss it was brought to."""
    if found is None:
        return "—"
    return f"never (lowest {found['loss']:.2f})" if found["ratio"] is None else f"{found['ratio']:.1f}×"


def bounded(found: dict[str, float], digits: int = 2) -> str:
    """`value (≤ upper end)`: the end that gates ask for."""
    return f"{found['value']:.{digits}f} (≤ {found['high']:.{digits}f})"


def interval(found: dict[str, float]) -> str:
    """`value [low, high]`."""
    return f"{found['value']:.3f} [{found['low']:.3f}, {found['high']:.3f}]"


if __name__ == "__main__":
    main()

"""Prune, validate and tabulate tasks of a bridge, one command that goes on where it stopped.

    python examples/verdict_table.py runs/verdicts --into docs/verdicts.md
    python examples/verdict_table.py runs/smollm --bridge BRIDGE --dense FOLDER --task closing_quote --into docs/smollm.md

The page has two pairs of comments, `verdicts` and `places`. Per task `RUNS/circuits/TASK` holds the circuit and
`RUNS/TASK.json` all figures; several processes may share RUNS if their tasks differ (--part 1/2, --part 2/2). Without
--bridge the bundled models are used, with the recipe's pruning settings.
"""

import argparse
import json
import resource
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from foundation.errors import UserError
from sparse_model.studies.page import publish

ROOT = Path(__file__).resolve().parents[1]
BUNDLED = ROOT / "cli" / "bundled"
GRADE = "grade without control runs"
GRADE_DRAWS = 40
"""Random node sets per check of the grade."""
COLUMNS = (
    "task", "verdict", "gates not held", "accuracy, dense / sparse", "nodes / edges", GRADE, "circuit alone, loss",
    "necessary", "M6 slope", "M6 R²", "circuit at its place", "M7", "decoded", "dense patch", "best without a bridge",
    "single node at 1, P(target)", "substitution", "standing flips (class mean)",
)  # fmt: skip
Report = dict[str, Any]


def explained(name: str, folder: Path, models: Any, arguments: argparse.Namespace) -> Report:
    """All figures of one task: kept ones, or pruned and judged now. A task that a model does not do is a row too."""
    from bridges.validation.validate import validate_circuit
    from sparse_model.circuits.circuit import Circuit
    from sparse_model.circuits.evaluate import evaluate_circuit
    from sparse_model.circuits.prune import prune
    from sparse_model.tasks import find_task
    from sparse_model.tasks.splits import task_splits

    kept = folder / f"{name}.json"
    if kept.is_file():
        found: Report = json.loads(kept.read_text("utf-8"))
        if arguments.grade and "details" in found and "grade" not in found:
            found["grade"] = grade_of(name, folder, models, arguments)
            _keep(kept, found)
        return found
    started = time.process_time()
    config = models.settings
    report: Report = {"task": name, "seconds": {}}
    try:
        check_both(models, name, arguments)
        splits = task_splits(find_task(name), models.artefact.tokenizer, config.pairs, arguments.pairs, config.seed)
        place = folder / "circuits" / name
        if place.is_dir():
            circuit = Circuit.load(place)
        else:
            found_now = prune(models.artefact.sparse, splits.train, splits.validation, models.values, config)
            circuit = replace(found_now, pairs={"seed": config.seed, **splits.sizes()})
            circuit.save(place)
            report["seconds"]["prune"] = time.process_time() - started
        evaluation = evaluate_circuit(models.artefact.sparse, circuit, splits.held_out, draws=5, seed=config.seed)
        report |= {"nodes": evaluation.nodes, "edges": evaluation.edges, "scale": circuit.calibration.scale}
        started = time.process_time()
        parts = (models.artefact.bridge, models.artefact.sparse, models.stack, splits)
        found_verdict = validate_circuit(circuit, *parts, models.text, arguments.draws, config.seed, models.effort)
        report["seconds"]["validate"] = time.process_time() - started
        report["peak_gb"] = (
            resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        )  # of the process, tasks before it included
        report["details"] = found_verdict.report
        if arguments.grade:
            report["grade"] = grade_of(name, folder, models, arguments)
    except UserError as error:
        report["refused"] = str(error)
    _keep(kept, report)
    return report


def _keep(path: Path, report: Report) -> None:
    temporary = path.with_suffix(".partial")
    temporary.write_text(json.dumps(report), "utf-8")
    temporary.replace(path)


def grade_of(name: str, folder: Path, models: Any, arguments: argparse.Namespace) -> Report:
    """Grade of the kept circuit by all checks that do not prune again: C where the basic gates pass, else D; which failed."""
    from sparse_model.circuits.circuit import Circuit
    from sparse_model.circuits.evidence.gather import gather
    from sparse_model.circuits.evidence.outcome import Subject
    from sparse_model.tasks import find_task
    from sparse_model.tasks.splits import task_splits

    config = models.settings
    splits = task_splits(find_task(name), models.artefact.tokenizer, config.pairs, arguments.pairs, config.seed)
    circuit = Circuit.load(folder / "circuits" / name)
    subject = Subject(models.artefact.sparse, circuit, splits.held_out, config.seed)
    found = gather(subject, splits.train, splits.validation, None, config, GRADE_DRAWS)
    return {**found.grade.to_json(), "seconds": sum(found.seconds.values())}


def check_both(models: Any, name: str, arguments: argparse.Namespace) -> None:
    """Refuse a task that either model does not do.

    Raises:
        UserError: its accuracy on held-out pairs is below `--least-accuracy`.
    """
    from sparse_model.tasks import find_task
    from sparse_model.tasks.check import check_task

    if not arguments.least_accuracy:
        return
    for label, model in (("dense", models.stack.model), ("sparse", models.artefact.sparse)):
        found = check_task(
            model, models.artefact.tokenizer, find_task(name), arguments.pairs, seed=models.settings.seed
        )
        if found.accuracy.value < arguments.least_accuracy:
            raise UserError(f"accuracy of the {label} model {found.accuracy}, below {arguments.least_accuracy:g}")


class Models:
    """Everything that all tasks share, loaded once."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        from bridges.jobs.recipe import read_recipe
        from bridges.pairing import load_pairing
        from bridges.validation.isolation import ReferenceText
        from bridges.validation.validate import Effort
        from sparse_model.circuits.ablation import ablation_values
        from sparse_model.corpus.reference_text import builtin_blocks

        self.settings = read_recipe(arguments.recipe).prune
        self.effort = Effort(arguments.transfer_pairs, arguments.null_bridges, not arguments.no_standing)
        pairing = load_pairing(arguments.bridge, arguments.dense)
        self.artefact, self.stack = pairing.artefact, pairing.stack
        length = self.artefact.sparse.config.block_size
        blocks = builtin_blocks(self.artefact.tokenizer, "train", arguments.blocks, length)
        self.values = ablation_values(self.artefact.sparse, blocks, self.settings.ablation)
        held_out = builtin_blocks(self.artefact.tokenizer, "held_out", arguments.blocks, length)
        self.text = ReferenceText(self.stack, held_out)


def table(reports: list[Report]) -> str:
    """Markdown: one row per task, the verdicts counted above."""
    judged = [report for report in reports if "details" in report]
    words = [report["details"]["verdict"]["word"] for report in judged]
    counted = ", ".join(f"{words.count(word)} {word}" for word in ("explains", "steers", "fails"))
    graded = any("grade" in report for report in judged)
    columns = [name for name in COLUMNS if graded or name != GRADE]
    lines = [
        f"{len(judged)} tasks judged: {counted}. Shares are of the dense model's own difference; 95 % intervals over templates.",
        "",
        "| " + " | ".join(columns) + " |",
        "|---" * len(columns) + "|",
    ]
    for report in reports:
        if "details" not in report:
            lines.append(f"| {report['task']} | not judged: {report['refused']} |" + " |" * (len(columns) - 2))
        else:
            cells = dict(zip(COLUMNS, _cells(report), strict=True))
            lines.append("| " + " | ".join(cells[name] for name in columns) + " |")
    return "\n".join([*lines, "", _cost(judged)])


def places(reports: list[Report]) -> str:
    """Markdown: which tasks' circuits do most at which place, deepest first, and what can be carried there."""
    groups: dict[tuple[int, int] | None, list[Report]] = {}
    for report in reports:
        if "details" in report:
            place = report["details"].get("place")
            groups.setdefault(None if place is None else (place["sparse_site"], place["dense_site"]), []).append(report)
    lines = ["| sparse site : dense site | tasks | dense patch | decoded |", "|---|---|---|---|"]
    for where in sorted(groups, key=lambda found: found or (-1, -1), reverse=True):
        tasks = ", ".join(f"{one['task']} ({one['details']['verdict']['word']})" for one in groups[where])
        shares = [
            "–" if where is None else _span([one["details"]["effect"][name]["value"] for one in groups[where]])
            for name in ("patch", "decoded")
        ]
        name = "none: the circuit has no channel there" if where is None else f"{where[0]} : {where[1]}"
        lines.append(f"| {name} | {tasks} | {shares[0]} | {shares[1]} |")
    return "\n".join(lines)


def _span(values: list[float]) -> str:
    low, high = f"{min(values):.2f}", f"{max(values):.2f}"
    return low if low == high else f"{low} to {high}"


def _cost(judged: list[Report]) -> str:
    """Processor time and memory of what was judged."""
    if not judged:
        return ""
    parts = []
    for name in ("prune", "validate"):
        seconds = [report["seconds"][name] for report in judged if name in report["seconds"]]
        if seconds:
            parts.append(f"{name} {statistics.median(seconds):.0f} (at most {max(seconds):.0f})")
    peaks = [report["peak_gb"] for report in judged if "peak_gb" in report]
    memory = f"; at most {max(peaks):.1f} GB of memory" if peaks else ""
    return f"Processor seconds a task, medians: {', '.join(parts)}{memory}."


def _cells(report: Report) -> list[str]:
    details = report["details"]
    verdict, inside, moved = details["verdict"], details["in_sparse"], details["transfer"]
    effect, m7 = details.get("effect"), details.get("specificity")
    failed = [gate["name"] for gate in verdict["gates"] if not gate["passed"]]
    return [
        report["task"],
        verdict["word"],
        ", ".join(failed) or "–",
        " / ".join(f"{details['accuracy'][name]['value']:.2f}" for name in ("dense", "sparse")),
        f"{report['nodes']} / {report['edges']}",
        report.get("grade", {}).get("letter", "–"),
        _interval(inside["loss"]),
        _interval(inside["necessity"]),
        _interval(moved["slope"]),
        _interval(moved["r2"]),
        _interval(effect and effect["circuit"]),
        _interval(m7 and m7["difference"]),
        _interval(effect and effect["decoded"]),
        _interval(effect and effect["patch"]),
        _best_baseline(details),
        _single_node(details),
        _substitution(details),
        _standing(details),
    ]


def _interval(found: dict[str, float] | None) -> str:
    return "–" if not found else f"{found['value']:.2f} [{found['low']:.2f}, {found['high']:.2f}]"


def _best_baseline(details: Report) -> str:
    if not details.get("baselines"):
        return "–"
    best = details["beats_baselines"]["best"]
    return f"{_interval(details['baselines'][best]['effect'])} ({best.replace('_', ' ')})"


def _single_node(details: Report) -> str:
    dose = details.get("dose")
    if not dose:
        return "–"
    lines = dose["directions"].values()
    return " / ".join(
        f"{line['none'][0]['p_target']['value']:.3f} → {line['channel'][-1]['p_target']['value']:.3f}" for line in lines
    )


def _substitution(details: Report) -> str:
    shares = [row["share"]["value"] for row in details["apart"]["substitution"]]
    return f"{max(shares):.2f}" if shares else "–"


def _standing(details: Report) -> str:
    if not details.get("standing"):
        return "–"
    return " / ".join(
        f"{kinds['circuit']['flip_rate']['value']:.2f} ({kinds['class_mean']['flip_rate']['value']:.2f})"
        for kinds in details["standing"].values()
    )


def main() -> None:
    """Parse the command line, do what is left to do, and print or replace."""
    from sparse_model.tasks.registry import TASKS

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path)
    parser.add_argument("--bridge", type=Path, default=BUNDLED / "bridge")
    parser.add_argument("--dense", default=None)
    parser.add_argument("--recipe", type=Path, default=BUNDLED / "recipe.toml")
    parser.add_argument("--task", action="append", default=None)
    parser.add_argument("--part", default="1/1", help="N/M: every M-th task from the N-th on")
    parser.add_argument("--pairs", type=int, default=64, help="validation pairs, and as many held out")
    parser.add_argument(
        "--least-accuracy", type=float, default=0.0, help="tasks that either model does less well are not judged"
    )
    parser.add_argument("--draws", type=int, default=100)
    parser.add_argument("--blocks", type=int, default=48, help="blocks of reference text")
    parser.add_argument("--transfer-pairs", type=int, default=24, help="held-out pairs that M6 is measured on")
    parser.add_argument("--null-bridges", type=int, default=3, help="bridges of either kind that know nothing")
    parser.add_argument("--no-standing", action="store_true", help="leave standing edits out")
    parser.add_argument(
        "--grade", action="store_true", help="grade circuits too, by the checks that do not prune again"
    )
    parser.add_argument("--into", type=Path)
    arguments = parser.parse_args()
    number, parts = map(int, arguments.part.split("/"))
    names = (arguments.task or sorted(TASKS))[number - 1 :: parts]
    (arguments.runs / "circuits").mkdir(parents=True, exist_ok=True)
    models, reports = None, []
    for done, name in enumerate(names):
        if models is None and (arguments.grade or not (arguments.runs / f"{name}.json").is_file()):
            models = Models(arguments)
        started = time.perf_counter()
        reports.append(explained(name, arguments.runs, models, arguments))
        left = len(names) - done - 1
        word = reports[-1].get("details", {}).get("verdict", {}).get("word", "not judged")
        sys.stderr.write(f"{name}: {word}; {time.perf_counter() - started:.0f} s, {left} tasks left\n")
    publish(table(reports), "verdicts", arguments.into)
    publish(places(reports), "places", arguments.into)


if __name__ == "__main__":
    main()

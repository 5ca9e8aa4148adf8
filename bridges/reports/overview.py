"""The top of a report's page: the verdict in a sentence, what it means, and one table over tasks."""

from collections.abc import Mapping, Sequence
from typing import Any

from bridges.reports.blocks import Page, Section, Table, settings_table
from bridges.reports.bridge_section import bridge_section
from bridges.reports.numbers import estimate, interval, listing, value_of
from bridges.reports.summary import summary_blocks
from bridges.reports.task_section import task_section
from bridges.reports.verdict_words import MEANINGS, reason_of_task, sentence_of, word_of_task, worst
from foundation.verdicts import WORDS

DRAWN = {
    "verdict", "seconds", "models", "density", "ce_dense", "ce_sparse", "kl_dense_sparse", "evaluation", "tasks",
    "schema_version",
}  # fmt: skip
"""Keys of a demo report that have a place of their own on the page; the others are settings."""
EXPLANATION = (
    "The claim, task by task: a few nodes of a weight-sparse model, its circuit for the task, say how the dense "
    "model decides. The test: every pair of prompts differs in one detail and calls for two different next tokens, "
    "a and b. What the circuit's nodes would do on the other prompt is carried over by the bridge and added to the dense "
    "model's residual stream, at strength 1, away from the embedding, the changed tokens and the final stream. That should "
    "move the dense model's answer as it moves the sparse model's, and more than node sets outside the circuit do.",
    "The verdict is one of three words. Explains: every gate holds. Steers: not that, but the last gate does, as the edit "
    "moves the answer more than random directions of its size. Fails: neither. All figures come from held-out pairs, and "
    "where a task has templates from held-out templates, that were not used to find the circuit or to choose its site. "
    "Brackets are 95 % intervals over resampled templates.",
)


def report_page(report: Mapping[str, Any]) -> Page:
    """The page of a demo report, or of the validation of a single task."""
    tasks = tasks_of(report)
    words = {name: word_of_task(task) for name, task in tasks.items()}
    told = report.get("verdict")
    word = told if isinstance(told, str) and told in WORDS else worst(words.values())
    sections = [task_section(name, task, number, len(tasks) > 1) for number, (name, task) in enumerate(tasks.items())]
    if report.get("evaluation"):
        sections.append(bridge_section(report["evaluation"]))
    provenance = _provenance(report)
    if provenance.blocks:
        sections.append(provenance)
    return Page(
        title="Does the circuit explain the dense model?"
        if len(tasks) != 1
        else f"Does the circuit for {next(iter(tasks))} explain the dense model?",
        sentence=_sentence(tasks, words, word),
        word=word,
        explanation=EXPLANATION,
        blocks=summary_blocks(tasks) if len(tasks) > 1 else (),
        sections=tuple(sections),
    )


def tasks_of(report: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The tasks of a demo report, or the one task of a validation report."""
    if "tasks" in report:
        return dict(report["tasks"])
    if isinstance(report.get("verdict"), Mapping):
        graph = {"circuit": report["circuit_graph"]} if "circuit_graph" in report else {}
        return {str(report.get("task", "task")): {"details": report, **graph}}
    return {}


def _sentence(tasks: Mapping[str, Mapping[str, Any]], words: Mapping[str, str], word: str) -> str:
    if not tasks:
        return "No task was examined."
    if not word:
        without = listing([name for name, found in words.items() if not found])
        return f"No verdict for {without}: the report is of another version, or unfinished; make it again."
    held_out = _held_out(tasks)
    on = f" ({held_out} held-out pairs{' each' if len(tasks) > 1 else ''})" if held_out else ""
    if len(tasks) == 1:
        (task,) = tasks.values()
        reason = reason_of_task(task)
        return f"{word.capitalize()}{on}. {sentence_of(reason or MEANINGS[word])}"
    verbs = {"explains": "explains", "steers": "steers", "fails": "fails on"}
    counts = [f"{verbs[found]} {list(words.values()).count(found)}" for found in WORDS if found in words.values()]
    worse = [
        f"{name}: {reason_of_task(tasks[name]) or MEANINGS[found]}"
        for name, found in words.items()
        if found != "explains"
    ]
    why = f" {'; '.join(worse)}." if worse else ""
    return f"{word.capitalize()}. Of {len(tasks)} tasks{on} the circuit {listing(counts)}.{why}"


def _held_out(tasks: Mapping[str, Mapping[str, Any]]) -> str:
    counts = {task.get("details", {}).get("pairs", {}).get("held_out", 0) for task in tasks.values()}
    low, high = min(counts), max(counts)
    if not high:
        return ""
    return str(low) if low == high else f"{low} to {high}"


def _provenance(report: Mapping[str, Any]) -> Section:
    """What made the report: models, versions, settings, time."""
    blocks = []
    models = report.get("models")
    if models:
        blocks.append(settings_table("Models. A fingerprint is the SHA-256 of a model's weights.", models))
    rows: list[Sequence[str]] = [
        (label, f"{estimate(report[key])} {interval(report[key])} {unit}".replace("  ", " ").strip())
        for key, label, unit in (
            ("density", "nonzero weights of the sparse model", "of 1"),
            ("ce_dense", "cross-entropy, dense model", "nats/token"),
            ("ce_sparse", "cross-entropy, sparse model", "nats/token"),
            ("kl_dense_sparse", "KL(dense ‖ sparse)", "nats/token"),
            ("seconds", "time taken", "s"),
        )
        if value_of(report.get(key)) is not None
    ]
    if rows:
        blocks.append(Table.of("The models on held-out text, and the run.", ("figure", "value"), rows, text_columns=2))
    if "tasks" in report:
        rest = {key: value for key, value in report.items() if key not in DRAWN}
    else:
        rest = {key: report[key] for key in ("pairs", "draws", "seed", "versions") if key in report}
    if rest:
        blocks.append(settings_table("Versions and settings.", rest))
    return Section("Provenance", "provenance", tuple(blocks))

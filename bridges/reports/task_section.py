"""One task's part of a report, so that a sceptic reads it from top to bottom: verdict, gates, evidence, circuit."""

from collections.abc import Mapping
from typing import Any

from bridges.reports.blocks import (
    Block,
    Checklist,
    Fold,
    Heading,
    Line,
    Prompt,
    PromptPair,
    Prose,
    Section,
    Table,
    Token,
)
from bridges.reports.circuit_section import circuit_blocks
from bridges.reports.evidence_section import (
    baseline_blocks,
    dose_blocks,
    headline,
    map_blocks,
    specificity_blocks,
    transfer_blocks,
)
from bridges.reports.numbers import estimate, figure, interval
from bridges.reports.standing_section import standing_blocks
from bridges.reports.verdict_words import MEANINGS, checks_of, reason_of_task, sentence_of, word_of_task

IN_SPARSE = (
    ("loss", "the circuit alone, calibrated"),
    ("uncalibrated", "the circuit alone"),
    ("removed", "the model without the circuit"),
    ("removed_others", "the model without as many other nodes"),
)
SHARES = (
    ("share", "gone without the circuit"),
    ("necessity", "… more than without as many other nodes"),
)


def task_section(name: str, task: Mapping[str, Any], number: int, with_reason: bool = True) -> Section:
    """Everything about one task; parts the report does not have are left out.

    Args:
        with_reason: begin with the verdict's reason, which the page of a single task has at its top.
    """
    details, anchor = task.get("details", {}), f"task-{number}"
    graph, word = task.get("circuit"), word_of_task(task)
    blocks: list[Block] = []
    if word and with_reason:
        blocks.append(Prose(f"{word.capitalize()}. {sentence_of(reason_of_task(task) or MEANINGS[word])}", word))
    if task.get("description"):
        blocks.append(Prose(str(task["description"])))
    if graph and graph.get("example"):
        blocks.append(_example(graph["example"]))
    checks = checks_of(details)
    if checks:
        blocks += [Heading("The gates"), Checklist(checks)]
    blocks += headline(details)
    for make in (map_blocks, transfer_blocks, specificity_blocks, dose_blocks, baseline_blocks):
        blocks += make(details, anchor)
    blocks += standing_blocks(details.get("standing") or {})
    if details.get("in_sparse"):
        blocks += [Heading("In the sparse model"), *_in_sparse(details["in_sparse"], details.get("pairs", {}))]
    if graph:
        blocks += [Heading("The circuit"), *circuit_blocks(graph, anchor)]
    if details.get("unplaced"):
        found = details["unplaced"]
        blocks.append(Fold(f"{len(found)} nodes without a place in the dense model", (Prose(", ".join(found)),)))
    return Section(name, anchor, tuple(blocks), word)


def _example(example: Mapping[str, Any]) -> PromptPair:
    a, b = example["a"], example["b"]
    differs = [x != y for x, y in zip(a["tokens"], b["tokens"], strict=True)]

    def prompt(name: str, side: Mapping[str, Any]) -> Prompt:
        return Prompt(name, tuple(Token(t, d) for t, d in zip(side["tokens"], differs, strict=True)), side["answer"])

    return PromptPair(
        (prompt("a", a), prompt("b", b)), "A pair of prompts with their right next tokens; marked is where they differ."
    )


def _in_sparse(inside: Mapping[str, Any], pairs: Mapping[str, Any]) -> list[Block]:
    """Losses of the circuit and without it, and how much of the answer goes with it."""

    def rows(named: tuple[tuple[str, str], ...]) -> list[list[Any]]:
        return [[label, Line(estimate(inside[key]), interval(inside[key]))] for key, label in named if inside.get(key)]

    held_out = f" on {figure(pairs['held_out'])} held-out pairs" if "held_out" in pairs else ""
    losses = f"Task loss{held_out}, in nats with 95 % intervals; guessing has 0.693."
    blocks: list[Block] = [Table.of(losses, ("which part works", "loss"), rows(IN_SPARSE))]
    if inside.get("share"):
        gone = "How much of the sparse model's logit difference between the two answers is gone, with 95 % intervals."
        blocks.append(Table.of(gone, ("of the answer", "share"), rows(SHARES)))
    return blocks

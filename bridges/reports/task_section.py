"""One task's part of a report: example, dose–response, controls, concentration, standing edit, gates, circuit."""

from collections.abc import Mapping
from typing import Any

from bridges.reports.blocks import (
    Block,
    Checklist,
    Heading,
    Prompt,
    PromptPair,
    Prose,
    Section,
    Token,
)
from bridges.reports.circuit_section import circuit_blocks
from bridges.validation.verdict import Gate

ARROWS = {"a_to_b": "a → b", "b_to_a": "b → a"}
COMPARED = (
    ("baselines", "class_mean_difference", "baseline: difference of class means"),
    ("baselines", "best_coordinates", "baseline: best dense coordinates"),
    ("controls", "random_nodes", "control: random read nodes"),
    ("controls", "untrained_bridge", "control: untrained bridge"),
)


def is_passed(task: Mapping[str, Any]) -> bool:
    """The task's verdict; a task without one has not passed."""
    word = task.get("verdict") or task.get("details", {}).get("verdict", {}).get("word")
    return bool(word == "explains")


def task_section(name: str, task: Mapping[str, Any], number: int) -> Section:
    """Everything about one task; parts the report does not have are left out."""
    details, anchor = task.get("details", {}), f"task-{number}"
    blocks: list[Block] = []
    if task.get("description"):
        blocks.append(Prose(str(task["description"])))
    graph = task.get("circuit")
    if graph and graph.get("example"):
        blocks.append(_example(graph["example"]))
    if details.get("verdict", {}).get("gates"):
        gates = [Gate(**{key: gate[key] for key in Gate.__dataclass_fields__}) for gate in details["verdict"]["gates"]]
        blocks += [Heading("Verdict"), Checklist(tuple(gates))]
    if graph:
        blocks += [Heading("The circuit"), *circuit_blocks(graph, anchor)]
    return Section(name, anchor, tuple(blocks), passed=is_passed(task))


def _example(example: Mapping[str, Any]) -> PromptPair:
    a, b = example["a"], example["b"]
    differs = [x != y for x, y in zip(a["tokens"], b["tokens"], strict=True)]

    def prompt(name: str, side: Mapping[str, Any]) -> Prompt:
        return Prompt(name, tuple(Token(t, d) for t, d in zip(side["tokens"], differs, strict=True)), side["answer"])

    return PromptPair(
        (prompt("a", a), prompt("b", b)), "A pair of prompts with their right next tokens; marked is where they differ."
    )

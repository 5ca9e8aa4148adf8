"""Verdict words and gates as a page shows them, read off a report's JSON."""

from collections.abc import Iterable, Mapping
from typing import Any

from bridges.reports.blocks import Check
from bridges.reports.numbers import UNBROKEN
from foundation.verdicts import WORDS

MEANINGS = {
    "explains": "what the sparse model does under interventions on the circuit predicts what the dense model does, and "
    "node sets outside the circuit do less",
    "steers": "the circuit's edit moves the dense model's answer, but that is no evidence that the circuit is how it decides",
    "fails": "the circuit's edit does not move the dense model's answer",
}
NEEDS = {
    "carried": lambda details: details.get("effect"),
    "necessary": lambda details: details.get("in_sparse", {}).get("necessity"),
    "specific": lambda details: details.get("specificity"),
    "moves": lambda details: details.get("effect"),
}
"""Gate → the measurement it rests on; where a report has none, the gate could not be decided."""


def word_of_task(task: Mapping[str, Any]) -> str:
    """A task's verdict; empty where it has none of these words."""
    word = task.get("verdict") or task.get("details", {}).get("verdict", {}).get("word")
    return word if word in WORDS else ""


def worst(words: Iterable[str]) -> str:
    """The worst of some words; empty where one is missing or there is none."""
    found = list(words)
    return max(found, key=WORDS.index) if found and all(word in WORDS for word in found) else ""


def reason_of_task(task: Mapping[str, Any]) -> str:
    """One sentence: why the verdict is no better."""
    return str(task.get("reason") or task.get("details", {}).get("verdict", {}).get("reason", ""))


def sentence_of(reason: str) -> str:
    """A reason with a capital and a full stop."""
    return f"{reason[:1].upper()}{reason[1:].rstrip('.')}."


def checks_of(details: Mapping[str, Any]) -> tuple[Check, ...]:
    """The gates of a task's verdict, in the order of the argument."""
    return tuple(
        Check(
            str(gate["name"]),
            _state(gate, details),
            # an interval does not break across lines
            *(_unbroken(str(gate.get(key, ""))) for key in ("measured", "required", "meaning", "remedy")),
        )
        for gate in details.get("verdict", {}).get("gates", ())
    )


def _state(gate: Mapping[str, Any], details: Mapping[str, Any]) -> str:
    if gate["passed"]:
        return "passed"
    needed = NEEDS.get(gate["name"])
    return "undecided" if needed is not None and not needed(details) else "failed"


def _unbroken(text: str) -> str:
    inside, out = 0, []
    for character in text:
        inside += (character == "[") - (character == "]")
        out.append(UNBROKEN if character == " " and inside > 0 else character)
    return "".join(out)

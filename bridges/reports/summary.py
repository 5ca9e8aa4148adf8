"""The table over tasks at the top of a page: the verdict's figures, one a cell; the rest on demand."""

from collections.abc import Callable, Mapping
from typing import Any

from bridges.reports.blocks import Block, Line, Table
from bridges.reports.numbers import MISSING, estimate, figure, share, value_of
from bridges.reports.verdict_words import word_of_task

Read = Callable[[Mapping[str, Any], Mapping[str, Any]], Any]
"""From a task and its details to the text of a cell."""


def _at(*path: str) -> Read:
    """A figure at a place of the details."""
    return lambda _, details: estimate(_dig(details, path))


def _either(top: str, *path: str, show: Callable[[Any], str] = estimate) -> Read:
    """A figure of the task, or where it has none of its details."""

    def read(task: Mapping[str, Any], details: Mapping[str, Any]) -> str:
        return show(task[top] if task.get(top) is not None else _dig(details, path))

    return read


def _dig(found: Any, path: tuple[str, ...]) -> Any:
    for key in path:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def _best_baseline(_: Mapping[str, Any], details: Mapping[str, Any]) -> str:
    best = _dig(details, ("beats_baselines", "best"))
    return estimate(_dig(details, ("baselines", best, "effect"))) if best else MISSING


def _edges(task: Mapping[str, Any], _: Mapping[str, Any]) -> str:
    graph = task.get("circuit")
    return figure(task.get("edges", len(graph["edges"]) if graph else None))


def _standing(path: tuple[str, ...], worst: Callable[[list[float]], float], show: Callable[[Any], str]) -> Read:
    """A figure of the circuit's standing edits, the worse direction."""

    def read(_: Mapping[str, Any], details: Mapping[str, Any]) -> str:
        found = [value_of(_dig(kinds, ("circuit", *path))) for kinds in (details.get("standing") or {}).values()]
        known = [value for value in found if value is not None]
        return show(worst(known)) if known else MISSING

    return read


MAIN: Mapping[str, Read] = {
    "verdict": lambda task, _: Line("no verdict", word=word_of_task(task)),
    "circuit's effect": _at("effect", "circuit"),
    "dense patch": _at("effect", "patch"),
    "decoded stream": _at("effect", "decoded"),
    "matched sets outside": _at("specificity", "outside"),
    "best without a bridge": _best_baseline,
    "transfer slope": _at("transfer", "slope"),
    "transfer R²": _at("transfer", "r2"),
}
"""Column → what is in it."""
REST: Mapping[str, Read] = {
    "accuracy, dense": _either("accuracy_dense", "accuracy", "dense", show=share),
    "accuracy, sparse": _either("accuracy", "accuracy", "sparse", show=share),
    "nodes": _either("nodes", "in_sparse", "nodes", show=figure),
    "weights": _edges,
    "loss of the circuit alone": _either("task_loss", "in_sparse", "uncalibrated"),
    "calibrated": _either("task_loss_calibrated", "in_sparse", "loss"),
    "loss without the circuit": _either("necessity_loss", "in_sparse", "removed"),
    "without as many others": _either("necessity_random_loss", "in_sparse", "removed_others"),
    "standing edit flips": _standing(("flip_rate",), min, share),
    "its KL elsewhere": _standing(("isolation", "kl"), max, figure),
}


def summary_blocks(tasks: Mapping[str, Mapping[str, Any]]) -> tuple[Block, ...]:
    """One row per task; columns that no task has a figure for are left out."""
    caption = (
        "Effects are shares of the dense model's own difference between the two prompts, at the circuit's site; intervals "
        "are with each task below. Transfer: effects in the dense model over those in the sparse one."
    )
    rest = (
        "Losses are task losses in nats (guessing: 0.693). A standing edit needs no second prompt: prompts whose answer "
        "it flips and KL(original ‖ edited) on unrelated text in nats/token, the worse direction."
    )
    first = _table(tasks, MAIN, caption, "")
    second = _table(tasks, REST, rest, "Accuracy, size, losses and standing edits")
    return (first, second) if len(second.columns) > 1 else (first,)


def _table(tasks: Mapping[str, Mapping[str, Any]], columns: Mapping[str, Read], caption: str, fold: str) -> Table:
    cells = {label: [read(task, task.get("details", {})) for task in tasks.values()] for label, read in columns.items()}
    shown = {label: column for label, column in cells.items() if any(cell != MISSING for cell in column)}
    rows = [[name, *(column[number] for column in shown.values())] for number, name in enumerate(tasks)]
    return Table.of(caption, ("task", *shown), rows, fold)

"""Tasks: pairs of prompts that call for two different next tokens."""

from collections.abc import Sequence
from pathlib import Path

from sparse_model.tasks.jsonl import task_of_rows
from sparse_model.tasks.registry import TASKS, find_task
from sparse_model.tasks.task import Task


def tasks() -> dict[str, str]:
    """The built-in tasks: name → what the two answers depend on."""
    return {name: found.description for name, found in TASKS.items()}


def task(source: str | Path | Task | Sequence[Sequence[str]], name: str = "own") -> Task:
    """A task by its name, from a JSONL file, or from rows of your own.

    Args:
        source: a built-in name, the path of a `.jsonl` file, a task, or rows (prompt a, answer a, prompt b, answer b).
            Of ten rows eight are for training, one for validation, one held out.
        name: of a task made from rows.

    Raises:
        UserError: the name is unknown, or a row or line is malformed; the message names it.
    """
    if isinstance(source, Task):
        return source
    if isinstance(source, str | Path):
        return find_task(str(source))
    return task_of_rows(source, name)

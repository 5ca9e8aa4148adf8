"""The twenty tasks by name; a `.jsonl` path names a task of one's own."""

import difflib
import shutil
from pathlib import Path

from sparse_model.corpus.idioms import IDIOMS
from sparse_model.tasks.jsonl import load_task
from sparse_model.tasks.task import Task, TaskError, task_of_idiom

TASKS: dict[str, Task] = {name: task_of_idiom(idiom) for name, idiom in IDIOMS.items()}


def keep_task(name_or_path: str, folder: Path) -> None:
    """Copy the file of a task of one's own into the folder of its circuit; nothing to do for the others."""
    if name_or_path.endswith(".jsonl"):
        shutil.copyfile(name_or_path, folder / Path(name_or_path).name)


def kept_task(folder: Path, name: str) -> str:
    """What `find_task` is to be asked for a circuit's own task: the file kept in its folder, else the name of a built-in one."""
    kept = folder / f"{name}.jsonl"
    return str(kept) if kept.is_file() else name


def find_task(name_or_path: str) -> Task:
    """One of the twenty tasks by its name, or the task in a `.jsonl` file.

    Raises:
        TaskError: an unknown name (naming the nearest ones) or a malformed file.
    """
    if name_or_path in TASKS:
        return TASKS[name_or_path]
    if name_or_path.endswith(".jsonl"):
        return load_task(Path(name_or_path))
    near = difflib.get_close_matches(name_or_path, TASKS, n=3) or sorted(TASKS)
    raise TaskError(
        f"unknown task {name_or_path!r}: choose {', '.join(near)}, or give the path of a .jsonl file of pairs"
    )

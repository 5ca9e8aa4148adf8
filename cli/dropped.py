"""What commands say about pairs that a tokenizer, or a file that repeats itself, made them leave out."""

from collections import Counter
from typing import TYPE_CHECKING

from cli.output import say

if TYPE_CHECKING:
    from sparse_model.tasks.splits import Splits
    from sparse_model.tasks.task import Task
    from sparse_model.tasks.token_pairs import TokenPairs


def say_dropped(task: "Task", *splits: "TokenPairs") -> None:
    """One line on stderr about pairs that were left out, and why; none where all were taken."""
    from sparse_model.tasks.token_pairs import reasons

    dropped = Counter({"equal to an earlier pair": task.repeats} if task.repeats else {})
    for pairs in splits:
        dropped.update(pairs.dropped)
    if dropped:
        say(f"task {task.name}: {dropped.total()} pairs dropped ({reasons(dropped)})")


def say_shortfall(splits: "Splits", train: int, evaluate: int) -> None:
    """One line on stderr where a task's file holds fewer pairs than were asked for."""
    from sparse_model.tasks.splits import shortfall

    found = shortfall(splits, train, evaluate)
    if found:
        say(f"task {splits.train.name}: {found}")

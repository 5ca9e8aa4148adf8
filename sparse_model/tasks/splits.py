"""The pairs of one task, dealt to three uses: to fit on, to choose on, and to report on.

The three hold different templates (METHOD §3), so what is reported was neither fitted nor chosen on its surroundings.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sparse_model.corpus.fragment import Split
from sparse_model.tasks.task import Task, TaskError
from sparse_model.tasks.token_pairs import TokenPairs, tokenise_pairs

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


FEWEST = 4
"""Pairs a split needs, below which nothing can be learned, decided or reported."""


@dataclass(frozen=True)
class Splits:
    """Pairs of one task by use."""

    train: TokenPairs
    validation: TokenPairs
    held_out: TokenPairs

    def sizes(self) -> dict[str, int]:
        """Number of pairs by split."""
        return {"train": len(self.train), "validation": len(self.validation), "held_out": len(self.held_out)}


def shortfall(splits: Splits, train: int, evaluate: int) -> str:
    """What is to be said where a file holds fewer pairs than were asked for; empty where it does not."""
    asked = {"train": train, "validation": evaluate, "held_out": evaluate}
    fewer = [f"{n} {split} pairs instead of {asked[split]}" for split, n in splits.sizes().items() if n < asked[split]]
    return f"{', '.join(fewer)}: all that there are; intervals are wider" if fewer else ""


def task_splits(
    task: Task,
    tokenizer: "PreTrainedTokenizerBase",
    train: int,
    evaluate: int,
    seed: int = 0,
    device: str = "cpu",
) -> Splits:
    """`train` training pairs, `evaluate` pairs of the other two; of a task from a file as many of these as there are.

    Raises:
        TaskError: the tokenizer cannot express enough pairs (of a file, `FEWEST` a split); every short split is named.
    """
    shares: dict[Split, int] = {"train": train, "validation": evaluate, "held_out": evaluate}
    found: dict[Split, TokenPairs] = {}
    missing: list[str] = []
    for split, n in shares.items():
        try:
            fewest = min(n, FEWEST) if task.is_finite else None
            found[split] = tokenise_pairs(task, tokenizer, n, split, seed, fewest=fewest).to(device)
        except TaskError as error:
            if not task.is_finite:
                raise
            missing.append(str(error).removeprefix(f"task {task.name}: ").rsplit("; ", 1)[0])
    if missing:
        raise TaskError(
            f"task {task.name}: {'; '.join(missing)}; every split needs {FEWEST} pairs that fit: give at least "
            f"{4 * FEWEST} lines without a split whose answers are one token each (sparsebridge task lint says which are not)"
        )
    return Splits(found["train"], found["validation"], found["held_out"])

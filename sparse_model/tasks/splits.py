"""The pairs of one task, dealt to three uses: to fit on, to choose on, and to report on.

The three hold different templates (METHOD §3), so what is reported was neither fitted nor chosen on its surroundings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sparse_model.tasks.task import Task
from sparse_model.tasks.token_pairs import TokenPairs, tokenise_pairs

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Splits:
    """Pairs of one task by use."""

    train: TokenPairs
    validation: TokenPairs
    held_out: TokenPairs

    def sizes(self) -> dict[str, int]:
        """Number of pairs by split."""
        return {"train": len(self.train), "validation": len(self.validation), "held_out": len(self.held_out)}


def task_splits(
    task: Task,
    tokenizer: PreTrainedTokenizerBase,
    train: int,
    evaluate: int,
    seed: int = 0,
    device: str = "cpu",
) -> Splits:
    """`train` training pairs, `evaluate` pairs of the other two.

    Raises:
        TaskError: the tokenizer cannot express enough pairs.
    """
    return Splits(
        tokenise_pairs(task, tokenizer, train, "train", seed).to(device),
        tokenise_pairs(task, tokenizer, evaluate, "validation", seed).to(device),
        tokenise_pairs(task, tokenizer, evaluate, "held_out", seed).to(device),
    )

"""Which pairs of a task's file fit a tokenizer, and why others do not."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from sparse_model.corpus.fragment import SPLITS
from sparse_model.tasks.splits import FEWEST
from sparse_model.tasks.task import Task, TextPair
from sparse_model.tasks.token_pairs import misfit

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SHOWN = 12
"""Misfits described in words; the others are counted."""


@dataclass(frozen=True)
class Lint:
    """Pairs by split, how many of them fit, and a line about every one that does not."""

    pairs: dict[str, int]
    fitting: dict[str, int]
    misfits: tuple[str, ...]
    needed: int = FEWEST

    @property
    def is_enough(self) -> bool:
        """Whether every split has the pairs it needs."""
        return all(fit >= self.needed for fit in self.fitting.values())

    def to_json(self) -> dict[str, Any]:
        """Plain types under the field names."""
        return {**asdict(self), "is_enough": self.is_enough}


def lint_task(task: Task, tokenizer: "PreTrainedTokenizerBase") -> Lint:
    """Try every pair of a task from a file (one that ends: `task.is_finite`)."""
    pairs: dict[str, int] = {}
    fitting: dict[str, int] = {}
    misfits: list[str] = []
    for split in SPLITS:
        candidates = list(task.candidates(split, 0))
        found = [(pair, misfit(pair, tokenizer, task.whole_answers)) for pair in candidates]
        pairs[split], fitting[split] = len(found), sum(reason is None for _, reason in found)
        misfits += [f"{split}: {reason}: {_shown(pair, tokenizer)}" for pair, reason in found if reason is not None]
    more = [f"and {len(misfits) - SHOWN} more"] if len(misfits) > SHOWN else []
    return Lint(pairs, fitting, (*misfits[:SHOWN], *more))


def _shown(pair: TextPair, tokenizer: "PreTrainedTokenizerBase") -> str:
    """Both prompts in plain text with their answers and token counts."""
    sides = ((pair.prompt_a, pair.answer_a), (pair.prompt_b, pair.answer_b))
    counts = [[len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in side] for side in sides]
    return " / ".join(
        f"{prompt!r} ({n} tokens) → {answer!r} ({m})" for (prompt, answer), (n, m) in zip(sides, counts, strict=True)
    )

"""The pairs and the text that a circuit is edited and judged on, each made when it is first used."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from bridges.pairing import Pairing
from bridges.validation.isolation import ReferenceText
from sparse_model.corpus.reference_text import reference_blocks
from sparse_model.tasks.registry import find_task
from sparse_model.tasks.splits import Splits, task_splits


@dataclass(frozen=True)
class Grounds:
    """What an edit is fitted on; neither is made unless the edit needs it."""

    splits: Callable[[], Splits]
    """pairs to fit on, to choose on, and held out"""
    text: Callable[[], ReferenceText]
    """held-out text with the unedited model's behaviour on it"""


@dataclass(frozen=True)
class Amounts:
    """How much of what is used."""

    fit: int
    """training pairs"""
    report: int
    """held-out pairs, and as many to choose on"""
    blocks: int
    """of held-out text"""
    seed: int = 0
    """of the pairs"""


@dataclass(frozen=True)
class Material:
    """Pairs of a task and held-out text, in the tokens of a bridge."""

    pairing: Pairing
    task: str
    """name or `.jsonl` file"""
    amounts: Amounts
    corpus: Path | None = None
    """corpus folder the text is taken from; None: generated Python"""

    @property
    def grounds(self) -> Grounds:
        """The same, to make an edit from."""
        return Grounds(lambda: self.splits, lambda: self.text)

    @property
    def device(self) -> str:
        """Where the models are."""
        return str(self.pairing.stack.model.device)

    @cached_property
    def splits(self) -> Splits:
        """Pairs to fit on, to choose on, and held out.

        Raises:
            UserError: the task is unknown, or too few of its pairs fit the tokenizer.
        """
        tokenizer, amounts = self.pairing.artefact.tokenizer, self.amounts
        return task_splits(find_task(self.task), tokenizer, amounts.fit, amounts.report, amounts.seed, self.device)

    @cached_property
    def text(self) -> ReferenceText:
        """Held-out text with the unedited model's behaviour on it.

        Raises:
            UserError: the corpus is in another model's tokens.
        """
        artefact = self.pairing.artefact
        length = artefact.sparse.config.block_size
        blocks = reference_blocks(artefact.tokenizer, "held_out", self.amounts.blocks, length, self.corpus)
        return ReferenceText(self.pairing.stack, blocks, self.device)

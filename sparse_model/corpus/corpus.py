"""A built corpus, read from its folder."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from foundation.artefacts import read_json
from foundation.errors import UserError
from sparse_model.corpus.block_file import CorpusRecord, SplitRecord, open_blocks
from sparse_model.corpus.fragment import Split
from sparse_model.corpus.sources import CorpusError
from sparse_model.corpus.tokenizer import tokenizer_fingerprint

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

DESCRIPTION_FILE = "corpus.json"


def block_file(split: Split, source: str | None = None) -> str:
    """The file of a split's blocks; only training blocks are mixed over sources."""
    return f"{split}.npy" if source is None else f"{split}.{source}.npy"


@dataclass(frozen=True)
class Corpus:
    """Blocks of token ids [N, T], memory-mapped, and the tokenizer that made them."""

    folder: Path
    description: dict[str, Any]
    train: np.ndarray
    validation: dict[str, np.ndarray]
    held_out: dict[str, np.ndarray]

    @classmethod
    def load(cls, folder: str | Path) -> "Corpus":
        """Read a corpus folder.

        Raises:
            UserError: it is none, damaged, or written by a newer version.
        """
        folder = Path(folder)
        description = read_json(folder, DESCRIPTION_FILE, "corpus")
        record = CorpusRecord.check(description, str(folder / DESCRIPTION_FILE), "corpus")
        names = list(record.sources)
        for name in names:
            if not name or any(sign in name for sign in "/\\\0"):
                raise CorpusError(
                    f"{folder / DESCRIPTION_FILE}: source {name!r} cannot be part of a file name; it is damaged"
                )

        def blocks(split: Split, source: str | None = None) -> np.ndarray:
            count = record.train.blocks if source is None else _count(record, source, split, folder)
            return open_blocks(folder / block_file(split, source), record, count)

        return cls(
            folder,
            description,
            blocks("train"),
            {name: blocks("validation", name) for name in names},
            {name: blocks("held_out", name) for name in names},
        )

    @cached_property
    def tokenizer(self) -> "PreTrainedTokenizerFast":
        """The tokenizer, loaded on first use.

        Raises:
            UserError: it is damaged.
        """
        from transformers import PreTrainedTokenizerFast

        from foundation.tokenizers import tokenizer_of

        with tokenizer_of("corpus", self.folder / "tokenizer"):
            return PreTrainedTokenizerFast.from_pretrained(self.folder / "tokenizer")

    @cached_property
    def fingerprint(self) -> str:
        """The tokenizer's fingerprint: corpora that share it share token ids.

        A corpus of an earlier version stores a hash of how its tokenizer was written down; there the tokenizer itself,
        which lies beside the blocks, says what it does.
        """
        from foundation.tokenizers import behaviour_fingerprint, is_behaviour_fingerprint

        stored = str(self.description["tokenizer_fingerprint"])
        return stored if is_behaviour_fingerprint(stored) else behaviour_fingerprint(self.tokenizer)

    def check_tokenizer(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        """Refuse a model that reads other tokens.

        Raises:
            UserError: the tokenizers differ.
        """
        if tokenizer_fingerprint(tokenizer) != self.fingerprint:
            raise UserError(
                f"{self.folder}: was tokenised with another tokenizer than the model's; build a corpus with "
                "sparsebridge corpus build --tokenizer MODEL"
            )

    @property
    def sources(self) -> tuple[str, ...]:
        """The names of the sources, in the order of the config."""
        return tuple(self.description["sources"])

    @property
    def block_length(self) -> int:
        """Tokens per block."""
        return int(self.train.shape[1])

    @property
    def vocab_size(self) -> int:
        """Tokens in the vocabulary, its holes included: every token id is below it."""
        return int(self.description["vocab_size"])


def _count(record: CorpusRecord, source: str, split: Split, folder: Path) -> int:
    """Blocks of a split, as the description says."""
    place = f"{folder / DESCRIPTION_FILE}: sources.{source}.{split}"
    described = record.sources[source].get(split)
    return SplitRecord.check(described if isinstance(described, dict) else {}, place, "corpus").blocks

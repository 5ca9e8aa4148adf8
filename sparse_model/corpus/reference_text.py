"""Reference text for a model: token blocks of a corpus folder, or of the built-in sources where there is none."""

import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from sparse_model.corpus.corpus import Corpus
from sparse_model.corpus.fragment import Split
from sparse_model.corpus.packing import pack
from sparse_model.corpus.stdlib import Stdlib
from sparse_model.corpus.tinypython import TinyPython


def builtin_blocks(
    tokenizer: PreTrainedTokenizerBase,
    split: Split,
    blocks: int,
    block_length: int,
    source: str = "tinypython",
) -> NDArray[np.integer]:
    """Blocks [N, T] of `tinypython` or `stdlib`, made on the spot."""
    origin = TinyPython(0) if source == "tinypython" else Stdlib()
    with tempfile.TemporaryDirectory() as folder:
        return np.array(
            pack(origin, split, tokenizer, blocks, block_length, np.int64, Path(folder) / "blocks.npy").blocks
        )


def reference_blocks(
    tokenizer: PreTrainedTokenizerBase,
    split: Split,
    blocks: int,
    block_length: int,
    corpus: Path | None = None,
    source: str = "tinypython",
) -> NDArray[np.integer]:
    """Blocks [N, T] of a corpus folder (held-out ones of its first source); without a corpus, of a built-in source.

    Raises:
        UserError: the corpus is in another model's tokens.
    """
    if corpus is None:
        return builtin_blocks(tokenizer, split, blocks, block_length, source)
    data = Corpus.load(corpus)
    data.check_tokenizer(tokenizer)
    return data.train[:blocks] if split == "train" else next(iter(data.held_out.values()))[:blocks]

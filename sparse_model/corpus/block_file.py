"""A corpus's folder, checked: `corpus.json`, and .npy files of blocks [N, T], which are mapped and not read.

Small files are checked whole, by fingerprint and for tokens beyond the vocabulary; of large ones, which would take seconds
at every start, evenly spaced blocks are looked at.
"""

from pathlib import Path
from tokenize import TokenError
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from foundation.artefacts import Description, file_fingerprint, regular_file
from sparse_model.corpus.sources import CorpusError

CHECKED_BYTES = 64 << 20
"""Files up to this size are checked whole."""
CHECKED_BLOCKS = 4096
"""Blocks that are looked at in larger ones."""
MOST = 1 << 62
Count = Annotated[int, Field(ge=0, le=MOST)]


class SplitRecord(Description):
    """What a split of a source, or the mixed training blocks, came to."""

    blocks: Count
    tokens: Count


class CorpusRecord(Description):
    """The keys of `corpus.json`; those with a default came later."""

    config: dict[str, Any]
    tokenizer_fingerprint: str
    vocab_size: int = Field(ge=1, le=1 << 32)
    block_length: int = Field(ge=1, le=MOST)
    train: SplitRecord
    sources: dict[str, dict[str, Any]] = Field(min_length=1)
    files: dict[str, str] | None = None


def open_blocks(path: Path, record: CorpusRecord, blocks: int | None = None) -> np.ndarray:
    """Blocks of token ids [N, T], memory-mapped, as the description says they are.

    Args:
        blocks: how many there are, where the description says it.

    Raises:
        CorpusError: the file is missing, damaged, or not the one described.
    """
    mapped = _mapped(path)
    fault = _fault(mapped, record, blocks)
    whole = record.files is not None and path.stat().st_size <= CHECKED_BYTES
    if fault is None and whole and (record.files or {}).get(path.name) != file_fingerprint(path):
        fault = "is not the file that corpus.json describes"
    if fault is not None:
        raise CorpusError(f"{path}: {fault}; the corpus is damaged, copy or build it again")
    return mapped


def _mapped(path: Path) -> np.ndarray:
    if not regular_file(path):
        raise CorpusError(f"{path}: missing or damaged (no regular file); build the corpus again")
    try:
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    except (
        OSError,
        ValueError,
        EOFError,
        TypeError,
        KeyError,
        SyntaxError,
        OverflowError,
        MemoryError,
        TokenError,
    ) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__  # a damaged header raises any of these
        raise CorpusError(f"{path}: missing or damaged ({reason}); build the corpus again") from None
    if not isinstance(mapped, np.ndarray):
        raise CorpusError(f"{path}: missing or damaged (an archive of arrays); build the corpus again")
    return mapped


def _fault(mapped: np.ndarray, record: CorpusRecord, blocks: int | None) -> str | None:
    """What is wrong, in words; None where nothing is."""
    if mapped.dtype not in (np.dtype(np.uint16), np.dtype(np.uint32)):
        return f"holds {mapped.dtype}, not token ids (uint16 or uint32)"
    if mapped.ndim != 2 or not len(mapped) or mapped.shape[1] != record.block_length or not mapped.flags.c_contiguous:
        return f"is of shape {list(mapped.shape)}, not of blocks of {record.block_length} tokens"
    if blocks is not None and len(mapped) != blocks:
        return f"holds {len(mapped)} blocks, corpus.json says {blocks}"
    step = 1 if mapped.nbytes <= CHECKED_BYTES else max(1, len(mapped) // CHECKED_BLOCKS)
    largest = int(mapped[::step].max())
    if largest >= record.vocab_size:
        return f"holds token {largest}, beyond the vocabulary of {record.vocab_size}"
    return None

"""What a source of documents is, how documents are split, and how a bad source is refused."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Protocol, runtime_checkable

from foundation.errors import UserError
from sparse_model.corpus.fragment import Split

TRAIN_PERCENT, VALIDATION_PERCENT = 90, 5
"""Shares of a source's documents, in percent; the rest is held out."""


class CorpusError(UserError):
    """A corpus cannot be built or read. The message says what, why and what to do, in one line."""


@runtime_checkable
class Source(Protocol):
    """A named stream of text documents, the same on every call."""

    @property
    def name(self) -> str:
        """The name under which the corpus reports this source."""
        ...

    def documents(self, split: Split) -> Iterator[str]:
        """The documents of one split, in a fixed order; may be endless."""
        ...


def split_of(key: str) -> Split:
    """The split of a document from a stable hash of `key`, its text or relative path."""
    bucket = zlib.crc32(key.encode("utf-8", "surrogatepass")) % 100
    if bucket < TRAIN_PERCENT:
        return "train"
    return "validation" if bucket < TRAIN_PERCENT + VALIDATION_PERCENT else "held_out"

"""What a source of documents is, how documents are split, and how a bad source is refused."""

import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Protocol, TypeVar, runtime_checkable

from foundation.errors import UserError
from sparse_model.corpus.fragment import SPLITS, Split

TRAIN_PERCENT, VALIDATION_PERCENT = 90, 5
"""Shares of a source's documents, in percent; the rest is held out."""
FEW, FEWEST, FEW_SHARE = 400, 3, 0.1
"""Of at most `FEW` documents that share goes to validation and as much is held out, where the hash leaves a split fewer than
`FEWEST`."""
Document = TypeVar("Document")


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


def split_documents(keyed: Callable[[], Iterator[tuple[str, Document]]], split: Split) -> Iterator[Document]:
    """The documents of one split, by `split_of` their key; a small source that this serves badly is dealt out by rank.

    Args:
        keyed: yields key and document, in the same order on every call.
    """
    dealt = _dealt({key for key, _ in islice(keyed(), FEW + 1)})
    for key, document in keyed():
        if (split_of(key) if dealt is None else dealt[key]) == split:
            yield document


def _dealt(keys: set[str]) -> dict[str, Split] | None:
    """A split for every key, in the order of their hashes; None where the hash serves all splits or documents are too few."""
    if not len(SPLITS) <= len(keys) <= FEW:
        return None
    found = Counter(map(split_of, keys))
    if all(found[split] >= FEWEST for split in SPLITS):
        return None
    ranked = sorted(keys, key=lambda key: (zlib.crc32(key.encode("utf-8", "surrogatepass")), key))
    share = max(1, round(FEW_SHARE * len(ranked)))
    dealt: dict[str, Split] = dict.fromkeys(ranked, "train")
    return dealt | dict.fromkeys(ranked[:share], "validation") | dict.fromkeys(ranked[-share:], "held_out")

"""Builds a corpus folder: documents -> tokenizer -> tokens -> packed blocks.

1. Learn the tokenizer from the training documents of all sources, in proportion to their weights.
2. Tokenise each split of each source; a document is the special token and its own tokens. Documents are joined end to
   end and cut into blocks of T tokens. A source with too few training tokens is repeated and its passes counted.
3. Shuffle the training blocks of all sources together.
4. Write a temporary sibling and rename it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from tqdm import tqdm

from sparse_model.artefacts import atomic_folder, write_json
from sparse_model.corpus.config import CorpusConfig
from sparse_model.corpus.corpus import DESCRIPTION_FILE, Corpus, block_file
from sparse_model.corpus.fragment import SPLITS, Split
from sparse_model.corpus.sources import CorpusError, Source
from sparse_model.corpus.tokenizer import load_tokenizer, tokenizer_fingerprint, train_tokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_BATCH_CHARACTERS = 1_000_000
_PROGRESS_DELAY = 2.0
"""Seconds before a progress bar appears."""


class Packed(NamedTuple):
    """Blocks [N, T] of one split of one source, and what went into them."""

    blocks: np.ndarray
    documents: int
    epochs: float


def build_corpus(config: CorpusConfig, folder: str | Path, overwrite: bool = False) -> Corpus:
    """Build the corpus that `config` describes and load it from `folder`.

    Raises CorpusError if the folder exists (unless `overwrite`), if two sources share a name, or if a split has too
    little text for one block.
    """
    folder = Path(folder)
    if overwrite and folder.is_dir() and any(folder.iterdir()) and not (folder / DESCRIPTION_FILE).is_file():
        raise CorpusError(
            f"{folder}: is no corpus (it has no {DESCRIPTION_FILE}), so it is not overwritten; choose another"
        )
    if folder.exists() and not overwrite:
        raise CorpusError(f"{folder}: already exists; choose another folder or ask to overwrite it")
    sources = _open_sources(config)
    total = sum(source.weight for source in config.sources)
    shares = {name: source.weight / total for name, source in zip(sources, config.sources, strict=True)}
    if config.tokenizer is None:
        tokenizer = train_tokenizer(_tokenizer_texts(sources, shares, config.tokenizer_characters), config.vocab_size)
    else:
        tokenizer = load_tokenizer(config.tokenizer)
    dtype = np.uint16 if len(tokenizer) <= 1 << 16 else np.uint32

    with atomic_folder(folder, overwrite) as temporary:
        tokenizer.save_pretrained(temporary / "tokenizer")
        train: list[np.ndarray] = []
        described: dict[str, Any] = {}
        for name, source in sources.items():
            described[name] = {"weight": shares[name]}
            for split in SPLITS:
                tokens = shares[name] * config.train_tokens if split == "train" else config.evaluation_tokens
                wanted = max(1, int(tokens) // config.block_length)
                packed = pack(source, split, tokenizer, wanted, config.block_length, dtype)
                described[name][split] = {
                    "documents": packed.documents,
                    "blocks": len(packed.blocks),
                    "tokens": packed.blocks.size,
                    "epochs": packed.epochs,
                }
                if split == "train":
                    train.append(packed.blocks)
                else:
                    np.save(temporary / block_file(split, name), packed.blocks)
        blocks = np.concatenate(train)
        np.random.default_rng(config.seed).shuffle(blocks)
        np.save(temporary / block_file("train"), blocks)
        description = {
            "config": config.to_json(),
            "tokenizer_fingerprint": tokenizer_fingerprint(tokenizer),
            "vocab_size": len(tokenizer),
            "block_length": config.block_length,
            "train": {"blocks": len(blocks), "tokens": blocks.size},
            "sources": described,
        }
        write_json(temporary / DESCRIPTION_FILE, description)
    return Corpus.load(folder)


def pack(
    source: Source, split: Split, tokenizer: PreTrainedTokenizerFast, blocks: int, block_length: int, dtype: Any
) -> Packed:
    """At most `blocks` blocks of `block_length` tokens from one split of a source.

    The training split is repeated until it suffices; the others stop at their end. `epochs` counts the passes over the
    split, as a fraction once the length of a pass is known (a single pass, whole or not, counts as 1). Raises
    CorpusError if the split does not fill one block.
    """
    wanted = blocks * block_length
    start = np.array([tokenizer.bos_token_id], dtype=dtype)
    pieces: list[np.ndarray] = []
    tokens = documents = passes = pass_tokens = 0
    with tqdm(total=wanted, unit="tok", unit_scale=True, desc=f"{source.name} {split}", delay=_PROGRESS_DELAY) as bar:
        while tokens < wanted and (passes == 0 or (split == "train" and tokens > 0)):
            passes += 1
            for batch in _batches(source.documents(split), min(_BATCH_CHARACTERS, 4 * wanted + 1)):
                for encoding in tokenizer.backend_tokenizer.encode_batch(batch, add_special_tokens=False):
                    pieces.append(start)
                    pieces.append(np.array(encoding.ids, dtype=dtype))
                    added = len(encoding.ids) + 1
                    bar.update(min(added, wanted - tokens))
                    tokens += added
                    documents += 1
                    if tokens >= wanted:
                        break
                if tokens >= wanted:
                    break
            if passes == 1:
                pass_tokens = tokens
    if tokens < block_length:
        raise CorpusError(
            f"the {split} split of source {source.name} is empty: {documents} documents give {tokens} tokens, less "
            f"than one block of {block_length}; add documents, shorten the blocks, or leave the source out."
        )
    kept = min(blocks, tokens // block_length)
    packed = np.concatenate(pieces)[: kept * block_length].reshape(kept, block_length)
    return Packed(packed, documents, round(kept * block_length / pass_tokens, 4) if passes > 1 else 1.0)


def _open_sources(config: CorpusConfig) -> dict[str, Source]:
    sources: dict[str, Source] = {}
    for described in config.sources:
        source = described.open()
        if source.name in sources:
            raise CorpusError(f"two sources are called {source.name!r}: give one of them another name.")
        if not source.name or any(sign in source.name for sign in "/\\"):
            raise CorpusError(f"source name {source.name!r} cannot be part of a file name: give it a plain one.")
        sources[source.name] = source
    return sources


def _tokenizer_texts(sources: dict[str, Source], shares: dict[str, float], characters: int) -> Iterator[str]:
    for name, source in sources.items():
        left = shares[name] * characters
        for text in source.documents("train"):
            yield text[: int(left) + 1]
            left -= len(text)
            if left <= 0:
                break


def _batches(documents: Iterator[str], characters: int) -> Iterator[list[str]]:
    """Lists of documents of about `characters` characters together."""
    batch: list[str] = []
    size = 0
    for text in documents:
        batch.append(text)
        size += len(text)
        if size >= characters:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch

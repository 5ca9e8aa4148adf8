"""Builds a corpus folder: documents -> tokenizer -> tokens -> packed blocks.

1. Learn the tokenizer from the training documents of all sources, in proportion to their weights.
2. Tokenise each split of each source; a document is the special token and its own tokens. A source with too few
   training tokens is repeated and its passes counted.
3. Shuffle the training blocks of all sources together.
4. Write a temporary sibling and rename it.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from foundation.artefacts import atomic_folder, file_fingerprint, write_json
from foundation.kinds import check_replaceable
from sparse_model.corpus.corpus import DESCRIPTION_FILE, Corpus, block_file
from sparse_model.corpus.corpus_config import CorpusConfig, FolderConfig, JsonLinesConfig, TableConfig
from sparse_model.corpus.fragment import SPLITS
from sparse_model.corpus.packing import mix, pack
from sparse_model.corpus.sources import CorpusError, Source
from sparse_model.corpus.tokenizer import load_tokenizer, tokenizer_fingerprint, train_tokenizer, vocabulary_size


def build_corpus(
    config: CorpusConfig, folder: str | Path, overwrite: bool = False, trust_remote_code: bool = False
) -> Corpus:
    """Build the corpus that `config` describes and load it from `folder`.

    Raises:
        CorpusError: the folder exists (unless `overwrite`), if two sources share a name, or if a split has too little
            text for one block.
    """
    folder = Path(folder)
    if folder.exists() and not overwrite:
        raise CorpusError(f"{folder}: already exists; choose another folder or ask to overwrite it")
    read = [
        Path(source.path)
        for source in config.sources
        if isinstance(source, FolderConfig | JsonLinesConfig | TableConfig)
    ]
    check_replaceable(folder, "corpus", read)
    sources = _open_sources(config)
    total = sum(source.weight for source in config.sources)
    shares = {name: source.weight / total for name, source in zip(sources, config.sources, strict=True)}
    if config.tokenizer is None:
        tokenizer = train_tokenizer(_tokenizer_texts(sources, shares, config.tokenizer_characters), config.vocab_size)
    else:
        tokenizer = load_tokenizer(config.tokenizer, trust_remote_code)
    vocab_size = vocabulary_size(tokenizer)
    dtype = np.uint16 if vocab_size <= 1 << 16 else np.uint32

    needs = 2 * config.train_tokens * np.dtype(dtype).itemsize  # by source, and mixed
    with atomic_folder(folder, overwrite, "corpus", needs) as temporary:
        tokenizer.save_pretrained(temporary / "tokenizer")
        train: list[np.ndarray] = []
        described: dict[str, Any] = {}
        for name, source in sources.items():
            described[name] = {"weight": shares[name]}
            for split in SPLITS:
                tokens = shares[name] * config.train_tokens if split == "train" else config.evaluation_tokens
                wanted = max(1, int(tokens) // config.block_length)
                path = temporary / block_file(split, name)
                packed = pack(source, split, tokenizer, wanted, config.block_length, dtype, path)
                described[name][split] = {
                    "documents": packed.documents,
                    "blocks": len(packed.blocks),
                    "tokens": packed.blocks.size,
                    "epochs": packed.epochs,
                }
                if split == "train":
                    train.append(packed.blocks)
        blocks = mix(train, temporary / block_file("train"), config.seed)
        for name in sources:
            (temporary / block_file("train", name)).unlink()
        description = {
            "config": config.to_json(),
            "tokenizer_fingerprint": tokenizer_fingerprint(tokenizer),
            "vocab_size": vocab_size,
            "block_length": config.block_length,
            "train": {"blocks": len(blocks), "tokens": blocks.size},
            "sources": described,
            "files": {path.name: file_fingerprint(path) for path in sorted(temporary.glob("*.npy"))},
        }
        write_json(temporary / DESCRIPTION_FILE, description)
    return Corpus.load(folder)


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

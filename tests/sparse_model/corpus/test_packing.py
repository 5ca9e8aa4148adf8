"""Blocks on disk: the documents end to end, mixed in one order, whatever the size of the vocabulary."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from sparse_model.corpus.build import build_corpus
from sparse_model.corpus.corpus_config import CorpusConfig, FolderConfig
from sparse_model.corpus.fragment import Split
from sparse_model.corpus.packing import mix, pack
from sparse_model.corpus.sources import CorpusError


class Words:
    """Documents `w0`, `w1`, ... of one split; fails after `last` of them if asked to."""

    name = "words"

    def __init__(self, last: int) -> None:
        self.last = last

    def documents(self, split: Split) -> Iterator[str]:
        yield from (f"w{number} " * (number % 5 + 1) for number in range(self.last))


def tokens_of(tokenizer: PreTrainedTokenizerFast, source: Words) -> list[int]:
    found = []
    for text in source.documents("train"):
        found += [tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]]
    return found


@pytest.mark.parametrize("split", ["train", "validation"])
def test_blocks_are_the_documents_end_to_end_and_only_training_text_is_repeated(
    split: Split, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    source, path = Words(40), tmp_path / "blocks.npy"
    once = tokens_of(tokenizer, source)
    packed = pack(source, split, tokenizer, 1000, 16, np.uint16, path)
    whole = once * 40 if split == "train" else once
    assert len(packed.blocks) == (1000 if split == "train" else len(once) // 16)
    assert packed.blocks.flatten().tolist() == whole[: packed.blocks.size]
    assert isinstance(packed.blocks, np.memmap)
    assert np.array_equal(np.load(path), packed.blocks)


def test_mixing_is_a_permutation_of_all_blocks_that_follows_from_the_seed(tmp_path: Path) -> None:
    parts = [np.arange(30, dtype=np.uint16).reshape(10, 3), np.arange(100, 121, dtype=np.uint16).reshape(7, 3)]
    expected = np.concatenate(parts)
    np.random.default_rng(5).shuffle(expected)
    assert np.array_equal(mix(parts, tmp_path / "train.npy", 5), expected)
    assert np.array_equal(np.load(tmp_path / "train.npy"), expected)


def test_a_vocabulary_beyond_16_bits_is_stored_in_32_and_no_token_changes(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    tokenizer.save_pretrained(tmp_path / "wide")
    description = json.loads((tmp_path / "wide" / "tokenizer.json").read_text())
    moved = {token: number + (70_000 if number > 260 else 0) for token, number in description["model"]["vocab"].items()}
    description["model"]["vocab"] = moved  # ids beyond 65,535, in a vocabulary of few tokens
    (tmp_path / "wide" / "tokenizer.json").write_text(json.dumps(description))
    text = tmp_path / "text"
    text.mkdir()
    for number in range(80):
        (text / f"{number}.txt").write_text(f"for value in values: print(value, {number})\n" * 3)
    built = build_corpus(
        CorpusConfig(
            sources=(FolderConfig(kind="folder", path=str(text)),), train_tokens=500, evaluation_tokens=16,
            tokenizer=str(tmp_path / "wide"), block_length=16,
        ),
        tmp_path / "corpus",
    )  # fmt: skip
    assert built.train.dtype == np.uint32
    assert built.train.max() > 70_000
    assert "for value in values" in built.tokenizer.decode(built.train.flatten())


def test_a_failure_in_the_middle_leaves_no_corpus_behind(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.mkdir()
    for number in range(80):
        (text / f"{number:02}.txt").write_bytes(b"some words " * 9 if number < 70 else b"\xff\xfe")
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    config = CorpusConfig(
        sources=(FolderConfig(kind="folder", path=str(text)),), train_tokens=9_000, evaluation_tokens=16,
        tokenizer=str(tmp_path / "tokenizer"), block_length=16,
    )  # fmt: skip
    with pytest.raises(CorpusError, match="not UTF-8"):
        build_corpus(config, tmp_path / "corpus")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["text", "tokenizer"]

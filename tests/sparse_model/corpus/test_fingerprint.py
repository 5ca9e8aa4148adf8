"""Corpora of earlier versions, whose fingerprint is a hash of how the tokenizer was written down, still fit."""

import json
import shutil
from pathlib import Path
from typing import Any

from sparse_model.corpus.corpus import Corpus
from sparse_model.corpus.tokenizer import load_tokenizer, tokenizer_fingerprint


def _copy(corpus_folder: Path, place: Path, fingerprint: str) -> Corpus:
    shutil.copytree(corpus_folder, place)
    description = json.loads((place / "corpus.json").read_text())
    (place / "corpus.json").write_text(json.dumps({**description, "tokenizer_fingerprint": fingerprint}))
    return Corpus.load(place)


def test_a_corpus_knows_its_tokenizer_by_what_it_does(corpus_folder: Path, tokenizer: Any) -> None:
    assert Corpus.load(corpus_folder).fingerprint == tokenizer_fingerprint(tokenizer)
    assert tokenizer_fingerprint(load_tokenizer(str(corpus_folder / "tokenizer"))) == tokenizer_fingerprint(tokenizer)


def test_a_corpus_of_an_earlier_version_fits_the_tokenizer_beside_its_blocks(
    corpus_folder: Path, tokenizer: Any, tmp_path: Path
) -> None:
    old = _copy(corpus_folder, tmp_path / "old", "0f" * 32)
    assert old.fingerprint == tokenizer_fingerprint(tokenizer)


def test_a_fingerprint_of_todays_kind_is_taken_at_its_word(corpus_folder: Path, tmp_path: Path) -> None:
    other = _copy(corpus_folder, tmp_path / "other", "behaviour-1:" + "0f" * 32)
    assert other.fingerprint == "behaviour-1:" + "0f" * 32

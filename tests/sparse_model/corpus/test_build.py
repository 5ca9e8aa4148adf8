"""Building a corpus folder: packed blocks, the same every time, and refusals."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from foundation.artefacts import file_fingerprint
from foundation.errors import UserError
from sparse_model.corpus.build import build_corpus
from sparse_model.corpus.corpus import Corpus
from sparse_model.corpus.corpus_config import CorpusConfig, FolderConfig, StdlibConfig, TinyPythonConfig
from sparse_model.corpus.sources import CorpusError
from sparse_model.corpus.tinypython import TinyPython
from sparse_model.corpus.tokenizer import END_OF_TEXT
from sparse_model.training.sparse import train_sparse
from sparse_model.training.train_config import TrainConfig
from sparse_model.transformer.shape import SparseShape

SMALL = CorpusConfig(
    train_tokens=40_000, evaluation_tokens=2_000, vocab_size=600, tokenizer_characters=100_000, block_length=64
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return build_corpus(SMALL, tmp_path_factory.mktemp("built") / "corpus")


def test_blocks_have_the_asked_sizes_and_types(corpus: Corpus) -> None:
    assert corpus.train.shape == (40_000 * 85 // 100 // 64 + 40_000 * 15 // 100 // 64, 64)
    assert corpus.train.dtype == np.uint16
    assert isinstance(corpus.train, np.memmap)
    assert corpus.sources == ("tinypython", "stdlib")
    for blocks in (*corpus.validation.values(), *corpus.held_out.values()):
        assert blocks.shape == (2_000 // 64, 64)
    assert corpus.vocab_size == len(corpus.tokenizer) == 600
    assert corpus.train.max() < 600


def test_building_twice_gives_the_same_bytes_and_another_seed_only_another_order(
    corpus: Corpus, tmp_path: Path
) -> None:
    again = build_corpus(SMALL, tmp_path / "again")
    assert again.fingerprint == corpus.fingerprint
    assert np.array_equal(again.train, corpus.train)
    assert (again.folder / "corpus.json").read_text() == (corpus.folder / "corpus.json").read_text()
    other = build_corpus(SMALL.model_copy(update={"seed": 1}), tmp_path / "other")
    assert not np.array_equal(other.train, corpus.train)
    assert np.array_equal(np.sort(other.train, axis=0), np.sort(corpus.train, axis=0))


def test_validation_blocks_are_the_documents_joined_end_to_end(corpus: Corpus) -> None:
    text = corpus.tokenizer.decode(corpus.validation["tinypython"].reshape(-1))
    documents = TinyPython(0).documents("validation")
    expected = ""
    while len(expected) <= len(text):
        expected += "<|endoftext|>" + next(documents)
    assert expected.startswith(text)


def test_the_description_adds_up(corpus: Corpus) -> None:
    described = json.loads((corpus.folder / "corpus.json").read_text())
    parts = described["sources"].values()
    assert sum(part["train"]["tokens"] for part in parts) == described["train"]["tokens"] == corpus.train.size
    assert CorpusConfig.from_mapping(described["config"]) == SMALL


def test_a_source_that_is_too_small_is_repeated_and_its_passes_are_counted(tmp_path: Path) -> None:
    folder = tmp_path / "text"
    folder.mkdir()
    for number in range(200):
        (folder / f"{number}.txt").write_text(f"the number {number} and some words more " * 5)
    config = SMALL.model_copy(
        update={"sources": (FolderConfig(kind="folder", path=str(folder)),), "evaluation_tokens": 64}
    )
    built = build_corpus(config, tmp_path / "corpus")
    assert built.train.size == 40_000 // 64 * 64
    assert built.description["sources"]["text"]["train"]["epochs"] > 2


def test_a_corpus_whose_tokenizer_has_holes_in_its_vocabulary_counts_them_and_trains(tmp_path: Path) -> None:
    words = {END_OF_TEXT: 0, "[UNK]": 3, "=": 40, "def": 70_000}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    with_ends = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT)
    with_ends.save_pretrained(tmp_path / "holes")
    config = CorpusConfig(
        sources=(TinyPythonConfig(kind="tinypython", seed=0),), tokenizer=str(tmp_path / "holes"),
        train_tokens=256, evaluation_tokens=32, block_length=16,
    )  # fmt: skip
    corpus = build_corpus(config, tmp_path / "corpus")
    assert len(corpus.tokenizer) == 4
    assert corpus.vocab_size == 70_001
    assert corpus.train.max() == 70_000
    shape = SparseShape(n_layer=1, d_model=4, n_head=1, d_head=4, d_mlp=4)
    rows = train_sparse(shape, TrainConfig(steps=1, batch_size=2, floor=1, log_to="none"), corpus, tmp_path / "model")
    assert np.isfinite(rows[-1]["loss"])


def test_a_split_without_text_is_refused_and_nothing_is_left_behind(tmp_path: Path) -> None:
    folder = tmp_path / "text"
    folder.mkdir()
    (folder / "only.txt").write_text("hello")
    config = SMALL.model_copy(update={"sources": (FolderConfig(kind="folder", path=str(folder)),)})
    with pytest.raises(CorpusError, match=r"0 documents .* fall to the validation split.*give at least 3 documents"):
        build_corpus(config, tmp_path / "corpus")
    assert [path.name for path in tmp_path.iterdir()] == ["text"]


def test_an_existing_folder_is_kept_unless_told_otherwise_and_never_if_it_is_no_corpus(
    corpus: Corpus, tmp_path: Path
) -> None:
    with pytest.raises(CorpusError, match="already exists"):
        build_corpus(SMALL, corpus.folder)
    (tmp_path / "precious").write_text("text")
    with pytest.raises(UserError, match="no artefact of this program"):
        build_corpus(SMALL, tmp_path, overwrite=True)
    assert (tmp_path / "precious").exists()


def test_two_sources_of_one_name_are_refused(tmp_path: Path) -> None:
    twice = (TinyPythonConfig(kind="tinypython", seed=0), TinyPythonConfig(kind="tinypython", seed=1))
    with pytest.raises(CorpusError, match="two sources"):
        build_corpus(SMALL.model_copy(update={"sources": twice}), tmp_path / "corpus")


@pytest.mark.parametrize("weight", [0.0, -1.0, float("inf"), float("nan")])
def test_a_weight_that_is_not_positive_and_finite_is_refused(weight: float) -> None:
    with pytest.raises(ValidationError):
        StdlibConfig(kind="stdlib", weight=weight)


def test_an_unknown_key_is_refused_with_the_nearest_valid_one() -> None:
    with pytest.raises(UserError, match="vocab_size"):
        CorpusConfig.from_mapping({"vocabsize": 3})


def test_every_field_of_the_config_is_described() -> None:
    assert all(field.description for field in CorpusConfig.model_fields.values())


def test_a_folder_that_is_no_corpus_or_is_damaged_is_refused(corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"corpus\.json"):
        Corpus.load(tmp_path)
    (tmp_path / "corpus.json").write_text((corpus.folder / "corpus.json").read_text())
    with pytest.raises(CorpusError, match="missing or damaged"):
        Corpus.load(tmp_path)


def _pipe(folder: Path) -> None:
    (folder / "train.npy").unlink()
    os.mkfifo(folder / "train.npy")


def _floats(folder: Path) -> None:
    np.save(folder / "train.npy", np.load(folder / "train.npy").astype(np.float32))
    described = json.loads((folder / "corpus.json").read_text())
    described["files"]["train.npy"] = file_fingerprint(folder / "train.npy")
    (folder / "corpus.json").write_text(json.dumps(described))


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (_pipe, "no regular file"),
        (_floats, "holds float32, not token ids"),
        (lambda folder: (folder / "train.npy").write_bytes(b""), "missing or damaged"),
        (lambda folder: (folder / "tokenizer" / "tokenizer.json").write_text('{"model":'), "tokenizer does not load"),
    ],
    ids=["a pipe", "floats", "0 bytes", "tokenizer cut short"],
)
def test_a_damaged_file_of_a_corpus_is_refused_in_one_line_and_nothing_waits_for_it(
    damage: Callable[[Path], object], reason: str, corpus: Corpus, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(corpus.folder, tmp_path / "copy"))
    damage(folder)
    with pytest.raises(UserError, match=reason) as refusal:
        _ = Corpus.load(folder).tokenizer  # loaded on first use
    assert "\n" not in str(refusal.value)

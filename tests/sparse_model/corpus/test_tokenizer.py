"""The code tokenizer: lossless, loadable as any Hugging Face tokenizer, and cut where the tasks need it."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from sparse_model.corpus.sources import CorpusError
from sparse_model.corpus.tinypython import program
from sparse_model.corpus.tokenizer import END_OF_TEXT, tokenizer_fingerprint, train_tokenizer


def _train(vocab_size: int = 1024) -> PreTrainedTokenizerFast:
    return train_tokenizer((program(0, index) for index in range(3000)), vocab_size)


TOKENIZER = _train()


@settings(max_examples=300, derandomize=True, deadline=None)
@given(st.text())
def test_any_text_survives_the_round_trip(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


@pytest.mark.parametrize(
    "text", ["a  b", "x\r\n\ty", " , . ! 'n' ", "\n\n    \n  z", "é 漢字 \U0001f600", f"a{END_OF_TEXT}b"]
)
def test_awkward_text_survives_the_round_trip(text: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == text


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("x = 'red house'\n", ["x", " =", " ", "'", "red", " house", "'", "\n"]),
        (
            "for item in items:\n    print(12)",
            ["for", " item", " in", " items", ":", "\n    ", "print", "(", "1", "2", ")"],
        ),
        ("size = [[1, 2]]", ["size", " =", " [[", "1", ",", " 2", "]]"]),
        ("def get(size):", ["def", " get", "(", "size", "):"]),
        ("text += size", ["text", " +=", " size"]),
        ("size.add(item)", ["size", ".add", "(", "item", ")"]),
        ("if size == 1:", ["if", " size", " ==", " 1", ":"]),
    ],
)
def test_code_is_cut_into_the_expected_tokens(text: str, pieces: list[str]) -> None:
    assert [TOKENIZER.decode([token]) for token in TOKENIZER.encode(text)] == pieces


def test_a_quote_is_always_a_token_of_its_own() -> None:
    for token in TOKENIZER.get_vocab():
        if "'" in token or '"' in token:
            assert len(token) == 1


def test_the_saved_folder_loads_with_autotokenizer_and_keeps_its_fingerprint(tmp_path: Path) -> None:
    TOKENIZER.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = program(5, 5) + "\n  odd   spaces , and 'quotes' ."
    assert loaded.encode(text) == TOKENIZER.encode(text)
    assert loaded.decode(loaded.encode(text)) == text
    assert loaded.bos_token == loaded.eos_token == loaded.pad_token == END_OF_TEXT
    assert tokenizer_fingerprint(loaded) == tokenizer_fingerprint(TOKENIZER)


def test_training_twice_gives_the_same_tokenizer_and_another_size_does_not() -> None:
    assert tokenizer_fingerprint(_train()) == tokenizer_fingerprint(TOKENIZER)
    assert tokenizer_fingerprint(_train(600)) != tokenizer_fingerprint(TOKENIZER)


def test_a_vocabulary_without_room_for_bytes_is_refused() -> None:
    with pytest.raises(CorpusError, match="at least 257"):
        _train(256)

"""A small code tokenizer for the task tests."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from sparse_model.corpus.stdlib import Stdlib
from sparse_model.corpus.tinypython import program
from sparse_model.corpus.tokenizer import train_tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """V=1024, learned from tinypython and the standard library in the default proportion."""
    texts = [program(0, index) for index in range(5000)]
    code = "".join(Stdlib().documents("validation"))[: sum(map(len, texts)) * 15 // 85]
    return train_tokenizer([*texts, code], 1024)


@pytest.fixture(scope="session")
def bundled_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer of the bundled models."""
    return AutoTokenizer.from_pretrained(Path(__file__).parents[3] / "cli" / "bundled" / "dense")

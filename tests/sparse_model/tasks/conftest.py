"""A small code tokenizer for the task tests."""

import pytest
from transformers import PreTrainedTokenizerFast

from sparse_model.corpus.stdlib import Stdlib
from sparse_model.corpus.tinypython import program
from sparse_model.corpus.tokenizer import train_tokenizer


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """V=1024, learned from tinypython and the standard library in the default proportion."""
    texts = [program(0, index) for index in range(5000)]
    code = "".join(Stdlib().documents("validation"))[: sum(map(len, texts)) * 15 // 85]
    return train_tokenizer([*texts, code], 1024)

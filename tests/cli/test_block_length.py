"""Text in blocks longer than the dense model's positions is refused in one line, before anything is run or written."""

from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import GPT2LMHeadModel, PreTrainedTokenizerFast

from bridges.training import check_block_length
from dense_adapters import DenseStack
from foundation.errors import UserError


def test_a_bridge_is_not_trained_on_blocks_the_dense_model_cannot_read(
    cli: Callable,
    corpus_folder: Path,
    tokenizer: PreTrainedTokenizerFast,
    tiny_gpt2: Callable[..., GPT2LMHeadModel],
    tmp_path: Path,
) -> None:
    short = tiny_gpt2(vocab_size=len(tokenizer), n_positions=12)  # the corpus has blocks of 16
    short.save_pretrained(tmp_path / "dense")
    tokenizer.save_pretrained(tmp_path / "dense")
    ran = cli("bridge", "train", tmp_path / "dense", "--corpus", corpus_folder, "--out", tmp_path / "b", "--steps", "1")
    assert (ran.code, ran.err.count("\n"), ran.out) == (2, 1, ""), ran.err
    assert "blocks of 16 tokens and the dense model reads at most 12" in ran.err
    assert not (tmp_path / "b").exists()
    stack = DenseStack(short)
    check_block_length(stack, 12)
    with pytest.raises(UserError, match="--block-length 12"):
        check_block_length(stack, 13)

"""A whole bridge run in one process: from settings to an artefact, with what real dense models bring along."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState, GradientState
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from bridges.artefact import load_bridge
from bridges.bridge_config import BridgeConfig
from bridges.training import BridgeSettings, BridgeText, train_bridge
from dense_adapters import DenseStack
from foundation.errors import UserError
from sparse_model.training.train_config import TrainConfig
from sparse_model.training.validation import Validation
from sparse_model.transformer.shape import SparseShape
from tests.conftest import scrambled

SETTINGS = TrainConfig(steps=4, batch_size=4, density=0.2, log_every=1, evaluate_every=2, validation_blocks=4)
SHAPE = SparseShape(d_model=16, n_layer=1, n_head=2)


@pytest.fixture(autouse=True)
def _fresh_accelerate() -> None:
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


def grouped_llama(vocabulary: int) -> LlamaForCausalLM:
    """Four query heads share two heads of keys and values, and the head is tied to the embedding, as in SmolLM2."""
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True}
    return scrambled(LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, max_position_embeddings=32, **shape, **heads)))


def train(folder: Path, tokenizer: PreTrainedTokenizerFast, bridge: BridgeConfig, **changes: Any) -> dict[str, Any]:
    """A run of four steps on random tokens; its description."""
    V = len(tokenizer)
    blocks = np.random.default_rng(0).integers(0, V, (32, 12)).astype(np.uint16)
    return train_bridge(
        DenseStack(grouped_llama(V)), "tiny", tokenizer,
        BridgeText(blocks, {"text": blocks[:6]}, Validation({"text": blocks[:4]})),
        folder, BridgeSettings(SETTINGS.model_copy(update=changes), bridge, SHAPE),
    )  # fmt: skip


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_beside_grouped_queries_trains_evaluates_and_saves(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, precision: str
) -> None:
    description = train(tmp_path / "bridge", tokenizer, BridgeConfig(crossings=1), precision=precision)
    rows = [json.loads(line) for line in (tmp_path / "bridge" / "metrics.jsonl").read_text("utf-8").splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert all(np.isfinite(row["loss"]) for row in rows)
    assert rows[-1]["validation_loss"] > 0
    assert description["evaluation"]["text"]["kl_dense_sparse"]["value"] > 0
    artefact = load_bridge(tmp_path / "bridge")
    assert {p.dtype for p in (*artefact.sparse.parameters(), *artefact.bridge.parameters())} == {torch.float32}


def test_matrices_held_in_bfloat16_train_the_same_bits_and_are_put_back_for_the_evaluation(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    found = []
    for name in ("fp32", "auto"):
        AcceleratorState._reset_state(reset_partial_state=True)
        description = train(tmp_path / name, tokenizer, BridgeConfig(dense_dtype=name), precision="bf16")
        artefact = load_bridge(tmp_path / name)
        parameters = {**dict(artefact.sparse.named_parameters()), **dict(artefact.bridge.named_parameters())}
        found.append((description["evaluation"], parameters))
    assert found[0][0] == found[1][0]
    for name, value in found[0][1].items():
        assert torch.equal(value, found[1][1][name]), name


def test_halving_without_half_precision_is_refused(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(UserError, match="needs --precision bf16"):
        train(tmp_path / "bridge", tokenizer, BridgeConfig(dense_dtype="bf16"))

"""The bridge artefact: comes back bit for bit, and refuses what does not belong to it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from bridges.artefact import load_bridge, save_bridge
from foundation.errors import UserError


@pytest.fixture
def saved(pair: Callable, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> tuple[Path, Any]:
    """A saved bridge and what went into it."""
    models = pair(n_layer=1, dense_layers=3)
    models.bridge.rms_ratio.copy_(torch.tensor([0.5, 2.0]))
    dense = {"name": "tiny", "fingerprint": models.dense.fingerprint}
    save_bridge(tmp_path, models.bridge, models.sparse, tokenizer, {"dense": dense})
    return tmp_path, models


def test_a_bridge_comes_back_bit_for_bit_frozen_and_with_its_tokenizer(
    saved: tuple[Path, Any], tokenizer: PreTrainedTokenizerFast
) -> None:
    folder, models = saved
    loaded = load_bridge(folder)
    for ours, theirs in ((loaded.bridge, models.bridge), (loaded.sparse, models.sparse)):
        before, after = theirs.state_dict(), ours.state_dict()
        assert set(before) == set(after)
        assert all(torch.equal(before[name], after[name]) for name in before)
        assert not any(parameter.requires_grad for parameter in ours.parameters())
    assert loaded.bridge.alignment == models.bridge.alignment
    assert loaded.tokenizer.get_vocab() == tokenizer.get_vocab()


def test_another_dense_model_is_refused(saved: tuple[Path, Any]) -> None:
    folder, models = saved
    loaded = load_bridge(folder)
    loaded.check_dense(models.dense.fingerprint, "tiny")
    with pytest.raises(UserError, match=r"other: is not the model this bridge was trained with \(tiny"):
        loaded.check_dense("0" * 64, "other")


def test_another_sparse_model_inside_is_refused(saved: tuple[Path, Any], tiny_sparse: Callable) -> None:
    folder, _ = saved
    tiny_sparse(n_layer=1, seed=5).save_pretrained(folder / "sparse")
    with pytest.raises(UserError, match="is not the sparse model this bridge was trained with"):
        load_bridge(folder)


@pytest.mark.parametrize(
    "damage",
    [
        "tensors truncated",
        "tensors missing",
        "widths changed",
        "no description",
        "sparse missing",
        "tokenizer cut short",
    ],
)
def test_a_damaged_bridge_is_refused_in_one_line(damage: str, saved: tuple[Path, Any]) -> None:
    folder, _ = saved
    tensors, description = folder / "bridge.safetensors", folder / "bridge.json"
    if damage == "tensors truncated":
        tensors.write_bytes(tensors.read_bytes()[:-7])
    elif damage == "tensors missing":
        tensors.unlink()
    elif damage == "widths changed":
        description.write_text(json.dumps({**json.loads(description.read_text()), "d_dense": 21}))
    elif damage == "no description":
        description.unlink()
    elif damage == "tokenizer cut short":
        (folder / "sparse" / "tokenizer.json").write_text('{"model":')
    else:
        (folder / "sparse" / "model.safetensors").unlink()
    with pytest.raises(UserError) as caught:
        load_bridge(folder)
    assert "\n" not in str(caught.value)

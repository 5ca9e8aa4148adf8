"""Artefact folders: whole or absent, and damage refused in one line."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from foundation.artefacts import SCHEMA_VERSION, read_json, read_tensors, save_tensors, write_json
from foundation.errors import UserError
from foundation.fingerprints import model_fingerprint, tensors_fingerprint
from sparse_model import SparseTransformer


def test_a_description_reads_back_with_its_schema_version(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": [1.5]})
    assert read_json(tmp_path, "a.json", "circuit") == {"schema_version": SCHEMA_VERSION, "x": [1.5]}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"x": float("nan")})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "holds no a.json"),
        ("{", "does not parse"),
        ("[1]", "is no table"),
        (json.dumps({"schema_version": 99}), "schema 99 is newer"),
    ],
)
def test_a_broken_description_is_refused_with_its_kind(text: str | None, message: str, tmp_path: Path) -> None:
    if text is not None:
        (tmp_path / "a.json").write_text(text)
    with pytest.raises(UserError, match=message):
        read_json(tmp_path, "a.json", "circuit")
    with pytest.raises(UserError, match="no such folder; pass a folder holding"):
        read_json(tmp_path / "missing", "a.json", "circuit")


@pytest.mark.parametrize("kept", [0, 4, 60, -1])
def test_a_truncated_tensor_file_is_refused(kept: int, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    save_tensors(path, {"w": torch.randn(10, 10)})
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(UserError, match="truncated or damaged"):
        read_tensors(path, "bridge")
    with pytest.raises(UserError, match="bridge is incomplete"):
        read_tensors(tmp_path / "b.safetensors", "bridge")


def test_a_fingerprint_changes_with_name_value_shape_and_type_only() -> None:
    base = {"a": torch.arange(6.0), "b": torch.ones(2)}
    others = [
        {"a": torch.arange(6.0), "c": torch.ones(2)},
        {"a": torch.arange(6.0) + 1e-6, "b": torch.ones(2)},
        {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2)},
        {"a": torch.arange(6.0).double(), "b": torch.ones(2)},
    ]
    prints = {tensors_fingerprint(state) for state in others}
    assert len(prints) == 4
    assert tensors_fingerprint(base) not in prints
    assert tensors_fingerprint(base) == tensors_fingerprint({"b": torch.ones(2), "a": torch.arange(12.0)[::2] / 2})


def test_two_models_share_a_fingerprint_exactly_when_their_weights_agree(
    tiny_sparse: Callable[..., SparseTransformer],
) -> None:
    assert model_fingerprint(tiny_sparse()) == model_fingerprint(tiny_sparse())
    assert model_fingerprint(tiny_sparse()) != model_fingerprint(tiny_sparse(seed=1))

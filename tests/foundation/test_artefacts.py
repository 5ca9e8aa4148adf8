"""Artefact folders: whole or absent, and damage refused in one line."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from foundation.artefacts import SCHEMA_VERSION, atomic_folder, read_json, read_tensors, save_tensors, write_json
from foundation.errors import UserError
from foundation.fingerprints import model_fingerprint, tensors_fingerprint
from sparse_model import SparseTransformer


def test_a_folder_appears_whole_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "deep" / "out") as folder:
        (folder / "a").write_text("1")
        assert not (tmp_path / "deep" / "out").exists()
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["out"]
    assert (tmp_path / "deep" / "out" / "a").read_text() == "1"


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_failure_leaves_what_was_there(overwrite: bool, tmp_path: Path) -> None:
    out = tmp_path / "out"
    if overwrite:
        out.mkdir()
        (out / "old").write_text("kept")
    with pytest.raises(FileNotFoundError), atomic_folder(out, overwrite) as folder:
        (folder / "half").write_text(Path("missing").read_text())
    assert sorted(path.name for path in tmp_path.rglob("*")) == (["old", "out"] if overwrite else [])


def test_an_existing_folder_is_replaced_only_when_asked(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "old").write_text("")
    with pytest.raises(UserError, match="already exists"), atomic_folder(tmp_path / "out"):
        pass
    with atomic_folder(tmp_path / "out", overwrite=True) as folder:
        (folder / "new").write_text("")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "new"]


def test_a_path_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"), atomic_folder(tmp_path / "file" / "out"):
        pass


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

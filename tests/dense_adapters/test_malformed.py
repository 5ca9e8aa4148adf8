"""Damaged, implausible and misplaced input: one line that says what it is, never a traceback, never another's reason."""

import json
import os
import pickle
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from dense_adapters import AttachError, DenseStack, gguf_file, load_dense
from tests.dense_adapters.folders import save_model, save_tokenizer
from tests.dense_adapters.tiny_models import CASES, build

GPT2, LLAMA = CASES[0], next(case for case in CASES if case.id.startswith("Llama-grouped"))


def _config(**changes: Any) -> Callable[[Path], Path]:
    def change(folder: Path) -> Path:
        values = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**values, **changes}))
        return folder

    return change


def _text(name: str, text: str) -> Callable[[Path], Path]:
    def change(folder: Path) -> Path:
        (folder / name).write_text(text)
        return folder

    return change


def _truncated(folder: Path) -> Path:
    path = folder / "model.safetensors"
    os.truncate(path, path.stat().st_size // 2)
    return folder


def _pickled(folder: Path) -> Path:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"a": Path}, protocol=2))
    return folder


def _empty_bin(folder: Path) -> Path:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"")
    return folder


def _beyond(folder: Path) -> Path:
    save_tokenizer(folder, {"far": 61, "farther": 70})
    return folder


def _only(folder: Path, *names: str) -> Path:
    place = folder.parent / "other"
    place.mkdir()
    for name in names:
        (place / name).write_bytes(b"GGUF")
    return place


def _gguf(folder: Path, content: bytes) -> Path:
    place = folder.parent / "model.gguf"
    place.write_bytes(content)
    return place


def _head(version: int) -> bytes:
    """The beginning of a GGUF file: magic, version, numbers of tensors and of keys."""
    return struct.pack("<4sIQQ", b"GGUF", version, 1, 1)


FAULTS: dict[str, tuple[str, Callable[[Path], Path]]] = {
    "truncated weights": ("truncated or damaged", _truncated),
    "a pickle of other things": (r"\.bin file holds more than tensors", _pickled),
    "an empty .bin": ("does not load", _empty_bin),
    "a billion layers": ("num_hidden_layers is 1000000000, beyond", _config(num_hidden_layers=10**9)),
    "a number too long": ("hidden_size is", _config(hidden_size=10**30)),
    "layers below none": ("num_hidden_layers is -1", _config(num_hidden_layers=-1)),
    "a number as text": ("num_hidden_layers is '2', not a whole number", _config(num_hidden_layers="2")),
    "heads that do not divide": ("does not (load|run)", _config(num_attention_heads=5, head_dim=None)),
    "a configuration that is no table": (r"config\.json is no table", _text("config.json", "[1, 2]")),
    "a configuration nested deeply": ("configuration", _text("config.json", "[" * 100_000)),
    "a configuration cut short": ("configuration", _text("config.json", '{"model_type": "ll')),
    "a damaged tokenizer.json": ("tokenizer", _text("tokenizer.json", '{"model": {"type": "BPE"')),
    "a tokenizer.json of another shape": ("tokenizer", _text("tokenizer.json", '{"version": "1.0"}')),
    "tokens beyond the embedding": (r"2 tokens beyond the 61 rows of the embedding \(first 'far'\)", _beyond),
    "two GGUF files": (r"2 GGUF files \(a\.gguf, b\.gguf\); give the path", lambda f: _only(f, "a.gguf", "b.gguf")),
    "Parquet shards": ("Parquet files .* which are text", lambda f: _only(f, "train-0.parquet", "train-1.parquet")),
    "a folder of something else": (r"no config\.json and no \.gguf", lambda f: _only(f, "readme.md")),
    "a GGUF file of four bytes": (r"truncated or damaged GGUF file \(4 bytes", lambda f: _only(f, "a.gguf") / "a.gguf"),
    "an empty GGUF file": ("is no GGUF file, for it is empty", lambda f: _gguf(f, b"")),
    "an archive called GGUF": (r"is no GGUF file, for it begins with b'PK", lambda f: _gguf(f, b"PK\x03\x04" * 9)),
    "a GGUF file of version 9": ("GGUF file of version 9, and versions 2 and 3", lambda f: _gguf(f, _head(9))),
    "a single file": ("is a single file", lambda f: f / "model.safetensors"),
    "a missing path": ("there is no such folder", lambda f: f / "no" / "where"),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", FAULTS)
def test_what_cannot_be_loaded_is_refused_in_one_line_by_its_own_reason(tmp_path: Path, name: str) -> None:
    reason, spoil = FAULTS[name]
    place = spoil(save_model(tmp_path / "model", LLAMA))
    with pytest.raises(AttachError, match=reason) as refusal:
        load_dense(place)
    assert "\n" not in str(refusal.value)
    assert len(str(refusal.value)) < 600


def test_a_gguf_file_cut_anywhere_is_called_so_and_a_whole_one_of_a_strange_kind_is_not(tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf", reason="the package gguf is not installed")
    place = tmp_path / "whole.gguf"
    writer = gguf.GGUFWriter(str(place), "abacus")
    writer.add_tensor("token_embd.weight", torch.zeros(8, 4).numpy())
    for write in (
        writer.write_header_to_file,
        writer.write_kv_data_to_file,
        writer.write_tensors_to_file,
        writer.close,
    ):
        write()
    whole = place.read_bytes()
    with pytest.raises(AttachError, match="abacus") as refusal:
        load_dense(place)
    assert "truncated" not in str(refusal.value)
    for kept in (10, 24, 60, len(whole) // 2, len(whole) - 40):
        place.write_bytes(whole[:kept])
        with pytest.raises(AttachError, match=r"truncated or damaged GGUF file .*download it again") as refusal:
            load_dense(place)
        assert "\n" not in str(refusal.value)


def test_a_gguf_file_without_the_package_that_reads_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf_file.importlib.util, "find_spec", lambda name: None)
    assert "pip install gguf" in str(gguf_file.fault_of(_gguf(tmp_path / "model", _head(3))))


def test_a_pickle_is_refused_without_another_line_of_the_libraries_warnings(tmp_path: Path) -> None:
    place = save_model(tmp_path / "model", LLAMA)
    (place / "model.safetensors").unlink()
    (place / "pytorch_model.bin").write_bytes(pickle.dumps({"a": Path}, protocol=4))
    with pytest.raises(AttachError, match="holds more than tensors"):  # and warnings are errors here
        load_dense(place)


def test_a_name_that_nobody_has_says_so() -> None:
    with pytest.raises(
        AttachError, match=r"no such folder, and the cache .* while there is no network; check the name"
    ):
        load_dense("runs/nowhere")


def test_two_gguf_files_beside_ordinary_weights_do_not_matter(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model", LLAMA)
    for name in ("a.gguf", "b.gguf"):
        (folder / name).write_bytes(b"GGUF")
    assert DenseStack(load_dense(folder)[0]).report.ok


def test_a_model_of_six_positions_is_refused_by_that_reason() -> None:
    with pytest.raises(AttachError, match="has 6 positions, fewer than the 9"):
        DenseStack(build(replace(GPT2, options={**GPT2.options, "n_positions": 6, "max_position_embeddings": 6})))


def test_a_rotary_part_wider_than_a_head_is_a_refusal() -> None:
    case = next(case for case in CASES if case.family == "GPT-J")
    with pytest.raises(AttachError, match="does not run on a small batch") as refusal:
        DenseStack(build(replace(case, options={**case.options, "rotary_dim": 64})))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("kind", [AssertionError, ZeroDivisionError, NotImplementedError, OSError, Exception])
def test_a_forward_that_fails_in_any_way_is_a_refusal(kind: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    model = build(LLAMA)

    def fail(*args: Any, **kwargs: Any) -> None:
        raise kind("first line\nsecond line")

    monkeypatch.setattr(model.model.layers[1].mlp, "forward", fail)
    with pytest.raises(AttachError, match=f"{kind.__name__}: first line") as refusal:
        DenseStack(model)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_named_and_not_called_later_tokens(value: float) -> None:
    model = build(LLAMA)
    model.model.layers[1].mlp.up_proj.weight[3, 4] = value
    with pytest.raises(AttachError, match=r"weight model\.layers\.1\.mlp\.up_proj\.weight") as refusal:
        DenseStack(model)
    assert "later tokens" not in str(refusal.value)


def test_activations_quantised_over_the_batch_are_not_called_later_tokens() -> None:
    model = build(LLAMA)

    def coarse(module: nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        step = args[0].abs().max() / 127
        return (torch.round(args[0] / step) * step, *args[1:])

    for module in model.modules():
        if isinstance(module, nn.Linear):
            module.register_forward_pre_hook(coarse)
    with pytest.raises(AttachError, match="depend on the other texts of its batch") as refusal:
        DenseStack(model)
    assert "later tokens" not in str(refusal.value)

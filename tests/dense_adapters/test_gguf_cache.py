"""The cache of converted GGUF files: converted once, read afterwards, made again where file or cache changed."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from dense_adapters import AttachError
from dense_adapters.gguf_cache import cache_folder, cached_conversion
from dense_adapters.source import Source
from tests.dense_adapters.tiny_models import CASES, build

LLAMA = next(case for case in CASES if case.id.startswith("Llama-grouped"))


@pytest.fixture
def gguf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Source:
    """A file in the place of a GGUF one, and an empty cache."""
    monkeypatch.setenv("SPARSEBRIDGE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "m.gguf").write_bytes(b"GGUF and more")
    return Source(str(tmp_path / "model"), "m.gguf")


class Loader:
    """Converts a GGUF source to a tiny model, reads a folder as transformers does, and keeps what it was asked for."""

    def __init__(self) -> None:
        self.asked: list[Source] = []

    def __call__(self, source: Source) -> PreTrainedModel:
        self.asked.append(source)
        if source.gguf_file is None:
            return AutoModelForCausalLM.from_pretrained(source.name)
        return build(LLAMA)

    @property
    def conversions(self) -> int:
        """How often the GGUF file itself was read."""
        return sum(source.gguf_file is not None for source in self.asked)


@pytest.fixture
def load() -> Loader:
    return Loader()


def same(a: PreTrainedModel, b: PreTrainedModel) -> bool:
    """Whether two models have the same weights."""
    one, other = a.state_dict(), b.state_dict()
    return set(one) == set(other) and all(torch.equal(one[name], other[name]) for name in one)


def place(gguf: Source) -> Path:
    """The one kept conversion."""
    (found,) = (Path(gguf.name).parent / "cache" / "gguf").iterdir()
    return found


def test_a_file_is_converted_once_and_the_same_model_read_afterwards(gguf: Source, load: Loader) -> None:
    first = cached_conversion(gguf, "float32", load)
    again = cached_conversion(gguf, "float32", load)
    assert same(first, again)
    assert load.conversions == 1
    assert load.asked[-1] == Source(str(place(gguf)))
    assert json.loads((place(gguf) / "conversion.json").read_text())["from"] == gguf.shown


def test_another_dtype_or_other_bytes_are_converted_anew(gguf: Source, load: Loader) -> None:
    cached_conversion(gguf, "float32", load)
    cached_conversion(gguf, "bfloat16", load)
    assert load.conversions == 2
    Path(gguf.shown).write_bytes(b"GGUF and other")
    cached_conversion(gguf, "float32", load)
    assert load.conversions == 3


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone", "note"])
def test_a_damaged_conversion_is_made_again_and_is_whole_afterwards(damage: str, gguf: Source, load: Loader) -> None:
    first = cached_conversion(gguf, "float32", load)
    weights = place(gguf) / "model.safetensors"
    whole = weights.read_bytes()
    if damage == "gone":
        weights.unlink()
    elif damage == "note":
        (place(gguf) / "conversion.json").write_text("{")
    else:
        weights.write_bytes(whole[:-8] + bytes(8) if damage == "flipped" else whole[:100])
    assert same(cached_conversion(gguf, "float32", load), first)
    assert load.conversions == 2
    assert weights.read_bytes() == whole
    cached_conversion(gguf, "float32", load)
    assert load.conversions == 2


def test_a_conversion_that_no_longer_loads_is_converted_again(gguf: Source) -> None:
    asked: list[Source] = []

    def load(source: Source) -> PreTrainedModel:
        asked.append(source)
        if source.gguf_file is None:
            raise AttachError("another version wrote it")
        return build(LLAMA)

    cached_conversion(gguf, "float32", load)
    cached_conversion(gguf, "float32", load)
    assert [source.gguf_file for source in asked] == ["m.gguf", None, "m.gguf"]


def test_nothing_is_kept_where_the_cache_is_empty_or_the_source_is_no_file(
    gguf: Source, load: Loader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached_conversion(Source("some/hub-id", "m.gguf"), "float32", load)
    cached_conversion(Source(str(tmp_path / "elsewhere"), "m.gguf"), "float32", load)
    monkeypatch.setenv("SPARSEBRIDGE_CACHE", "")
    assert cache_folder() is None
    cached_conversion(gguf, "float32", load)
    assert load.conversions == 3
    assert not (tmp_path / "cache").exists()
    monkeypatch.delenv("SPARSEBRIDGE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "sparsebridge"


def test_a_full_disk_costs_the_cache_and_not_the_model_and_leaves_nothing_behind(
    gguf: Source, load: Loader, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(model: PreTrainedModel, folder: Path) -> None:
        (folder / "model.safetensors").write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dense_adapters.gguf_cache._save", full)
    assert same(cached_conversion(gguf, "float32", load), build(LLAMA))
    assert "No space left" in caplog.text
    assert list((Path(gguf.name).parent / "cache" / "gguf").iterdir()) == []


def test_a_quantised_model_is_written_as_an_ordinary_one_and_keeps_its_own_marks(gguf: Source, tmp_path: Path) -> None:
    kept: dict[str, object] = {"quantizer": object()}

    def load(source: Source) -> PreTrainedModel:
        if source.gguf_file is None:
            return AutoModelForCausalLM.from_pretrained(source.name)
        model = build(LLAMA)
        model.config.quantization_config = {"quant_method": "gguf"}
        model.__dict__["hf_quantizer"] = kept["quantizer"]
        return model

    found = cached_conversion(gguf, "float32", load)
    assert found.__dict__["hf_quantizer"] is kept["quantizer"]
    assert found.config.quantization_config == {"quant_method": "gguf"}
    assert "quantization_config" not in json.loads((place(gguf) / "config.json").read_text())

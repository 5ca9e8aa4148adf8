"""Adapters (LoRA): found beside or apart from their base, merged into its weights, refused where they do not fit.

Adapters are written here as the files that peft saves, so the tests say what those files mean without it.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from dense_adapters import AttachError, DenseStack, load_dense, load_stack
from dense_adapters.adapter import base_of
from dense_adapters.source import Source, find_adapter, find_source
from tests.dense_adapters.folders import save_model
from tests.dense_adapters.tiny_models import CASES

LLAMA = next(case for case in CASES if case.id.startswith("Llama-grouped"))
RANK, ALPHA = 2, 6


@pytest.fixture
def base(tmp_path: Path) -> Path:
    folder = tmp_path / "base"
    folder.mkdir()
    return save_model(folder, LLAMA)


def save_adapter(
    folder: Path, base: str | None, target: str = "up_proj", seed: int = 0, layers: int = 3, width: int = 32
) -> dict[str, torch.Tensor]:
    """A LoRA of rank 2 on one matrix of every layer; the changes of the weights by name."""
    folder.mkdir(exist_ok=True)
    config = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": RANK, "lora_alpha": ALPHA, "target_modules": [target],
        "lora_dropout": 0.0, "bias": "none", "base_model_name_or_path": base, "inference_mode": True,
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(config))
    generator, tensors, changes = torch.Generator().manual_seed(seed), {}, {}
    for layer in range(layers):
        name = f"model.layers.{layer}.mlp.{target}"
        a, b = torch.randn(RANK, width, generator=generator), torch.randn(40, RANK, generator=generator)
        tensors |= {f"base_model.model.{name}.lora_A.weight": a, f"base_model.model.{name}.lora_B.weight": b}
        changes[f"{name}.weight"] = ALPHA / RANK * b @ a
    save_file(tensors, folder / "adapter_model.safetensors")
    return changes


def require_peft() -> None:
    pytest.importorskip("peft", reason="the library peft is not installed")


@pytest.mark.parametrize("place", ["beside its base", "with a path to its base", "given apart"])
def test_a_merged_adapter_changes_the_weights_by_scaled_b_times_a_and_no_others(
    place: str, base: Path, tmp_path: Path
) -> None:
    require_peft()
    plain, _ = load_dense(base)
    folder = base if place == "beside its base" else tmp_path / "lora"
    changes = save_adapter(folder, "base" if place == "with a path to its base" else None)
    if place == "given apart":
        stack, _ = load_stack(str(base), adapter=folder)
    else:
        model, _ = load_dense(folder)
        stack = DenseStack(model)
    assert stack.report.ok
    state = stack.model.state_dict()
    assert set(state) == set(plain.state_dict())
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(state[name], value + changes.get(name, torch.zeros(())))
    assert stack.fingerprint != DenseStack(plain).fingerprint
    assert not any(parameter.requires_grad for parameter in stack.model.parameters())


def test_an_adapter_of_another_shape_or_with_missing_weights_is_refused_in_one_line(base: Path, tmp_path: Path) -> None:
    require_peft()
    save_adapter(tmp_path / "short", "base")
    tensors = {"base_model.model.model.layers.0.mlp.up_proj.lora_A.weight": torch.zeros(RANK, 32)}
    save_file(tensors, tmp_path / "short" / "adapter_model.safetensors")
    with pytest.raises(AttachError, match="does not load on its base model") as refusal:
        load_dense(tmp_path / "short")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        ({"layers": 5}, r"changes model\.layers\.3\.mlp\.up_proj, which this model does not have"),
        ({"width": 48}, r"its model\.layers\.0\.mlp\.up_proj is 40 by 48, this model's 40 by 32"),
        ({"target": "gate_projection"}, r"changes model\.layers\.0\.mlp\.gate_projection, which"),
    ],
)
def test_an_adapter_of_another_model_is_refused_by_what_does_not_fit_and_with_the_base_it_names(
    made: dict[str, Any], reason: str, base: Path, tmp_path: Path
) -> None:
    require_peft()
    save_adapter(tmp_path / "lora", "other/model-7B", **made)
    with pytest.raises(AttachError, match=f"made for another model than this LlamaForCausalLM: .*{reason}") as refusal:
        load_stack(str(base), adapter=tmp_path / "lora")
    assert "adapter_config.json names other/model-7B" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_changes_that_the_description_leaves_out_are_refused_and_not_dropped(base: Path, tmp_path: Path) -> None:
    require_peft()
    save_adapter(tmp_path / "lora", "base", "gate_proj")
    weights = (tmp_path / "lora" / "adapter_model.safetensors").read_bytes()
    save_adapter(tmp_path / "lora", "base", "up_proj")
    up = load_file(tmp_path / "lora" / "adapter_model.safetensors")
    (tmp_path / "lora" / "adapter_model.safetensors").write_bytes(weights)
    gate = load_file(tmp_path / "lora" / "adapter_model.safetensors")
    save_file({**up, **gate}, tmp_path / "lora" / "adapter_model.safetensors")
    with pytest.raises(AttachError, match=r"3 of 6 changed matrices .*gate_proj.* are left out"):
        load_dense(tmp_path / "lora")


def test_an_adapter_given_apart_that_names_another_base_but_fits_is_merged_with_a_warning(
    base: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    require_peft()
    save_adapter(tmp_path / "lora", "other/model-7B")
    load_stack(str(base), adapter=tmp_path / "lora")
    assert "was made for other/model-7B" in caplog.text
    caplog.clear()
    save_adapter(tmp_path / "own", "elsewhere/Base")
    load_stack(str(base), adapter=tmp_path / "own")
    assert "was made for" not in caplog.text


def test_without_the_library_an_adapter_is_refused_and_never_ignored(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    save_adapter(tmp_path / "lora", "base")
    with pytest.raises(AttachError, match=r"without its base model.*pip install peft"):
        load_dense(tmp_path / "lora")
    save_adapter(base, None)
    with pytest.raises(AttachError, match=r"beside its base model.*pip install peft"):
        load_dense(base)


def test_the_base_of_an_adapter_is_shown_without_it_and_goes_away_again(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    plain = find_source(base)
    with base_of(plain) as same:
        assert same is plain
    save_adapter(base, None)
    with base_of(find_source(base)) as shown:
        names = {path.name for path in Path(shown.name).iterdir()}
        assert {"config.json", "model.safetensors"} <= names
        assert not any(name.startswith("adapter_") for name in names)
    assert not Path(shown.name).exists()
    assert (base / "adapter_config.json").is_file()


def test_a_base_is_looked_for_beside_the_adapter_and_chains_and_nameless_ones_are_refused(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    lora = tmp_path / "lora"
    save_adapter(lora, "base")
    with base_of(find_source(lora)) as found:
        assert found == Source(str(base))
    save_adapter(tmp_path / "second", "lora")
    for folder, text, message in (
        (tmp_path / "second", None, "is an adapter itself"),
        (lora, "{}", "names no base model"),
        (lora, '{"base_model_name_or_path": null}', "names no base model"),
        (lora, "{", "names no base model"),
    ):
        if text is not None:
            (lora / "adapter_config.json").write_text(text)
        with pytest.raises(AttachError, match=message), base_of(find_source(folder)):
            pass


def test_a_folder_without_an_adapter_is_no_adapter(base: Path) -> None:
    with pytest.raises(AttachError, match="holds no adapter"):
        find_adapter(base)
    with pytest.raises(AttachError, match="holds no adapter"):
        find_adapter(base / "nowhere")

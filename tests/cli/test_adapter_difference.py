"""`edit validate --adapter`: one circuit, pairs and bridge on a model and on the same with an adapter merged in."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from bridges.jobs import difference
from bridges.validation.validate import Validation
from cli.demo import BUNDLED
from foundation.artefacts import read_json

BRIDGE, DENSE = BUNDLED / "bridge", BUNDLED / "dense"


def save_adapter(folder: Path, scale: float) -> Path:
    """A LoRA of rank 1 on the first layer's MLP of the bundled model."""
    config = read_json(DENSE, "config.json", "model")
    width, inner = config["n_embd"], config.get("n_inner") or 4 * config["n_embd"]
    folder.mkdir()
    described = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 1, "lora_alpha": 1, "target_modules": ["mlp.c_fc"],
        "layers_to_transform": [0], "layers_pattern": "h", "fan_in_fan_out": True, "base_model_name_or_path": None,
        "inference_mode": True,
    }  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(described))
    name = "base_model.model.transformer.h.0.mlp.c_fc"
    a, b = (torch.randn(shape, generator=torch.Generator().manual_seed(0)) for shape in ((1, width), (inner, 1)))
    save_file({f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": scale * b}, folder / "adapter_model.safetensors")
    return folder


class Judged(Validation):
    """A validation whose word is what its report says."""

    @property
    def word(self) -> Any:
        return self.report["verdict"]["word"]


@pytest.fixture
def judged(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What was judged, in order; the verdicts follow from the model's weights alone."""
    seen: list[Any] = []

    def judge(circuit: Any, material: Any, draws: int) -> Judged:
        seen.append(material)
        share = {"value": float(len(seen)), "low": 0.0, "high": 9.0}
        fit = {"slope": share, "r2": share, "rank": share}
        word = "explains" if len(seen) == 1 else "fails"
        report = {
            "task": circuit.task, "accuracy": {"dense": share}, "transfer": fit, "unplaced": [],
            "effect": {"circuit": share, "patch": share, "decoded": share},
            "verdict": {"word": word, "reason": "because", "gates": []},
        }  # fmt: skip
        return Judged(report, (), {})

    monkeypatch.setattr(difference, "judge", judge)
    return seen


def test_both_models_are_judged_on_the_same_circuit_pairs_and_bridge(
    cli: Callable, judged: list[Any], bundled_circuit: Path, tmp_path: Path
) -> None:
    pytest.importorskip("peft", reason="the library peft is not installed")
    adapter = save_adapter(tmp_path / "lora", 0.5)
    command = ("edit", "validate", bundled_circuit, "--bridge", BRIDGE, "--adapter", adapter)
    found = cli(*command, "--json").json
    base, adapted = judged
    assert base.pairing.artefact is adapted.pairing.artefact
    assert (base.task, base.amounts) == (adapted.task, adapted.amounts)
    one, other = base.pairing.stack.model.state_dict(), adapted.pairing.stack.model.state_dict()
    assert [name for name in one if not torch.equal(one[name], other[name])] == ["transformer.h.0.mlp.c_fc.weight"]
    assert found["adapted_fingerprint"] == adapted.pairing.stack.fingerprint != base.pairing.stack.fingerprint
    assert [found[which]["verdict"]["word"] for which in ("base", "adapted")] == ["explains", "fails"]
    assert found["figures"]["circuit's edit"]["base"]["value"] == 1
    assert found["figures"]["circuit's edit"]["adapted"]["value"] == 2
    assert found["figures"]["M7: more than matched sets"] == {"base": None, "adapted": None}
    judged.clear()
    ran = cli(*command)
    assert ran.code == 0, "the exit code is that of the model without the adapter"
    assert "with the adapter" in ran.out


def test_an_adapter_that_changes_nothing_or_is_none_is_refused_in_one_line(
    cli: Callable, judged: list[Any], bundled_circuit: Path, tmp_path: Path
) -> None:
    command = ("edit", "validate", bundled_circuit, "--bridge", BRIDGE, "--adapter")
    ran = cli(*command, tmp_path)
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "holds no adapter" in ran.err
    pytest.importorskip("peft", reason="the library peft is not installed")
    ran = cli(*command, save_adapter(tmp_path / "lora", 0.0))
    assert (ran.code, ran.err.count("\n")) == (2, 1), ran.err
    assert "leaves every weight as it was" in ran.err
    assert judged == []

"""A checkpoint is the whole model and nothing else, or it is refused by the names of its tensors."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from dense_adapters import AttachError, DenseStack, load_dense
from dense_adapters.fingerprint import fingerprint
from tests.dense_adapters.folders import save_model, save_tokenizer
from tests.dense_adapters.tiny_models import CASES, build

State = dict[str, Tensor]
GPT2, LLAMA = CASES[0], next(case for case in CASES if case.id.startswith("Llama-grouped"))


def _rewrite(folder: Path, change: Callable[[State], State]) -> None:
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})


def _without(*names: str) -> Callable[[State], State]:
    return lambda state: {name: value for name, value in state.items() if name not in names}


FAULTS: list[tuple[str, Callable[[State], State]]] = [
    (r"lacks model\.layers\.1\.mlp\.up_proj\.weight", _without("model.layers.1.mlp.up_proj.weight")),
    (r"lacks lm_head\.weight.*whole model", _without("lm_head.weight")),
    (r"lacks model\.norm\.weight", _without("model.norm.weight")),
    (r"holds model\.layers\.0\.extra\.weight", lambda s: {**s, "model.layers.0.extra.weight": torch.zeros(3)}),
    (
        r"other shapes.*model\.layers\.1\.mlp\.up_proj\.weight \(3, 2\) instead of \(40, 32\)",
        lambda s: {**s, "model.layers.1.mlp.up_proj.weight": torch.zeros(3, 2)},
    ),
]


@pytest.mark.parametrize(("reason", "change"), FAULTS, ids=["missing", "headless", "norm", "unexpected", "shape"])
def test_a_checkpoint_that_is_not_the_whole_model_is_refused_by_name(
    tmp_path: Path, reason: str, change: Callable[[State], State]
) -> None:
    folder = save_model(tmp_path / "model", LLAMA)
    _rewrite(folder, change)
    with pytest.raises(AttachError, match=reason) as refusal:
        load_dense(folder)
    assert "\n" not in str(refusal.value)


def test_a_model_saved_without_its_head_is_refused(tmp_path: Path) -> None:
    build(LLAMA).model.save_pretrained(tmp_path / "trunk")
    save_tokenizer(tmp_path / "trunk")
    with pytest.raises(AttachError, match=r"lacks lm_head\.weight"):
        load_dense(tmp_path / "trunk")


def test_tied_heads_and_tables_of_older_versions_are_not_faults(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "model", GPT2)
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    whole = DenseStack(load_dense(folder)[0]).fingerprint
    masks = {
        "transformer.h.0.attn.bias": torch.ones(1, 1, 64, 64),
        "transformer.h.0.attn.masked_bias": torch.tensor(-1e4),
    }
    _rewrite(folder, lambda s: {**s, **masks})
    assert DenseStack(load_dense(folder)[0]).fingerprint == whole


def test_every_family_saved_and_loaded_is_whole_and_keeps_its_fingerprint(tmp_path: Path) -> None:
    for case in CASES:
        folder = save_model(tmp_path / "model", case)
        try:
            first, second = (fingerprint(load_dense(folder)[0]) for _ in range(2))
        finally:
            shutil.rmtree(folder)
        assert first == second == fingerprint(build(case)), case.id

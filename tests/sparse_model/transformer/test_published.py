"""The published checkpoint layout: numbers reproduced, every switch supported or refused by name."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from foundation.errors import UserError
from sparse_model import SparseTransformer
from sparse_model.transformer.nodes import locations
from sparse_model.transformer.published import (
    DEFAULTS,
    convert_config,
    export_published,
    import_published,
    publish_config,
)
from sparse_model.transformer.taps import Recorder

PUBLISHED = Path(__file__).parent / "published"
SMALL = {
    "block_size": 16, "vocab_size": 40, "n_layer": 2, "n_head": 3, "d_head": 4, "d_model": 24, "d_mlp": 32,
    "rms_norm": True, "tied_unembed": False, "afrac": 0.25,
}  # fmt: skip


@pytest.mark.parametrize("name", ["paper", "posemb"])
def test_every_published_tensor_is_reproduced_to_1e_4(name: str) -> None:
    model = import_published(PUBLISHED / name)
    expected = load_file(PUBLISHED / name / "expected.safetensors")
    recorder = Recorder()
    logits = model(expected["input_ids"], tap=recorder).logits
    torch.testing.assert_close(logits, expected["logits"], atol=1e-4, rtol=0)
    activations = {key.removeprefix("act/"): value for key, value in expected.items() if key.startswith("act/")}
    assert set(activations) == set(locations(model.config)) == set(recorder.activations)
    for location, value in activations.items():
        torch.testing.assert_close(recorder.activations[location], value, atol=1e-4, rtol=0, msg=location)
    loss = F.cross_entropy(logits.flatten(0, 1), expected["input_ids"].roll(-1, 1).flatten())
    torch.testing.assert_close(loss.reshape(1), expected["loss"], atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["paper", "posemb"])
def test_forgetting_a_part_of_the_published_model_shows_in_the_logits(name: str) -> None:
    model = import_published(PUBLISHED / name)
    expected = load_file(PUBLISHED / name / "expected.safetensors")
    block = model.transformer["h"][0]
    part = block.ln_p1.weight if name == "posemb" else block.attn.sink_logit
    with torch.no_grad():
        part.zero_()
    assert (model(expected["input_ids"]).logits - expected["logits"]).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["paper", "posemb"])
def test_export_after_import_gives_back_the_state_dict_bit_for_bit(name: str, tmp_path: Path) -> None:
    export_published(import_published(PUBLISHED / name), tmp_path / "out")
    before = torch.load(PUBLISHED / name / "final_model.pt", weights_only=True)
    after = torch.load(tmp_path / "out" / "final_model.pt", weights_only=True)
    assert set(before) == set(after)
    assert all(torch.equal(before[key], after[key]) for key in before)
    old, new = (
        json.loads((folder / "beeg_config.json").read_text()) for folder in (PUBLISHED / name, tmp_path / "out")
    )
    assert {key: old[key] for key in DEFAULTS} == {key: new[key] for key in DEFAULTS}


SWITCHES: list[dict[str, Any]] = [
    {},
    {"rms_norm": False},
    {"rms_norm": False, "ln_bias": False},
    {"activation_type": "relu"},
    {"residual_activation_type": "relu"},
    {"afrac_loctypes": "attn_in,resid_post_attn,resid_post_mlp"},
    {"afrac": None},
    {"tied_unembed": True},
    {"bias": False},
    {"enable_bigram_table": True, "learnable_bigram_table": False},
    {"enable_bigram_table": True, "learnable_bigram_table": True},
    {"d_pos_emb": 6},
    {"d_pos_emb": 6, "sinusoidal_cat_pos_emb": True},
    {"sink": True},
]


@pytest.mark.parametrize("switch", SWITCHES, ids=str)
def test_import_after_export_is_exact_for_every_switch(
    switch: dict[str, Any], tmp_path: Path, tiny_sparse: Callable[..., SparseTransformer], tokens: torch.Tensor
) -> None:
    model = tiny_sparse(convert_config({**SMALL, **switch}))
    export_published(model, tmp_path / "out")
    again = import_published(tmp_path / "out")
    assert torch.equal(model(tokens).logits, again(tokens).logits)
    assert publish_config(again.config) == publish_config(model.config)


@pytest.mark.parametrize("switch", [switch for switch in SWITCHES if switch], ids=str)
def test_every_switch_changes_the_computation(
    switch: dict[str, Any], tiny_sparse: Callable[..., SparseTransformer], tokens: torch.Tensor
) -> None:
    def logits(values: dict[str, Any]) -> torch.Tensor:
        return tiny_sparse(convert_config(values))(tokens).logits

    assert (logits({**SMALL, **switch}) - logits(SMALL)).abs().max() > 1e-3


def test_n_mlp_is_read_as_the_old_name_of_d_mlp() -> None:
    values = {key: value for key, value in SMALL.items() if key != "d_mlp"}
    assert convert_config({**values, "n_mlp": 48}).d_mlp == 48
    with pytest.raises(UserError, match=r"n_mlp=48 and d_mlp=32"):
        convert_config({**SMALL, "n_mlp": 48})


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"moe_experts": 4}, "moe_experts"),
        ({"activation_type": "swiglu"}, "swiglu"),
        ({"residual_activation_type": "tanh"}, "tanh"),
        ({"afrac_loctypes": "attn_in,attn_between"}, "attn_between"),
    ],
)
def test_a_switch_it_does_not_know_is_refused_by_name(change: dict[str, Any], named: str) -> None:
    with pytest.raises(UserError, match=named):
        convert_config({**SMALL, **change})


def test_a_model_without_positions_comes_back_with_zeros_for_them_and_the_same_logits(
    tiny_sparse: Callable[..., SparseTransformer], tokens: torch.Tensor, tmp_path: Path
) -> None:
    model = tiny_sparse()
    assert model.config.position == "none"
    export_published(model, tmp_path / "out")
    again = import_published(tmp_path / "out")
    assert torch.equal(model(tokens).logits, again(tokens).logits)
    state = again.state_dict()
    positions = state.pop("transformer.wpe.weight")
    assert (positions.shape, int(positions.count_nonzero())) == ((16, 24), 0)
    assert set(state) == set(model.state_dict())
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())


def test_a_model_that_keeps_documents_apart_is_exported_for_one_document_at_a_time_where_that_is_asked_for(
    tiny_sparse: Callable[..., SparseTransformer], tokens: torch.Tensor, tmp_path: Path
) -> None:
    model = tiny_sparse(document_token=39)
    with pytest.raises(UserError, match="--leak"):
        export_published(model, tmp_path / "out")
    assert not list(tmp_path.iterdir())
    export_published(model, tmp_path / "out", leak=True)
    again = import_published(tmp_path / "out")
    one = tokens.clamp(max=38)
    one[:, 0] = 39
    assert torch.equal(model(one).logits, again(one).logits)
    two = one.clone()
    two[:, 6] = 39
    ours, theirs = model(two).logits, again(two).logits
    assert torch.equal(ours[:, :6], theirs[:, :6])
    assert (ours[:, 6:] - theirs[:, 6:]).abs().max() > 1e-3


def test_what_the_layout_cannot_express_is_not_exported(
    tiny_sparse: Callable[..., SparseTransformer], tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="norm_eps"):
        export_published(tiny_sparse(position="added", norm_eps=1e-3), tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", ["truncated", "missing", "other shape", "no state dict", "broken config"])
def test_a_damaged_checkpoint_is_refused_in_one_line(damage: str, tmp_path: Path) -> None:
    source = PUBLISHED / "posemb"
    config, weights = (source / "beeg_config.json").read_text(), (source / "final_model.pt").read_bytes()
    if damage == "other shape":
        config = config.replace('"d_mlp": 96', '"d_mlp": 80')
    if damage == "broken config":
        config = config[:40]
    (tmp_path / "beeg_config.json").write_text(config)
    if damage == "no state dict":
        torch.save(torch.zeros(3), tmp_path / "final_model.pt")
    elif damage != "missing":
        (tmp_path / "final_model.pt").write_bytes(weights[: len(weights) // 2] if damage == "truncated" else weights)
    with pytest.raises(UserError) as caught:
        import_published(tmp_path)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)

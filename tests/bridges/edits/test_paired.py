"""Paired edits to share: the dense side of M5 alone."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bridges.edits.edit_folder import edit_form
from bridges.edits.mapping import map_nodes
from bridges.edits.paired import PairedEdit, load_paired, make_paired, save_paired
from bridges.edits.standing_artefact import load_standing
from bridges.protocol import residual_sites
from foundation.errors import UserError
from sparse_model.transformer.nodes import Node


def edit_of(setting, names: list[str], loop: str = "open") -> PairedEdit:
    sites = map_nodes(map(Node.parse, names), setting.bridge, setting.sparse, setting.dense)
    return make_paired(sites, setting.bridge, setting.dense, "t", "claims", loop, 1.0)


@torch.no_grad()
def run(setting, edit: PairedEdit, strength: float | None = None) -> torch.Tensor:
    prompt, other = setting.direction.base[1:2], setting.direction.counterfactual[1:2]
    with edit.applied(setting.dense, prompt, other, strength):
        return setting.dense.model(prompt).logits


@torch.no_grad()
def test_the_edit_is_m5_on_activations_encoded_from_the_dense_model(setting: Callable) -> None:
    """a = g · z / (ρ · RMS(h^d)) with M5's g, ρ, γ and centring, through a hook on the unwrapped norm."""
    found_in, channels, strength = setting(), [3, 8, 11], 0.6
    prompt, other = found_in.direction.base[1:2], found_in.direction.counterfactual[1:2]
    dense, bridge, site = found_in.dense, found_in.bridge, 2
    encoder, decoder = bridge.encoders[site], bridge.decoders[site].weight
    gain, ratio = found_in.sparse.blocks[1].ln_1.weight, bridge.rms_ratio[site]
    activations = []
    for tokens in (other, prompt):
        h = residual_sites(dense, dense.walk(tokens))[site]
        rms = h.square().mean(-1, keepdim=True).sqrt()
        activations.append(gain * (h @ encoder.weight.T + encoder.bias) / (ratio * rms))
    gamma = dense.model.transformer.h[1].ln_1.weight
    change = torch.zeros_like(h)
    for c in channels:
        column = decoder[:, c] - decoder[:, c].mean()
        change += (activations[0] - activations[1])[..., c, None] / gain[c] * ratio * column * gamma
    norm = dense.model.transformer.h[1].ln_1
    handle = norm.register_forward_hook(lambda module, inputs, output: output + strength * change)
    expected = dense.model(prompt).logits
    handle.remove()
    found = run(found_in, edit_of(found_in, [f"1.attn.act_in:{c}" for c in channels]), strength)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(found, dense.model(prompt).logits, atol=1e-3)


@pytest.mark.parametrize("loop", ["open", "closed"])
@torch.no_grad()
def test_strength_zero_is_the_models_own(loop: str, setting: Callable) -> None:
    found_in = setting()
    edit = edit_of(found_in, ["0.attn.act_in:1", "0.mlp.act_in:4"], "open")
    expected = found_in.dense.model(found_in.direction.base[1:2]).logits
    torch.testing.assert_close(run(found_in, edit, 0.0), expected, atol=1e-4, rtol=1e-4)
    one = edit_of(found_in, ["0.mlp.act_in:4"], loop)
    torch.testing.assert_close(run(found_in, one, 0.0), expected, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(run(found_in, one), expected, atol=1e-4)


@torch.no_grad()
def test_open_and_closed_agree_at_one_site_and_part_at_two(setting: Callable) -> None:
    found_in = setting()
    one = [edit_of(found_in, ["0.mlp.act_in:4", "0.mlp.act_in:5"], loop) for loop in ("open", "closed")]
    torch.testing.assert_close(run(found_in, one[0]), run(found_in, one[1]), atol=1e-5, rtol=1e-5)
    names = [f"{layer}.attn.act_in:{c}" for layer in (0, 1) for c in range(24)]
    two = [edit_of(found_in, names, loop) for loop in ("open", "closed")]
    assert not torch.allclose(run(found_in, two[0]), run(found_in, two[1]), atol=1e-4)


@torch.no_grad()
def test_a_closed_loop_adds_what_is_missing_from_the_stream_as_the_edits_upstream_have_left_it(
    setting: Callable,
) -> None:
    found_in, strength = setting(), 0.8
    names = [f"{sublayer}.act_in:{channel}" for sublayer in ("0.attn", "1.mlp") for channel in range(24)]
    edit = edit_of(found_in, names, "closed")
    prompt, other = found_in.direction.base[1:2], found_in.direction.counterfactual[1:2]
    base, goal = (residual_sites(found_in.dense, found_in.dense.walk(tokens)) for tokens in (prompt, other))
    walk, sites, added = found_in.dense.walk(prompt), {site.dense_site: site for site in edit.sites}, []
    h = walk.embedding()
    for i in range(4):
        read = walk.read(i, h)
        if i in sites:
            then, wanted = (sites[i].coordinates(streams[i]) for streams in (base, goal))
            added.append(then + strength * (wanted - then) - sites[i].coordinates(h))
            read = read + added[-1] @ sites[i].decoder
        h = walk.sublayer(i, h, read=read)
    torch.testing.assert_close(run(found_in, edit, strength), walk.unembed(h), atol=1e-4, rtol=1e-4)
    then, wanted = (sites[3].coordinates(streams[3]) for streams in (base, goal))
    assert (added[1] - strength * (wanted - then)).abs().max() > 1e-3, "the first edit has moved the second's stream"


@torch.no_grad()
def test_a_residual_edit_writes_the_unnormalised_change(setting: Callable) -> None:
    found_in = setting()
    edit = edit_of(found_in, ["0.mlp.resid_delta:3"])
    prompt, other = found_in.direction.base[1:2], found_in.direction.counterfactual[1:2]
    h, h_other = (residual_sites(found_in.dense, found_in.dense.walk(tokens))[2] for tokens in (prompt, other))
    row = found_in.bridge.encoders[2].weight[3]
    moved = h + ((h_other - h) @ row)[..., None] * found_in.bridge.decoders[2].weight[:, 3]
    walk = found_in.dense.walk(prompt)
    for i in (2, 3):
        moved = walk.sublayer(i, moved)
    torch.testing.assert_close(run(found_in, edit), walk.unembed(moved), atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_generation_touches_the_prompt_alone_with_and_without_a_cache(setting: Callable) -> None:
    found_in = setting()
    edit = edit_of(found_in, [f"0.mlp.act_in:{c}" for c in range(24)], "closed")
    prompt, other = found_in.direction.base[1:2], found_in.direction.counterfactual[1:2]

    def generate(cache: bool, strength: float) -> list[int]:
        with edit.applied(found_in.dense, prompt, other, strength):
            found = found_in.dense.model.generate(
                prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=6, do_sample=False, use_cache=cache,
                pad_token_id=0, eos_token_id=None,
            )  # fmt: skip
        return found[0].tolist()

    assert generate(True, 3.0) == generate(False, 3.0)
    free = found_in.dense.model.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=6, do_sample=False, pad_token_id=0,
        eos_token_id=None,
    )  # fmt: skip
    assert generate(True, 0.0) == free[0].tolist()


def test_prompts_of_unequal_length_and_neurons_are_refused(setting: Callable) -> None:
    found_in = setting()
    edit = edit_of(found_in, ["0.mlp.act_in:4"])
    prompt = found_in.direction.base[1:2]
    with pytest.raises(UserError, match="7 tokens, the counterfactual 6"):
        edit.applied(found_in.dense, prompt, prompt[:, 1:])
    with pytest.raises(UserError, match="neuron"):
        edit_of(found_in, ["0.mlp.post_act:4"])
    mixed = edit_of(found_in, ["0.mlp.act_in:4", "0.mlp.resid_delta:4"])
    with pytest.raises(UserError, match="mixes reads and residuals"):
        mixed.applied(found_in.dense, prompt, prompt)


def test_an_artefact_comes_back_as_it_was_and_damage_is_refused(setting: Callable, tmp_path: Path) -> None:
    found_in = setting()
    edit = replace(edit_of(found_in, ["0.mlp.act_in:4", "1.attn.act_in:7"], "closed"), strength=0.7)
    save_paired(edit, tmp_path / "e")
    found = load_paired(tmp_path / "e")
    assert edit_form(tmp_path / "e") == "paired"
    names = ("task", "claim", "model_fingerprint", "loop", "strength")
    assert [getattr(found, name) for name in names] == ["t", "claims", found_in.dense.fingerprint, "closed", 0.7]
    assert [(s.dense_site, s.kind, s.nodes) for s in found.sites] == [
        (1, "read", ("0.mlp.act_in:4",)),
        (2, "read", ("1.attn.act_in:7",)),
    ]
    torch.testing.assert_close(run(found_in, found), run(found_in, edit))
    with pytest.raises(UserError, match="is a paired edit"):
        load_standing(tmp_path / "e")
    path = tmp_path / "e" / "edit.safetensors"
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(UserError, match="truncated"):
        load_paired(tmp_path / "e")

"""Standing edits: read off the dense stream, by walk and by hooks, under generation, and fitted to prompts."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from bridges.edits.edit_folder import edit_form
from bridges.edits.fit import fit_move, node_edit, stream_channels
from bridges.edits.readout import Readout, channels_of, coordinates_of, direction_of
from bridges.edits.rules import Add, Move, Scale
from bridges.edits.standing import StandingEdit, StandingSite, walk_edited
from bridges.edits.standing_artefact import load_standing, save_standing
from bridges.protocol import residual_sites
from dense_adapters import LeftOut
from foundation.errors import UserError
from foundation.fingerprints import model_fingerprint
from sparse_model.circuits.circuit import Circuit
from sparse_model.transformer.nodes import Node, node_locations


@pytest.fixture
def edit(setting: Callable) -> StandingEdit:
    """Two sites with rules of their own, one of them on tokens of a class only."""
    found_in, generator = setting(), torch.Generator().manual_seed(2)

    def site(dense_site: int, rule: object, n: int) -> StandingSite:
        encoder, decoder = (torch.randn(n, 20, generator=generator) for _ in range(2))
        readout = Readout(encoder, torch.ones(n))
        return StandingSite(dense_site, tuple(f"n{i}" for i in range(n)), readout, decoder, rule)

    with torch.no_grad():
        h = residual_sites(found_in.dense, found_in.dense.walk(found_in.direction.base))[1]
    first = site(1, Scale(), 3)
    z = first.encode(h).flatten(0, 1)
    near = Move(
        z[5], z[5] + 3.0, z.mean(0), torch.eye(3), torch.full((3,), 3.0), float((z - z[5]).norm(dim=-1).median())
    )
    sites = (replace(first, rule=near), site(3, Add(torch.tensor([0.5, -1.0])), 2))
    return StandingEdit("t", "claims", found_in.dense.fingerprint, sites, 0.9)


@torch.no_grad()
def test_a_site_reads_encodes_changes_and_writes_back(edit: StandingEdit) -> None:
    site, h = edit.sites[1], torch.randn(2, 3, 20)
    z = torch.einsum("btd,nd->btn", h, site.readout.encoder) + site.readout.bias
    torch.testing.assert_close(site.encode(h), z)
    change = torch.einsum("n,nd->d", 0.9 * site.rule.value, site.decoder)
    torch.testing.assert_close(site.change(h, 0.9), change.expand(2, 3, 20))
    scaled = replace(site, rule=Scale())
    torch.testing.assert_close(scaled.change(h, -1.0), -torch.einsum("btn,nd->btd", z, site.decoder))


@torch.no_grad()
def test_the_walk_and_the_hooks_on_the_model_agree(edit: StandingEdit, setting: Callable) -> None:
    dense, tokens = setting().dense, setting().direction.base
    walked = dense.walk(tokens).unembed(walk_edited(dense, edit, tokens))
    with edit.applied(dense):
        hooked = dense.model(tokens).logits
    torch.testing.assert_close(walked, hooked, atol=1e-4, rtol=1e-4)
    plain = dense.model(tokens).logits
    assert not torch.allclose(hooked, plain, atol=1e-2)
    torch.testing.assert_close(
        dense.walk(tokens).unembed(walk_edited(dense, edit, tokens, 0.0)), plain, atol=1e-4, rtol=1e-4
    )


@torch.no_grad()
def test_a_move_leaves_far_tokens_untouched_by_the_hook(edit: StandingEdit, setting: Callable) -> None:
    dense, tokens, site = setting().dense, setting().direction.base, edit.sites[0]
    alone = replace(edit, sites=(site,))
    h = residual_sites(dense, dense.walk(tokens))[1]
    moved = site.rule.is_class_a(site.encode(h))
    assert 0 < int(moved.sum()) < moved.numel()
    with alone.applied(dense):
        edited = dense.model(tokens, output_hidden_states=True).hidden_states[1]
    first = moved.cumsum(1) > 0  # causal: before the first moved token nothing can change
    plain = dense.model(tokens, output_hidden_states=True).hidden_states[1]
    torch.testing.assert_close(edited[~first], plain[~first], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(edited[moved], plain[moved], atol=1e-3)


@torch.no_grad()
def test_generation_gives_the_same_tokens_with_and_without_a_cache_and_strength_zero_the_models_own(
    edit: StandingEdit, setting: Callable
) -> None:
    dense, prompt = setting().dense, setting().direction.base[1:2]

    def generate(strength: float | None, cache: bool, where: str = "both") -> list[int]:
        with edit.applied(dense, strength, where):
            return free(cache)

    def free(cache: bool) -> list[int]:
        return dense.model.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=8, do_sample=False, use_cache=cache,
            pad_token_id=0, eos_token_id=None,
        )[0, prompt.shape[1] :].tolist()  # fmt: skip

    for where in ("both", "prompt", "generated"):
        assert generate(2.0, True, where) == generate(2.0, False, where)
    assert generate(2.0, True) != free(True)
    assert generate(0.0, True) == generate(0.0, False) == free(True)


@torch.no_grad()
def test_what_is_left_out_is_left_alone_by_walk_and_hooks_alike(edit: StandingEdit, setting: Callable) -> None:
    dense, tokens = setting().dense, setting().direction.base
    spared = replace(edit, sites=edit.sites[1:], left_out=LeftOut((int(tokens[0, 3]),), True))
    walked = dense.walk(tokens).unembed(walk_edited(dense, spared, tokens))
    with spared.applied(dense):
        hooked = dense.model(tokens).logits
    torch.testing.assert_close(walked, hooked, atol=1e-4, rtol=1e-4)
    (site,) = spared.sites
    h = residual_sites(dense, dense.walk(tokens))[site.dense_site]
    changed = spared.change(site, h, tokens).norm(dim=-1) > 0
    assert torch.equal(changed, (tokens != tokens[0, 3]) & (torch.arange(tokens.shape[1]) > 0))
    plain = dense.model(tokens).logits
    torch.testing.assert_close(hooked[:, 0], plain[:, 0], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(hooked, plain, atol=1e-2)


@torch.no_grad()
def test_means_are_taken_over_what_is_not_left_out(setting: Callable) -> None:
    found_in = setting()
    dense, tokens = found_in.dense, torch.randint(0, 40, (4, 10))
    text = residual_sites(dense, dense.walk(tokens))
    left_out = LeftOut((int(tokens[1, 5]),), True)
    models = found_in.bridge, found_in.sparse, dense
    edit = node_edit([Node.parse("1.attn.act_in:6")], "ablate", {}, *models, text, "t", left_out, tokens)
    kept = left_out.kept(tokens)
    assert 0 < int(kept.sum()) < 36
    torch.testing.assert_close(edit.sites[0].rule.mean, found_in.bridge.encode(2, text[2])[kept][:, 6].mean()[None])
    assert edit.left_out == left_out


def test_an_artefact_comes_back_as_it_was(edit: StandingEdit, tmp_path: Path) -> None:
    save_standing(replace(edit, metrics={"flips": 0.5}, left_out=LeftOut((1, 7), True)), tmp_path / "e")
    found = load_standing(tmp_path / "e")
    assert found.left_out == LeftOut((1, 7), True)
    assert edit_form(tmp_path / "e") == "standing"
    assert (found.task, found.claim, found.model_fingerprint) == ("t", "claims", edit.model_fingerprint)
    assert (found.strength, found.metrics) == (0.9, {"flips": 0.5})
    h = torch.randn(2, 3, 20)
    for mine, theirs in zip(found.sites, edit.sites, strict=True):
        assert (mine.dense_site, mine.nodes, mine.rule.name) == (theirs.dense_site, theirs.nodes, theirs.rule.name)
        torch.testing.assert_close(mine.change(h, 1.0), theirs.change(h, 1.0))


def test_damaged_artefacts_are_refused_in_one_line(edit: StandingEdit, tmp_path: Path) -> None:
    save_standing(edit, tmp_path / "e")
    tensors = tmp_path / "e" / "edit.safetensors"
    whole = tensors.read_bytes()
    tensors.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="truncated"):
        load_standing(tmp_path / "e")
    tensors.unlink()
    with pytest.raises(UserError, match="incomplete"):
        load_standing(tmp_path / "e")
    tensors.write_bytes(whole)
    description = tmp_path / "e" / "edit.json"
    description.write_text(description.read_text().replace('"strength"', '"strenght"'))
    with pytest.raises(UserError, match="strength"):
        load_standing(tmp_path / "e")
    description.write_text(description.read_text().replace('"standing"', '"leaning"'))
    with pytest.raises(UserError, match="leaning"):
        edit_form(tmp_path / "e")
    with pytest.raises(UserError, match="no such folder"):
        load_standing(tmp_path / "nothing")


def circuit_of(found_in) -> Circuit:
    keep = {name: torch.arange(w) % 6 == 1 for name, w in node_locations(found_in.sparse.config).items()}
    values = {name: torch.zeros(len(mask)) for name, mask in keep.items()}
    return Circuit("t", model_fingerprint(found_in.sparse), keep, values, "zero")


def test_stream_channels_are_what_is_read_at_a_site_and_written_just_before(setting: Callable) -> None:
    found_in = setting()
    circuit = circuit_of(found_in)
    circuit.keep["0.attn.resid_delta"][20] = True
    found = stream_channels(circuit, found_in.sparse)
    assert found[0] == (1, 7, 13, 19)
    assert found[1] == (1, 7, 13, 19, 20)
    assert set(found) == {0, 1, 2, 3, 4}


@torch.no_grad()
def test_a_fitted_move_has_the_class_means_of_the_contrast_and_moves_by_what_is_written(setting: Callable) -> None:
    found_in = setting()
    dense, direction = found_in.dense, found_in.direction
    h_a, h_b = (residual_sites(dense, dense.walk(t))[0] for t in (direction.base, direction.counterfactual))
    corpus = residual_sites(dense, dense.walk(torch.randint(0, 40, (6, 10))))[0]
    every = tuple(range(24))
    readout, _ = channels_of(found_in.bridge, 0, every)
    allowed = torch.arange(h_a.shape[1])[None] <= direction.last[:, None]
    rule = fit_move(readout, h_a, h_b, allowed, corpus)
    z_a, z_b, text = (found_in.bridge.encode(0, h) for h in (h_a, h_b, corpus))
    # at site 0 the prompts differ at token 2 alone
    torch.testing.assert_close(rule.mean_a, z_a[:, 2].mean(0))
    torch.testing.assert_close(rule.mean_b, z_b[:, 2].mean(0))
    torch.testing.assert_close(rule.mean_corpus, text.mean((0, 1)))
    torch.testing.assert_close(rule.shift, rule.mean_b - rule.mean_a)
    written = torch.randn(z_a.shape)
    known = fit_move(readout, h_a, h_b, allowed, corpus, written)
    torch.testing.assert_close(known.shift, written[:, 2].mean(0))
    torch.testing.assert_close(known.mean_a, rule.mean_a)


@torch.no_grad()
def test_a_readout_is_the_encoder_after_abs_topk_over_all_channels(setting: Callable) -> None:
    bridge, h = setting().bridge, torch.randn(5, 20)
    readout, decoder = channels_of(bridge, 1, (0, 4, 9))
    torch.testing.assert_close(readout(h), bridge.encode(1, h)[..., [0, 4, 9]])
    assert (readout(h) == 0).any(), "AbsTopK silences some of them, or this tests nothing"
    torch.testing.assert_close(decoder, bridge.decoders[1].weight[:, [0, 4, 9]].T)
    coordinates, rows = coordinates_of(torch.tensor([3, 7]), 20)
    torch.testing.assert_close(coordinates(h), h[:, [3, 7]])
    torch.testing.assert_close(torch.ones(2) @ rows, torch.eye(20)[3] + torch.eye(20)[7])
    along, unit = direction_of(torch.arange(20.0))
    torch.testing.assert_close(along(h)[:, 0], h @ unit[0])
    assert float(unit.norm()) == pytest.approx(1)


@torch.no_grad()
def test_an_edit_that_reads_through_abs_topk_comes_back_as_it_was(setting: Callable, tmp_path: Path) -> None:
    found_in = setting()
    readout, decoder = channels_of(found_in.bridge, 1, (0, 4, 9))
    rule = Move(*(torch.randn(3) for _ in range(3)), torch.eye(3), torch.randn(3), 50.0)
    edit = StandingEdit(
        "t", "c", found_in.dense.fingerprint, (StandingSite(1, ("a", "b", "c"), readout, decoder, rule),)
    )
    save_standing(edit, tmp_path / "e")
    h = torch.randn(40, 20)
    (site,) = load_standing(tmp_path / "e").sites
    torch.testing.assert_close(site.change(h, 1.0), edit.sites[0].change(h, 1.0))
    torch.testing.assert_close(site.encode(h), readout(h))


def test_node_edits_take_rules_of_single_nodes_and_refuse_neurons_and_missing_values(setting: Callable) -> None:
    found_in = setting()
    with torch.no_grad():
        text = residual_sites(found_in.dense, found_in.dense.walk(torch.randint(0, 40, (4, 10))))

    def make(node: str, rule: str, **values: float) -> StandingEdit:
        models = found_in.bridge, found_in.sparse, found_in.dense
        return node_edit([Node.parse(node)], rule, values, *models, text)

    (site,) = make("1.attn.act_in:6", "ablate").sites
    assert site.dense_site == 2
    torch.testing.assert_close(
        site.rule.mean,
        found_in.bridge.encode(2, text[2])[..., 6].mean()[None],
    )
    assert make("0.mlp.resid_delta:3", "clamp", value=2.0).sites[0].rule.value.tolist() == [2.0]
    assert "add 0.mlp.resid_delta:3" in make("0.mlp.resid_delta:3", "add", value=2.0).claim
    with pytest.raises(UserError, match="needs --value"):
        make("1.attn.act_in:6", "add")
    with pytest.raises(UserError, match="neuron"):
        make("1.mlp.post_act:6", "scale")
    with pytest.raises(UserError, match="choose ablate"):
        make("1.attn.act_in:6", "move")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("strength", 5.0),
        ("claim", "does nothing"),
        ("left_out_first", True),
        ("task", "u"),
        ("metrics", {"flips": 1.0}),
    ],
)
def test_a_value_changed_by_hand_is_refused_and_an_edit_from_before_there_was_a_fingerprint_is_not(
    key: str, value: object, edit: StandingEdit, tmp_path: Path
) -> None:
    save_standing(edit, tmp_path / "e")
    place = tmp_path / "e" / "edit.json"
    description = json.loads(place.read_text())
    assert key in description
    place.write_text(json.dumps(dict(reversed(description.items())), indent=7))
    load_standing(tmp_path / "e")  # order and spaces are no values
    place.write_text(json.dumps({**description, key: value}))
    with pytest.raises(UserError, match="not those it was written with"):
        load_standing(tmp_path / "e")
    place.write_text(json.dumps({k: v for k, v in {**description, key: value}.items() if k != "values_fingerprint"}))
    load_standing(tmp_path / "e")


def test_a_rules_value_and_a_site_are_among_what_is_checked(edit: StandingEdit, tmp_path: Path) -> None:
    save_standing(edit, tmp_path / "e")
    place = tmp_path / "e" / "edit.json"
    for key, value in (("dense_site", 2), ("nodes", ["x", "y", "z"]), ("rule_values", {"radius": 1e9})):
        description = json.loads(place.read_text())
        description["sites"][0][key] = value
        (tmp_path / "f").mkdir(exist_ok=True)
        (tmp_path / "f" / "edit.json").write_text(json.dumps(description))
        (tmp_path / "f" / "edit.safetensors").write_bytes((tmp_path / "e" / "edit.safetensors").read_bytes())
        with pytest.raises(UserError, match="not those it was written with"):
            load_standing(tmp_path / "f")

"""Weight-space edits: what they predict, that they equal the hook, that undoing is exact, and what they refuse."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from dense_adapters import AddBias, AttachError, DenseStack, RemoveDirection, bake, checkpoint, undo_bake
from dense_adapters.checkpoint import write_folder
from dense_adapters.fingerprint import fingerprint, stored_buffers
from tests.dense_adapters.tiny_models import CASES, WIDTH, Case, build, tokens_and_mask


def _case(start: str) -> Case:
    return next(case for case in CASES if case.id.startswith(start))


LLAMA = _case("Llama-grouped")


def _direction(seed: int = 2) -> Tensor:
    return torch.randn(WIDTH, generator=torch.Generator().manual_seed(seed))


def _reload(folder: Path) -> PreTrainedModel:
    return AutoModelForCausalLM.from_pretrained(folder).eval()


REMOVABLE = [
    ("GPT-2-untied", 2, {"transformer.h.1.attn.c_attn.weight"}),
    ("GPT-2-untied", 3, {"transformer.h.1.mlp.c_fc.weight"}),
    ("GPT-2-untied", 6, {"lm_head.weight"}),
    ("Llama-grouped", 2, {f"model.layers.1.self_attn.{n}_proj.weight" for n in "qkv"}),
    ("Llama-grouped", 3, {f"model.layers.1.mlp.{n}_proj.weight" for n in ("gate", "up")}),
    ("Mixtral", 3, {"model.layers.1.mlp.gate.weight", "model.layers.1.mlp.experts.gate_up_proj"}),
    (
        "Phi-parallel",
        1,
        {f"model.layers.1.self_attn.{n}_proj.weight" for n in "qkv"} | {"model.layers.1.mlp.fc1.weight"},
    ),
    ("BLOOM-residual-taken", 2, {"transformer.h.1.self_attention.query_key_value.weight"}),
    ("OLMo-2", 3, {f"model.layers.1.mlp.{n}_proj.weight" for n in ("gate", "up")}),
    ("OPT-norm-after", 3, {"model.decoder.layers.1.fc1.weight"}),
]


@pytest.mark.parametrize(("family", "site", "names"), REMOVABLE, ids=[f"{f}-{s}" for f, s, _ in REMOVABLE])
def test_removing_a_direction_changes_exactly_its_readers_and_equals_the_hook(
    tmp_path: Path, family: str, site: int, names: set[str]
) -> None:
    model = build(_case(family))
    stack = DenseStack(model)
    edit = RemoveDirection(site, _direction())
    record = bake(stack, (edit,), tmp_path / "baked")
    assert set(record.changed) == names
    baked = _reload(tmp_path / "baked")
    tokens, mask = tokens_and_mask()
    with stack.editing({site: edit.as_hook()}):
        hooked = model(tokens, attention_mask=mask).logits
    real = mask.bool()
    torch.testing.assert_close(baked(tokens, attention_mask=mask).logits[real], hooked[real], atol=1e-4, rtol=1e-4)
    assert (hooked - model(tokens, attention_mask=mask).logits)[real].abs().max() > 1e-3
    before = model.state_dict()
    for name, value in baked.state_dict().items():
        assert torch.equal(value, before[name]) == (name not in names), name


def test_the_predicted_change_of_every_projection_is_the_measured_one(tmp_path: Path) -> None:
    model = build(_case("Llama-grouped"))
    stack = DenseStack(model)
    u = _direction() / _direction().norm()
    bake(stack, (RemoveDirection(2, _direction(), strength=0.6),), tmp_path / "baked")
    baked = _reload(tmp_path / "baked")
    tokens, _ = tokens_and_mask()
    x = stack.walk(tokens).read(2, _residual(stack, tokens, 2))
    for name in ("q_proj", "k_proj", "v_proj"):
        old, new = (m.model.layers[1].self_attn.get_submodule(name) for m in (model, baked))
        predicted = -0.6 * (x @ u)[..., None] * (old.weight @ u)
        measured = _output_of(baked, new, tokens) - _output_of(model, old, tokens)
        torch.testing.assert_close(measured, predicted, atol=1e-5, rtol=1e-4)


def _residual(stack: DenseStack, tokens: Tensor, site: int) -> Tensor:
    with stack.recording([site]) as record:
        stack.model(tokens)
    return record[site]


def _output_of(model: PreTrainedModel, module: nn.Module, tokens: Tensor) -> Tensor:
    seen: list[Tensor] = []
    handle = module.register_forward_hook(lambda m, args, output: seen.append(output.detach().clone()))
    model(tokens)
    handle.remove()
    return seen[0]


BIASED = [
    ("GPT-2-untied", 2, {"transformer.h.1.attn.c_attn.bias"}, {}),
    (
        "Falcon-7B",
        1,
        {"transformer.h.1.self_attention.query_key_value.bias", "transformer.h.1.mlp.dense_h_to_4h.bias"},
        {},
    ),
    ("GPT-NeoX-sequential", 2, {"gpt_neox.layers.1.input_layernorm.bias"}, {}),
    ("Qwen2-full", 2, {f"model.layers.1.self_attn.{n}_proj.bias" for n in "qkv"}, {}),
    ("Llama-grouped", 2, set(), {"attention_bias": True}),
    ("Llama-grouped", 3, set(), {"mlp_bias": True}),
]


@pytest.mark.parametrize(("family", "site", "names", "switches"), BIASED, ids=[f"{f}-{s}" for f, s, *_ in BIASED])
def test_adding_a_bias_equals_the_hook_and_grows_biases_only_where_there_are_none(
    tmp_path: Path, family: str, site: int, names: set[str], switches: dict[str, bool]
) -> None:
    model = build(_case(family))
    stack = DenseStack(model)
    edit = AddBias(site, _direction(), amount=1.5)
    record = bake(stack, (edit,), tmp_path / "baked")
    assert set(record.changed) == names
    assert record.switches == switches
    assert bool(record.grown) == bool(switches)
    baked = _reload(tmp_path / "baked")
    tokens, _ = tokens_and_mask()
    with stack.editing({site: edit.as_hook()}):
        hooked = model(tokens).logits
    torch.testing.assert_close(baked(tokens).logits, hooked, atol=1e-4, rtol=1e-4)
    before = model.state_dict()
    for name, value in baked.state_dict().items():
        if name in before:
            assert torch.equal(value, before[name]) == (name not in names), name
    assert undo_bake(tmp_path / "baked", tmp_path / "restored") == stack.fingerprint


@pytest.mark.parametrize("family", ["GPT-2-plain", "Llama-grouped", "Mixtral", "BLOOM-residual-added"])
def test_undoing_a_bake_restores_the_hash(tmp_path: Path, family: str) -> None:
    stack = DenseStack(build(_case(family)))
    edits = (
        RemoveDirection(1, _direction(3)),
        RemoveDirection(1, _direction(4), strength=0.5),
        RemoveDirection(2, _direction()),
    )
    record = bake(stack, edits, tmp_path / "baked")
    assert record.fingerprint_after != stack.fingerprint
    assert fingerprint(_reload(tmp_path / "baked")) == record.fingerprint_after
    assert undo_bake(tmp_path / "baked", tmp_path / "restored") == stack.fingerprint
    assert fingerprint(_reload(tmp_path / "restored")) == stack.fingerprint


@pytest.mark.parametrize("family", ["GPT-2-plain", "Llama-grouped", "Gemma-2"])
def test_a_zero_edit_is_bit_identical(tmp_path: Path, family: str) -> None:
    model = build(_case(family))
    stack = DenseStack(model)
    record = bake(stack, (RemoveDirection(1, _direction(), strength=0.0),), tmp_path / "baked")
    assert record.fingerprint_after == stack.fingerprint
    for name, value in _reload(tmp_path / "baked").state_dict().items():
        assert torch.equal(value, model.state_dict()[name])


@pytest.mark.parametrize("bias_first", [True, False])
def test_two_edits_of_one_site_act_in_the_order_given(tmp_path: Path, bias_first: bool) -> None:
    model = build(_case("GPT-2-untied"))
    stack = DenseStack(model)
    pair = (AddBias(2, _direction(3), 2.0), RemoveDirection(2, _direction(4)))
    first, second = pair if bias_first else pair[::-1]
    bake(stack, (first, second), tmp_path / "baked")
    tokens, _ = tokens_and_mask()
    with stack.editing({2: lambda h, x: second.as_hook()(h, first.as_hook()(h, x))}):
        hooked = model(tokens).logits
    torch.testing.assert_close(_reload(tmp_path / "baked")(tokens).logits, hooked, atol=1e-4, rtol=1e-4)


def test_a_bias_in_the_norm_cannot_follow_a_removal_in_the_weights(tmp_path: Path) -> None:
    stack = DenseStack(build(_case("GPT-NeoX-sequential")))
    with pytest.raises(AttachError, match="before"):
        bake(stack, (RemoveDirection(2, _direction(3)), AddBias(2, _direction(4))), tmp_path / "baked")


def test_baking_leaves_the_model_in_memory_untouched(tmp_path: Path) -> None:
    model = build(_case("Llama-grouped"))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    switch = model.config.attention_bias
    bake(DenseStack(model), (AddBias(2, _direction()), RemoveDirection(3, _direction())), tmp_path / "baked")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.config.attention_bias == switch
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_the_folder_says_what_was_baked_and_keeps_only_the_old_values_needed(tmp_path: Path) -> None:
    stack = DenseStack(build(_case("GPT-2-untied")))
    record = bake(stack, (RemoveDirection(3, _direction()),), tmp_path / "baked")
    said = json.loads((tmp_path / "baked" / "bake.json").read_text())
    assert said["fingerprint_before"] == stack.fingerprint
    assert said["edits"][0]["kind"] == "RemoveDirection"
    assert set(load_file(tmp_path / "baked" / "bake_undo.safetensors")) == set(record.changed)
    with pytest.raises(FileExistsError):
        bake(stack, (RemoveDirection(3, _direction()),), tmp_path / "baked")


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    def fail(place: Path) -> None:
        (place / "half").write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_folder(tmp_path / "baked", fail)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_changed_after_baking_does_not_undo_silently(tmp_path: Path) -> None:
    stack = DenseStack(build(_case("GPT-2-untied")))
    bake(stack, (RemoveDirection(3, _direction()),), tmp_path / "baked")
    other = _reload(tmp_path / "baked")
    with torch.no_grad():
        other.transformer.ln_f.weight.add_(1.0)
    other.save_pretrained(tmp_path / "baked")
    with pytest.raises(AttachError, match="edited since"):
        undo_bake(tmp_path / "baked", tmp_path / "restored")
    with pytest.raises(AttachError, match=r"bake\.json"):
        undo_bake(tmp_path, tmp_path / "restored")


def _shared(model: Any) -> None:
    model.model.layers[2].mlp.up_proj.weight = model.model.layers[1].mlp.up_proj.weight


def _quantised(model: Any) -> None:
    old = model.model.layers[1].mlp.up_proj
    old.weight = nn.Parameter((old.weight * 50).to(torch.int8), requires_grad=False)
    old.forward = lambda x: nn.functional.linear(x, old.weight.float() / 50)


def _offloaded(model: Any) -> None:
    from accelerate import cpu_offload

    cpu_offload(model, execution_device=torch.device("cpu"))


def _loaded_in_four_bits(model: Any) -> None:
    # What from_pretrained leaves on a model it loaded quantised.
    model.hf_quantizer = SimpleNamespace(quantization_config=SimpleNamespace(load_in_4bit=True))


REFUSED = [
    ("quantised", _loaded_in_four_bits),
    ("shared", _shared),
    ("quantised", _quantised),
    ("offloaded", _offloaded),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("reason", "spoil"), REFUSED, ids=[reason for reason, _ in REFUSED])
def test_weights_that_are_not_ones_own_are_refused_with_the_reason(tmp_path: Path, reason: str, spoil: Any) -> None:
    model = build(_case("Llama-grouped"))
    spoil(model)
    stack = DenseStack(model)
    with pytest.raises(AttachError, match=reason):
        bake(stack, (RemoveDirection(3, _direction()),), tmp_path / "baked")
    assert not (tmp_path / "baked").exists()


def test_tied_heads_two_norms_missing_biases_and_bad_directions_are_refused(tmp_path: Path) -> None:
    for family, edit, reason in (
        ("GPT-2-plain", RemoveDirection(6, _direction()), "tied or shared"),
        ("Falcon-40B", RemoveDirection(1, _direction()), "two norms"),
        ("Qwen2-full", AddBias(3, _direction()), "cannot hold a bias"),
        ("Llama-grouped", AddBias(6, _direction()), "cannot hold a bias"),
        ("Llama-grouped", RemoveDirection(1, torch.zeros(WIDTH)), "nonzero"),
        ("Llama-grouped", RemoveDirection(1, torch.ones(3)), "width"),
    ):
        with pytest.raises(AttachError, match=reason):
            bake(DenseStack(build(_case(family))), (edit,), tmp_path / "baked")


def _with_a_head_of_its_own(folder: Path) -> PreTrainedModel:
    """A tied GPT-2 on disk whose file holds another head, loaded: the configuration says tied, memory says not."""
    model = build(_case("GPT-2-plain"))
    model.save_pretrained(folder)
    path = folder / "model.safetensors"
    state = load_file(path)
    head = torch.randn(state["transformer.wte.weight"].shape, generator=torch.Generator().manual_seed(9))
    save_file({**state, "lm_head.weight": head}, path, metadata={"format": "pt"})
    loaded = _reload(folder).requires_grad_(False)
    assert loaded.config.tie_word_embeddings
    assert not torch.equal(loaded.lm_head.weight, loaded.transformer.wte.weight)
    return loaded


@pytest.mark.parametrize("site", [2, 6])
def test_a_head_of_its_own_under_a_tied_configuration_is_baked_and_undone(tmp_path: Path, site: int) -> None:
    model = _with_a_head_of_its_own(tmp_path / "odd")
    stack = DenseStack(model)
    assert stack.fingerprint != fingerprint(build(_case("GPT-2-plain")))
    edit = RemoveDirection(site, _direction())
    record = bake(stack, (edit,), tmp_path / "baked")
    assert record.fingerprint_after != stack.fingerprint
    baked = _reload(tmp_path / "baked")
    assert not baked.config.tie_word_embeddings
    tokens, _ = tokens_and_mask()
    with stack.editing({site: edit.as_hook()}):
        hooked = model(tokens).logits
    assert (hooked - model(tokens).logits).abs().max() > 1e-3
    torch.testing.assert_close(baked(tokens).logits, hooked, atol=1e-4, rtol=1e-4)
    assert undo_bake(tmp_path / "baked", tmp_path / "restored") == stack.fingerprint
    torch.testing.assert_close(_reload(tmp_path / "restored")(tokens).logits, model(tokens).logits)


def test_the_fingerprint_notices_the_head_under_a_tied_configuration(tmp_path: Path) -> None:
    model = _with_a_head_of_its_own(tmp_path / "odd")
    before = fingerprint(model)
    model.lm_head.weight[3, 4] += 1.0
    assert fingerprint(model) != before
    model.lm_head.weight = model.transformer.wte.weight
    assert fingerprint(model) == fingerprint(build(_case("GPT-2-plain")))


def test_a_folder_that_does_not_compute_what_the_hooks_do_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = DenseStack(build(_case("GPT-2-untied")))
    monkeypatch.setattr(checkpoint, "_fill", lambda *args: None)  # the weights are lost on the way
    with pytest.raises(AttachError, match="does not compute what the hooks do"):
        bake(stack, (RemoveDirection(6, _direction()),), tmp_path / "baked")
    assert list(tmp_path.iterdir()) == []


def test_buffers_that_a_checkpoint_holds_are_baked_and_in_the_fingerprint(tmp_path: Path) -> None:
    experts = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "n_group": 1}
    shape = {"topk_group": 1, "first_k_dense_replace": 1, "n_shared_experts": 1, "head_dim": 8}
    model = build(Case("dots.1", "a routing correction", "Dots1Config", {**LLAMA.options, **experts, **shape}))
    name, table = stored_buffers(model)[0]
    before = fingerprint(model)
    table.add_(0.3)
    assert fingerprint(model) != before, name
    stack = DenseStack(model)
    bake(stack, (RemoveDirection(1, _direction()),), tmp_path / "baked")
    assert torch.equal(_reload(tmp_path / "baked").get_buffer(name), table)
    assert undo_bake(tmp_path / "baked", tmp_path / "restored") == stack.fingerprint

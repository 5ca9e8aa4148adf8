"""The transformer as a Hugging Face model and as a residual stack, over every switch."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from transformers import AutoModelForCausalLM

from foundation.errors import UserError
from sparse_model import SparseConfig, SparseTransformer
from sparse_model.transformer.sparse_config import TOPK_LOCATIONS

Make = Callable[..., SparseTransformer]
SWITCHES: list[dict[str, Any]] = [
    {},
    {"norm": "layer"},
    {"norm": "layer", "ln_bias": False, "norm_eps": 1e-2},
    {"bias": False},
    {"activation": "relu"},
    {"activation": "gelu_tanh"},
    {"topk_fraction": None},
    {"topk_locations": TOPK_LOCATIONS},
    {"residual_activation": "relu"},
    {"position": "added"},
    {"position": "added", "position_trainable": False},
    {"position": "concatenated", "d_position": 6},
    {"attention_sink": True},
    {"bigram_table": "learned"},
    {"bigram_table": "fixed"},
    {"tie_word_embeddings": True},
]
each_switch = pytest.mark.parametrize("switch", SWITCHES, ids=str)


@each_switch
def test_a_saved_model_loads_through_the_auto_class_bit_for_bit(
    switch: dict[str, Any], tiny_sparse: Make, tokens: torch.Tensor, tmp_path: Path
) -> None:
    model = tiny_sparse(**switch)
    model.save_pretrained(tmp_path)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert isinstance(again, SparseTransformer)
    assert not again.training
    assert all(torch.equal(a, b) for a, b in zip(model.state_dict().values(), again.state_dict().values(), strict=True))
    assert torch.equal(model(tokens).logits, again(tokens).logits)


@each_switch
def test_streams_stacked_along_the_batch_walk_as_they_do_alone(
    switch: dict[str, Any], tiny_sparse: Make, tokens: torch.Tensor
) -> None:
    model = tiny_sparse(**switch)
    walk = model.walk(tokens)
    streams = [walk.embedding() + 0.3 * torch.randn(3, 12, model.d_model) for _ in range(3)]
    together = torch.cat(streams)
    for i in range(len(model.sublayers)):
        streams = [walk.sublayer(i, h) for h in streams]
        together = walk.sublayer(i, together)
    torch.testing.assert_close(together, torch.cat(streams), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        walk.unembed(together), torch.cat([walk.unembed(h) for h in streams]), atol=1e-5, rtol=1e-5
    )


@each_switch
def test_logits_of_a_span_are_those_of_the_whole(
    switch: dict[str, Any], tiny_sparse: Make, tokens: torch.Tensor
) -> None:
    model = tiny_sparse(**switch)
    walk = model.walk(tokens)
    h = torch.randn(6, 12, model.d_model)
    torch.testing.assert_close(walk.unembed(h[:, 3:7], slice(3, 7)), walk.unembed(h)[:, 3:7])


@each_switch
def test_left_padding_does_not_change_what_follows(
    switch: dict[str, Any], tiny_sparse: Make, tokens: torch.Tensor
) -> None:
    model = tiny_sparse(**switch)
    padded = F.pad(tokens, (4, 0), value=5)
    mask = F.pad(torch.ones_like(tokens), (4, 0), value=0)
    expected = model(tokens).logits
    torch.testing.assert_close(model(padded, attention_mask=mask).logits[:, 4:], expected, atol=1e-5, rtol=1e-5)
    assert (model(padded).logits[:, 4:] - expected).abs().max() > 1e-3
    several = model.walk(padded, mask)
    h = torch.cat([several.embedding()] * 2)
    for i in range(len(model.sublayers)):
        h = several.sublayer(i, h)
    torch.testing.assert_close(several.unembed(h)[3:, 4:], expected, atol=1e-5, rtol=1e-5)


@each_switch
def test_no_token_sees_a_later_one(switch: dict[str, Any], tiny_sparse: Make, tokens: torch.Tensor) -> None:
    model, changed = tiny_sparse(**switch), tokens.clone()
    changed[:, 7:] = (changed[:, 7:] + 1) % 40
    before, after = model(tokens).logits, model(changed).logits
    torch.testing.assert_close(before[:, :7], after[:, :7], atol=1e-6, rtol=1e-6)
    assert (before[:, 7:] - after[:, 7:]).abs().amax(-1).gt(1e-4).all()


def test_replacing_a_read_with_itself_changes_nothing_and_with_another_does(
    tiny_sparse: Make, tokens: torch.Tensor
) -> None:
    model = tiny_sparse(position="concatenated", d_position=6)
    walk = model.walk(tokens)
    h = walk.embedding()
    for i in range(len(model.sublayers)):
        assert torch.equal(walk.sublayer(i, h, read=walk.read(i, h)), walk.sublayer(i, h))
        assert not torch.allclose(walk.sublayer(i, h, read=walk.read(i, h) + torch.randn(24)), walk.sublayer(i, h))


def test_norm_gains_are_those_of_the_norm_in_front_of_each_sublayer(tiny_sparse: Make, tokens: torch.Tensor) -> None:
    model = tiny_sparse()
    walk, h = model.walk(tokens), torch.randn(3, 12, model.d_model)
    normalised = h / h.square().mean(-1, keepdim=True).sqrt()
    gains = [model.norm_gain(i) for i in range(len(model.sublayers) + 1)]
    for i, gain in enumerate(gains):
        torch.testing.assert_close(walk.read(i, h), normalised * gain)
    assert len({gain.sum().item() for gain in gains}) == len(gains)


def test_the_attention_sink_takes_weight_and_gives_no_value(tiny_sparse: Make, tokens: torch.Tensor) -> None:
    """With an overwhelming sink attention mixes nothing; with none of its logit, it is a plain softmax."""
    model, without = tiny_sparse(attention_sink=True), tiny_sparse()
    without.load_state_dict({k: v for k, v in model.state_dict().items() if "sink" not in k})
    locations: dict[str, torch.Tensor] = {}

    def keep(name: str, tensor: torch.Tensor) -> torch.Tensor:
        locations[name] = tensor
        return tensor

    with torch.no_grad():
        for block in model.transformer["h"]:
            block.attn.sink_logit.fill_(1e4)
        model(tokens, tap=keep)
        assert locations["0.attn.y"].abs().max() < 1e-6
        for block in model.transformer["h"]:
            block.attn.sink_logit.fill_(-1e4)
        torch.testing.assert_close(model(tokens).logits, without(tokens).logits)


def test_topk_leaves_the_configured_number_of_channels_nonzero(tiny_sparse: Make, tokens: torch.Tensor) -> None:
    from sparse_model.transformer.taps import Recorder

    model, recorder = tiny_sparse(topk_fraction=0.25), Recorder()
    model(tokens, tap=recorder)
    names = {"act_in": 6, "q": 3, "k": 3, "v": 3, "resid_delta": 6, "post_act": 8}
    for name, tensor in recorder.activations.items():
        expected = names.get(name.rsplit(".", 1)[-1])
        if expected is not None:
            assert (tensor != 0).sum(-1).eq(expected).all(), name


def test_loss_ignores_labels_of_minus_100_and_shifts_inside(tiny_sparse: Make, tokens: torch.Tensor) -> None:
    model, labels = tiny_sparse(), tokens.clone()
    labels[:, :5] = -100
    out = model(tokens, labels=labels)
    picked = out.logits.log_softmax(-1)[:, 4:-1].gather(-1, tokens[:, 5:, None])
    torch.testing.assert_close(out.loss, -picked.mean())


def test_generation_takes_the_likeliest_token_each_step(tiny_sparse: Make, tokens: torch.Tensor) -> None:
    model, text = tiny_sparse(), tokens[:1, :4]
    for _ in range(6):
        text = torch.cat([text, model(text).logits[:, -1:].argmax(-1)], dim=1)
    generated = model.generate(tokens[:1, :4], max_new_tokens=6, do_sample=False, pad_token_id=0, eos_token_id=None)
    assert torch.equal(generated, text)


def test_too_many_tokens_for_learned_positions_are_refused(tiny_sparse: Make) -> None:
    long = torch.zeros(1, 17, dtype=torch.long)
    with pytest.raises(UserError, match="17 tokens are longer than the model's block_size 16"):
        tiny_sparse(position="added")(long)
    assert tiny_sparse()(long).logits.shape[1] == 17


def test_fixed_tables_do_not_train_and_learned_ones_do(tiny_sparse: Make) -> None:
    def trained(**switch: Any) -> set[str]:
        return {name for name, p in tiny_sparse(**switch).named_parameters() if p.requires_grad}

    assert "bigram_table" in trained(bigram_table="learned")
    assert "bigram_table" not in trained(bigram_table="fixed")
    assert "transformer.wpe.weight" in trained(position="added")
    assert "transformer.wpe.weight" not in trained(position="added", position_trainable=False)


def test_tied_embeddings_are_one_parameter(tiny_sparse: Make) -> None:
    tied, untied = tiny_sparse(tie_word_embeddings=True), tiny_sparse()
    assert tied.lm_head.weight is tied.transformer["wte"].weight
    assert untied.lm_head.weight is not untied.transformer["wte"].weight


def test_a_new_model_is_a_function_of_the_seed(tiny_config: Callable[..., SparseConfig], tokens: torch.Tensor) -> None:
    def logits(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return SparseTransformer(tiny_config()).eval()(tokens).logits

    assert torch.equal(logits(1), logits(1))
    assert not torch.equal(logits(1), logits(2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"d_mlp": 0}, "d_mlp = 0: must be at least 1"),
        ({"topk_locations": ("attn_inn",)}, "unknown 'attn_inn'; valid: attn_in"),
        ({"topk_fraction": 0.0}, r"must be in \(0, 1\]"),
        ({"topk_fraction": 1.5}, r"must be in \(0, 1\]"),
        ({"topk_fraction": 0.05}, "keeps no channel of attn_q"),
        ({"d_position": 4}, "set it exactly when position='concatenated'"),
        ({"position": "concatenated"}, "set it exactly when position='concatenated'"),
        ({"activation": "swish"}, "activation"),
        ({"norm": "batch"}, "norm"),
        ({"position": "rotary"}, "position"),
    ],
    ids=str,
)
def test_contradictory_switches_are_refused(
    change: dict[str, Any], message: str, tiny_config: Callable[..., SparseConfig]
) -> None:
    with pytest.raises(UserError, match=message):
        tiny_config(**change)

"""Frozen matrices in bfloat16 change nothing under autocast, and everything is as it was afterwards."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from dense_adapters.half_precision import half_matrices
from tests.conftest import scrambled


def gpt2() -> PreTrainedModel:
    shape = {"vocab_size": 40, "n_positions": 16, "n_embd": 20, "n_layer": 2, "n_head": 2}
    return scrambled(GPT2LMHeadModel(GPT2Config(**shape))).requires_grad_(False)


def llama() -> PreTrainedModel:
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "tie_word_embeddings": True}
    shape = {"vocab_size": 40, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2}
    return scrambled(LlamaForCausalLM(LlamaConfig(**shape, **heads))).requires_grad_(False)


@pytest.mark.parametrize("make", [gpt2, llama])
def test_under_autocast_the_logits_are_the_same_bits_and_the_model_is_itself_again(make, tokens: torch.Tensor) -> None:
    model = make()
    before = dict(model.named_parameters())
    values = {name: value.clone() for name, value in before.items()}
    with torch.autocast("cpu", torch.bfloat16):
        expected = model(tokens).logits
    exact = model(tokens).logits
    with half_matrices(model), torch.autocast("cpu", torch.bfloat16):
        held = {name: value.dtype for name, value in model.named_parameters()}
        assert torch.equal(model(tokens).logits, expected)
    assert torch.bfloat16 in held.values()
    assert all(dtype == torch.float32 for name, dtype in held.items() if "norm" in name or "ln_" in name)
    after = dict(model.named_parameters())
    assert all(after[name] is before[name] and torch.equal(after[name], values[name]) for name in before)
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert torch.equal(model(tokens).logits, exact)


def test_what_trains_is_left_in_full_precision() -> None:
    model = gpt2().requires_grad_(True)
    with half_matrices(model):
        assert {p.dtype for p in model.parameters()} == {torch.float32}


def test_the_originals_come_back_early_when_asked_for_and_after_an_error() -> None:
    model = llama()
    with half_matrices(model) as restore:
        restore()
        assert {p.dtype for p in model.parameters()} == {torch.float32}
    with pytest.raises(KeyError), half_matrices(model):
        raise KeyError
    assert {p.dtype for p in model.parameters()} == {torch.float32}

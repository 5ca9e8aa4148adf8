"""Generation: greedy is argmax whatever the checkpoint asks for, and a chat template brings all special tokens itself."""

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from dense_adapters import DenseStack
from dense_adapters.errors import AttachError
from dense_adapters.generation import continue_prompts, encode, own_settings, settings_taken_over

WORDS = ["<s>", "</s>", "<|user|>", "<|answer|>", *(f"w{i}" for i in range(36))]
TEMPLATE = "<s> {% for m in messages %}<|user|> {{ m['content'] }} {% endfor %}<|answer|>"


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="w0"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", chat_template=TEMPLATE)


@pytest.fixture
def stack() -> DenseStack:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=40, hidden_size=20, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=64, bos_token_id=0, eos_token_id=1, initializer_range=0.5,
    )  # fmt: skip
    return DenseStack(LlamaForCausalLM(config).eval().requires_grad_(False))


def test_a_template_brings_its_own_beginning_and_no_second_one_is_put_in_front(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    assert encode(tokenizer, "w5 w6", chat=True).tolist() == [[0, 2, 9, 10, 3]]
    rendered = "<s> <|user|> w5 w6 <|answer|>"
    assert encode(tokenizer, rendered).tolist() == [[0, 2, 9, 10, 3]]
    assert encode(tokenizer, "w5 w6").tolist() == [[0, 9, 10]]


def test_chat_without_a_template_or_without_text_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(AttachError, match="empty"):
        encode(tokenizer, "", chat=True)
    tokenizer.chat_template = None
    with pytest.raises(AttachError, match="no chat template"):
        encode(tokenizer, "w5", chat=True)


@pytest.mark.parametrize("cache", [True, False])
def test_greedy_is_argmax_whatever_the_checkpoint_asks_for_and_its_settings_are_its_own_afterwards(
    cache: bool, stack: DenseStack, tokenizer: PreTrainedTokenizerFast
) -> None:
    ids = encode(tokenizer, "w5 w6", chat=True)
    expected = ids
    for _ in range(8):
        expected = torch.cat([expected, stack.model(expected).logits[:, -1:].argmax(-1)], dim=1)
        if expected[0, -1] == 1:
            break
    first = int(expected[0, ids.shape[1]])
    own = stack.model.generation_config
    own.repetition_penalty, own.suppress_tokens = 3.0, [first]
    asked = stack.model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, pad_token_id=1)
    assert asked[0].tolist() != expected[0].tolist()
    found = continue_prompts(stack, tokenizer, [ids], 8, cache=cache)[0]
    assert found.text == tokenizer.decode(expected[0, ids.shape[1] :], skip_special_tokens=True)
    assert own_settings(stack.model) == {"repetition_penalty": 3.0, "suppress_tokens": [first]}
    assert stack.model.generation_config is own
    assert settings_taken_over(stack.model) == {"bos_token_id": 0, "eos_token_id": 1}


def test_a_batch_of_prompts_of_unequal_length_goes_on_as_each_alone(
    stack: DenseStack, tokenizer: PreTrainedTokenizerFast
) -> None:
    prompts = [encode(tokenizer, text) for text in ("w5", "w6 w7 w8 w9", "w1 w2")]
    alone = [continue_prompts(stack, tokenizer, [ids], 8)[0] for ids in prompts]
    assert len({found.text for found in alone}) == 3
    for cache in (True, False):
        assert continue_prompts(stack, tokenizer, prompts, 8, cache=cache) == alone


def test_a_row_that_ends_early_is_cut_where_it_ends(stack: DenseStack, tokenizer: PreTrainedTokenizerFast) -> None:
    prompts = [encode(tokenizer, f"w{i} w{i + 7}") for i in range(12)]
    free = [found.text.split() for found in continue_prompts(stack, tokenizer, prompts, 8)]
    end = next(word for words in free for word in words if words[0] != word)
    stack.model.generation_config.eos_token_id = [1, tokenizer.convert_tokens_to_ids(end)]
    expected = [words[: words.index(end)] if end in words else words for words in free]
    assert len({len(words) for words in expected}) >= 3, "some rows end, at different lengths, or this tests nothing"
    assert [found.text.split() for found in continue_prompts(stack, tokenizer, prompts, 8)] == expected


def test_streamed_pieces_are_the_text_and_come_one_by_one(
    stack: DenseStack, tokenizer: PreTrainedTokenizerFast
) -> None:
    pieces: list[str] = []
    whole = continue_prompts(stack, tokenizer, [encode(tokenizer, "w5 w6")], 8, stream=pieces.append)[0].text
    assert "".join(pieces).split() == whole.split()
    assert len(pieces) >= 4
    with pytest.raises(AttachError, match="give one prompt"):
        continue_prompts(stack, tokenizer, [encode(tokenizer, "w5")] * 2, 8, stream=pieces.append)

"""Text from a dense model: what it says next, and how it goes on. Whatever edits are applied meanwhile act."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from dense_adapters.errors import AttachError
from dense_adapters.stack import DenseStack


def encode(tokenizer: PreTrainedTokenizerBase, text: str, device: torch.device | str = "cpu") -> Tensor:
    """Token ids [1, T] of a prompt, the beginning-of-text token in front if the tokenizer has one.

    Raises:
        AttachError: the text is empty.
    """
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    if not ids:
        raise AttachError("the prompt is empty; give some text to continue")
    if tokenizer.bos_token_id is not None:
        ids = [tokenizer.bos_token_id, *ids]
    return torch.tensor([ids], device=device)


@torch.no_grad()
def continue_text(
    stack: DenseStack,
    tokenizer: PreTrainedTokenizerBase,
    prompt: str | Tensor,
    tokens: int,
    edited: AbstractContextManager[None] | None = None,
    temperature: float | None = None,
    cache: bool = True,
    seed: int = 0,
) -> str:
    """The continuation of a prompt (text, or ids [1, T]) by at most `tokens` tokens.

    Args:
        edited: a context in which the model runs edited.
        temperature: of sampling, with `seed`; None takes the likeliest token every time.
        cache: whether to keep keys and values; the tokens are the same either way.

    Raises:
        AttachError: prompt and continuation are longer than the model reads.
    """
    ids = encode(tokenizer, prompt, stack.model.device) if isinstance(prompt, str) else prompt
    check_length(stack, ids.shape[1], tokens)
    torch.manual_seed(seed)
    sampling = (
        {"do_sample": False} if temperature is None else {"do_sample": True, "temperature": temperature, "top_k": 0}
    )
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    with edited or nullcontext():
        found = stack.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=tokens,
            use_cache=cache,
            pad_token_id=pad,
            **sampling,
        )
    return str(tokenizer.decode(found[0, ids.shape[1] :], skip_special_tokens=True))


@torch.no_grad()
def next_tokens(
    stack: DenseStack, tokenizer: PreTrainedTokenizerBase, prompt: str, count: int
) -> list[tuple[str, float]]:
    """The `count` likeliest next tokens with their probabilities.

    Raises:
        AttachError: the prompt is empty, or longer than the model reads.
    """
    ids = encode(tokenizer, prompt, stack.model.device)
    check_length(stack, ids.shape[1], 0)
    top = stack.model(ids).logits[0, -1].float().softmax(-1).topk(count)
    texts = [str(tokenizer.decode([token])) for token in top.indices.tolist()]
    return list(zip(texts, top.values.tolist(), strict=True))


def check_length(stack: DenseStack, prompt: int, more: int) -> None:
    """Refuse what the model has no positions for.

    Raises:
        AttachError: too many tokens.
    """
    limit: int | None = getattr(stack.model.config, "max_position_embeddings", None)
    if limit is not None and prompt + more > limit:
        raise AttachError(
            f"{prompt} prompt tokens and {more} new ones exceed the model's {limit}; shorten the prompt or lower the number of "
            "new ones (--tokens)"
        )

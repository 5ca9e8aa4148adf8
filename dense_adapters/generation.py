"""Text from a dense model: what it says next, and how it goes on. Whatever edits are applied meanwhile act.

Checkpoints bring generation settings of their own (a repetition penalty, suppressed tokens, top-p), under which the likeliest
token is not the one that is taken. They are left out here; only the special tokens are taken over.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase, TextStreamer

from dense_adapters.errors import AttachError
from dense_adapters.stack import DenseStack

TAKEN_OVER = ("bos_token_id", "eos_token_id", "pad_token_id")
"""Generation settings of a checkpoint that hold here too."""
NO_SETTINGS = (
    *TAKEN_OVER,
    "transformers_version",
    "_from_model_config",
    "use_cache",
    "output_attentions",
    "output_hidden_states",
)


def encode(
    tokenizer: PreTrainedTokenizerBase, text: str, device: torch.device | str = "cpu", chat: bool = False
) -> Int[Tensor, "1 T"]:
    """Token ids of a prompt, with one beginning-of-text token in front if the tokenizer has one.

    Args:
        chat: put the text into the tokenizer's chat template, as what a user says; the template's own special tokens, a
            beginning among them or not, are then all there are.

    Raises:
        AttachError: the text is empty, or the tokenizer has no chat template.
    """
    if chat and text:
        if not getattr(tokenizer, "chat_template", None):
            raise AttachError("the model's tokenizer has no chat template; leave --chat out")
        said = [{"role": "user", "content": text}]
        rendered = tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
        return torch.tensor([tokenizer(rendered, add_special_tokens=False)["input_ids"]], device=device)
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    if not ids:
        raise AttachError("the prompt is empty; give some text to continue")
    if tokenizer.bos_token_id is not None and ids[0] != tokenizer.bos_token_id:
        ids = [tokenizer.bos_token_id, *ids]
    return torch.tensor([ids], device=device)


class Continuation(NamedTuple):
    """What follows a prompt: the new tokens without the one that ends the text, and the text they are."""

    ids: list[int]
    text: str


@torch.no_grad()
def continue_prompts(
    stack: DenseStack,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[Tensor],
    tokens: int,
    edited: AbstractContextManager[None] | None = None,
    temperature: float | None = None,
    cache: bool = True,
    seed: int = 0,
    stream: Callable[[str], None] | None = None,
) -> list[Continuation]:
    """The continuations of several prompts, each ids [1, T], by at most `tokens` tokens, run as one batch.

    Shorter prompts are padded on their left. The likeliest tokens are those of each prompt alone; sampled ones are not.

    Args:
        edited: a context in which the model runs edited.
        temperature: of sampling, with `seed`; None takes the likeliest token every time.
        cache: whether to keep keys and values; the tokens are the same either way.
        stream: is given every piece of text as soon as it is there; for a single prompt only.

    Raises:
        AttachError: a prompt and its continuation are longer than the model reads.
    """
    if stream is not None and len(prompts) != 1:
        raise AttachError(f"the text of {len(prompts)} prompts cannot be streamed at once; give one prompt")
    for ids in prompts:
        check_length(stack, ids.shape[1], tokens)
    pad = tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
    batch, mask = _left_padded(prompts, 0 if pad is None else pad)
    torch.manual_seed(seed)
    sampling = (
        {"do_sample": False} if temperature is None else {"do_sample": True, "temperature": temperature, "top_k": 0}
    )
    with own_settings_left_out(stack.model), edited or nullcontext():
        found = stack.model.generate(
            batch,
            attention_mask=mask,
            max_new_tokens=tokens,
            use_cache=cache,
            pad_token_id=pad,
            streamer=None if stream is None else _Pieces(tokenizer, stream),
            **sampling,
        )
    ends = _ends(stack.model)
    new = [_until(ends, row) for row in found[:, batch.shape[1] :].tolist()]
    return [Continuation(ids, str(tokenizer.decode(ids, skip_special_tokens=True))) for ids in new]


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


def own_settings(model: PreTrainedModel) -> dict[str, Any]:
    """What a checkpoint's `generation_config.json` would change beside the special tokens; left out here."""
    found = model.generation_config.to_diff_dict()
    return {name: value for name, value in found.items() if name not in NO_SETTINGS and value is not None}


def settings_taken_over(model: PreTrainedModel) -> dict[str, int | list[int]]:
    """The special tokens of a checkpoint's generation settings, which hold here too."""
    found = {name: getattr(model.generation_config, name, None) for name in TAKEN_OVER}
    return {name: value for name, value in found.items() if value is not None}


@contextmanager
def own_settings_left_out(model: PreTrainedModel) -> Iterator[None]:
    """A context in which `model.generate` knows no settings of the checkpoint's but its special tokens."""
    own = model.generation_config
    model.generation_config = GenerationConfig(**settings_taken_over(model))
    try:
        yield
    finally:
        model.generation_config = own


def _left_padded(prompts: Sequence[Tensor], pad: int) -> tuple[Int[Tensor, "B T"], Int[Tensor, "B T"]]:
    """Prompts [1, T] below each other, padded on the left, and the mask that is 0 at padding."""
    longest = max(ids.shape[1] for ids in prompts)
    rows = [torch.nn.functional.pad(ids[0], (longest - ids.shape[1], 0), value=pad) for ids in prompts]
    masks = [torch.nn.functional.pad(torch.ones_like(ids[0]), (longest - ids.shape[1], 0)) for ids in prompts]
    return torch.stack(rows), torch.stack(masks)


def _ends(model: PreTrainedModel) -> set[int]:
    """Tokens that end a text."""
    found = settings_taken_over(model).get("eos_token_id", [])
    return {found} if isinstance(found, int) else set(found)


def _until(ends: set[int], ids: list[int]) -> list[int]:
    """New tokens up to the first that ends the text: what follows it in a batch is padding."""
    return ids[: next((i for i, token in enumerate(ids) if token in ends), len(ids))]


class _Pieces(TextStreamer):
    """Hands text on as it is generated, the prompt left out, characters of several tokens whole."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, give: Callable[[str], None]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._give = give

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        if text:
            self._give(text)

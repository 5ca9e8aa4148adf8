"""Pairs as tensors of token ids, for any Hugging Face tokenizer.

1. Tokenise prompt and prompt + answer + after, without special tokens.
2. Keep a pair where tokens(prompt) begins tokens(prompt + answer + after) and the next token holds the whole answer, on
   both sides; where both prompts have the same number of tokens and differ; and where the two next tokens differ.
3. Put the tokenizer's bos token, if it has one, in front; pad on the right.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from sparse_model.corpus.fragment import Split
from sparse_model.tasks.task import Task, TaskError, TextPair

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TRIED_AT_ONCE = 128
"""Candidates tokenised together."""
_BOUNDARY = "prompt and answer share a token"
_SEVERAL = "answers are not single tokens"
_LENGTHS = "prompts differ in token length"
_SAME_PROMPT = "prompts are equal"
_SAME_ANSWER = "answers start with the same token"


class PromptBatch(NamedTuple):
    """Both directions of N pairs: rows 0..N-1 are the a prompts, rows N..2N-1 the b prompts."""

    tokens: Int[Tensor, "2N T"]
    last: Int[Tensor, "2N"]
    answer: Int[Tensor, "2N"]
    other: Int[Tensor, "2N"]
    mask: Bool[Tensor, "2N T"]


@dataclass(frozen=True, eq=False)
class TokenPairs:
    """N pairs, padded on the right to T tokens.

    `last` is the index of the prompt's last token, the same on both sides; `mask` is true on real tokens; `dropped`
    counts, by reason, the candidates left out on the way to the last pair kept: N and they are all that were tried.
    """

    name: str
    tokens_a: Int[Tensor, "N T"]
    tokens_b: Int[Tensor, "N T"]
    last: Int[Tensor, " N"]
    answer_a: Int[Tensor, " N"]
    answer_b: Int[Tensor, " N"]
    mask: Bool[Tensor, "N T"]
    template: tuple[str, ...]
    texts: tuple[TextPair, ...]
    dropped: dict[str, int]

    def __len__(self) -> int:
        return len(self.texts)

    def select(self, indices: Sequence[int] | slice | Tensor) -> "TokenPairs":
        """The pairs at `indices` (whole numbers, a slice, or an integer tensor), in that order, at the same width T."""
        if isinstance(indices, slice):
            rows = torch.arange(len(self))[indices]
        else:
            rows = torch.as_tensor(indices, dtype=torch.int64).cpu()
        at = rows.to(self.tokens_a.device)
        numbers = rows.tolist()
        return replace(
            self,
            tokens_a=self.tokens_a[at],
            tokens_b=self.tokens_b[at],
            last=self.last[at],
            answer_a=self.answer_a[at],
            answer_b=self.answer_b[at],
            mask=self.mask[at],
            template=tuple(self.template[i] for i in numbers),
            texts=tuple(self.texts[i] for i in numbers),
        )

    def swapped(self) -> "TokenPairs":
        """The same pairs with the names a and b exchanged."""
        texts = tuple(
            TextPair(t.prompt_b, t.answer_b, t.after_b, t.prompt_a, t.answer_a, t.after_a, t.template)
            for t in self.texts
        )
        return replace(
            self,
            tokens_a=self.tokens_b,
            tokens_b=self.tokens_a,
            answer_a=self.answer_b,
            answer_b=self.answer_a,
            texts=texts,
        )

    def to(self, device: torch.device | str) -> "TokenPairs":
        """The same pairs with every tensor on `device`."""
        return replace(
            self,
            tokens_a=self.tokens_a.to(device),
            tokens_b=self.tokens_b.to(device),
            last=self.last.to(device),
            answer_a=self.answer_a.to(device),
            answer_b=self.answer_b.to(device),
            mask=self.mask.to(device),
        )

    def prompts(self) -> PromptBatch:
        """Both prompts of every pair with their right and wrong answers."""
        return PromptBatch(
            torch.cat([self.tokens_a, self.tokens_b]),
            torch.cat([self.last, self.last]),
            torch.cat([self.answer_a, self.answer_b]),
            torch.cat([self.answer_b, self.answer_a]),
            torch.cat([self.mask, self.mask]),
        )


class _Kept(NamedTuple):
    text: TextPair
    prompt_a: list[int]
    prompt_b: list[int]
    answer_a: int
    answer_b: int


def tokenise_pairs(
    task: Task | Sequence[TextPair],
    tokenizer: "PreTrainedTokenizerBase",
    n: int,
    split: Split = "train",
    seed: int = 0,
    begin: bool = True,
    fewest: int | None = None,
) -> TokenPairs:
    """`n` distinct pairs of `task` (or of a given list, whose answers must be exactly one token) as token ids.

    With `begin`, every prompt starts with the tokenizer's bos token if it has one.

    Raises:
        TaskError: with the number of candidates dropped for each reason, if fewer than `n` pairs (or than `fewest`,
            where that is enough) fit the tokenizer.
    """
    if n < 1:
        raise TaskError(f"{n} pairs asked for; ask for at least 1")
    name, whole, candidates = _candidates(task, n, split, seed)
    kept: list[_Kept] = []
    dropped: Counter[str] = Counter()
    while len(kept) < n and (batch := list(islice(candidates, TRIED_AT_ONCE))):
        for outcome in _examine(batch, tokenizer, whole):
            if len(kept) == n:
                break
            if isinstance(outcome, str):
                dropped[outcome] += 1
            else:
                kept.append(outcome)
    if len(kept) < (n if fewest is None else fewest):
        raise TaskError(_too_few(name, tokenizer, split, len(kept), n, dropped))
    return _as_tensors(name, kept, dropped, tokenizer, begin)


def reasons(dropped: Mapping[str, int]) -> str:
    """`reason: count` of what was dropped, most frequent first; empty where nothing was."""
    return ", ".join(f"{reason}: {count}" for reason, count in Counter(dropped).most_common())


def misfit(pair: TextPair, tokenizer: "PreTrainedTokenizerBase", whole: bool = True) -> str | None:
    """Why a pair does not fit the tokenizer; None where it does. With `whole`, an answer must be exactly one token."""
    (outcome,) = _examine([pair], tokenizer, whole)
    return outcome if isinstance(outcome, str) else None


def _candidates(
    task: Task | Sequence[TextPair], n: int, split: Split, seed: int
) -> tuple[str, bool, Iterator[TextPair]]:
    if isinstance(task, Task):
        return task.name, task.whole_answers, task.distinct_pairs(split, n, seed)
    return "pairs", True, iter(dict.fromkeys(task))


def _examine(batch: Sequence[TextPair], tokenizer: "PreTrainedTokenizerBase", whole: bool) -> Iterable[_Kept | str]:
    """For each pair its token ids, or the reason why it does not fit."""
    texts: list[str] = []
    for pair in batch:
        for prompt, answer, after in (
            (pair.prompt_a, pair.answer_a, pair.after_a),
            (pair.prompt_b, pair.answer_b, pair.after_b),
        ):
            texts += [prompt, prompt + answer + ("" if whole else after)]
    ids: list[list[int]] = tokenizer(texts, add_special_tokens=False)["input_ids"]
    for row, pair in enumerate(batch):
        prompt_a, full_a, prompt_b, full_b = ids[4 * row : 4 * row + 4]
        reason = _misfit(tokenizer, prompt_a, full_a, pair.prompt_a + pair.answer_a, whole)
        reason = reason or _misfit(tokenizer, prompt_b, full_b, pair.prompt_b + pair.answer_b, whole)
        if reason is None and len(prompt_a) != len(prompt_b):
            reason = _LENGTHS
        elif reason is None and prompt_a == prompt_b:
            reason = _SAME_PROMPT
        elif reason is None and full_a[len(prompt_a)] == full_b[len(prompt_b)]:
            reason = _SAME_ANSWER
        if reason is not None:
            yield reason
        else:
            yield _Kept(pair, prompt_a, prompt_b, full_a[len(prompt_a)], full_b[len(prompt_b)])


def _misfit(
    tokenizer: "PreTrainedTokenizerBase", prompt: list[int], full: list[int], text: str, whole: bool
) -> str | None:
    """Why the token after `prompt` in `full` is not the answer, or None. `text` is the prompt's and answer's text."""
    if not prompt or full[: len(prompt)] != prompt or len(full) == len(prompt):
        return _BOUNDARY
    if whole:
        return None if len(full) == len(prompt) + 1 else _SEVERAL
    decoded = tokenizer.decode(full[: len(prompt) + 1], clean_up_tokenization_spaces=False)
    return None if decoded.lstrip(" ").startswith(text.lstrip(" ")) else _SEVERAL


def _too_few(
    name: str, tokenizer: "PreTrainedTokenizerBase", split: Split, found: int, n: int, dropped: Counter[str]
) -> str:
    if found:
        advice = f"ask for at most {found} pairs"
    elif not dropped:
        advice = f"add pairs to the {split} split or use another one"
    elif dropped.most_common(1)[0][0] == _SEVERAL:
        advice = "choose a task whose answers are one token here, or another tokenizer"
    else:
        advice = "choose another task or tokenizer"
    if dropped:
        label = tokenizer.name_or_path or type(tokenizer).__name__
        fitting = f"fit the tokenizer {label} of {len(tokenizer)} tokens ({reasons(dropped)})"
    else:
        fitting = "exist"
    return f"task {name}: {found} of {n} {split} pairs {fitting}; {advice}"


def _as_tensors(
    name: str, kept: list[_Kept], dropped: Counter[str], tokenizer: "PreTrainedTokenizerBase", begin: bool
) -> TokenPairs:
    start = [tokenizer.bos_token_id] if begin and tokenizer.bos_token_id is not None else []
    fill = next((i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id) if i is not None), 0)
    lengths = torch.tensor([len(start) + len(pair.prompt_a) for pair in kept])
    width = int(lengths.max())

    def padded(prompts: list[list[int]]) -> Tensor:
        return torch.tensor([start + ids + [fill] * (width - len(start) - len(ids)) for ids in prompts])

    return TokenPairs(
        name=name,
        tokens_a=padded([pair.prompt_a for pair in kept]),
        tokens_b=padded([pair.prompt_b for pair in kept]),
        last=lengths - 1,
        answer_a=torch.tensor([pair.answer_a for pair in kept]),
        answer_b=torch.tensor([pair.answer_b for pair in kept]),
        mask=torch.arange(width)[None, :] < lengths[:, None],
        template=tuple(pair.text.template for pair in kept),
        texts=tuple(pair.text for pair in kept),
        dropped=dict(dropped),
    )

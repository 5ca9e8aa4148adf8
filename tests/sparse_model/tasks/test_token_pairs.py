"""Pairs as tensors: alignment, padding, what is dropped and why."""

import json
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from sparse_model.corpus.fragment import SPLITS
from sparse_model.tasks import TASKS, TaskError, TextPair, find_task
from sparse_model.tasks.jsonl import load_task
from sparse_model.tasks.nonsense import arbitrary_answers, nonsense
from sparse_model.tasks.token_pairs import TokenPairs, tokenise_pairs


def _pair(prompt_a: str, answer_a: str, prompt_b: str, answer_b: str) -> TextPair:
    return TextPair(prompt_a, answer_a, "", prompt_b, answer_b, "", "own")


GOOD = _pair("for item", " in", "while item", ":")


@pytest.fixture(scope="module")
def pairs(tokenizer: PreTrainedTokenizerFast) -> TokenPairs:
    return tokenise_pairs(TASKS["with_as"], tokenizer, 64)


def test_tokens_spell_the_prompt_after_the_special_token_and_the_answer_continues_it(
    pairs: TokenPairs, tokenizer: PreTrainedTokenizerFast
) -> None:
    for i, text in enumerate(pairs.texts):
        real = int(pairs.last[i]) + 1
        assert pairs.tokens_a[i, 0] == tokenizer.bos_token_id
        assert tokenizer.decode(pairs.tokens_a[i, 1:real]) == text.prompt_a
        assert tokenizer.decode(pairs.tokens_b[i, 1:real]) == text.prompt_b
        assert tokenizer.decode(pairs.answer_a[i]).startswith(text.answer_a)
        assert tokenizer.decode(pairs.answer_b[i]).startswith(text.answer_b)
        assert (pairs.tokens_a[i, real:] == tokenizer.pad_token_id).all()


def test_the_mask_ends_at_the_last_prompt_token(pairs: TokenPairs) -> None:
    assert torch.equal(pairs.mask.sum(dim=1) - 1, pairs.last)
    assert pairs.tokens_a.shape == pairs.tokens_b.shape == pairs.mask.shape
    assert pairs.tokens_a.dtype == torch.int64
    assert pairs.mask[:, -1].any()


def test_without_a_beginning_the_prompt_starts_with_its_first_word(tokenizer: PreTrainedTokenizerFast) -> None:
    bare = tokenise_pairs(TASKS["with_as"], tokenizer, 4, begin=False)
    full = tokenise_pairs(TASKS["with_as"], tokenizer, 4)
    assert torch.equal(bare.tokens_a, full.tokens_a[:, 1:])
    assert torch.equal(bare.last, full.last - 1)


def test_prompts_hold_both_directions_with_right_and_wrong_answers(pairs: TokenPairs) -> None:
    both = pairs.prompts()
    n = len(pairs)
    assert both.tokens.shape == (2 * n, pairs.tokens_a.shape[1])
    assert torch.equal(both.tokens[n:], pairs.tokens_b)
    assert torch.equal(both.answer, torch.cat([pairs.answer_a, pairs.answer_b]))
    assert torch.equal(both.other, torch.cat([pairs.answer_b, pairs.answer_a]))


def test_swapping_twice_changes_nothing_and_once_exchanges_the_sides(pairs: TokenPairs) -> None:
    swapped = pairs.swapped()
    assert torch.equal(swapped.tokens_a, pairs.tokens_b)
    assert torch.equal(swapped.answer_a, pairs.answer_b)
    assert swapped.texts[0].prompt_a == pairs.texts[0].prompt_b
    assert swapped.swapped().texts == pairs.texts


@pytest.mark.parametrize("indices", [[3, 1], slice(2, 5), torch.tensor([0, 63])])
def test_selecting_keeps_the_chosen_pairs_in_order(
    pairs: TokenPairs, indices: list[int] | slice | torch.Tensor
) -> None:
    chosen = pairs.select(indices)
    assert torch.equal(chosen.tokens_a, pairs.tokens_a[indices])
    numbers = torch.arange(64)[indices].tolist()
    assert chosen.texts == tuple(pairs.texts[i] for i in numbers)
    assert chosen.template == tuple(pairs.template[i] for i in numbers)
    assert len(chosen) == len(numbers)


@pytest.mark.parametrize(
    ("pair", "reason"),
    [
        (_pair("for item", " in items", "while item", ":"), "answers are not single tokens"),
        (_pair("for item", " in", "while item == item", ":"), "prompts differ in token length"),
        (_pair("for item", " in", "for item", ":"), "prompts are equal"),
        (_pair("for item", ":", "while item", ":"), "answers start with the same token"),
        (_pair("for item", "s", "while item", ":"), "prompt and answer share a token"),
    ],
)
def test_a_pair_that_does_not_fit_is_counted_under_its_reason(
    tokenizer: PreTrainedTokenizerFast, pair: TextPair, reason: str
) -> None:
    kept = tokenise_pairs([pair, GOOD], tokenizer, 1)
    assert kept.dropped == {reason: 1}
    assert kept.texts == (GOOD,)
    with pytest.raises(TaskError, match=f"0 of 1 .*{reason}: 1"):
        tokenise_pairs([pair], tokenizer, 1)


def test_asking_for_more_pairs_than_fit_says_how_many_do(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(TaskError, match="ask for at most 1 pairs"):
        tokenise_pairs([GOOD, GOOD], tokenizer, 2)


def test_a_jsonl_task_gives_its_own_pairs(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    path = tmp_path / "loops.jsonl"
    names = ("item", "name", "word", "line", "value", "key", "node", "user", "point", "row")
    with path.open("w") as file:
        for name in names:
            record = {"prompt_a": f"for {name}", "answer_a": " in", "prompt_b": f"while {name}", "answer_b": ":"}
            file.write(json.dumps(record) + "\n")
    task = find_task(str(path))
    assert task.name == "loops"
    assert len(tokenise_pairs(task, tokenizer, 6, "train")) == 6
    assert len(tokenise_pairs(task, tokenizer, 2, "held_out")) == 2
    with pytest.raises(TaskError, match="6 of 9 train pairs"):
        tokenise_pairs(task, tokenizer, 9, "train")
    assert len(tokenise_pairs(task, tokenizer, 9, "train", fewest=4)) == 6
    with pytest.raises(TaskError, match="6 of 9 train pairs"):
        tokenise_pairs(task, tokenizer, 9, "train", fewest=7)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "holds no pairs"),
        ("nonsense", "line 1: not JSON"),
        ('{"prompt_a": "x"}', "'answer_a' is missing"),
        ("[1]", "holds a list"),
        ('{"prompt_a": "x", "answer_a": "y", "prompt_b": "z", "answer_b": "w", "note": "v"}', "unknown field 'note'"),
        ('{"prompt_a": "x", "answer_a": "y", "prompt_b": "z", "answer_b": "w", "split": "v"}', "unknown split"),
    ],
)
def test_a_malformed_task_file_is_refused_with_the_line(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "own.jsonl"
    path.write_text(content)
    with pytest.raises(TaskError, match=message):
        find_task(str(path))
    with pytest.raises(TaskError, match="no such file"):
        find_task(str(tmp_path / "missing.jsonl"))


def test_nonsense_answers_follow_a_coin_that_ignores_the_rule(tokenizer: PreTrainedTokenizerFast) -> None:
    pairs = tokenise_pairs(TASKS["closing_quote"], tokenizer, 500)
    control = nonsense(pairs, seed=0)
    exchanged = control.answer_a != pairs.answer_a
    assert 0.4 < exchanged.float().mean() < 0.6
    assert torch.equal(control.tokens_a, pairs.tokens_a)
    assert torch.equal(control.answer_a + control.answer_b, pairs.answer_a + pairs.answer_b)
    assert torch.equal(nonsense(pairs.select(slice(0, 50)), seed=0).answer_a, control.answer_a[:50])
    assert not torch.equal(nonsense(pairs, seed=1).answer_a, control.answer_a)


@pytest.mark.parametrize("name", ["closing_quote", "fstring_variable"])
def test_arbitrary_answers_keep_the_rule_with_other_tokens_of_the_prompts(
    name: str, tokenizer: PreTrainedTokenizerFast
) -> None:
    pairs = tokenise_pairs(TASKS[name], tokenizer, 100)
    control = arbitrary_answers(pairs, seed=0)
    before, after = (torch.cat([found.answer_a, found.answer_b]).tolist() for found in (pairs, control))
    words = dict(zip(before, after, strict=True))
    assert [words[token] for token in before] == after, "one word for one word"
    assert len(set(words.values())) == len(words)
    assert not any(old == new for old, new in words.items())
    assert set(after) <= set(pairs.tokens_a[pairs.mask].tolist()) | set(pairs.tokens_b[pairs.mask].tolist()) | set(
        before
    )
    assert torch.equal(control.tokens_a, pairs.tokens_a)
    assert not torch.equal(arbitrary_answers(pairs, seed=1).answer_a, control.answer_a)


def test_no_pair_of_a_file_is_in_two_splits_and_pairs_without_a_template_say_so(tmp_path: Path) -> None:
    def line(a: str, b: str, **more: str) -> str:
        return json.dumps({"prompt_a": a, "answer_a": "1", "prompt_b": b, "answer_b": "2", **more})

    lines = [line(f"a{n}", f"b{n}") for n in range(10)]
    lines += [line("a0", "b0", split="held_out"), line("b1", "a1", split="validation"), line("a0", "b1", template="t")]
    path = tmp_path / "own.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    task = load_task(path)
    found = {split: list(task.candidates(split, 0)) for split in SPLITS}
    assert {split: len(pairs) for split, pairs in found.items()} == {"train": 7, "validation": 2, "held_out": 2}
    assert task.repeats == 2
    prompts = [frozenset((pair.prompt_a, pair.prompt_b)) for pairs in found.values() for pair in pairs]
    assert len(set(prompts)) == len(prompts) == 11
    assert task.templates["train"] == ("pairs without a template",)
    assert set(task.templates["held_out"]) == {"pairs without a template", "t"}

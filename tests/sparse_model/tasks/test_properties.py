"""Properties of every task's generator, over seeds drawn by hypothesis: grammar, rule, length, splits, accounting."""

import ast
import contextlib
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from sparse_model.corpus.fragment import SPLITS, Split
from sparse_model.corpus.words import READABLE, WRITABLE
from sparse_model.tasks import TASKS, Task, TaskError
from sparse_model.tasks.token_pairs import TRIED_AT_ONCE, tokenise_pairs

ANY_TASK = st.sampled_from(list(TASKS.values()))
ANY_SPLIT = st.sampled_from(SPLITS)
ANY_SEED = st.integers(0, 2**31)
GRAMMATICAL = (
    "closing_quote", "list_nesting", "lambda_def", "while_true", "else_elif", "ternary_if", "compare_true", "with_as",
)  # fmt: skip
"""Tasks where Python's grammar refuses the other answer on both sides."""


def _parses(text: str) -> bool:
    try:
        ast.parse(text + "\n")
    except SyntaxError:
        return False
    return True


@given(task=ANY_TASK, split=ANY_SPLIT, seed=ANY_SEED)
def test_a_prompt_with_its_answer_and_what_follows_is_python_whatever_the_seed(
    task: Task, split: Split, seed: int
) -> None:
    for pair in task.text_pairs(split, 4, seed):
        assert _parses(pair.prompt_a + pair.answer_a + pair.after_a)
        assert _parses(pair.prompt_b + pair.answer_b + pair.after_b)
        assert pair.answer_a != pair.answer_b
        assert pair.prompt_a != pair.prompt_b
        assert pair.template in task.templates[split]


@given(name=st.sampled_from(GRAMMATICAL), split=ANY_SPLIT, seed=ANY_SEED)
def test_where_grammar_decides_the_other_answer_is_a_syntax_error(name: str, split: Split, seed: int) -> None:
    for pair in TASKS[name].text_pairs(split, 3, seed):
        for after in (pair.after_a, pair.after_b):
            assert not _parses(pair.prompt_a + pair.answer_b + after)
            assert not _parses(pair.prompt_b + pair.answer_a + after)


def _last_line(prompt: str) -> str:
    return prompt.rsplit("\n", 1)[-1].strip()


def _made(prompt: str) -> str:
    """What the variable on the last line was made."""
    name = _last_line(prompt)
    found = re.findall(rf"\b{name} = (set|str)\(\)", prompt)
    return str(found[-1])


def _braced(prompt: str) -> str:
    (prefix,) = re.findall(r"""([fr])["'][^"']*\{$""", prompt)
    number_of = re.findall(r"^\s*(\w+) = (?!f['\"]|r['\"]).*$", prompt, re.MULTILINE)
    return number_of[-1] if prefix == "f" else "0"


def _mode(prompt: str) -> str:
    (name,) = re.findall(r"open\((\w+), [\"']$", prompt)
    assert (name in READABLE) != (name in WRITABLE)
    return "r" if name in READABLE else "w"


def _indent(prompt: str) -> str:
    """A newline and the next line's indent but for its last space, which many tokenizers join to the word after it."""
    line = prompt.rsplit("\n", 1)[-1]
    indent = len(line) - len(line.lstrip()) + (4 if line.lstrip().startswith("for ") else 0)
    return "\n" + " " * max(0, indent - 1)


RULES: dict[str, Callable[[str], str]] = {
    "fstring_variable": _braced,
    "set_add": lambda prompt: {"set": ".", "str": " +="}[_made(prompt)],
    "set_add_fixed_name": lambda prompt: {"set": ".", "str": " +="}[_made(prompt)],
    "self_attribute": lambda prompt: " " + re.findall(r"self\.(\w+) =$", prompt)[0],
    "swap": lambda prompt: " " + re.findall(r"(\w+), (\w+) = \2,$", _last_line(prompt))[0][0],
    "enumerate_range": lambda prompt: " enumerate" if "," in _last_line(prompt) else " range",
    "file_mode": _mode,
    "parameter_default": lambda prompt: "=" if "=" in _last_line(prompt) else "):",
    "for_while": lambda prompt: {"for": " in", "while": ":"}[_last_line(prompt).split()[0]],
    "equality": lambda prompt: " ==" if _last_line(prompt).startswith("if ") else " =",
    "dict_list": lambda prompt: ":" if re.findall(r"[\[{]", _last_line(prompt))[-1] == "{" else ",",
    "for_indent": _indent,
}
"""The rule of every other task, read from the prompt alone and written independently of its generator."""


def test_every_task_has_its_rule_checked() -> None:
    assert set(RULES) | set(GRAMMATICAL) == set(TASKS)


@given(name=st.sampled_from(list(RULES)), split=ANY_SPLIT, seed=ANY_SEED)
def test_the_answer_follows_from_the_prompt_by_the_tasks_rule(name: str, split: Split, seed: int) -> None:
    for pair in TASKS[name].text_pairs(split, 3, seed):
        assert RULES[name](pair.prompt_a) == pair.answer_a
        assert RULES[name](pair.prompt_b) == pair.answer_b


@settings(max_examples=30)
@given(task=ANY_TASK, split=ANY_SPLIT, seed=ANY_SEED)
def test_pairs_have_equal_lengths_and_exactly_one_differing_answer(
    bundled_tokenizer: PreTrainedTokenizerFast, task: Task, split: Split, seed: int
) -> None:
    tokenizer = bundled_tokenizer
    pairs = tokenise_pairs(task, tokenizer, 8, split, seed)
    for i, text in enumerate(pairs.texts):
        a, b = (tokenizer(p, add_special_tokens=False)["input_ids"] for p in (text.prompt_a, text.prompt_b))
        assert len(a) == len(b) == int(pairs.last[i])  # the special token stands in front
        assert a != b
        assert pairs.answer_a[i] != pairs.answer_b[i]
        for prompt, answer, after, token in (
            (a, text.answer_a, text.after_a, pairs.answer_a[i]),
            (b, text.answer_b, text.after_b, pairs.answer_b[i]),
        ):
            whole = tokenizer(tokenizer.decode(prompt) + answer + after, add_special_tokens=False)["input_ids"]
            assert whole[: len(prompt) + 1] == [*prompt, int(token)]


@given(task=ANY_TASK, seeds=st.tuples(ANY_SEED, ANY_SEED, ANY_SEED))
def test_no_prompt_is_in_two_splits_whatever_their_seeds(task: Task, seeds: tuple[int, int, int]) -> None:
    prompts = [
        {prompt for pair in task.text_pairs(split, 20, seed) for prompt in (pair.prompt_a, pair.prompt_b)}
        for split, seed in zip(SPLITS, seeds, strict=True)
    ]
    assert len(set.union(*prompts)) == sum(map(len, prompts))


@pytest.fixture(scope="module")
def letters() -> PreTrainedTokenizerFast:
    """A tokenizer of single ASCII characters: it can express few tasks."""
    tokenizer = Tokenizer(models.WordLevel({"?": 0, **{chr(i): i for i in range(1, 128)}}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="?")


def test_a_task_the_tokenizer_cannot_express_is_refused_by_name_with_the_reason(
    letters: PreTrainedTokenizerFast,
) -> None:
    with pytest.raises(TaskError, match=r"task enumerate_range: 0 of 5 .*answers are not single tokens: \d+"):
        tokenise_pairs(TASKS["enumerate_range"], letters, 5)
    assert len(tokenise_pairs(TASKS["closing_quote"], letters, 5)) == 5


def test_every_candidate_up_to_the_last_kept_one_is_either_kept_or_counted_as_dropped(
    bundled_tokenizer: PreTrainedTokenizerFast,
) -> None:
    task, n = TASKS["compare_true"], 3 * TRIED_AT_ONCE // 2
    pairs = tokenise_pairs(task, bundled_tokenizer, n)
    tried = list(task.distinct_pairs("train", n))[: n + sum(pairs.dropped.values())]
    assert pairs.dropped
    assert [pair for pair in tried if pair in set(pairs.texts)] == list(pairs.texts)
    assert tried[-1] == pairs.texts[-1]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_at_least_fifteen_tasks_give_five_hundred_pairs_in_smollm2s_tokens(smollm2_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(smollm2_folder, gguf_file=next(smollm2_folder.glob("*.gguf")).name)
    expressed = 0
    for task in TASKS.values():
        with contextlib.suppress(TaskError):
            expressed += all(len(tokenise_pairs(task, tokenizer, 500, split)) == 500 for split in SPLITS)
        if expressed == 15:  # the others cannot make it fewer
            return
    pytest.fail(f"only {expressed} tasks")

"""The twenty tasks: pairs that compile, differ by their rule, and fit the tokenizer."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

from foundation.fingerprints import model_fingerprint
from sparse_model import SparseTransformer
from sparse_model.corpus.fragment import SPLITS
from sparse_model.tasks import TASKS, Task, TaskError, find_task
from sparse_model.tasks.documentation import tasks_document
from sparse_model.tasks.token_pairs import tokenise_pairs

ROOT = Path(__file__).parents[3]
NAMED = {"closing_quote", "while_true", "for_while", "list_nesting", "set_add", "set_add_fixed_name"}


def test_there_are_twenty_tasks_with_a_description_each() -> None:
    assert len(TASKS) == 20
    assert set(TASKS) >= NAMED
    for task in TASKS.values():
        assert task.description
        assert "\n" not in task.description
        assert sum(len(task.templates[split]) for split in SPLITS) >= 4
        assert all(task.templates[split] for split in SPLITS)


@pytest.mark.parametrize("task", TASKS.values(), ids=list(TASKS))
def test_both_sides_of_every_pair_compile(task: Task) -> None:
    for pair in task.text_pairs("train", 40) + task.text_pairs("held_out", 40):
        compile(pair.prompt_a + pair.answer_a + pair.after_a + "\n", "a", "exec")
        compile(pair.prompt_b + pair.answer_b + pair.after_b + "\n", "b", "exec")


@pytest.mark.parametrize("task", TASKS.values(), ids=list(TASKS))
def test_five_hundred_pairs_fit_the_small_vocabulary_in_every_split(
    task: Task, tokenizer: PreTrainedTokenizerFast
) -> None:
    for split in SPLITS:
        pairs = tokenise_pairs(task, tokenizer, 500, split)
        assert len({(text.prompt_a, text.prompt_b) for text in pairs.texts}) == 500
        assert set(pairs.template) <= set(task.templates[split])
        assert (pairs.answer_a != pairs.answer_b).all()
        assert (pairs.tokens_a != pairs.tokens_b).any(dim=1).all()


@pytest.mark.parametrize("task", TASKS.values(), ids=list(TASKS))
def test_splits_share_no_prompt_and_no_template(task: Task) -> None:
    taken = {split: task.text_pairs(split, 200) for split in SPLITS}
    prompts = [{prompt for pair in pairs for prompt in (pair.prompt_a, pair.prompt_b)} for pairs in taken.values()]
    assert not prompts[0] & prompts[1]
    assert not prompts[0] & prompts[2]
    assert not prompts[1] & prompts[2]
    templates = [name for split in SPLITS for name in task.templates[split]]
    assert len(templates) == len(set(templates))


def test_the_same_seed_gives_the_same_pairs_and_another_seed_others() -> None:
    task = TASKS["closing_quote"]
    assert task.text_pairs("train", 30, seed=1) == task.text_pairs("train", 30, seed=1)
    assert task.text_pairs("train", 30, seed=1) != task.text_pairs("train", 30, seed=2)


def test_answers_with_fixed_text_are_the_described_ones() -> None:
    for name in ("closing_quote", "list_nesting", "dict_list", "for_while", "ternary_if", "equality", "file_mode"):
        task = TASKS[name]
        for pair in task.text_pairs("train", 20):
            assert (pair.answer_a, pair.answer_b) == task.answers


def test_every_task_has_the_same_answer_set_in_training_and_held_out_pairs(tokenizer: PreTrainedTokenizerFast) -> None:
    for name in NAMED - {"while_true"}:
        for side in ("answer_a", "answer_b"):
            train = torch.unique(getattr(tokenise_pairs(TASKS[name], tokenizer, 100, "train"), side))
            held_out = torch.unique(getattr(tokenise_pairs(TASKS[name], tokenizer, 100, "held_out"), side))
            assert torch.equal(train, held_out)


def test_an_unknown_task_is_refused_with_the_nearest_names() -> None:
    assert find_task("set_add") is TASKS["set_add"]
    with pytest.raises(TaskError, match="closing_quote"):
        find_task("closing_quotes")


def test_a_task_that_runs_out_of_pairs_says_how_many_there_are() -> None:
    with pytest.raises(TaskError, match="distinct train pairs exist"):
        TASKS["closing_quote"].__class__("tiny", "", ("a", "b"), {}, lambda split, seed: iter(())).text_pairs(
            "train", 3
        )


def test_the_document_of_the_tasks_is_current() -> None:
    document = (ROOT / "docs" / "tasks.md").read_text(encoding="utf-8")
    assert document.startswith(tasks_document())
    for folder in ("dense", "bridge/sparse", "counterpart"):
        assert _fingerprint(ROOT / "cli" / "bundled" / folder) in document


def _fingerprint(folder: Path) -> str:
    sparse = (
        json.loads((folder / "config.json").read_text("utf-8"))["model_type"]
        == SparseTransformer.config_class.model_type
    )
    return model_fingerprint((SparseTransformer if sparse else AutoModelForCausalLM).from_pretrained(folder))

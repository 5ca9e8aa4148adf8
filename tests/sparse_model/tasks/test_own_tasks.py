"""Tasks of one's own: how a file's lines are dealt out, few of them too, and how a circuit keeps its task."""

import json
from collections import Counter
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from sparse_model.tasks.jsonl import deal
from sparse_model.tasks.registry import TASKS, find_task, keep_task, kept_task
from sparse_model.tasks.splits import FEWEST, shortfall, task_splits
from sparse_model.tasks.task import TaskError


def write(path: Path, pairs: int, answers: tuple[str, str] = ("'", '"')) -> Path:
    """A file of closing quotes that differ in a number."""
    rows = [
        {"prompt_a": f"x = 'a{n}", "answer_a": answers[0], "prompt_b": f'x = "a{n}', "answer_b": answers[1]}
        for n in range(pairs)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.mark.parametrize(
    ("lines", "train", "others"),
    [
        (3, 1, 1),
        (4, 2, 1),
        (60, 30, 15),
        (100, 50, 25),
        (300, 172, 64),
        (639, 511, 64),
        (640, 512, 64),
        (1000, 800, 100),
    ],
)
def test_lines_are_dealt_by_how_many_there_are(lines: int, train: int, others: int) -> None:
    assert Counter(deal(lines)) == {"train": train, "validation": others, "held_out": others}


def test_many_lines_are_dealt_as_ever_and_few_evenly() -> None:
    assert deal(640)[:10] == [*["train"] * 8, "validation", "held_out"]
    assert deal(8) == ["train", "train", "validation", "held_out"] * 2
    assert deal(2) == ["train", "train"]
    assert deal(0) == []


def test_a_file_of_sixty_pairs_serves_every_use_and_says_what_it_is_short_of(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    task = find_task(str(write(tmp_path / "quotes.jsonl", 60)))
    splits = task_splits(task, tokenizer, 256, 64)
    assert splits.sizes() == {"train": 30, "validation": 15, "held_out": 15}
    prompts = [{text.prompt_a for text in part.texts} for part in (splits.train, splits.validation, splits.held_out)]
    assert not prompts[0] & prompts[1] | prompts[0] & prompts[2] | prompts[1] & prompts[2]
    assert "30 train pairs instead of 256" in shortfall(splits, 256, 64)
    assert shortfall(splits, 30, 15) == ""


def test_too_few_pairs_are_refused_once_for_all_splits(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    task = find_task(str(write(tmp_path / "quotes.jsonl", 8)))
    with pytest.raises(TaskError, match=r"2 of 64 validation pairs exist; 2 of 64 held_out .* at least 16 lines"):
        task_splits(task, tokenizer, 256, 64)
    task_splits(find_task(str(write(tmp_path / "enough.jsonl", 4 * FEWEST))), tokenizer, 256, 64)


def test_a_built_in_task_is_never_cut_short(tokenizer: PreTrainedTokenizerFast) -> None:
    endless = TASKS["closing_quote"]
    assert task_splits(endless, tokenizer, 20, 10).sizes() == {"train": 20, "validation": 10, "held_out": 10}
    assert not endless.is_finite


def test_a_circuit_keeps_the_file_of_its_task(tmp_path: Path) -> None:
    circuit = tmp_path / "circuit"
    circuit.mkdir()
    keep_task("closing_quote", circuit)
    assert list(circuit.iterdir()) == []
    assert kept_task(circuit, "closing_quote") == "closing_quote"
    source = write(tmp_path / "quotes.jsonl", 60)
    keep_task(str(source), circuit)
    source.unlink()
    kept = find_task(kept_task(circuit, "quotes"))
    assert kept.name == "quotes"
    assert len(kept.text_pairs("train", 30)) == 30

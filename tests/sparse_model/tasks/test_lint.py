"""What `task lint` says about a file of pairs."""

import json
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from sparse_model.tasks.jsonl import load_task
from sparse_model.tasks.lint import SHOWN, lint_task


def write(path: Path, answers: list[str]) -> Path:
    """Pairs of closing quotes with these a answers."""
    rows = [
        {"prompt_a": f"x = 'a{n}", "answer_a": answer, "prompt_b": f'x = "a{n}', "answer_b": '"'}
        for n, answer in enumerate(answers)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_every_pair_that_does_not_fit_is_shown_with_its_reason_and_counts(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    task = load_task(write(tmp_path / "q.jsonl", ["'"] * 19 + ["' + 1 + 2"]))
    found = lint_task(task, tokenizer)
    assert found.pairs == {"train": 10, "validation": 5, "held_out": 5}
    assert sum(found.fitting.values()) == 19
    (line,) = found.misfits
    assert "answers are not single tokens" in line
    assert '"\' + 1 + 2"' in line
    assert found.is_enough
    assert found.to_json()["is_enough"] is True


def test_a_file_in_which_too_few_fit_is_not_enough_and_not_all_of_it_is_printed(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    found = lint_task(load_task(write(tmp_path / "q.jsonl", ["' + 1 + 2"] * 60)), tokenizer)
    assert not found.is_enough
    assert len(found.misfits) == SHOWN + 1
    assert found.misfits[-1] == f"and {60 - SHOWN} more"

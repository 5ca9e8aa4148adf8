"""The file of the judge's trials: what a kill or a full disk cut off is judged again, and breaks nothing after it."""

import json
from pathlib import Path

import pytest

from bridges.jobs.trials import Trials, read_trials, run_trials
from bridges.pairing import Pairing
from foundation.errors import UserError

WHOLE = [{"task": task, "kind": "other_task", "seed": 0, "word": "fails"} for task in "ab"]


def test_a_line_that_was_cut_off_is_dropped_so_that_the_next_does_not_continue_it(tmp_path: Path) -> None:
    out = tmp_path / "trials.jsonl"
    lines = [json.dumps(trial) for trial in WHOLE]
    nobody = object.__new__(Pairing)  # no circuit is judged here
    for text, kept in (("\n".join(lines), WHOLE), (lines[0] + "\n" + lines[1][:-9], WHOLE[:1]), (lines[0][:9], [])):
        out.write_text(text)
        assert run_trials((), nobody, Trials(), out) == kept
        with out.open("a") as file:
            file.write(json.dumps({**WHOLE[1], "seed": 7}) + "\n")
        assert list(read_trials(out).values()) == [*kept, {**WHOLE[1], "seed": 7}]


def test_a_file_of_something_else_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    out = tmp_path / "notes.txt"
    out.write_text("mine\nand more")
    with pytest.raises(UserError, match="line 1 is no verdict"):
        run_trials((), object.__new__(Pairing), Trials(), out)
    assert out.read_text() == "mine\nand more"

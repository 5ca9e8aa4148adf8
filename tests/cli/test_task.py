"""`sparsebridge task`."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from sparse_model.tasks import TASKS
from sparse_model.tasks.jsonl import load_task


def test_list_names_every_task_with_its_rule(cli: Callable) -> None:
    found = cli("task", "list", "--json").json["tasks"]
    assert {name: task["description"] for name, task in found.items()} == {
        t.name: t.description for t in TASKS.values()
    }
    assert all(name in cli("task", "list").out for name in TASKS)


def test_show_prints_pairs_of_the_split_and_seed_asked_for(cli: Callable) -> None:
    found = cli("task", "show", "closing_quote", "--pairs", "2", "--split", "held_out", "--seed", "3", "--json").json
    expected = TASKS["closing_quote"].text_pairs("held_out", 2, 3)
    assert [pair["prompt_a"] for pair in found["pairs"]] == [pair.prompt_a for pair in expected]
    text = cli("task", "show", "closing_quote", "--pairs", "1").out
    assert TASKS["closing_quote"].text_pairs("train", 1)[0].prompt_b in text


def test_an_unknown_task_is_refused_with_the_nearest(cli: Callable) -> None:
    ran = cli("task", "show", "closing_quot")
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "closing_quote" in ran.err


@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_check_measures_a_dense_or_a_sparse_model_on_pairs_of_ones_own(
    kind: str, cli: Callable, gpt2_folder: Path, sparse_folder: Path, tmp_path: Path
) -> None:
    pairs = [
        {"prompt_a": f"{letter}(", "answer_a": "1", "prompt_b": f"{letter}[", "answer_b": "2"}
        for letter in "abcdefghijkl"
    ]
    own = tmp_path / "own.jsonl"
    own.write_text("".join(json.dumps({**pair, "split": "held_out"}) + "\n" for pair in pairs))
    model = gpt2_folder if kind == "dense" else sparse_folder
    found = cli("task", "check", model, "--task", own, "--pairs", "12", "--json").json["tasks"]
    (figures,) = found.values()
    assert figures["pairs"] == 12
    assert 0 <= figures["accuracy"]["low"] <= figures["accuracy"]["value"] <= figures["accuracy"]["high"] <= 1
    assert figures["full_loss"]["value"] > figures["task_loss"]["value"] > 0
    said = cli("task", "check", model, "--task", own, "--pairs", "12").err
    assert said.count("\n") == 1
    following = f"circuit prune {model} --task" if kind == "sparse" else f"bridge train {model} --corpus CORPUS"
    assert f"next: sparsebridge {following}" in said


def test_a_task_whose_answers_are_not_single_tokens_is_refused(
    cli: Callable, gpt2_folder: Path, tmp_path: Path
) -> None:
    own = tmp_path / "own.jsonl"
    line = {"prompt_a": "a(", "answer_a": "zzzqqq", "prompt_b": "b(", "answer_b": "kkkjjj", "split": "held_out"}
    own.write_text(json.dumps(line) + "\n")
    ran = cli("task", "check", gpt2_folder, "--task", own, "--pairs", "2")
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "single token" in ran.err


def test_check_says_in_its_table_why_candidates_were_dropped(
    cli: Callable, sparse_folder: Path, tmp_path: Path
) -> None:
    fitting = [
        {"prompt_a": f"{letter}(", "answer_a": "1", "prompt_b": f"{letter}[", "answer_b": "2"} for letter in "abcdef"
    ]
    misfits = [{**pair, "prompt_a": "x" + pair["prompt_a"], "answer_a": "zqzq"} for pair in fitting[:3]]
    own = tmp_path / "own.jsonl"
    own.write_text("".join(json.dumps({**pair, "split": "held_out"}) + "\n" for pair in fitting + misfits))
    command = ("task", "check", sparse_folder, "--task", own, "--pairs", "6", "--seed", "1")
    dropped = cli(*command, "--json").json["tasks"]["own"]["dropped"]
    assert set(dropped) == {"answers are not single tokens"}
    shown = " ".join(cli(*command).out.split())
    assert f"{sum(dropped.values())} (answers are not single tokens:" in shown


def test_a_new_file_is_a_task_that_lints_once_it_has_pairs_enough(
    cli: Callable, gpt2_folder: Path, tmp_path: Path
) -> None:
    file = tmp_path / "own.jsonl"
    ran = cli("task", "new", file)
    assert ran.code == 0
    assert "next: sparsebridge task lint" in ran.err
    assert len(load_task(file).text_pairs("train", 1)) == 1
    assert cli("task", "new", file).code == 2
    assert "end its name so" in cli("task", "new", tmp_path / "own.txt").err
    ran = cli("task", "lint", file, "--model", gpt2_folder)
    assert ran.code == 1
    assert "answers are not single tokens" in ran.out
    rows = [{"prompt_a": f"x = 'a{n}", "answer_a": "'", "prompt_b": f'x = "a{n}', "answer_b": '"'} for n in range(20)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    ran = cli("task", "lint", file, "--model", gpt2_folder)
    assert ran.code == 0
    assert "next: sparsebridge explain" in ran.err
    assert cli("task", "lint", file, "--model", gpt2_folder, "--json").json["is_enough"] is True

"""`sparsebridge explain`: sizes follow the data, the settings are claimed, and what cannot be explained is refused with advice.

The whole path, from data to report, is `examples/newcomer.py`, which CI runs.
"""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState

from bridges.jobs.sizes import WholeJob, choose_sizes
from bridges.jobs.whole_job import _claim, explain_model
from dense_adapters import DenseStack
from foundation.errors import UserError
from sparse_model.corpus.corpus_config import FolderConfig, TinyPythonConfig
from sparse_model.tasks import find_task
from sparse_model.tasks.splits import Splits, task_splits


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Sixty pairs of closing quotes."""
    rows = [{"prompt_a": f"x = 'a{n}", "answer_a": "'", "prompt_b": f'x = "a{n}', "answer_b": '"'} for n in range(60)]
    path = tmp_path / "quotes.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def splits(pairs: Path, tokenizer: object) -> Splits:
    """These pairs in the tiny tokenizer's tokens."""
    return task_splits(find_task(str(pairs)), tokenizer, 256, 64)


@pytest.fixture
def stack(tiny_gpt2: Callable) -> DenseStack:
    """A random dense model that reads 64 tokens."""
    return DenseStack(tiny_gpt2(vocab_size=300, n_positions=64))


def test_sizes_follow_the_text_the_task_and_the_model(
    tmp_path: Path, pairs: Path, splits: Splits, stack: DenseStack
) -> None:
    (tmp_path / "texts").mkdir()
    for number in range(40):
        (tmp_path / "texts" / f"{number}.txt").write_text("word " * 2000)
    few = FolderConfig(kind="folder", path=str(tmp_path / "texts"))
    small = choose_sizes("dense", stack, str(pairs), splits, (few,), pairs)
    large = choose_sizes("dense", stack, str(pairs), splits, (few, TinyPythonConfig(kind="tinypython")), None)
    assert small.corpus.train_tokens < large.corpus.train_tokens
    assert small.train.steps <= large.train.steps
    assert [source.kind for source in small.corpus.sources] == ["folder", "jsonl"]
    assert sum(source.weight for source in small.corpus.sources) == pytest.approx(1)
    assert [source.kind for source in large.corpus.sources] == ["folder", "tinypython"]
    assert small.corpus.block_length <= 64
    assert small.prune.pairs == 30
    assert small.pairs == {"train": 30, "validation": 15, "held_out": 15}
    assert choose_sizes("dense", stack, str(pairs), splits, (few,), pairs, steps=7).train.steps == 7


def test_prompts_longer_than_the_model_reads_are_refused(
    pairs: Path, splits: Splits, stack: DenseStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stack.model.config, "n_positions", 4)  # what GPT-2 calls it
    with pytest.raises(UserError, match="reads 4; shorten the prompts"):
        choose_sizes("dense", stack, str(pairs), splits, (), None)


def test_a_folder_belongs_to_one_job(tmp_path: Path, pairs: Path, splits: Splits, stack: DenseStack) -> None:
    job = choose_sizes("dense", stack, str(pairs), splits, (TinyPythonConfig(kind="tinypython"),), None)
    _claim(tmp_path / "out", job)
    _claim(tmp_path / "out", job)
    with pytest.raises(UserError, match=r"other settings \(draws\); choose another --out"):
        _claim(tmp_path / "out", job.model_copy(update={"draws": 3}))
    with pytest.raises(UserError, match="holds no such job"):
        _claim(tmp_path, job)


def test_a_model_that_does_not_do_the_task_is_refused_before_anything_is_built(
    cli: Callable, gpt2_folder: Path, pairs: Path, tmp_path: Path
) -> None:
    ran = cli("explain", gpt2_folder, "--task", pairs, "--source", "tinypython", "--out", tmp_path / "out")
    assert ran.code == 2
    assert "there is nothing to explain; choose a task it does" in ran.err
    assert not (tmp_path / "out").exists()


def test_the_whole_job_ends_in_a_report_and_what_is_done_is_not_done_again(
    gpt2_folder: Path, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On random models, with every demand on their ability taken away and few steps of everything."""

    def few_steps(*arguments: object) -> WholeJob:
        job = choose_sizes(*arguments)
        quick = {"target_loss": 9.0, "steps": 4, "edge_steps": 0, "elimination_rounds": 0, "k_coef": 0.0}
        corpus = job.corpus.model_copy(update={"train_tokens": 4000, "evaluation_tokens": 400, "block_length": 16})
        shape = job.sparse.model_copy(update={"d_model": 24, "n_head": 3, "d_head": 4, "d_mlp": 32})
        sizes = {"corpus": corpus, "sparse": shape, "prune": job.prune.model_copy(update=quick), "text_blocks": 4}
        return job.model_copy(update=sizes)

    monkeypatch.setattr("bridges.jobs.whole_job.LEAST_ACCURACY", 0.0)
    monkeypatch.setattr("bridges.jobs.whole_job.choose_sizes", few_steps)
    out, said = tmp_path / "out", []
    source = TinyPythonConfig(kind="tinypython")
    AcceleratorState._reset_state(reset_partial_state=True)
    report = explain_model(str(gpt2_folder), str(pairs), out, (source,), steps=2, draws=99, say=said.append)
    assert set(report["tasks"]) == {"quotes"}
    assert report["verdict"] == report["tasks"]["quotes"]["verdict"]
    assert "<html" in (out / "report" / "report.html").read_text("utf-8")
    assert (out / "circuit" / "quotes.jsonl").is_file()
    assert any("30 train pairs instead of 256" in line for line in said)
    written = {
        path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file() and path.name != "own_text.jsonl"
    }
    again = explain_model(str(gpt2_folder), str(pairs), out, (source,), steps=2, draws=99)
    assert again == report
    assert {path: path.stat().st_mtime_ns for path in written} == written

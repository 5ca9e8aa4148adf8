"""`sparsebridge circuit compare`: a comparison on tiny models, taken up again, and refused where it would mislead."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
from accelerate.state import AcceleratorState

from cli.circuit_compare import BUNDLED
from cli.main import run
from foundation.fingerprints import model_fingerprint
from sparse_model.transformer.model import SparseTransformer
from tests.small_disk import full, mounted

from .conftest import TINY

TASK = "own"
QUICK = [
    *("--targets", "5.0", "--at", "5.0", "--k-coefs", "0.003", "--steps", "2", "--edge-steps", "2", "--blocks", "2"),
    *("--batch-pairs", "2", "--pairs", "4", "--evaluate-pairs", "2", "--elimination-rounds", "2"),
]


@pytest.fixture(scope="module")
def dense_folder(tmp_path_factory: pytest.TempPathFactory, corpus_folder: Path) -> Path:
    """A dense model of a few steps in the tokens of `sparse_folder`."""
    out = tmp_path_factory.mktemp("dense") / "model"
    AcceleratorState._reset_state(reset_partial_state=True)
    shape = [*TINY, "--density", "1.0"]
    assert run(["sparse", "train", "--corpus", str(corpus_folder), "--out", str(out), *shape]) == 0
    return out


@pytest.fixture(scope="module")
def own_task(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs that fit any tokenizer of single characters and more."""
    path = tmp_path_factory.mktemp("task") / f"{TASK}.jsonl"
    lines = [
        {"prompt_a": f"{letter}(", "answer_a": "1", "prompt_b": f"{letter}[", "answer_b": "2", "split": split}
        for letters, split in (("abcd", "train"), ("efgh", "validation"), ("ijkl", "held_out"))
        for letter in letters
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def test_a_comparison_counts_edges_draws_them_and_does_not_repeat_what_is_done(
    cli: Callable, sparse_folder: Path, dense_folder: Path, own_task: Path, tmp_path: Path
) -> None:
    out = tmp_path / "compare"
    command = ("circuit", "compare", "--sparse", sparse_folder, "--dense", dense_folder, "--out", out, *QUICK)
    report = cli(*command, "--task", own_task, "--json").json
    (row,) = report["rows"]
    found = row["tasks"][TASK]
    assert row["ratio"]["value"] == pytest.approx(max(1, found["dense"]["edges"]) / max(1, found["sparse"]["edges"]))
    assert report["models"]["dense"]["density"] == 1 > report["models"]["sparse"]["density"]
    assert json.loads((out / "comparison.json").read_text()) == report
    ElementTree.parse(out / "comparison.svg")
    done = out / f"sparse.{TASK}.0.003.json"
    kept = json.loads(done.read_text())
    done.write_text(json.dumps([{**point, "edges": 12345} for point in kept]))
    again = cli(*command, "--task", own_task)
    assert "12345" in again.out
    assert f"next: sparsebridge circuit prune {sparse_folder} --task {own_task} --out circuit\n" in again.err
    assert "k_coef" not in again.err
    ran = cli(*command, "--task", own_task, "--seed", "1")
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "other models or settings" in ran.err


def test_a_full_disk_breaks_no_rerun_and_keeps_the_old_comparison_whole(
    cli: Callable, sparse_folder: Path, dense_folder: Path, own_task: Path, tmp_path: Path
) -> None:
    with mounted(tmp_path / "small", "2m") as disk:
        out = disk / "compare"
        command = ("circuit", "compare", "--sparse", sparse_folder, "--dense", dense_folder, "--out", out, *QUICK)
        command = (*command, "--task", own_task)
        with full(disk):
            ran = cli(*command)
            assert (ran.code, ran.err.count("\n")) == (2, 1), ran.err
            assert "No space left" in ran.err
            assert not list(disk.rglob("*.json"))
        assert cli(*command).code == 0
        old = {path.name: path.read_bytes() for path in out.iterdir()}
        assert {"comparison.json", "comparison.svg", "comparison.png", "identity.json"} <= set(old)
        with full(disk):
            ran = cli(*command)
            assert (ran.code, ran.err.count("\n")) == (2, 1), ran.err
            assert "No space left" in ran.err
            assert {path.name: path.read_bytes() for path in out.iterdir()} == old
        assert cli(*command).code == 0
        assert {path.name for path in out.iterdir()} == set(old)


def test_models_of_different_tokens_and_targets_out_of_reach_are_refused(
    cli: Callable, sparse_folder: Path, dense_folder: Path, own_task: Path, tmp_path: Path
) -> None:
    ran = cli("circuit", "compare", "--sparse", sparse_folder, "--out", tmp_path / "x")
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "tokenizer" in ran.err
    impossible = ("--targets", "1e-9", "--at", "1e-9", *QUICK[4:])
    folders = ("--sparse", sparse_folder, "--dense", dense_folder, "--out", tmp_path / "y", "--task", own_task)
    ran = cli("circuit", "compare", *folders, *impossible)
    assert ran.code == 2
    assert "no task reaches" in ran.err


def test_the_recipe_of_the_bundled_counterpart_is_what_it_was_trained_with() -> None:
    recipe = json.loads((BUNDLED / "counterpart.json").read_text())
    made = json.loads((BUNDLED / "counterpart" / "training.json").read_text())
    assert recipe["train"].items() <= made["config"].items()
    shape = {key: value for key, value in recipe["sparse"].items() if key != "leak"}  # older than that switch
    assert shape.items() <= made["shape"].items()
    assert made["config"]["density"] == 1
    assert model_fingerprint(SparseTransformer.from_pretrained(BUNDLED / "counterpart"))


def test_show_draws_a_page_and_a_picture_and_refuses_other_files(
    cli: Callable, bundled_circuit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bridge = BUNDLED / "bridge"
    shown = ("circuit", "show", bundled_circuit, "--model", bridge, "--out")
    ran = cli(*shown, tmp_path / "c.png")
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert ".html or .svg" in ran.err
    monkeypatch.setattr("cli.circuit_show.MOST_NODES", 10)
    ran = cli(*shown, tmp_path / "c.html")
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "do not fit a board" in ran.err
    monkeypatch.undo()
    small = tmp_path / "small"
    shutil.copytree(bundled_circuit, small)
    _shrink(small)
    sizes = ("--pairs", "2", "--blocks", "2")
    assert "drawn into" in cli("circuit", "show", small, "--model", bridge, "--out", tmp_path / "c.html", *sizes).err
    assert "<svg" in (tmp_path / "c.html").read_text()
    assert cli("circuit", "show", small, "--model", bridge, "--out", tmp_path / "c.svg", *sizes).code == 0
    ElementTree.parse(tmp_path / "c.svg")
    ran = cli("circuit", "show", small, "--model", bridge, "--out", tmp_path / "c.svg", *sizes)
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "--overwrite" in ran.err


def _shrink(folder: Path) -> None:
    """Keep three nodes of every location."""
    from dataclasses import replace

    from sparse_model.circuits.circuit import Circuit

    circuit = Circuit.load(folder)
    keep = {name: mask & (mask.cumsum(0) <= 3) for name, mask in circuit.keep.items()}
    replace(circuit, keep=keep, edges=None).save(folder, overwrite=True)

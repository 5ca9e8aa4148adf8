"""`sparsebridge sparse`, end to end on a model of a few steps."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sparse_model import SparseTransformer
from sparse_model.corpus.corpus import Corpus

PUBLISHED = Path(__file__).parents[1] / "sparse_model" / "transformer" / "published" / "posemb"
SHORT = ["--steps", "2", "--batch-size", "4", "--sparse-d-model", "16", "--sparse-n-head", "1"]


def test_a_trained_model_is_an_ordinary_folder_with_its_tokenizer(sparse_folder: Path, corpus_folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(sparse_folder)
    assert isinstance(model, SparseTransformer)
    assert (model.config.d_model, model.config.d_mlp, model.config.position) == (24, 32, "added")
    assert AutoTokenizer.from_pretrained(sparse_folder).get_vocab() == Corpus.load(corpus_folder).tokenizer.get_vocab()
    assert not sparse_folder.with_name("model.run").exists()


def test_a_model_that_keeps_documents_apart_is_exported_only_where_asked_and_with_a_line_that_says_what_changes(
    cli: Callable, sparse_folder: Path, tmp_path: Path
) -> None:
    ran = cli("sparse", "export", sparse_folder, "--out", tmp_path / "out")
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "--leak" in ran.err
    ran = cli("sparse", "export", sparse_folder, "--out", tmp_path / "out", "--leak", "--json")
    assert ran.json["leak"] is True
    assert "change after a second token 0" in ran.err
    model = SparseTransformer.from_pretrained(sparse_folder)
    state = torch.load(tmp_path / "out" / "final_model.pt", weights_only=True)
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())


def test_documents_are_kept_apart_unless_asked(
    cli: Callable, sparse_folder: Path, corpus_folder: Path, tmp_path: Path
) -> None:
    start = Corpus.load(corpus_folder).tokenizer.bos_token_id
    assert SparseTransformer.from_pretrained(sparse_folder).config.document_token == start
    cli("sparse", "train", "--corpus", corpus_folder, *SHORT, "--sparse-leak", "--out", tmp_path / "leaking")
    assert SparseTransformer.from_pretrained(tmp_path / "leaking").config.document_token is None


def test_evaluate_reports_the_cross_entropy_of_held_out_text(
    cli: Callable, sparse_folder: Path, corpus_folder: Path
) -> None:
    found = cli("sparse", "evaluate", sparse_folder, "--corpus", corpus_folder, "--blocks", "12", "--json").json
    tokens = torch.from_numpy(Corpus.load(corpus_folder).held_out["tinypython"][:12].astype(np.int64))
    with torch.no_grad():
        expected = SparseTransformer.from_pretrained(sparse_folder)(tokens, labels=tokens).loss.item()
    assert found["cross_entropy"]["tinypython"]["value"] == pytest.approx(expected, rel=1e-4)
    assert found["density"] == pytest.approx(0.3, abs=0.1)
    ran = cli("sparse", "evaluate", sparse_folder, "--corpus", corpus_folder)
    assert "tinypython" in ran.out
    assert ran.err == f"next: sparsebridge task check {sparse_folder}\n"


def test_inspect_counts_the_nonzeros(cli: Callable, sparse_folder: Path) -> None:
    found = cli("sparse", "inspect", sparse_folder, "--json").json
    state = dict(SparseTransformer.from_pretrained(sparse_folder).named_parameters())
    assert {t["name"]: t["nonzero"] for t in found["tensors"]} == {n: int(p.count_nonzero()) for n, p in state.items()}
    assert found["parameters"] == sum(p.numel() for p in state.values())
    assert "dead parts" in cli("sparse", "inspect", sparse_folder).out


def test_inspect_says_how_each_linear_map_runs(cli: Callable, sparse_folder: Path) -> None:
    found = cli("sparse", "inspect", sparse_folder, "--json").json["execution"]
    assert found["lm_head.weight"]["kind"] == "dense"
    assert "entries, below" in found["lm_head.weight"]["reason"]
    assert "dense (" in cli("sparse", "inspect", sparse_folder).out


def test_import_then_export_gives_the_published_weights_back(cli: Callable, tmp_path: Path) -> None:
    imported = cli("sparse", "import", PUBLISHED, "--out", tmp_path / "ours")
    assert f"next: sparsebridge sparse inspect {tmp_path / 'ours'}\n" in imported.err
    assert cli("sparse", "inspect", tmp_path / "ours").code == 0
    exported = cli("sparse", "export", tmp_path / "ours", "--out", tmp_path / "theirs")
    assert f"next: sparsebridge sparse import {tmp_path / 'theirs'} --out" in exported.err
    before, after = (
        torch.load(folder / "final_model.pt", weights_only=True) for folder in (PUBLISHED, tmp_path / "theirs")
    )
    assert set(before) == set(after)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_import_describes_the_model_as_plain_json(cli: Callable, tmp_path: Path) -> None:
    ran = cli("sparse", "import", PUBLISHED, "--out", tmp_path / "ours", "--json")
    assert ran.json["config"]["d_position"] == 16
    assert "next:" not in ran.err


def test_a_config_file_gives_the_same_run_as_options(cli: Callable, corpus_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_text("[train]\nsteps = 2\nbatch_size = 4\n[sparse]\nd_model = 16\nn_head = 1\n")
    cli("sparse", "train", "--corpus", corpus_folder, "--config", tmp_path / "c.toml", "--out", tmp_path / "a")
    cli("sparse", "train", "--corpus", corpus_folder, *SHORT, "--out", tmp_path / "b")
    read = [(tmp_path / name / "model.safetensors").read_bytes() for name in "ab"]
    assert read[0] == read[1]
    saved = json.loads((tmp_path / "a" / "training.json").read_text())
    assert (saved["config"]["steps"], saved["shape"]["d_model"]) == (2, 16)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[train]\nstep = 2\n", "unknown key 'step'; did you mean 'steps'"),
        ("[sparse]\nd_modell = 2\n", "did you mean 'd_model'"),
    ],
)
def test_a_misspelt_key_names_the_nearest_and_writes_nothing(
    text: str, message: str, cli: Callable, corpus_folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "c.toml").write_text(text)
    ran = cli("sparse", "train", "--corpus", corpus_folder, "--config", tmp_path / "c.toml", "--out", tmp_path / "out")
    assert ran.code == 2
    assert message in ran.err
    assert [path.name for path in tmp_path.iterdir()] == ["c.toml"]


def test_missing_paths_are_refused_in_one_line(
    cli: Callable, sparse_folder: Path, corpus_folder: Path, tmp_path: Path
) -> None:
    missing = tmp_path / "missing"
    for line in (
        ["train", "--corpus", missing, "--out", tmp_path / "out"],
        ["evaluate", missing, "--corpus", corpus_folder],
        ["evaluate", sparse_folder, "--corpus", missing],
        ["import", missing, "--out", tmp_path / "out"],
        ["export", missing, "--out", tmp_path / "out"],
        ["inspect", missing],
    ):
        ran = cli("sparse", *line)
        assert (ran.code, ran.err.count("\n")) == (2, 1), line
        assert str(missing) in ran.err
        assert not list(tmp_path.iterdir())


def test_another_kind_of_model_is_refused(cli: Callable, gpt2_folder: Path) -> None:
    ran = cli("sparse", "inspect", gpt2_folder)
    assert ran.code == 2
    assert "holds a gpt2 model, not a sparse one" in ran.err


def test_truncated_weights_are_refused(cli: Callable, sparse_folder: Path, tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((sparse_folder / name).read_bytes()[: None if name == "config.json" else 200])
    ran = cli("sparse", "inspect", tmp_path)
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "truncated" in ran.err


def test_a_corpus_of_another_tokenizer_is_refused(cli: Callable, sparse_folder: Path, tmp_path: Path) -> None:
    small = [
        "--train-tokens",
        "2000",
        "--evaluation-tokens",
        "300",
        "--vocab-size",
        "270",
        "--tokenizer-characters",
        "3000",
    ]
    cli("corpus", "build", "--source", "tinypython", *small, "--block-length", "16", "--out", tmp_path / "other")
    ran = cli("sparse", "evaluate", sparse_folder, "--corpus", tmp_path / "other")
    assert ran.code == 2
    assert "another tokenizer" in ran.err


def test_an_existing_output_is_kept_unless_overwritten(cli: Callable, corpus_folder: Path, tmp_path: Path) -> None:
    cli("sparse", "import", PUBLISHED, "--out", tmp_path / "model")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("")
    for line in (
        ["train", "--corpus", corpus_folder, *SHORT],
        ["export", tmp_path / "model"],
        ["import", PUBLISHED],
    ):
        ran = cli("sparse", *line, "--out", tmp_path / "out")
        assert ran.code == 2
        assert "already exists" in ran.err
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]
    assert {path.name for path in tmp_path.iterdir()} == {"out", "model"}
    ran = cli("sparse", "import", PUBLISHED, "--out", tmp_path / "out", "--overwrite")
    assert ran.code == 2
    assert (tmp_path / "out" / "mine").exists(), "what is no artefact is not replaced"
    (tmp_path / "model" / "mine").write_text("")
    assert cli("sparse", "import", PUBLISHED, "--out", tmp_path / "model", "--overwrite").code == 0
    assert not (tmp_path / "model" / "mine").exists()


@pytest.mark.slow
def test_two_processes_write_the_artefact_of_one(cli: Callable, corpus_folder: Path, tmp_path: Path) -> None:
    line = [
        "sparse",
        "train",
        "--corpus",
        str(corpus_folder),
        *SHORT,
        "--steps",
        "6",
        "--density",
        "0.5",
        "--eps",
        "0.01",
    ]
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--multi_gpu",
        "--num_processes",
        "2",
        "--num_machines",
        "1",
    ]
    launch += ["--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0", "-m", "cli.main"]
    line_two = [*launch, *line, "--out", str(tmp_path / "two")]
    on_cpu = {**os.environ, "ACCELERATE_USE_CPU": "true"}
    two = subprocess.run(line_two, capture_output=True, text=True, check=False, env=on_cpu)
    assert two.returncode == 0, two.stderr[-3000:]
    assert cli(*line, "--out", tmp_path / "one").code == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "two"]
    for name, processes in (("one", 1), ("two", 2)):
        assert json.loads((tmp_path / name / "training.json").read_text())["processes"] == processes
    one, both = (SparseTransformer.from_pretrained(tmp_path / name).state_dict() for name in ("one", "two"))
    for name, value in one.items():
        torch.testing.assert_close(both[name], value, atol=1e-5, rtol=0, msg=name)

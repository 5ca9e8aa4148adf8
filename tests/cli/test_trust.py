"""Code that a model brings along runs where a command is told so, and by no other command or option."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
import typer.main

import sparsebridge as sb
from bridges.edits.readout import Readout
from bridges.edits.rules import Scale
from bridges.edits.standing import StandingEdit, StandingSite
from bridges.edits.standing_artefact import save_standing
from cli.demo import BUNDLED
from cli.main import COMMANDS

BRIDGE = BUNDLED / "bridge"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model whose code leaves a mark and then holds nothing."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    auto_map = {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model", "AutoTokenizer": "code.Words"}
    (folder / "config.json").write_text(json.dumps({"model_type": "own", "auto_map": auto_map}))
    words = {"tokenizer_class": "Words", "auto_map": {"AutoTokenizer": ["code.Words", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(words))
    return folder


COMMANDS_WITH_A_MODEL = (
    "dense check MODEL",
    "bridge train MODEL --corpus CORPUS --out OUT",
    f"bridge evaluate {BRIDGE} --corpus CORPUS --dense MODEL",
    f"bridge extend {BRIDGE} --site 1:1 --dense MODEL --out OUT",
    f"edit map CIRCUIT --bridge {BRIDGE} --dense MODEL --out OUT",
    "edit apply EDIT --dense MODEL --prompt x",
    f"edit validate CIRCUIT --bridge {BRIDGE} --dense MODEL",
    f"edit placebo CIRCUIT --bridge {BRIDGE} --dense MODEL --out OUT",
    "task check MODEL --task closing_quote",
    "task lint PAIRS --model MODEL",
    "explain MODEL --task closing_quote --out OUT",
    "plan --dense MODEL",
    "corpus build --source tinypython --tokenizer MODEL --train-tokens 2000 --out OUT",
)


@pytest.mark.parametrize("line", COMMANDS_WITH_A_MODEL)
def test_custom_code_is_refused_in_one_line_and_runs_only_where_it_is_trusted(
    line: str, cli: Callable, model: Path, corpus_folder: Path, bundled_circuit: Path, tmp_path: Path
) -> None:
    readout = Readout(torch.randn(1, 8), torch.zeros(1))
    sites = (StandingSite(1, ("a",), readout, torch.randn(1, 8), Scale()),)
    save_standing(StandingEdit("t", "c", "0" * 64, sites), tmp_path / "edit")
    (tmp_path / "pairs.jsonl").write_text(
        "".join(
            json.dumps({"prompt_a": f"a{n}", "answer_a": "x", "prompt_b": f"b{n}", "answer_b": "y"}) + "\n"
            for n in range(9)
        )
    )
    places = {
        "MODEL": model, "CORPUS": corpus_folder, "CIRCUIT": bundled_circuit, "EDIT": tmp_path / "edit",
        "PAIRS": tmp_path / "pairs.jsonl", "OUT": tmp_path / "out",
    }  # fmt: skip
    words = [str(places.get(word, word)) for word in line.split()]
    ran = cli(*words)
    assert (ran.code, ran.err.count("\n")) == (2, 1), ran.err
    assert "code" in ran.err
    assert not (tmp_path / "ran").exists()
    assert cli(*words, "--trust-remote-code").code == 2, "the code holds no model"
    assert (tmp_path / "ran").exists()


def test_every_command_that_takes_a_dense_model_can_be_told_to_trust_it() -> None:
    import importlib

    without = {"circuit", "demo", "report", "sweep", "sparse"}  # take sparse models, whose code is the project's own
    for name in COMMANDS:
        command = typer.main.get_command(importlib.import_module(f"cli.{name}").app)
        for leaf in getattr(command, "commands", {"": command}).values():
            options = {option for parameter in leaf.params for option in parameter.opts}
            takes_one = {"--dense", "--tokenizer"} & options or (
                name not in without and {"model", "dense", "--model"} & options
            )
            if takes_one and name not in without:
                assert "--trust-remote-code" in options, f"{name} {leaf.name}"


@pytest.mark.parametrize("loader", ["attach", "load_bridge", "build_corpus"])
def test_a_public_loader_runs_a_models_code_only_where_it_is_trusted(loader: str, model: Path, tmp_path: Path) -> None:
    small = sb.CorpusConfig(train_tokens=2000, evaluation_tokens=200, tokenizer=str(model))
    load = {
        "attach": partial(sb.attach, model),
        "load_bridge": partial(sb.load_bridge, BRIDGE, dense=model),
        "build_corpus": partial(sb.build_corpus, tmp_path / "corpus", config=small),
    }[loader]
    with pytest.raises(sb.UserError, match="code"):
        load()
    assert not (tmp_path / "ran").exists()
    with pytest.raises(sb.UserError):  # the code holds no model
        load(trust_remote_code=True)
    assert (tmp_path / "ran").exists()

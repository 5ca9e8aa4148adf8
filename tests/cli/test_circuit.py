"""`sparsebridge circuit`, on the bundled bridge with few steps."""

import json
import re
import shutil
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.demo import BUNDLED
from foundation.errors import UserError
from sparse_model.circuits.circuit import Circuit
from sparse_model.circuits.prune_config import PruneConfig
from sparse_model.tasks import TASKS
from sparse_model.transformer.nodes import Node

BRIDGE = BUNDLED / "bridge"
SMALL = ("--steps", "12", "--pairs", "16", "--batch-pairs", "4", "--blocks", "4", "--evaluate-pairs", "8")


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_prune_writes_a_circuit_that_reaches_its_target_on_the_deciding_pairs(bundled_circuit: Path) -> None:
    from bridges.artefact import load_bridge
    from sparse_model.circuits.prune import task_loss, worst_loss
    from sparse_model.tasks import find_task
    from sparse_model.tasks.token_pairs import tokenise_pairs

    circuit, artefact = Circuit.load(bundled_circuit), load_bridge(BRIDGE)
    task = find_task("closing_quote")
    train, validation = (
        tokenise_pairs(task, artefact.tokenizer, n, split, 3) for n, split in ((16, "train"), (8, "validation"))
    )
    deciding = (train.select(slice(0, 8)), validation)
    within, calibration = circuit.within(artefact.sparse), circuit.calibration
    losses = [task_loss(within, pairs, circuit.only(), calibration) for pairs in deciding]
    assert max(losses) <= PruneConfig().target_loss + 1e-4
    assert worst_loss(artefact.sparse, deciding, circuit.without()) > worst_loss(artefact.sparse, deciding)
    assert circuit.metrics["evaluation"]["nodes"] == len(circuit.nodes) == circuit.metrics["nodes"]
    assert circuit.settings["steps"] == 12
    assert circuit.pairs == {"seed": 3, "train": 16, "validation": 8, "held_out": 8}


def test_a_target_that_guessing_reaches_is_refused_instead_of_an_empty_circuit(cli: Callable, tmp_path: Path) -> None:
    sizes = ("--pairs", "16", "--evaluate-pairs", "4", "--blocks", "2", "--steps", "2", "--out", tmp_path / "c")
    ran = cli("circuit", "prune", BRIDGE, "--task", "for_while", *sizes, "--target-loss", "0.7")
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "guessing reaches it (0.693)" in ran.err
    assert not (tmp_path / "c").exists()


@pytest.fixture
def sizes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The checks behind the figures that every circuit is written with; the others take most of an evaluation's time."""
    from sparse_model.circuits.evidence import gather

    every = gather.all_checks()
    monkeypatch.setattr(gather, "all_checks", lambda: {name: every[name] for name in ("sufficiency", "necessity")})


@pytest.mark.usefixtures("short_adversary")
def test_evaluate_prints_sufficiency_and_necessity_beside_their_controls(
    cli: Callable, bundled_circuit: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sparse_model.circuits.evidence import gather as evidence

    gathered, gather = [], evidence.gather
    monkeypatch.setattr(evidence, "gather", lambda *arguments: gathered.append(gather(*arguments)) or gathered[0])
    sizes = ("--evaluate-pairs", "4", "--draws", "2", "--quick")
    command = ("circuit", "evaluate", bundled_circuit, "--model", BRIDGE, *sizes)
    found = cli(*command, "--json").json
    assert found["task"] == "closing_quote"
    assert found["calibrated_loss"] < found["random_circuit_loss"]
    assert found["necessity_loss"] > found["full_loss"]
    assert len(found["necessity_random_losses"]) == 2
    assert found["evidence"]["findings"]["sufficiency"]["task_loss"]["value"] == pytest.approx(found["task_loss"])
    assert set(found["evidence"]["missing"]) == {"nonsense", "reversed", "arbitrary", "random_weights", "agreement"}
    assert (found["seed"], found["pairs"]) == (3, {"train": 16, "validation": 4, "held_out": 4})
    monkeypatch.setattr(evidence, "gather", lambda *_: gathered[0])  # the text is of the same figures
    ran = cli(*command)
    text = ran.out
    assert f"next: sparsebridge edit validate {bundled_circuit} --bridge {BRIDGE} --out " in ran.err
    assert f"Grade {found['evidence']['grade']['letter']}" in text
    assert "sufficiency" in text
    assert f"{found['necessity_loss']:.3f}" in text


@pytest.mark.usefixtures("sizes_alone")
def test_evaluate_takes_the_pairs_the_circuit_was_reported_on_unless_told_otherwise(
    cli: Callable, bundled_circuit: Path, tmp_path: Path
) -> None:
    command = ("circuit", "evaluate", bundled_circuit, "--model", BRIDGE, "--draws", "1", "--quick", "--json")
    written = Circuit.load(bundled_circuit).metrics["evaluation"]
    found = cli(*command).json
    assert (found["seed"], found["pairs"]["held_out"]) == (3, 8)
    assert found["task_loss"] == pytest.approx(written["task_loss"], abs=1e-6)
    older = tmp_path / "older"  # says nothing of its pairs
    shutil.copytree(bundled_circuit, older)
    described = json.loads((older / "circuit.json").read_text("utf-8"))
    del described["pairs"]
    (older / "circuit.json").write_text(json.dumps(described), encoding="utf-8")
    found = cli("circuit", "evaluate", older, *command[3:], "--evaluate-pairs", "8").json
    assert found["task_loss"] == pytest.approx(written["task_loss"], abs=1e-6)


@pytest.mark.usefixtures("sizes_alone")
def test_evaluate_names_the_task_it_measured(cli: Callable, bundled_circuit: Path) -> None:
    sizes = ("--evaluate-pairs", "2", "--draws", "1", "--quick", "--task", "swap", "--seed", "4")
    command = ("circuit", "evaluate", bundled_circuit, "--model", BRIDGE, *sizes)
    found = cli(*command, "--json").json
    assert (found["task"], found["circuit_task"], found["seed"]) == ("swap", "closing_quote", 4)
    assert "swap, circuit of closing_quote: " in cli(*command).out


def test_show_lists_every_node_and_only_edges_between_them(cli: Callable, bundled_circuit: Path) -> None:
    ran = cli("circuit", "show", bundled_circuit, "--model", BRIDGE, "--json")
    assert ran.err == ""
    found = ran.json
    nodes = [str(node) for node in Circuit.load(bundled_circuit).nodes]
    assert found["nodes"] == nodes
    assert {edge["source"] for edge in found["edges"]} | {edge["target"] for edge in found["edges"]} <= set(nodes)
    assert all(edge["weight"] != 0 for edge in found["edges"])
    listed = cli("circuit", "show", bundled_circuit, "--model", BRIDGE)
    assert str(Node.parse(nodes[0])) in listed.out
    assert f"next: sparsebridge circuit show {bundled_circuit} --model {BRIDGE} --out " in listed.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("circuit", "prune", "nowhere", "--task", "closing_quote"), "nowhere"),
        (("circuit", "prune", BRIDGE, "--task", "closing_quot"), "closing_quote"),
        (("circuit", "prune", BUNDLED / "dense", "--task", "closing_quote"), "sparse"),
        (("circuit", "prune", BRIDGE, "--task", "closing_quote", "--target-loss", "1e-9", *SMALL), "--target-loss"),
        (("circuit", "prune", BRIDGE, "--task", "closing_quote", "--steps", "0"), "steps"),
        (("circuit", "prune", BRIDGE, "--task", "closing_quote", "--corpus", "nowhere", *SMALL), "nowhere"),
    ],
)
def test_wrong_input_is_one_line_and_leaves_nothing(
    arguments: tuple[str, ...], message: str, cli: Callable, tmp_path: Path
) -> None:
    ran = cli(*arguments, "--out", tmp_path / "made")
    assert (ran.code, ran.err.count("\n"), ran.out) == (2, 1, "")
    assert message in ran.err
    assert files(tmp_path) == []


def test_a_misspelt_key_in_the_config_names_the_nearest(cli: Callable, tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    config.write_text("[prune]\ntarget_los = 0.2\n")
    ran = cli("circuit", "prune", BRIDGE, "--task", "closing_quote", "--out", tmp_path / "made", "--config", config)
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "did you mean 'target_loss'" in ran.err
    assert files(tmp_path) == ["c.toml"]


def test_text_in_another_models_tokens_is_refused(cli: Callable, corpus_folder: Path, tmp_path: Path) -> None:
    arguments = ("--task", "closing_quote", "--out", tmp_path / "made", "--corpus", corpus_folder, *SMALL)
    ran = cli("circuit", "prune", BRIDGE, *arguments)
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "another tokenizer" in ran.err
    assert files(tmp_path) == []


def test_a_file_of_pairs_whose_answers_are_several_tokens_is_refused(cli: Callable, tmp_path: Path) -> None:
    own = tmp_path / "own.jsonl"
    line = {"prompt_a": "a(", "answer_a": "zzzqqq", "prompt_b": "b(", "answer_b": "kkkjjj"}
    own.write_text(json.dumps(line) + "\n")
    ran = cli("circuit", "prune", BRIDGE, "--task", own, "--out", tmp_path / "made", *SMALL)
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "single token" in ran.err
    assert files(tmp_path) == ["own.jsonl"]


def test_an_existing_folder_is_not_replaced_unasked(cli: Callable, bundled_circuit: Path) -> None:
    before = files(bundled_circuit)
    ran = cli("circuit", "prune", BRIDGE, "--task", "closing_quote", "--out", bundled_circuit, *SMALL)
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "--overwrite" in ran.err
    assert files(bundled_circuit) == before


def test_a_circuit_of_another_model_or_cut_short_is_refused(
    cli: Callable, bundled_circuit: Path, sparse_folder: Path, tmp_path: Path
) -> None:
    ran = cli("circuit", "show", bundled_circuit, "--model", sparse_folder)
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "another sparse model" in ran.err
    shutil.copytree(bundled_circuit, tmp_path / "c")
    tensors = tmp_path / "c" / "circuit.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:100])
    ran = cli("circuit", "show", tmp_path / "c", "--model", BRIDGE)
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "truncated" in ran.err


def test_tune_prints_settings_that_prune_reads(cli: Callable, tmp_path: Path) -> None:
    quick = (
        "--steps",
        "4",
        "--edge-steps",
        "0",
        "--elimination-rounds",
        "0",
        "--pairs",
        "16",
        "--batch-pairs",
        "4",
        "--blocks",
        "2",
    )
    study = ("--task", "for_while", "--storage", f"sqlite:///{tmp_path / 'tune.db'}", "--evaluate-pairs", "8")
    ran = cli("circuit", "tune", BRIDGE, *study, *quick, "--trials", "1")
    assert ran.code == 0, ran.err
    assert f"next: sparsebridge circuit prune {BRIDGE} --task for_while --config FILE" in ran.err
    found = cli("circuit", "tune", BRIDGE, *study, *quick, "--trials", "0", "--json").json
    assert found["completed"] == 1
    assert found["edges"] == found["first_edges"] > 0
    assert PruneConfig.from_mapping(tomllib.loads(ran.out)["prune"]).to_json() == found["settings"]
    for other, named in (
        ((BRIDGE, "--task", "swap", *study[2:], *quick), "tasks for_while, not swap"),
        ((BUNDLED / "counterpart", *study, *quick), "model "),
        ((BRIDGE, *study, *quick, "--blocks", "3"), "blocks 2, not 3"),
        ((BRIDGE, *study, *quick, "--signal", "random"), "signal complete, not random"),
    ):
        refused = cli("circuit", "tune", *other, "--trials", "1")
        assert (refused.code, refused.err.count("\n")) == (2, 1)
        assert named in refused.err
        assert "choose another --study" in refused.err


@pytest.mark.parametrize("command", ["prune", "evaluate", "tune", "compare"])
def test_pairs_that_were_dropped_are_counted_by_reason_in_one_line(
    command: str, cli: Callable, bundled_circuit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise UserError("far enough")

    for place in ("circuits.prune.prune", "circuits.evidence.gather.gather", "circuits.compare.sweep"):
        monkeypatch.setattr(f"sparse_model.{place}", stopped)
    lines = [
        {"prompt_a": pair.prompt_a, "answer_a": pair.answer_a, "prompt_b": pair.prompt_b, "answer_b": pair.answer_b}
        for pair in TASKS["closing_quote"].text_pairs("train", 120)
    ]
    own = tmp_path / "own.jsonl"
    misfits = [{**line, "prompt_a": "#" + line["prompt_a"]} for line in lines[:60]]  # a token longer than its pair
    mixed = [line for both in zip(lines, [*misfits, *lines[:60]], strict=True) for line in both]
    own.write_text("".join(json.dumps(line) + "\n" for line in mixed))
    two = ("--evaluate-pairs", "2")
    arguments: dict[str, tuple[str | Path, ...]] = {
        "prune": (BRIDGE, "--out", tmp_path / "made", *SMALL, *two),
        "evaluate": (bundled_circuit, "--model", BRIDGE, "--quick", *two),
        "tune": (BRIDGE, *SMALL, *two, "--storage", f"sqlite:///{tmp_path / 'tune.db'}", "--trials", "0"),
        "compare": ("--out", tmp_path / "compared", "--blocks", "2", "--pairs", "16", *two),
    }
    ran = cli("circuit", command, *arguments[command], "--task", own)
    first = ran.err.splitlines()[0]
    assert re.fullmatch(
        r"task own: \d+ pairs dropped \((?=.*equal to an earlier pair: 60)(?=.*prompts differ in token length: \d).*\)",
        first,
    ), ran.err

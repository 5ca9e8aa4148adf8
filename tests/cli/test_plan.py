"""`sparsebridge plan`."""

import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.demo import BUNDLED
from sparse_model.corpus.corpus import Corpus

SMALL = ["--sparse-d-model", "24", "--sparse-n-head", "3", "--sparse-d-head", "4", "--batch-size", "4"]


def test_the_plan_of_a_run_is_what_the_run_makes(cli: Callable, corpus_folder: Path, tmp_path: Path) -> None:
    line = [*SMALL, "--corpus", corpus_folder, "--density", "0.3", "--steps", "4"]
    plan = cli("plan", *line, "--json").json
    assert cli("sparse", "train", *line, "--out", tmp_path / "model").code == 0
    made = cli("sparse", "inspect", tmp_path / "model", "--json").json
    assert plan["parameters"] == made["parameters"]
    assert plan["nonzero"] == pytest.approx(made["nonzero"], rel=0.02)  # entries that are exactly zero count as kept
    assert plan["tokens"] == 4 * 4 * Corpus.load(corpus_folder).block_length
    assert plan["disk_bytes"]["model"] == pytest.approx(
        (tmp_path / "model" / "model.safetensors").stat().st_size, rel=0.2
    )


def test_a_measured_plan_says_so(cli: Callable) -> None:
    ran = cli("plan", *SMALL, "--block-length", "16", "--vocab-size", "40", "--measure")
    assert ran.code == 0
    assert "assumption" not in ran.out
    planned = cli("plan", *SMALL, "--on", "h100")
    assert "assumption" in planned.out
    assert planned.err == "next: sparsebridge sparse train --corpus CORPUS --out sparse\n"


def test_a_plan_names_the_measured_run_that_its_utilisation_is_from(cli: Callable) -> None:
    line = ["plan", *SMALL, "--on", "h200", "--precision", "bf16", "--json"]
    found = cli(*line).json
    assert found["utilisation_source"].startswith("as ")
    assert 0 < found["utilisation"] < 0.3
    given = cli(*line, "--utilisation", "0.5").json
    assert (given["utilisation"], given["utilisation_source"]) == (pytest.approx(0.5), "as given")


def test_bridges_and_the_frozen_model_are_counted(cli: Callable) -> None:
    found = cli("plan", "--dense", BUNDLED / "dense", "--on", "l4", "--json").json
    assert found["bridge_parameters"] == 5 * (2 * 128 * 256 + 256 + 128)
    assert found["frozen_parameters"] > 0
    assert found["fits"]


def test_a_plan_for_a_dense_model_names_sizes_to_start_with_until_they_are_planned(cli: Callable) -> None:
    dense = BUNDLED / "dense"
    ran = cli("plan", "--dense", dense)
    assert "2 layers × 256 channels, all of its weights nonzero" in ran.out
    assert "the bundled bridge (dense model of" in ran.err
    *_, last = ran.err.splitlines()
    words = shlex.split(last.removeprefix("next: sparsebridge "))
    assert words[:3] == ["plan", "--dense", str(dense)]
    assert words[words.index("--sparse-d-model") + 1] == "512"
    followed = cli(*words)
    assert "2 layers × 512 channels, 0.02 of its weights nonzero" in followed.out
    assert followed.err.splitlines()[-1] == f"next: sparsebridge bridge train {dense} --corpus CORPUS --out bridge"


def test_a_run_that_is_too_large_is_said_to_be(cli: Callable) -> None:
    ran = cli("plan", "--on", "l4", "--sparse-d-model", "8192", "--sparse-n-layer", "8")
    assert "does NOT fit" in " ".join(ran.out.split())
    assert ran.code == 1
    assert "take" in ran.err
    assert "--split" in ran.err


def test_a_batch_that_is_too_large_is_answered_with_the_largest_that_fits(cli: Callable) -> None:
    line = ["plan", "--on", "l4", "--sparse-d-model", "512", "--vocab-size", "32000"]
    ran = cli(*line, "--batch-size", "4096")
    assert ran.code == 1
    most = int(ran.err.partition("at most ")[2].split()[0])
    assert cli(*line, "--batch-size", str(most)).code == 0
    assert cli(*line, "--batch-size", str(most + 1)).code == 1


def test_parameters_split_over_devices_take_less_of_each(cli: Callable) -> None:
    large = ["--on", "h100", "--sparse-d-model", "8192", "--sparse-n-layer", "8", "--devices", "8", "--batch-size", "8"]
    assert "with --split" in " ".join(cli("plan", *large).out.split())
    assert "does NOT fit" not in cli("plan", *large, "--split").out
    assert cli("plan", "--split").code == 2


def test_an_unknown_device_is_one_line_and_code_2(cli: Callable) -> None:
    ran = cli("plan", "--on", "abacus")
    assert ran.code == 2
    assert "choose one of cpu" in ran.err

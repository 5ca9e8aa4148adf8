"""`sparsebridge sparse sweep`."""

from collections.abc import Callable
from pathlib import Path

import pytest

from sparse_model import SparseTransformer
from sparse_model.circuits.circuit import Circuit
from sparse_model.circuits.prune import task_loss
from sparse_model.corpus.corpus import Corpus
from sparse_model.tasks import find_task
from sparse_model.tasks.token_pairs import tokenise_pairs


def test_a_sweep_is_one_command_that_goes_on_where_it_stopped(
    cli: Callable, corpus_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sparse_model.studies.sweep.PAIRS", 6)
    line = [
        *("sparse", "sweep", "--corpus", corpus_folder, "--out", tmp_path / "sweep", "--json"),
        *("--width", "16", "--nonzeros", "4000", "--density-at", "0.5", "--task", "dict_list"),
        *("--steps", "2", "--batch-size", "4", "--floor", "1", "--log-to", "none", "--sparse-d-model", "16"),
        *("--sparse-n-head", "2", "--sparse-d-head", "4", "--prune-target-loss", "5", "--prune-steps", "2"),
        *("--prune-pairs", "8", "--prune-batch-pairs", "4", "--prune-edge-steps", "2"),
        *("--prune-elimination-rounds", "2"),
    ]
    first = cli(*line).json
    assert [point["width"] for point in first["points"]] == [16, 16]
    assert first["tasks"] == ["dict_list"]
    assert all(point["circuit_size"] >= 1 for point in first["points"])
    assert all((tmp_path / "sweep" / f"sweep.{kind}").stat().st_size for kind in ("json", "svg", "png"))
    row, place = first["points"][0], tmp_path / "sweep" / "S16-seed0"
    model, data = SparseTransformer.from_pretrained(place), Corpus.load(corpus_folder)
    pairs = tokenise_pairs(find_task("dict_list"), data.tokenizer, 6, "held_out")
    circuit = Circuit.load(place / "circuits" / "dict_list")
    found, alone = row["circuits"]["dict_list"], circuit.within(model)
    assert found["held_out_loss"] == pytest.approx(task_loss(alone, pairs, circuit.only()))  # as in every other table
    assert found["held_out_calibrated_loss"] == pytest.approx(
        task_loss(alone, pairs, circuit.only(), circuit.calibration)
    )
    assert found["held_out_loss"] != pytest.approx(found["held_out_calibrated_loss"])
    assert found["held_out_full_loss"] == pytest.approx(task_loss(model, pairs))
    monkeypatch.setattr("sparse_model.studies.arms.train_sparse", None)
    monkeypatch.setattr("sparse_model.studies.sweep.prune", None)
    assert cli(*line).json == first
    shown = cli(*(word for word in line if word != "--json"))
    assert f"next: sparsebridge sparse inspect {tmp_path / 'sweep' / 'S16-density0.5-seed0'}\n" in shown.err
    harder = cli(*line, "--prune-target-loss", "0.01")
    assert harder.code == 2
    assert "other settings" in harder.err

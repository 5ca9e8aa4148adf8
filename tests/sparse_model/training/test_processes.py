"""Runs of several processes: with whole or split parameters they train what one process trains.

Those that are stopped are started by `accelerate launch` itself, as a person would; the others as it would (`together.py`).
"""

import json
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from foundation.artefacts import read_tensors
from foundation.errors import UserError
from sparse_model import SparseTransformer
from sparse_model.training.objective import LanguageModelling
from sparse_model.training.validation import Validation
from tests.sparse_model.training.runs import (
    CONFIG,
    ON_CPU,
    SPLIT,
    WHOLE,
    Make,
    Weights,
    alone,
    assert_same_bits,
    launched,
    run,
    run_together,
    weights,
)

TOGETHER = CONFIG.model_copy(
    update={
        "steps": 50, "density": 0.5, "eps": 1e-2, "evaluate_every": 10, "diagnose_every": 25, "revive_every": 10,
        "accumulate": 2, "gradient_rms": "clip",
    }
)  # fmt: skip


@pytest.fixture
def objective(tiny_sparse: Callable[..., SparseTransformer]) -> Make:
    """Language modelling with tied embeddings, sinks and fixed positions: parameters that are shared, tiny, and frozen."""

    def make() -> LanguageModelling:
        model = tiny_sparse(tie_word_embeddings=True, attention_sink=True, position="added", position_trainable=False)
        return LanguageModelling(model, projected=model)

    return make


def saved_weights(folder: Path, step: int) -> Weights:
    return read_tensors(folder / "checkpoints" / f"step-{step:08d}" / "objective.safetensors", "checkpoint")


def trained_weights(objective: LanguageModelling) -> Weights:
    return {name: value for name, value in weights(objective).items() if "wpe" not in name}


def assert_close(ours: Weights, theirs: Weights) -> None:
    assert set(ours) == set(theirs)
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name], value, atol=1e-5, rtol=0, msg=name)


def terminated(process: subprocess.Popen[str], folder: Path) -> str:
    """What a launcher says that gets SIGTERM once the run in `folder` has logged a step, and has to stop early."""
    metrics = folder / "metrics.jsonl"
    while not metrics.is_file() or metrics.stat().st_size == 0:
        assert process.poll() is None, process.communicate()[1][-3000:]
        time.sleep(0.01)
    process.terminate()
    told = process.communicate(timeout=200)[1]
    assert process.returncode != 0
    assert "stopped after step" in told
    return told


@pytest.mark.slow
def test_two_processes_with_whole_or_split_parameters_train_what_one_does(
    objective: Make, blocks: np.ndarray, tmp_path: Path
) -> None:
    single = objective()
    validation = Validation({"text": blocks[:10]})
    rows = run(single, blocks, tmp_path / "one", TOGETHER, validation=validation)
    kinds = {"whole": (WHOLE, 1.0), "split": (SPLIT, 0.5)}
    command = alone(blocks, TOGETHER, objective().model, tmp_path, "")[:-1]
    run_together(*((kind, [*command, str(tmp_path / name), "1"]) for name, (kind, _) in kinds.items()))
    for name, (_, held) in kinds.items():
        for rank in range(2):
            seen = json.loads((tmp_path / name / f"process-{rank}.json").read_text())
            assert seen["processes"] == 2
            assert seen["held"] == pytest.approx(held, abs=0.01)
        assert_trained_alike(tmp_path / name, tmp_path / "one", single, objective(), rows)


def assert_trained_alike(
    two: Path, one: Path, single: LanguageModelling, untrained: LanguageModelling, rows: list[dict[str, float]]
) -> None:
    """Weights, the saved model, and what was logged and diagnosed of two processes are those of one."""
    together = saved_weights(two, 50)
    assert_close(together, trained_weights(single))
    before = trained_weights(untrained)
    assert any((together[name] - value).abs().max() > 1e-2 for name, value in before.items())
    final = SparseTransformer.from_pretrained(two / "trained")
    trained = {f"model.{name}": value.detach() for name, value in final.named_parameters() if value.requires_grad}
    assert_same_bits(trained, together)
    logged, diagnosed = (
        [json.loads(line) for line in (two / name).read_text().splitlines()]
        for name in ("metrics.jsonl", "diagnostics.jsonl")
    )
    for ours, theirs in zip(logged, rows, strict=True):
        for name in ("loss", "gradient_rms", "validation_loss", "revived_neurons", "revived_qk"):
            assert ours.get(name) == pytest.approx(theirs.get(name), abs=1e-5)
    lines = (one / "diagnostics.jsonl").read_text().splitlines()
    for ours, theirs in zip(diagnosed, map(json.loads, lines), strict=True):
        for table in ("density", "turnover"):
            assert ours[table] == pytest.approx(theirs[table], abs=1e-5)


@pytest.mark.slow
def test_split_processes_go_on_from_one_process_and_after_sigterm_one_process_from_them(
    objective: Make, blocks: np.ndarray, tmp_path: Path
) -> None:
    config = TOGETHER.model_copy(update={"checkpoint_every": 20, "keep_checkpoints": 3, "log_every": 1})
    validation = Validation({"text": blocks[:10]})
    single = objective()
    run(single, blocks, tmp_path / "one", config, validation=validation)
    two, step = tmp_path / "two", "step-00000020"
    shutil.copytree(tmp_path / "one" / "checkpoints" / step, two / "checkpoints" / step)
    command = launched([*alone(blocks, config, objective().model, tmp_path, "two"), "1", "44"], SPLIT)
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=ON_CPU)
    told = terminated(process, two)
    assert "going on after step 20 of 50" in told
    (stopped,) = (path.name for path in (two / "checkpoints").glob("step-*") if path.name != step)
    assert 20 < int(stopped[5:]) < 50
    resumed = objective()
    rows = run(resumed, blocks, two, config, validation=validation)
    assert [row["step"] for row in rows] == list(range(21, 51))
    assert_close(weights(resumed), weights(single))


@pytest.mark.slow
def test_sigterm_to_the_launcher_stops_two_processes_at_one_step_and_they_resume_to_the_same_bits(
    objective: Make, blocks: np.ndarray, tmp_path: Path
) -> None:
    config = TOGETHER.model_copy(update={"steps": 80, "checkpoint_every": 1000, "log_every": 1})
    whole, stopped = ([*alone(blocks, config, objective().model, tmp_path, name), "1"] for name in ("whole", "stopped"))
    process = subprocess.Popen(launched([*stopped, "74"], WHOLE), stderr=subprocess.PIPE, text=True, env=ON_CPU)
    terminated(process, tmp_path / "stopped")
    (saved,) = (tmp_path / "stopped" / "checkpoints").glob("step-*")
    assert int(saved.name[5:]) < 80
    run_together((WHOLE, stopped), (WHOLE, whole))
    assert_same_bits(saved_weights(tmp_path / "stopped", 80), saved_weights(tmp_path / "whole", 80))


@pytest.mark.parametrize(
    ("set_by_launcher", "told"),
    [
        ({"ACCELERATE_USE_DEEPSPEED": "true"}, r"^DeepSpeed is not supported; launch with --multi_gpu, or --use_fsdp"),
        ({"ACCELERATE_USE_FSDP": "true"}, r"^FSDP of version 1 .* add --fsdp_version 2"),
        (
            {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_OFFLOAD_PARAMS": "true"},
            r"^--fsdp_offload_params is not supported",
        ),
    ],
    ids=["deepspeed", "fsdp1", "offload"],
)
def test_other_ways_to_split_parameters_are_refused_by_name(
    set_by_launcher: dict[str, str],
    told: str,
    objective: Make,
    blocks: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in set_by_launcher.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=told):
        run(objective(), blocks, tmp_path)

"""Runs of the loop, for the tests of what it computes: in this process, as their own, and several processes together."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from sparse_model.training.batches import Batches
from sparse_model.training.loop import train
from sparse_model.training.objective import LanguageModelling
from sparse_model.training.train_config import TrainConfig

Make = Callable[[], LanguageModelling]
Weights = dict[str, torch.Tensor]
CONFIG = TrainConfig(
    steps=13, batch_size=8, lr=0.05, density=0.2, checkpoint_every=3, log_every=2, gradient_rms="normalise", floor=1
)
ONE_RUN = Path(__file__).with_name("one_run.py")
ROOT = Path(__file__).resolve().parents[3]
ON_CPU = {**os.environ, "ACCELERATE_USE_CPU": "true", "PYTHONPATH": str(ROOT), "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "300"}
WHOLE, SPLIT = ["--multi_gpu"], ["--use_fsdp", "--fsdp_version", "2"]
"""How two processes are launched: each holds all parameters, or a part of every one."""
TWO = [*("--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"), *("--dynamo_backend", "no")]
TWO += ["--main_process_port", "0"]


def run(
    objective: nn.Module, blocks: np.ndarray, folder: Path, config: TrainConfig = CONFIG, **more: Any
) -> list[dict[str, float]]:
    """Train in this process."""
    return train(objective, Batches(blocks, config.batch_size, config.seed), config, folder, **more)


def alone(blocks: np.ndarray, config: TrainConfig, model: nn.Module, folder: Path, name: str) -> list[str]:
    """The arguments of `one_run.py` that train `model` in `folder/name`."""
    model.save_pretrained(folder / "model")
    np.save(folder / "blocks.npy", blocks)
    (folder / "train.json").write_text(json.dumps(config.to_json()))
    return [str(ONE_RUN), *(str(folder / part) for part in ("model", "blocks.npy", "train.json", name))]


def launched(arguments: list[str], kind: list[str]) -> list[str]:
    """The command that runs a script with its arguments in two processes on the CPU (with the environment `ON_CPU`)."""
    return [sys.executable, "-m", "accelerate.commands.launch", *kind, *TWO, *arguments]


def run_together(*runs: tuple[list[str], list[str]]) -> None:
    """Run scripts, each (kind, arguments) in two processes on the CPU, one after the other: `together.py`."""
    described = json.dumps([([*kind, *TWO], arguments) for kind, arguments in runs])
    done = subprocess.run(
        [sys.executable, "-m", "tests.sparse_model.training.together", described],
        capture_output=True, text=True, timeout=600, check=False, env=ON_CPU, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]


def weights(objective: LanguageModelling) -> Weights:
    """Its parameters as they are now."""
    return {name: value.detach().clone() for name, value in objective.named_parameters()}


def assert_same_bits(ours: Weights, theirs: Weights) -> None:
    """Both hold the same tensors."""
    assert set(ours) == set(theirs)
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name

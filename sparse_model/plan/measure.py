"""A few real steps of the training loop here, instead of an assumed utilisation."""

import tempfile
from pathlib import Path
from statistics import median

import numpy as np
from torch import nn

from sparse_model.training.batches import Batches
from sparse_model.training.loop import train
from sparse_model.training.train_config import TrainConfig

WARM_UP = 2
"""First steps, which also allocate memory, are not counted."""


def seconds_per_step(
    objective: nn.Module, config: TrainConfig, vocab_size: int, block_length: int, steps: int
) -> float:
    """Median seconds of `steps` optimiser steps on random tokens, projection included; the objective is changed."""
    changes = {
        "steps": WARM_UP + steps,
        "anneal": 0.01,
        "log_every": 1,
        "checkpoint_every": WARM_UP + steps + 1,
        "diagnose_every": 0,
        "log_to": "none",
    }
    short = config.model_copy(update=changes)
    blocks = np.random.default_rng(0).integers(0, vocab_size, (config.batch_size, block_length))
    with tempfile.TemporaryDirectory() as folder:
        rows = train(objective, Batches(blocks, config.batch_size, 0), short, Path(folder))
    return median(1 / row["steps_per_second"] for row in rows[WARM_UP:])

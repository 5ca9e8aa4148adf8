"""A training run as its own process, for tests that kill it or start several: MODEL BLOCKS CONFIG FOLDER THREADS."""

import sys
from pathlib import Path

import numpy as np
import torch

from sparse_model import SparseTransformer
from sparse_model.training.batches import Batches
from sparse_model.training.config import TrainConfig
from sparse_model.training.loop import train
from sparse_model.training.objective import LanguageModelling

if __name__ == "__main__":
    model_folder, blocks, settings, folder, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    model = SparseTransformer.from_pretrained(model_folder)
    config = TrainConfig.from_file(Path(settings))
    train(
        LanguageModelling(model, projected=model),
        Batches(np.load(blocks), config.batch_size, config.seed),
        config,
        Path(folder),
    )

"""A training run as its own process, for tests that kill it or start several: MODEL BLOCKS CONFIG FOLDER THREADS.

Writes how many processes took part to FOLDER/processes.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState

from sparse_model import SparseTransformer
from sparse_model.training.batches import Batches
from sparse_model.training.config import TrainConfig
from sparse_model.training.interruption import StoppedEarly
from sparse_model.training.loop import train
from sparse_model.training.objective import LanguageModelling
from sparse_model.training.validation import Validation

if __name__ == "__main__":
    model_folder, file, settings, folder, threads = sys.argv[1:]
    torch.set_num_threads(int(threads))
    model = SparseTransformer.from_pretrained(model_folder)
    config, blocks = TrainConfig.from_file(Path(settings)), np.load(file)
    batches = Batches(blocks, config.batch_size, config.seed)
    objective = LanguageModelling(model, projected=model)
    try:
        train(objective, batches, config, Path(folder), validation=Validation({"text": blocks[:10]}))
    except StoppedEarly as stopped:
        sys.exit(str(stopped))
    if PartialState().is_main_process:
        (Path(folder) / "processes").write_text(str(PartialState().num_processes))

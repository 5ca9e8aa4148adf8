"""The second step of a training run whose parameters are split, started in several processes: SHAPE VOCABULARY CONFIG FOLDER.

Started by `together.py`, whose processes end without the interpreter's own end, which the profiler's threads may outlive.
The first process writes to FOLDER/seen.json the bytes of weights and moments it holds, and the peak of the step's own.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import PartialState

from sparse_model import SparseTransformer
from sparse_model.training import loop
from sparse_model.training.batches import Batches
from sparse_model.training.objective import LanguageModelling
from sparse_model.training.train_config import TrainConfig
from sparse_model.transformer.shape import SparseShape
from tests.sparse_model.plan.allocations import peak_bytes

if __name__ == "__main__":
    torch.set_num_threads(1)
    sparse, train = SparseShape.from_mapping(json.loads(sys.argv[1])), TrainConfig.from_mapping(json.loads(sys.argv[3]))
    folder, config = Path(sys.argv[4]), sparse.config(int(sys.argv[2]), 32)
    model = SparseTransformer(config)
    blocks = np.random.default_rng(0).integers(0, config.vocab_size, (train.batch_size, config.block_size))
    seen: dict[str, int] = {}
    optimise, steps = loop._optimise, 0

    def watched(accelerator: Any, objective: Any, optimizer: Any, *more: Any) -> Any:
        global steps
        steps += 1
        if steps != 2:  # moments exist once the first is done
            return optimise(accelerator, objective, optimizer, *more)
        found: list[Any] = []
        seen["peak"] = peak_bytes(lambda: found.append(optimise(accelerator, objective, optimizer, *more)))
        moments = [m for state in optimizer.state.values() for name, m in state.items() if name != "step"]
        for name, tensors in (("weights", objective.parameters()), ("moments", moments)):
            seen[name] = sum(tensor.to_local().nbytes for tensor in tensors)
        return found[0]

    loop._optimise = watched
    loop.train(LanguageModelling(model, projected=model), Batches(blocks, train.batch_size, 0), train, folder)
    if PartialState().is_main_process:
        (folder / "seen.json").write_text(json.dumps(seen))

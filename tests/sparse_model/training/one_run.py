"""A training run as its own process, for tests that kill it or start several: MODEL BLOCKS CONFIG FOLDER THREADS [STEP].

With STEP, the number of one, it does not go beyond that before it is asked to stop: on a busy machine the test may be late.
At the end each process writes how many took part, and what fraction of the parameters it held itself, to
FOLDER/process-RANK.json; the first one writes the model to FOLDER/trained.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from torch import nn

from foundation.errors import StoppedEarly
from sparse_model import SparseTransformer
from sparse_model.training import loop, sharding
from sparse_model.training.batches import Batches
from sparse_model.training.interruption import stop_signals
from sparse_model.training.objective import LanguageModelling
from sparse_model.training.train_config import TrainConfig
from sparse_model.training.validation import Validation


def fraction_held(objective: nn.Module) -> float:
    """Entries of the parameters that lie in this process."""
    parameters = list(objective.parameters())
    return sum(sharding.local(p).numel() for p in parameters) / sum(p.numel() for p in parameters)


asked: list[threading.Event] = []
"""To stop; not in the objective, of which a split run makes a copy."""
PARENT = os.getppid()
"""Who may ask; without it nobody will."""


@contextmanager
def remembered() -> Iterator[threading.Event]:
    """The loop's own signals, seen here too."""
    with stop_signals() as stop:
        asked.append(stop)
        yield stop


class Patient(LanguageModelling):
    """Waits at the step `last` until the run is asked to stop."""

    def __init__(self, model: SparseTransformer, last: int, accumulate: int) -> None:
        super().__init__(model, projected=model)
        self.last, self.accumulate = last, accumulate

    def forward(self, tokens: torch.Tensor, draw: int) -> dict[str, torch.Tensor]:
        while draw // self.accumulate >= self.last and not asked[0].is_set() and os.getppid() == PARENT:
            time.sleep(0.01)
        return super().forward(tokens, draw)


if __name__ == "__main__":
    model_folder, file, settings, folder, threads, *last = sys.argv[1:]
    torch.set_num_threads(int(threads))
    model = SparseTransformer.from_pretrained(model_folder)
    config, blocks = TrainConfig.from_file(Path(settings)), np.load(file)
    batches = Batches(blocks, config.batch_size, config.seed)
    objective = LanguageModelling(model, projected=model)
    if last:
        objective = Patient(model, int(last[0]), config.accumulate)
        loop.stop_signals = remembered
    held, bring_back = [], sharding.bring_back

    def watched(trained: nn.Module, given: nn.Module) -> None:
        held.append(fraction_held(trained))
        bring_back(trained, given)

    sharding.bring_back = watched
    try:
        loop.train(objective, batches, config, Path(folder), validation=Validation({"text": blocks[:10]}))
    except StoppedEarly as stopped:
        sys.exit(str(stopped))
    state = PartialState()
    (Path(folder) / f"process-{state.process_index}.json").write_text(
        json.dumps({"processes": state.num_processes, "held": held[0]})
    )
    if state.is_main_process:
        model.save_pretrained(Path(folder) / "trained")

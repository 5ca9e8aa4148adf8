"""Whether workers that load batches ahead could pay: the share of a step that goes into cutting its batch.

    python benchmarks/batches.py [--repeats 15] [--check]

Batches are cut out of a memory map of 12.8 million tokens (the size of the default corpus) in random order, beside the
whole optimiser step of `train_step.py` they feed, at S = 512 and, where a step is shortest, at S = 64 with one layer.
Workers could save at most that share. Target: at most 1 % at S = 512 (--check exits 1 beyond it).
"""

import itertools
import tempfile
from pathlib import Path

import numpy as np
from timing import command, interleave, machine, milliseconds, ratio
from train_step import CONFIG, B, Step, T

from sparse_model.training.batches import Batches
from sparse_model.transformer.sparse_config import SparseConfig

BLOCKS, TARGET = 100_000, 0.01
SMALL = SparseConfig(vocab_size=1024, block_size=T, n_layer=1, d_model=64, n_head=4, d_head=16, d_mlp=256)


def measure(repeats: int) -> dict[str, object]:
    """Share and milliseconds of both models, by processor time too."""
    found: dict[str, object] = {**machine(), "target": TARGET}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tokens.npy"
        np.save(path, np.random.default_rng(0).integers(0, 1024, (BLOCKS, T)).astype(np.uint16))
        batches = Batches(np.load(path, mmap_mode="r"), B, seed=0)
        numbers = itertools.count()
        for config in (CONFIG, SMALL):
            wall, cpu = interleave({"batch": lambda: batches.at(next(numbers)), "step": Step(config)}, repeats)
            name = f"S={config.d_model}"
            found[f"{name} share"] = round(ratio(wall, "batch", "step"), 5)
            found[f"{name} by processor time"] = round(ratio(cpu, "batch", "step"), 5)
            found[f"{name} milliseconds"] = milliseconds(wall)
    return found


if __name__ == "__main__":
    command(__doc__, 15, measure, figure="S=512 share", at_most=TARGET)

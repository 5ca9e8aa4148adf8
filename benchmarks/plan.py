"""How near a plan comes to a run: predicted over measured, for peak memory and for time.

    python benchmarks/plan.py [--steps 30] [--repeats 3]

Every shape runs in fresh processes, one after the other: the plan is made, `--measure`d, and then the same settings
train for `--steps` steps. Memory is the growth of the process's peak resident set, with an allocator that
gives freed memory back and with the default one; time is that of the optimiser
steps. Printed is one JSON object with the medians of the ratios. Target: both within 0.8 and 1.2.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from sparse_model.studies.page import write_between

SHAPES: dict[str, dict[str, dict[str, Any]]] = {
    "S=256, B=16": {"sparse": {"d_model": 256, "position": "added"}, "train": {"batch_size": 16, "density": 0.05}},
    "S=384, L=3, B=8": {"sparse": {"d_model": 384, "n_layer": 3}, "train": {"batch_size": 8, "density": 0.02}},
    "S=512, B=4": {"sparse": {"d_model": 512, "leak": True}, "train": {"batch_size": 4, "density": 0.02}},
}
VOCABULARY, LENGTH, MEASURED = 1024, 128, 5
PROMPT = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536", "MALLOC_ARENA_MAX": "1"}
"""glibc gives freed memory back at once; by default it keeps some, which is not the run's need."""


def one_run(shape: dict[str, dict[str, Any]], steps: int) -> dict[str, float]:
    """Predict, then train; in the process this is called in."""
    import numpy as np
    import torch

    from sparse_model import SparseTransformer
    from sparse_model.plan.estimate import make_plan, sparse_workload
    from sparse_model.plan.hardware import ASSUMED_UTILISATION, find_device
    from sparse_model.plan.measure import seconds_per_step
    from sparse_model.training.batches import Batches
    from sparse_model.training.loop import train
    from sparse_model.training.objective import LanguageModelling
    from sparse_model.training.train_config import TrainConfig
    from sparse_model.transformer.shape import SparseShape

    sparse = SparseShape.from_mapping(shape["sparse"])
    settings = TrainConfig.from_mapping({**shape["train"], "steps": steps, "checkpoint_every": steps + 1})
    config = sparse.config(VOCABULARY, LENGTH, None if sparse.leak else 0)
    arguments = (sparse_workload(config, settings), settings, LENGTH, find_device("cpu"), 1, ASSUMED_UTILISATION)
    blocks = np.random.default_rng(0).integers(0, VOCABULARY, (64, LENGTH))
    blocks[:, LENGTH // 2] = 0  # two documents to a block
    tiny = SparseTransformer(SparseShape(d_model=16, n_head=1).config(VOCABULARY, LENGTH))
    seconds_per_step(LanguageModelling(tiny, tiny), settings, VOCABULARY, LENGTH, 1)  # libraries load on first use
    before = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    torch.manual_seed(0)
    model = SparseTransformer(config)
    objective = LanguageModelling(model, model)
    predicted = seconds_per_step(objective, settings, VOCABULARY, LENGTH, MEASURED)
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        train(objective, Batches(blocks, settings.batch_size, 0), settings, Path(folder))
    seconds = time.perf_counter() - started
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    return {
        "memory": make_plan(*arguments).memory.peak / grown,
        "hours_measured_first": predicted * steps / seconds,
        "hours_assumed_utilisation": make_plan(*arguments).hours * 3600 / seconds,
    }


def main() -> None:
    """Run every shape a few times in fresh processes and print the medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--into", type=Path, help="also write a table between the `plan` comments of this page")
    parser.add_argument("--one", choices=tuple(SHAPES), help="run this shape in this process")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(one_run(SHAPES[arguments.one], arguments.steps)))
        return

    def fresh(name: str, allocator: dict[str, str]) -> dict[str, float]:
        line = [sys.executable, __file__, "--one", name, "--steps", str(arguments.steps)]
        done = subprocess.run(line, capture_output=True, text=True, check=True, env={**os.environ, **allocator})
        return json.loads(done.stdout.splitlines()[-1])

    runs: dict[str, list[dict[str, float]]] = {name: [] for name in SHAPES}
    for _ in range(arguments.repeats):
        for name, found in runs.items():
            found.append({**fresh(name, PROMPT), "memory_default_allocator": fresh(name, {})["memory"]})
        medians = {
            name: {key: round(statistics.median(run[key] for run in found), 2) for key in sorted(found[0])}
            for name, found in runs.items()
        }
        if arguments.into:  # after every round, so that a run cut short leaves its figures
            write_between(arguments.into, "plan", table(medians))
    print(json.dumps(medians, indent=1))


def table(medians: dict[str, dict[str, float]]) -> str:
    """One line per shape."""
    keys = list(next(iter(medians.values())))
    lines = ["| predicted / measured | " + " | ".join(key.replace("_", " ") for key in keys) + " |"]
    lines.append("|---" * (len(keys) + 1) + "|")
    lines += [f"| {name} | " + " | ".join(str(found[key]) for key in keys) + " |" for name, found in medians.items()]
    return "\n".join(lines)


if __name__ == "__main__":
    main()

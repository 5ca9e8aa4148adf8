"""Steps per second of two processes that split their parameters (FSDP2), over those of two that hold all of them.

    python benchmarks/split_processes.py [--repeats 5]

Both train the same S=256 model on random tokens, on the CPU over gloo, in turn; the rate is that of the last steps. On the CPU
there is nothing to win: the figure says what the tests of splitting cost, and that splitting works at a size that is not tiny.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

from timing import machine

KINDS = {"whole": ["--multi_gpu"], "split": ["--use_fsdp", "--fsdp_version", "2"]}
ALIKE = "--num_processes 2 --num_machines 1 --mixed_precision no --dynamo_backend no --main_process_port 0"
VOCABULARY, LENGTH, BATCH, STEPS = 1024, 128, 16, 12


def train_here(folder: Path) -> None:
    """The run of one process."""
    import numpy as np
    import torch

    from sparse_model import SparseConfig, SparseTransformer
    from sparse_model.training.batches import Batches
    from sparse_model.training.loop import train
    from sparse_model.training.objective import LanguageModelling
    from sparse_model.training.train_config import TrainConfig

    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = SparseTransformer(SparseConfig(d_model=256, d_mlp=1024, n_head=16, vocab_size=VOCABULARY))
    blocks = np.random.default_rng(0).integers(0, VOCABULARY, (64, LENGTH))
    settings = {"steps": STEPS, "batch_size": BATCH, "density": 0.05, "log_every": 4, "evaluate_every": 0}
    config = TrainConfig.from_mapping({**settings, "diagnose_every": 0, "log_to": "none"})
    train(LanguageModelling(model, model), Batches(blocks, BATCH, 0), config, folder)


def rate(kind: str) -> float:
    """Steps per second of two processes of this kind."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "accelerate.commands.launch", *KINDS[kind], *ALIKE.split()]
        environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "TQDM_DISABLE": "1"}
        ran = subprocess.run(
            [*command, __file__, "--train-in", folder], env=environment, capture_output=True, text=True, check=False
        )
        if ran.returncode:
            sys.exit(ran.stderr)
        rows = (Path(folder) / "metrics.jsonl").read_text("utf-8").splitlines()
    return float(json.loads(rows[-1])["steps_per_second"])


def main() -> None:
    """Run the pairs and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5, help="pairs of runs")
    parser.add_argument("--train-in", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.train_in:
        train_here(arguments.train_in)
        return
    pairs = [{kind: rate(kind) for kind in KINDS} for _ in range(arguments.repeats)]
    ratios = [pair["split"] / pair["whole"] for pair in pairs]
    found = {
        **machine(),
        "split over whole": round(median(ratios), 2),
        "lowest pair": round(min(ratios), 2),
        "highest pair": round(max(ratios), 2),
        **{f"steps per second · {kind}": round(median(pair[kind] for pair in pairs), 2) for kind in KINDS},
    }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()

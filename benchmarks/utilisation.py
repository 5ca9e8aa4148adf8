"""Add a finished bridged run to the table that `sparsebridge plan` takes its utilisation from.

    python benchmarks/utilisation.py RUN --device h200 --dense CONFIG [--name NAME] [--note TEXT]

RUN is the folder of a bridge (`training.json`, `metrics.jsonl`); CONFIG is the dense model's folder, id or GGUF file, or one of
the names in `plan_models.py`. Work is the plan's own count, time the median of logged rows; a run of the same name is replaced.
"""

import argparse
import datetime
import json
import statistics
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

from plan_models import MODELS, config_folder

from bridges.bridge_config import BridgeConfig
from bridges.workload import bridged_workload, dense_shape
from sparse_model.plan.hardware import find_device
from sparse_model.plan.measured import PATH, MeasuredRun, measured_runs, write_runs
from sparse_model.training.train_config import TrainConfig
from sparse_model.transformer.shape import SparseShape

LAST = 10
"""Logged rows whose median is the loss at the end."""


def read_run(folder: Path, device: str, dense: str, length: int, name: str, note: str) -> MeasuredRun:
    """The work and the time of a step of a run, its sizes, and where its KL came to."""
    described = json.loads((folder / "training.json").read_text("utf-8"))
    train = TrainConfig.from_mapping(described["config"])
    bridge = BridgeConfig.from_mapping(described["bridge"])
    with TemporaryDirectory() as made:
        shape = dense_shape(str(config_folder(dense, Path(made)) if dense in MODELS else dense), length)
    sparse = SparseShape.from_mapping(described["shape"]).config(shape.vocab_size, length)
    work = bridged_workload(sparse, shape, bridge, train, find_device(device).memory)
    lines = (folder / "metrics.jsonl").read_text("utf-8").splitlines()
    seconds = statistics.median(1 / json.loads(line)["steps_per_second"] for line in lines)
    day = datetime.date.fromtimestamp((folder / "metrics.jsonl").stat().st_mtime).isoformat()
    flops = work.step_flops * train.batch_size * length / described["processes"]
    kl = statistics.median(json.loads(line)["kl"] for line in lines[-LAST:])
    sizes = f"{sparse.n_layer} layers × {sparse.d_model}, {train.density:.0%} of its weights nonzero"
    tokens = train.steps * train.batch_size * length
    return MeasuredRun(
        name, device, train.precision, flops, seconds, day, note, sizes, tokens, shape.parameters, round(kl, 4)
    )


def main() -> None:
    """Add one run and print its utilisation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--device", required=True)
    parser.add_argument("--dense", required=True)
    parser.add_argument("--block-length", type=int, default=128)
    parser.add_argument("--name")
    parser.add_argument("--note", default="alone on the card")
    parser.add_argument("--date", help="of the run; by default that of its metrics.jsonl")
    arguments = parser.parse_args()
    name = arguments.name or arguments.run.name
    run = read_run(arguments.run, arguments.device, arguments.dense, arguments.block_length, name, arguments.note)
    run = replace(run, date=arguments.date or run.date)
    kept = measured_runs() if PATH.is_file() else ()
    write_runs((*(other for other in kept if other.name != name), run))
    print(f"{name}: {run.utilisation:.3%} of {run.device}'s {run.precision} peak")


if __name__ == "__main__":
    main()

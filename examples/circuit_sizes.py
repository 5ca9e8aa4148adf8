"""How small circuits get: prune tasks and print one JSON line for each, `python examples/circuit_sizes.py runs/sizes.jsonl`.

Tasks that the file holds under the same settings are not pruned again, so a stopped run goes on, and several processes
may each take some of the tasks (`--tasks A B`) into files of their own. `--set KEY=VALUE` changes a setting of `circuit
prune`, `--uncalibrated` also prunes with decisions on the logits as they are. Times are CPU seconds of the process. With
`--summary FILE …` nothing is pruned and the files' geometric means are printed.
"""

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cli.loading import load_sparse, load_tokenizer
from foundation.errors import UserError
from sparse_model.circuits.ablation import ablation_values
from sparse_model.circuits.evaluate import evaluate_circuit
from sparse_model.circuits.prune import prune
from sparse_model.circuits.prune_config import PruneConfig
from sparse_model.corpus.reference_text import reference_blocks
from sparse_model.tasks import TASKS, find_task
from sparse_model.tasks.splits import Splits, task_splits
from sparse_model.transformer.model import SparseTransformer

BUNDLED = Path(__file__).resolve().parent.parent / "cli" / "bundled" / "bridge"


def main() -> None:
    """Measure what the file does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, nargs="+", help="JSON lines; several with --summary")
    parser.add_argument("--model", type=Path, default=BUNDLED, help="a sparse model or bridge folder")
    parser.add_argument("--tasks", nargs="*", default=list(TASKS))
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of circuit prune")
    parser.add_argument("--pairs", type=int, default=64, help="pairs to decide on, and held-out pairs to report on")
    parser.add_argument("--draws", type=int, default=20, help="random node sets per control")
    parser.add_argument("--uncalibrated", action="store_true", help="also decide on the logits as they are")
    parser.add_argument("--summary", action="store_true", help="print the means of what the files hold")
    arguments = parser.parse_args()
    if arguments.summary:
        print(summary([record for file in arguments.file for record in read(file)]))
        return
    if len(arguments.file) != 1:
        parser.error("several files go with --summary alone")
    given = dict(item.split("=", 1) for item in arguments.set)
    config = PruneConfig.from_mapping({key: parsed(value) for key, value in given.items()}, origin="--set")
    measure(arguments.file[0], arguments, config)


def parsed(value: str) -> Any:
    """A JSON value, or the text itself."""
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        return value


def read(file: Path) -> list[dict[str, Any]]:
    """The records of a file; none where there is no file."""
    return [json.loads(line) for line in file.read_text("utf-8").splitlines()] if file.is_file() else []


def measure(file: Path, arguments: argparse.Namespace, config: PruneConfig) -> None:
    """Add a line for every task that has none under these settings."""
    model = load_sparse(arguments.model, "cpu").requires_grad_(False)
    tokenizer = load_tokenizer(arguments.model)
    blocks = reference_blocks(tokenizer, "train", 64, model.config.block_size, None)
    values = ablation_values(model, blocks, config.ablation)
    done = {record["task"] for record in read(file) if record["settings"] == config.to_json()}
    for task in arguments.tasks:
        if task in done:
            continue
        splits = task_splits(find_task(task), tokenizer, config.pairs, arguments.pairs, config.seed)
        record: dict[str, Any] = {"task": task, "settings": config.to_json()}
        record |= pruned(model, splits, values, config, arguments.draws)
        if arguments.uncalibrated:
            plain = config.model_copy(update={"calibrate_in_decision": False})
            record["uncalibrated"] = pruned(model, splits, values, plain, arguments.draws)
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(record) + "\n")
        print(json.dumps({key: value for key, value in record.items() if key != "settings"}), flush=True)


def pruned(
    model: SparseTransformer, splits: Splits, values: dict[str, Tensor], config: PruneConfig, draws: int
) -> dict[str, Any]:
    """Sizes, held-out losses and CPU seconds of one circuit, or why there is none."""
    started = time.process_time()
    try:
        circuit = prune(model, splits.train, splits.validation, values, config)
    except UserError as error:
        return {"refused": str(error)}
    seconds = time.process_time() - started
    found = evaluate_circuit(model, circuit, splits.held_out, draws, config.seed).to_json()
    kept = ("nodes", "edges", "task_loss", "calibrated_loss", "circuit_accuracy", "necessity_loss")
    controls = ("necessity_random_loss", "necessity_any_loss", "random_circuit_loss", "full_loss")
    return {
        **{key: found[key] for key in (*kept, *controls)},
        "edges_between_nodes": circuit.metrics["edges_between_nodes"],
        "scale": circuit.calibration.scale,
        "seeds": [(len(seed["nodes"]), seed["edges"]) for seed in circuit.metrics["seeds"]],
        "prune_seconds": seconds,
        "seconds": time.process_time() - started,
    }


def geometric(numbers: Sequence[float]) -> float:
    """Geometric mean; less than one counts as one."""
    return math.exp(sum(math.log(max(1, number)) for number in numbers) / len(numbers))


def summary(records: list[dict[str, Any]]) -> str:
    """Geometric means of nodes and edges per setting, and how many reach the target held out."""
    lines = []
    for key in dict.fromkeys(json.dumps(record["settings"], sort_keys=True) for record in records):
        settings = json.loads(key)
        of_setting = [r for r in records if json.dumps(r["settings"], sort_keys=True) == key]
        found = [r for r in of_setting if "nodes" in r]
        default = PruneConfig().to_json()
        changed = {name: value for name, value in settings.items() if value != default[name]} or "default settings"
        if not found:
            continue
        reached = sum(r["calibrated_loss"] <= settings["target_loss"] for r in found)
        lines.append(
            f"{changed}: {len(found)} of {len(of_setting)} tasks, {geometric([r['nodes'] for r in found]):.1f} nodes, "
            f"{geometric([r['edges'] for r in found]):.1f} edges; held-out target reached by {reached}; "
            f"{sum(r['seconds'] for r in found) / len(found):.0f} CPU s a task"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    torch.set_num_threads(1)
    sys.exit(main())

"""Learned masks against the attribution baseline at equal loss, over tasks.

    python -m benchmarks.prune_attribution [--tasks NAME ...] [--target 0.15] [--out FILE.jsonl]

Both are discretised alike on the same pairs (bisection by rank, elimination, unread nodes dropped), and beside it the baseline as
published, by rank alone; the ratio is of edges between
the kept nodes, and beside it of learned circuits whose edges are pruned as well. One line of JSON per task goes to --out as
it is done, and tasks found there are not run again.
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

from benchmarks.bundled_tasks import bundled, splits
from sparse_model.circuits.ablation import Ablate
from sparse_model.circuits.attribution import attribution_scores
from sparse_model.circuits.config import PruneConfig
from sparse_model.circuits.deciding import Deciding
from sparse_model.circuits.edges import count_edges
from sparse_model.circuits.prompts import Prompts
from sparse_model.circuits.prune import discretised, prune, task_loss
from sparse_model.tasks import TASKS


def compare(task: str, config: PruneConfig) -> dict[str, Any]:
    """Nodes, edges and held-out loss of both, on one task."""
    model, values = bundled()
    pairs = splits(task, config.pairs)
    circuit = prune(model, pairs.train, pairs.validation, values, config)
    deciding = Deciding(model, (pairs.train.select(slice(0, len(pairs.validation))), pairs.validation), values)
    keep = discretised(model, attribution_scores(Prompts(model, pairs.train), values), deciding, config)
    return {
        "task": task,
        "learned": {
            "nodes": circuit.metrics["nodes"],
            "edges_between_nodes": circuit.metrics["edges_between_nodes"],
            "edges": circuit.metrics["edges"],
            "held_out_loss": task_loss(circuit.within(model), pairs.held_out, circuit.only()),
        },
        "attribution": {
            "nodes": sum(int(mask.sum()) for mask in keep.values()),
            "edges": count_edges(model, keep),
            "held_out_loss": task_loss(model, pairs.held_out, Ablate(keep, values)),
        },
    }


def geometric_mean(values: list[float]) -> float:
    """e to the mean logarithm."""
    return math.exp(sum(map(math.log, values)) / len(values))


def main() -> None:
    """Compare task by task, then print the table and the geometric means of the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="*", default=list(TASKS))
    parser.add_argument("--target", type=float, default=0.15)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    config = PruneConfig(target_loss=arguments.target)
    done: dict[str, dict[str, Any]] = {}
    if arguments.out is not None and arguments.out.exists():
        done = {found["task"]: found for found in map(json.loads, arguments.out.read_text().splitlines())}
    for task in arguments.tasks:
        if task not in done:
            done[task] = compare(task, config)
            if arguments.out is not None:
                with arguments.out.open("a") as lines:
                    lines.write(json.dumps(done[task]) + "\n")
    print(
        "| task | nodes | edges between | edges | held-out loss | attribution nodes | edges | held-out loss | ratio |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for task in arguments.tasks:
        learned, other = done[task]["learned"], done[task]["attribution"]
        print(
            f"| {task} | {learned['nodes']} | {learned['edges_between_nodes']} | {learned['edges']} | "
            f"{learned['held_out_loss']:.3f} | {other['nodes']} | {other['edges']} | {other['held_out_loss']:.3f} | "
            f"{other['edges'] / max(1, learned['edges_between_nodes']):.1f} |"
        )
    for key, name in (("edges_between_nodes", "edges between kept nodes"), ("edges", "edges left by edge masks")):
        ratios = [done[t]["attribution"]["edges"] / max(1, done[t]["learned"][key]) for t in arguments.tasks]
        print(f"attribution over learned, {name}: {geometric_mean(ratios):.1f} (geometric mean of {len(ratios)} tasks)")


if __name__ == "__main__":
    main()

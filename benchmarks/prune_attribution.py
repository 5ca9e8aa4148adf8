"""Learned masks against the attribution baseline at equal loss, over tasks.

    python -m benchmarks.prune_attribution [--tasks NAME ...] [--target 0.15] [--out FILE.jsonl]

Both rankings are cut by the same bisection on the same pairs and lose their unread nodes (`learned`, `attribution`); then both
again with elimination (`…, eliminated`). Edges are nonzero weights between kept nodes. One line of JSON per task goes
to --out as it is done, and tasks found there are not run again.
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
from sparse_model.circuits.eliminate import eliminate
from sparse_model.circuits.learn import learn_masks
from sparse_model.circuits.prompts import Prompts
from sparse_model.circuits.prune import discretised, task_loss
from sparse_model.tasks import TASKS


def compare(task: str, config: PruneConfig) -> dict[str, Any]:
    """Nodes, edges and held-out loss of each, on one task."""
    model, values = bundled()
    pairs = splits(task, config.pairs)
    prompts = Prompts(model, pairs.train)
    deciding = Deciding(model, (pairs.train.select(slice(0, len(pairs.validation))), pairs.validation), values)
    scores = {
        "learned": learn_masks(prompts, values, config, (config.seed,)).scores(0),
        "attribution": attribution_scores(prompts, values),
    }
    found: dict[str, Any] = {"task": task}
    for name, score in scores.items():
        ranked = discretised(model, score, deciding, config.target_loss)
        if name == "learned":
            eliminated = discretised(model, score, deciding, config.target_loss, config.elimination_rounds)
        else:  # every node has a score above zero: elimination starts from the ranking's own cut
            eliminated = eliminate(ranked, deciding, config.target_loss, config.elimination_rounds)
        for label, keep in ((name, ranked), (f"{name}, eliminated", eliminated)):
            found[label] = {
                "nodes": sum(int(mask.sum()) for mask in keep.values()),
                "edges": count_edges(model, keep),
                "held_out_loss": task_loss(model, pairs.held_out, Ablate(keep, values)),
            }
    return found


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
    labels = ("learned", "attribution", "learned, eliminated", "attribution, eliminated")
    print("| task |" + "".join(f" {label}: nodes | edges | held-out loss |" for label in labels))
    print("|---|" + "---|---|---|" * len(labels))
    for task in arguments.tasks:
        cells = (done[task][label] for label in labels)
        print(f"| {task} |" + "".join(f" {c['nodes']} | {c['edges']} | {c['held_out_loss']:.3f} |" for c in cells))
    for above, below in (labels[1::-1], (labels[1], labels[2]), labels[:1:-1]):
        ratios = [done[t][above]["edges"] / max(1, done[t][below]["edges"]) for t in arguments.tasks]
        print(f"edges, {above} over {below}: {geometric_mean(ratios):.1f} (geometric mean of {len(ratios)} tasks)")


if __name__ == "__main__":
    main()

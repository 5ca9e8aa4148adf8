"""What each training signal is worth under the adversarial check, over tasks.

    python -m benchmarks.prune_signals [--tasks NAME ...] [--target 0.15] [--out FILE.jsonl]

Masks are trained with complete, random and adversarial ablation, and pruned to the target as `circuit prune` does; as a control
for size, masks of complete ablation at a tenth of the price stay as large as they were learned. Nodes alone, so that all are
alike. Losses are of held-out pairs: with every other node removed, with
random halves of them removed, and with the worst subset the adversary finds. One line of JSON per task goes to
--out as it is done, and tasks found there are not run again.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.bundled_tasks import bundled, splits
from benchmarks.prune_attribution import geometric_mean
from sparse_model.circuits.adversary import adversarial_loss
from sparse_model.circuits.config import PruneConfig
from sparse_model.circuits.deciding import Deciding
from sparse_model.circuits.edges import count_edges
from sparse_model.circuits.learn import learn_masks
from sparse_model.circuits.prompts import Prompts
from sparse_model.circuits.prune import discretised

LARGER = "complete, all of a larger mask"
SIGNALS: dict[str, dict[str, Any]] = {
    "complete": {},
    LARGER: {"k_coef": PruneConfig().k_coef / 10},
    "random": {"signal": "random"},
    "adversarial": {"signal": "adversarial"},
}


def compare(task: str, target: float) -> dict[str, dict[str, Any]]:
    """Size and held-out losses by signal, on one task."""
    model, values = bundled()
    pairs = splits(task)
    prompts = Prompts(model, pairs.train)
    deciding = Deciding(model, (pairs.train.select(slice(0, len(pairs.validation))), pairs.validation), values)
    found: dict[str, dict[str, Any]] = {}
    for name, changes in SIGNALS.items():
        config = PruneConfig(target_loss=target, **changes)
        scores = learn_masks(prompts, values, config, (0,)).scores(0)
        shrink = name not in (LARGER, "adversarial")
        keep = discretised(model, scores, deciding, target, config.elimination_rounds, shrink)
        losses = adversarial_loss(model, keep, values, pairs.held_out)
        nodes = sum(int(mask.sum()) for mask in keep.values())
        found[name] = {"nodes": nodes, "edges": count_edges(model, keep), **losses.to_json()}
    return found


def main() -> None:
    """Compare task by task, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="*", default=["closing_quote", "for_while", "list_nesting", "dict_list"])
    parser.add_argument("--target", type=float, default=0.15)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    done: dict[str, dict[str, dict[str, Any]]] = {}
    if arguments.out is not None and arguments.out.exists():
        done = {found["task"]: found["signals"] for found in map(json.loads, arguments.out.read_text().splitlines())}
    for task in arguments.tasks:
        if task not in done:
            done[task] = compare(task, arguments.target)
            if arguments.out is not None:
                with arguments.out.open("a") as lines:
                    lines.write(json.dumps({"task": task, "signals": done[task]}) + "\n")
    print("| task | signal | nodes | edges | complete | random halves | adversarial |")
    print("|---|---|---|---|---|---|---|")
    for task in arguments.tasks:
        for name, row in done[task].items():
            print(
                f"| {task} | {name} | {row['nodes']} | {row['edges']} | {row['complete']:.3f} | "
                f"{row['random']:.3f} | {row['adversarial']:.3f} |"
            )
    for name in list(SIGNALS)[1:]:
        ratios = [done[t][name]["adversarial"] / done[t]["complete"]["adversarial"] for t in arguments.tasks]
        print(f"adversarial loss, {name} over complete: {geometric_mean(ratios):.2f} (geometric mean)")


if __name__ == "__main__":
    main()

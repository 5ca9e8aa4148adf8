"""What each training signal is worth under the adversarial check, over tasks.

    python -m benchmarks.prune_signals [--tasks NAME ...] [--target 0.15] [--out FILE.jsonl] [--into docs/circuits.md]

Masks are trained with complete, random and adversarial ablation, and pruned to the target as `circuit prune` does. Masks of the
adversary come out larger, so there are two controls for size: masks of complete ablation at a tenth of the price, which stay as
large as they were learned, and those of complete ablation at the usual price with the next nodes of their ranking up to
the size of the adversary's. Nodes alone, so that all are alike. Losses are of held-out pairs: with every other node removed, with
random halves of them removed, and with the worst subset the adversary finds. One line of JSON per task goes to
--out as it is done, and tasks found there with all signals are not run again.
"""

from typing import Any

import torch
from torch import Tensor

from benchmarks.bundled_tasks import bundled, splits
from benchmarks.by_task import options, records, times
from sparse_model.circuits.adversary import adversarial_loss
from sparse_model.circuits.attribution import attribution_scores, break_ties
from sparse_model.circuits.deciding_loss import Deciding
from sparse_model.circuits.edges import count_edges
from sparse_model.circuits.learn import learn_masks
from sparse_model.circuits.prompts import Prompts
from sparse_model.circuits.prune import discretised
from sparse_model.circuits.prune_config import PruneConfig
from sparse_model.studies.page import publish
from sparse_model.tasks.token_pairs import TokenPairs

LARGER = "complete, all of a larger mask"
GROWN = "complete, grown to the adversary's size"
SIGNALS: dict[str, dict[str, Any]] = {
    "complete": {},
    LARGER: {"k_coef": PruneConfig().k_coef / 10},
    "random": {"signal": "random"},
    "adversarial": {"signal": "adversarial"},
}
ROWS = (*SIGNALS, GROWN)


def compare(task: str, target: float) -> dict[str, dict[str, Any]]:
    """Size and held-out losses by signal, on one task."""
    model, values = bundled()
    pairs = splits(task)
    prompts = Prompts(model, pairs.train)
    deciding = Deciding(model, (pairs.train.select(slice(0, len(pairs.validation))), pairs.validation), values)
    importance = attribution_scores(prompts, values)
    ranked, kept = {}, {}
    for name, changes in SIGNALS.items():
        config = PruneConfig(target_loss=target, **changes)
        ranked[name] = break_ties(learn_masks(prompts, values, config, (0,)).scores(0), importance)
        shrink = name not in (LARGER, "adversarial")
        kept[name] = discretised(model, ranked[name], deciding, target, config.elimination, shrink)
    size = sum(int(mask.sum()) for mask in kept["adversarial"].values())
    least = torch.cat(list(ranked["complete"].values())).sort(descending=True).values[size - 1]
    kept[GROWN] = {name: score >= least for name, score in ranked["complete"].items()}
    return {name: _measured(keep, pairs.held_out) for name, keep in kept.items()}


def _measured(keep: dict[str, Tensor], held_out: TokenPairs) -> dict[str, Any]:
    model, values = bundled()
    losses = adversarial_loss(model, keep, values, held_out)
    nodes = sum(int(mask.sum()) for mask in keep.values())
    return {"nodes": nodes, "edges": count_edges(model, keep), **losses.to_json()}


def text(found: list[dict[str, Any]]) -> str:
    """Markdown: one row per task and signal, then every signal beside complete ablation."""
    lines = ["| task | signal | nodes | edges | complete | random halves | adversarial |", "|---" * 7 + "|"]
    for record in found:
        for name in ROWS:
            row = record["signals"][name]
            losses = " | ".join(f"{row[key]:.3f}" for key in ("complete", "random", "adversarial"))
            lines.append(f"| {record['task']} | {name} | {row['nodes']} | {row['edges']} | {losses} |")
    lines += [
        "",
        f"Beside complete ablation, on {len(found)} tasks (geometric means, 95 % bootstrap intervals over tasks):",
        "",
        *(f"- {name}: {beside_complete(found, name)}" for name in ROWS if name != "complete"),
    ]
    equal = [r["signals"]["adversarial"]["adversarial"] / r["signals"][GROWN]["adversarial"] for r in found]
    lines.append(f"- adversarial beside complete grown to the same size: {times(equal, 2)} the adversarial loss.")
    lowest = min(record["signals"][name]["adversarial"] for record in found for name in ROWS)
    return "\n".join([*lines, "", f"The lowest adversarial loss of any mask is {lowest:.2f} nats; chance is 0.693."])


def beside_complete(found: list[dict[str, Any]], name: str) -> str:
    """A signal's adversarial loss and nodes over those of complete ablation."""
    losses, nodes = (
        [record["signals"][name][key] / record["signals"]["complete"][key] for record in found]
        for key in ("adversarial", "nodes")
    )
    halved = sum(ratio <= 0.5 for ratio in losses)
    return (
        f"{times(losses, 2)} the adversarial loss, at most half of it on {halved} of {len(found)} tasks, "
        f"with {times(nodes, 1)} the nodes."
    )


def main() -> None:
    """Compare task by task, then print the table."""
    tasks = ("closing_quote", "for_while", "list_nesting", "dict_list", "lambda_def", "equality")
    arguments = options(__doc__, tasks, "signals").parse_args()
    found = records(
        arguments.tasks,
        lambda task: {"signals": compare(task, arguments.target)},
        arguments.out,
        lambda record: set(ROWS) <= set(record["signals"]),
    )
    publish(text(found), "signals", arguments.into)


if __name__ == "__main__":
    main()

"""Learned masks against the attribution baseline at equal loss, over tasks.

    python -m benchmarks.prune_attribution [--tasks NAME ...] [--target 0.15] [--out FILE.jsonl] [--into docs/circuits.md]

Both rankings are cut by the same bisection on the same pairs and lose their unread nodes (`learned`, `attribution`); then both
again with elimination (`…, eliminated`). Edges are nonzero weights between kept nodes. One line of JSON per task goes
to --out as it is done, and tasks found there are not run again.
"""

from typing import Any

from benchmarks.bundled_tasks import bundled, splits
from benchmarks.by_task import options, records, times
from sparse_model.circuits.ablation import Ablate
from sparse_model.circuits.attribution import attribution_scores
from sparse_model.circuits.deciding_loss import Deciding
from sparse_model.circuits.edges import count_edges
from sparse_model.circuits.eliminate import eliminate
from sparse_model.circuits.learn import learn_masks
from sparse_model.circuits.prompts import Prompts
from sparse_model.circuits.prune import discretised, task_loss
from sparse_model.circuits.prune_config import PruneConfig
from sparse_model.studies.page import publish
from sparse_model.tasks import TASKS

LABELS = ("learned", "attribution", "learned, eliminated", "attribution, eliminated")
AGAINST = (
    ("By rank alone, attribution needs", "attribution", "learned"),
    ("With both eliminated it needs", "attribution, eliminated", "learned, eliminated"),
    ("Attribution by rank alone, against learned masks eliminated, needs", "attribution", "learned, eliminated"),
)
"""What is said of a ratio of edges: the words before it, and above and below the line."""


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
    found: dict[str, Any] = {}
    for name, score in scores.items():
        ranked = discretised(model, score, deciding, config.target_loss)
        if name == "learned":
            eliminated = discretised(model, score, deciding, config.target_loss, config.elimination)
        else:  # every node has a score above zero: elimination starts from the ranking's own cut
            eliminated = eliminate(ranked, deciding, config.target_loss, config.elimination)
        for label, keep in ((name, ranked), (f"{name}, eliminated", eliminated)):
            found[label] = {
                "nodes": sum(int(mask.sum()) for mask in keep.values()),
                "edges": count_edges(model, keep),
                "held_out_loss": task_loss(model, pairs.held_out, Ablate(keep, values)),
            }
    return found


def text(found: list[dict[str, Any]]) -> str:
    """Markdown: one row per task, then the ratios of edges over tasks."""
    lines = ["| task |" + "".join(f" {label}: nodes | edges | held-out loss |" for label in LABELS)]
    lines.append("|---" * (1 + 3 * len(LABELS)) + "|")
    for record in found:
        cells = [f"{c['nodes']} | {c['edges']} | {c['held_out_loss']:.3f}" for c in (record[name] for name in LABELS)]
        lines.append("| " + " | ".join([record["task"], *cells]) + " |")
    lines += ["", f"On {len(found)} tasks (geometric means, 95 % bootstrap intervals over tasks):", ""]
    for words, above, below in AGAINST:
        ratios = [max(1, record[above]["edges"]) / max(1, record[below]["edges"]) for record in found]
        spread = f"{min(ratios):.1f} to {max(ratios):.1f}"
        lines.append(f"- {words} {times(ratios, 1)} the edges ({spread} by task).")
    return "\n".join(lines)


def main() -> None:
    """Compare task by task, then print the table and the geometric means of the ratios."""
    arguments = options(__doc__, list(TASKS), "attribution").parse_args()
    config = PruneConfig(target_loss=arguments.target)
    publish(
        text(records(arguments.tasks, lambda task: compare(task, config), arguments.out)), "attribution", arguments.into
    )


if __name__ == "__main__":
    main()

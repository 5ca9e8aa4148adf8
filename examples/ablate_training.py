"""What do the published ways of training a weight-sparse model do to its loss and to its circuits?

    python examples/ablate_training.py --corpus runs/corpus --out runs/ablation [--into docs/training.md]

Each variant differs from the first in what its name says alone; three seeds, the same tokens in the same order. Every trained
model is pruned for every task. Runs and circuits that are done are read, so the command can be stopped and given again.
`OUT/result.json` holds every figure.
"""

import argparse
from pathlib import Path
from typing import Any

from foundation.artefacts import write_json
from sparse_model.circuits.prune_config import PruneConfig
from sparse_model.corpus.corpus import Corpus
from sparse_model.studies.arms import Arm
from sparse_model.studies.page import publish
from sparse_model.studies.sweep import Point, run_sweep
from sparse_model.training.train_config import TrainConfig
from sparse_model.transformer.shape import SparseShape

SEEDS = (1, 2, 3)
SHAPE = SparseShape(d_model=256, n_layer=2, position="added", leak=True)
TRAIN = TrainConfig(
    steps=3000, batch_size=16, lr=0.01, gradient_rms="normalise", density=0.02, checkpoint_every=500, keep_checkpoints=1,
    evaluate_every=0, log_to="none",
)  # fmt: skip
PRUNE = PruneConfig()
TASKS = ("closing_quote", "for_while", "list_nesting")
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "base": ({}, {}),
    "dense-embeddings": ({}, {"embedding_density": 1 / 16, "head_density": 1 / 16, "bias_density": 1 / 16}),
    "exponential-anneal": ({}, {"anneal_shape": "exponential"}),
    "stream-topk": ({"residual_topk": True}, {}),
    "sinks": ({"attention_sink": True}, {}),
    "bigram-table": ({"bigram_table": True}, {}),
    "no-positions": ({"position": "none"}, {}),
}
"""Changes of the shape and of the training run; the published models keep 1/16 of embeddings, head and biases."""


def points() -> list[Point]:
    """One per variant and seed."""
    return [
        Point(
            series=name,
            arm=Arm(
                name=name,
                shape=SHAPE.model_copy(update=shape),
                train=TRAIN.model_copy(update={**train, "seed": seed}),
            ),
        )
        for name, (shape, train) in VARIANTS.items()
        for seed in SEEDS
    ]


def table(result: dict[str, Any]) -> str:
    """Per variant, one figure for each seed: loss, nonzeros, and edges of each task's circuit where the model does it."""
    tasks = list(result["tasks"])
    lines = [
        f"| variant | loss, nats/token | nonzeros | {' | '.join(f'{task}: edges' for task in TASKS)} |",
        "|---" * (3 + len(TASKS)) + "|",
    ]
    for name in VARIANTS:
        runs = [point for point in result["points"] if point["series"] == name]
        cells = [
            " ".join(f"{run['cross_entropy']['mixture']:.3f}" for run in runs),
            " ".join(f"{run['nonzero']:,}" for run in runs),
            *(" ".join(str(run["circuits"][task].get("edges", "–")) for run in runs) for task in TASKS),
        ]
        lines.append("| " + " | ".join([name, *cells]) + " |")
    lines += [
        "",
        f"Seeds {', '.join(map(str, SEEDS))}; – where the whole model does not reach the target loss. Tasks every model does: "
        f"{', '.join(tasks) or 'none'}.",
    ]
    return "\n".join(lines)


def run(data: Corpus, out: Path) -> dict[str, Any]:
    """Train and prune every variant with every seed."""
    result = run_sweep(points(), TASKS, data, out, PRUNE)
    write_json(out / "result.json", result)
    return result


def main() -> None:
    """Parse the command line, run, print, write into the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--into", type=Path, help="also write the table between the `ablation` comments of this page")
    arguments = parser.parse_args()
    publish(table(run(Corpus.load(arguments.corpus), arguments.out)), "ablation", arguments.into)


if __name__ == "__main__":
    main()

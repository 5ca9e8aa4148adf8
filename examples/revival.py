"""Does reviving silent neurons and attention channels lower the loss at equal density, after equally many tokens?

    python examples/revival.py --corpus runs/corpus --out runs/revival [--into docs/training.md]

Two arms, three seeds, the same tokens in the same order; the arms differ in `revive_every` alone. Runs that are done are
read, so the command can be stopped and given again. `OUT/result.json` holds every figure.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from foundation.artefacts import write_json
from sparse_model.corpus.corpus import Corpus
from sparse_model.studies.arms import Arm, run_arm
from sparse_model.studies.page import write_between
from sparse_model.studies.two_arms import compare, comparison_table
from sparse_model.training.train_config import TrainConfig
from sparse_model.transformer.shape import SparseShape

SEEDS = (1, 2, 3)
SHAPE = SparseShape(d_model=256, n_layer=2, position="added", leak=True)
TRAIN = TrainConfig(
    steps=900, batch_size=16, lr=0.01, gradient_rms="normalise", density=0.02, anneal_shape="exponential",
    checkpoint_every=150, keep_checkpoints=1, evaluate_every=0, log_to="none",
)  # fmt: skip
"""The sparse arm of `sparse_vs_dense_twin.py` as its sweep settled it: here a quarter of the channels fall silent."""
LABELS = {"revived": "with revival", "plain": "without"}
REVIVE_EVERY = {"revived": 45, "plain": 0}
"""Steps; a tenth of the anneal, which takes half of the run."""


def run(data: Corpus, out: Path) -> dict[str, Any]:
    """Train both arms with every seed and compare."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in REVIVE_EVERY}
    for seed in SEEDS:
        for name, every in REVIVE_EVERY.items():
            train = TRAIN.model_copy(update={"revive_every": every})
            runs[name].append(run_arm(Arm(name=name, shape=SHAPE, train=train), seed, data, out))
            write_json(out / "result.json", {"runs": runs})
    result = {"runs": runs, "difference": compare(runs)}
    write_json(out / "result.json", result)
    return result


def table(result: dict[str, Any]) -> str:
    """Losses with their paired difference, then what stays silent."""
    runs = result["runs"]
    lines = [comparison_table(runs, LABELS), "", "| silent on held-out text | " + " | ".join(LABELS.values()) + " |"]
    lines.append("|---" * (len(LABELS) + 1) + "|")
    for kind, label in (("neurons", "neurons"), ("qk", "QK channels"), ("v", "V channels")):
        cells = [" ".join(f"{found['silent'][kind]:.1%}" for found in runs[name]) for name in LABELS]
        lines.append("| " + " | ".join([label, *cells]) + " |")
    density = runs["plain"][0]["density"]
    lines += ["", f"{density:.2%} of the weights are nonzero in both; {runs['plain'][0]['tokens']:,} tokens each."]
    return "\n".join(lines)


def main() -> None:
    """Parse the command line, run, print, write into the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--into", type=Path, help="also write the tables between the `revival` comments of this page")
    arguments = parser.parse_args()
    result = run(Corpus.load(arguments.corpus), arguments.out)
    print(json.dumps(result["difference"], indent=1))
    if arguments.into:
        write_between(arguments.into, "revival", table(result))


if __name__ == "__main__":
    main()

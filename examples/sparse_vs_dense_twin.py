"""Is a 2 %-dense model better than a dense one with as many nonzero weights, after equally many tokens?

    python examples/sparse_vs_dense_twin.py --corpus runs/corpus --out runs/twin [--into docs/training.md --plot docs/twin.png]

First each arm gets its own settings from a small sweep of short runs on one seed (the dense twin also without
AbsTopK, which the comparison does not owe it); then both train with three other seeds. Runs that are done are read, so
the command can be stopped and given again. `OUT/result.json` holds every figure.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from bridges.reports.figures.arms_dots import arms_dots
from foundation.artefacts import write_json
from sparse_model.corpus.corpus import Corpus
from sparse_model.studies.arms import Arm, run_arm
from sparse_model.studies.page import write_between
from sparse_model.studies.twin import dense_twin
from sparse_model.studies.two_arms import compare, comparison_table
from sparse_model.training.train_config import TrainConfig
from sparse_model.transformer.shape import SparseShape

DENSITY, SWEEP_SEED, SEEDS = 0.02, 0, (1, 2, 3)
SHAPE = SparseShape(d_model=256, n_layer=2, position="added", leak=True)
TRAIN = TrainConfig(
    steps=900, batch_size=16, gradient_rms="normalise", density=DENSITY, checkpoint_every=150, keep_checkpoints=1
)
SWEEP_STEPS = 200
LABELS = {"sparse": "2 % dense", "dense": "dense twin"}
SWEEP: dict[str, list[dict[str, Any]]] = {
    "sparse": [{"lr": lr, "anneal_shape": shape} for shape in ("linear", "exponential") for lr in (0.005, 0.01, 0.02)],
    "dense": [
        *({"lr": lr, "topk_fraction": k} for k in (0.25, None) for lr in (0.005, 0.01, 0.02, 0.04)),
        {"lr": 0.08, "topk_fraction": 0.25},
        *({"lr": lr, "eps": 1e-8, "topk_fraction": k} for k in (0.25, None) for lr in (0.003, 0.01, 0.03)),
    ],
}


def arms(data: Corpus, name: str, choice: dict[str, Any], steps: int) -> Arm:
    """The arm `name` with the settings of one sweep point."""
    train = TRAIN.model_copy(update={"steps": steps, **{k: v for k, v in choice.items() if k != "topk_fraction"}})
    shape = SHAPE
    if name == "dense":
        twin = dense_twin(SHAPE, data.vocab_size, data.block_length, TRAIN.final_densities(), TRAIN.floor)
        shape = twin.model_copy(update={"topk_fraction": choice["topk_fraction"]})
        train = train.model_copy(update={"density": 1.0})
    return Arm(name=name, shape=shape, train=train)


def run(data: Corpus, out: Path) -> dict[str, Any]:
    """Sweep, choose, train three seeds per arm, compare."""
    sweep: dict[str, list[dict[str, Any]]] = {}
    chosen = {}
    for name, choices in SWEEP.items():
        sweep[name] = []
        for number, choice in enumerate(choices):
            found = run_arm(arms(data, name, choice, SWEEP_STEPS), SWEEP_SEED, data, out / "sweep" / str(number))
            sweep[name].append({**choice, "cross_entropy": found["cross_entropy"]["mixture"]})
        best = min(range(len(choices)), key=lambda i: sweep[name][i]["cross_entropy"])
        chosen[name] = choices[best]
    result: dict[str, Any] = {"sweep_steps": SWEEP_STEPS, "sweep": sweep, "chosen": chosen, "runs": {}}
    for seed in SEEDS:
        for name in SWEEP:
            found = run_arm(arms(data, name, chosen[name], TRAIN.steps), seed, data, out)
            result["runs"].setdefault(name, []).append(found)
            write_json(out / "result.json", result)
    result["difference"] = compare(result["runs"])
    write_json(out / "result.json", result)
    return result


def table(result: dict[str, Any]) -> str:
    """What was swept and chosen, then every loss with the paired difference."""
    runs = result["runs"]
    sparse, dense = runs["sparse"][0], runs["dense"][0]
    shapes = {name: found["settings"]["shape"] for name, found in (("sparse", sparse), ("dense", dense))}
    lines = [
        f"Sparse: S = {shapes['sparse']['d_model']}, {sparse['nonzero']:,} of {sparse['parameters']:,} parameters nonzero. "
        f"Dense twin: S = {shapes['dense']['d_model']}, N = {shapes['dense']['d_mlp']}, {dense['nonzero']:,} parameters. "
        f"{sparse['tokens']:,} tokens each; nats per token, 95 % interval of Student's t over the seeds.",
        "",
        comparison_table(runs, LABELS),
        "",
        f"Sweep, {result['sweep_steps']} steps on a seed of its own, cross-entropy of the mixture (chosen: bold):",
        "",
        "| arm | setting | cross-entropy |",
        "|---|---|---|",
    ]
    for name, points in result["sweep"].items():
        best = min(point["cross_entropy"] for point in points)
        for point in points:
            setting = ", ".join(f"{key} {_shown(value)}" for key, value in point.items() if key != "cross_entropy")
            mark = "**" if point["cross_entropy"] == best else ""
            lines.append(f"| {LABELS[name]} | {setting} | {mark}{point['cross_entropy']:.3f}{mark} |")
    return "\n".join(lines)


def _shown(value: object) -> str:
    return "off" if value is None else str(value)


def main() -> None:
    """Parse the command line, run, print, write the table and the plot."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--into", type=Path, help="also write the tables between the `twin` comments of this page")
    parser.add_argument("--plot", type=Path, help="also draw the losses into this file")
    arguments = parser.parse_args()
    result = run(Corpus.load(arguments.corpus), arguments.out)
    print(json.dumps(result["difference"], indent=1))
    if arguments.into:
        write_between(arguments.into, "twin", table(result))
    if arguments.plot:
        arms_dots(result["runs"], LABELS).savefig(arguments.plot, dpi=150, facecolor="white")


if __name__ == "__main__":
    main()

"""What bridging real models will take, from their shapes alone: a table for docs/plan.md.

    python benchmarks/plan_models.py [--into docs/plan.md]

Every model is planned with one crossing a step, 64 sequences of 128 tokens a step in bf16 and 98 million tokens, on 1 and on 8
of a device, parameters whole where they fit and split where they do not; micro-batches are the largest that fit.
"""

import argparse
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bridges.bridge_config import BridgeConfig
from bridges.workload import DenseShape, bridged_workload, dense_shape
from sparse_model.plan.estimate import Plan, make_plan
from sparse_model.plan.hardware import find_device
from sparse_model.plan.measured import expected_utilisation
from sparse_model.studies.page import write_between
from sparse_model.training.train_config import TrainConfig
from sparse_model.transformer.shape import SparseShape

MODELS: dict[str, dict[str, Any]] = {
    "SmolLM2-135M": {
        "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
        "num_key_value_heads": 3, "vocab_size": 49_152, "tie_word_embeddings": True,
    },
    "Llama-3.2-1B": {
        "hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32,
        "num_key_value_heads": 8, "head_dim": 64, "vocab_size": 128_256, "tie_word_embeddings": True,
    },
    "Llama-3.1-8B": {
        "hidden_size": 4096, "intermediate_size": 14_336, "num_hidden_layers": 32, "num_attention_heads": 32,
        "num_key_value_heads": 8, "vocab_size": 128_256, "tie_word_embeddings": False,
    },
}  # fmt: skip
"""Shapes as their makers publish them."""
PLANNED: tuple[tuple[str, dict[str, int]], ...] = (
    ("SmolLM2-135M", {"d_model": 2048, "n_layer": 8, "n_head": 128}),
    ("Llama-3.2-1B", {"d_model": 4096, "n_layer": 8, "n_head": 256}),
    ("Llama-3.1-8B", {"d_model": 4096, "n_layer": 8, "n_head": 256}),
    ("Llama-3.1-8B", {"d_model": 8192, "n_layer": 8, "n_head": 512}),
)
"""Dense models, and the sparse one beside each."""
LENGTH, BATCH, STEPS, DENSITY = 128, 64, 12_000, 0.01
DEVICES = ("h100", "h200")


def config_folder(name: str, into: Path) -> Path:
    """A folder with the model's `config.json`."""
    path = into / "config.json"
    path.write_text(json.dumps({"model_type": "llama", "architectures": ["LlamaForCausalLM"], **MODELS[name]}))
    return into


def largest_plan(sparse: dict[str, int], dense: DenseShape, on: str, devices: int) -> tuple[Plan, int]:
    """The plan with the fewest micro-batches that fit, and how many; with as many as there are sequences where none fits."""
    device, bridge = find_device(on), BridgeConfig(crossings=1)
    config = SparseShape.from_mapping({**sparse, "position": "added"}).config(dense.vocab_size, LENGTH)
    for split in (False, True)[: 1 + (devices > 1)]:
        for accumulate in (1, 2, 4, 8, 16, 32, 64):
            if devices * accumulate > BATCH:
                break
            train = TrainConfig(steps=STEPS, batch_size=BATCH, accumulate=accumulate, density=DENSITY, precision="bf16")
            work = bridged_workload(config, dense, bridge, train, device.memory)
            share = expected_utilisation(on, "bf16", work.step_flops * BATCH * LENGTH / devices).share
            plan = make_plan(work, train, LENGTH, device, devices, share, split=split)
            if plan.memory.peak <= device.memory:
                return plan, accumulate
    return plan, accumulate


def table(plans: list[tuple[str, dict[str, int], str, int, Plan, int]]) -> str:
    """A line per pair of models, device and number of them."""
    heads = (
        "dense model",
        "sparse model",
        "on",
        "parameters",
        "memory per device",
        "micro-batches",
        "utilisation",
        "hours",
    )
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for name, sparse, on, devices, plan, accumulate in plans:
        fits = plan.memory.peak <= plan.device.memory
        cells = (
            name,
            f"S={sparse['d_model']:,}, L={sparse['n_layer']}: {plan.workload.size.parameters / 1e6:,.0f} M",
            f"{devices} × {on}",
            "split" if plan.split else "whole",
            f"{plan.memory.peak / 1e9:,.0f} GB"
            + ("" if fits else f" of {plan.device.memory / 1e9:,.0f}: does not fit"),
            str(accumulate) if fits else "",
            f"{plan.utilisation:.1%}" if fits else "",
            f"{plan.hours:.3g}" if fits else "",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Plan every model and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", type=Path, help="write between the `plan_models` comments of this page")
    arguments = parser.parse_args()
    plans = []
    for name, sparse in PLANNED:
        with TemporaryDirectory() as folder:
            dense = dense_shape(str(config_folder(name, Path(folder))), LENGTH)
        for on in DEVICES:
            for devices in (1, 8):
                plans.append((name, sparse, on, devices, *largest_plan(sparse, dense, on, devices)))
    text = table(plans)
    print(text)
    if arguments.into:
        write_between(arguments.into, "plan_models", text)


if __name__ == "__main__":
    main()

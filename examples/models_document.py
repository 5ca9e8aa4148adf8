"""The table of docs/models.md: what a bridge to real models will cost on one GPU.

    python examples/models_document.py --into docs/models.md

Plans `bridge train` from published shapes alone. Nothing of it was run, except where docs/smollm.md says so.
"""

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from bridges.bridge_config import BridgeConfig
from bridges.workload import bridged_workload, dense_shape
from sparse_model.plan.estimate import make_plan
from sparse_model.plan.hardware import find_device
from sparse_model.plan.measured import expected_utilisation
from sparse_model.studies.page import publish
from sparse_model.training.train_config import TrainConfig
from sparse_model.transformer.shape import SparseShape

GPU, LENGTH, BATCH, STEPS = "h100", 128, 64, 3600
MODELS: dict[str, dict[str, Any]] = {
    "HuggingFaceTB/SmolLM2-135M": {
        "model_type": "llama", "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
        "num_key_value_heads": 3, "vocab_size": 49_152, "tie_word_embeddings": True,
    },
    "openai-community/gpt2": {"model_type": "gpt2"},
    "EleutherAI/pythia-160m": {
        "model_type": "gpt_neox", "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
        "num_attention_heads": 12, "vocab_size": 50_304,
    },
    "Qwen/Qwen2.5-0.5B": {
        "model_type": "qwen2", "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
        "num_attention_heads": 14, "num_key_value_heads": 2, "vocab_size": 151_936, "tie_word_embeddings": True,
    },
}  # fmt: skip
"""Shapes as their makers publish them."""


def options(width: int, accumulate: int) -> str:
    """The settings of `bridge train` that were planned."""
    return (
        f"--sparse-n-layer 4 --sparse-d-model {width} --sparse-position added --density 0.02 --steps {STEPS} "
        f"--batch-size {BATCH} --accumulate {accumulate} --precision bf16 --bridge-crossings 1 --bridge-skip-first --device cuda"
    )


def planned(name: str, width: int) -> tuple[str, str]:
    """A row of the plan of one model, and its training command; micro-batches as large as fit."""
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "config.json").write_text(json.dumps(MODELS[name]))
        dense = dense_shape(place, LENGTH)
    device, bridge = find_device(GPU), BridgeConfig(crossings=1, skip_first=True)
    shape = SparseShape.from_mapping({"n_layer": 4, "d_model": width, "position": "added"})
    for accumulate in (1, 2, 4, 8, 16, 32, 64):
        train = TrainConfig(steps=STEPS, batch_size=BATCH, accumulate=accumulate, density=0.02, precision="bf16")
        work = bridged_workload(shape.config(dense.vocab_size, LENGTH), dense, bridge, train, device.memory)
        share = expected_utilisation(GPU, "bf16", work.step_flops * BATCH * LENGTH).share
        plan = make_plan(work, train, LENGTH, device, 1, share)
        if plan.memory.peak <= device.memory:
            break
    found = plan.to_json()
    row = (
        f"| {name} | {dense.n_layer} | {dense.d_model:,} | {dense.parameters / 1e6:,.0f} M | {dense.vocab_size:,} "
        f"| {width:,} | {accumulate} | {found['memory_bytes']['peak'] / 1e9:.0f} GB | {found['hours']:.2f} |"
    )
    return row, f"sparsebridge bridge train {name} --corpus corpus --out bridge {options(width, accumulate)}"


def plans(width: int = 1024) -> str:
    """Markdown: every model's plan, then the commands."""
    rows, commands = zip(*(planned(name, width) for name in MODELS), strict=True)
    heads = ("model", "layers", "D", "parameters", "V", "sparse S", "micro-batches", f"memory on one {GPU}", "hours")
    table = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|", *rows]
    return "\n".join([*table, "", "```sh", *commands, "```"])


def main() -> None:
    """Measure and plan; print or write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--into", type=Path, help="write between the `planned` comments of this page")
    arguments = parser.parse_args()
    publish(plans(), "planned", arguments.into)


if __name__ == "__main__":
    main()

"""Every measurement that needs a GPU, in one run of a few minutes without network; on a CPU the same code at tiny sizes.

    python benchmarks/gpu.py [--json] [--check] [--tiny] [--into docs/performance.md]

    kernel       AbsTopK of 65536×2048 bf16 entries: share of a copy's speed, and times faster than topk and scatter
    projection   share of an optimiser step at S=1024, L=4, and plain `torch.topk` of the same tensors over it
    smollm2      tokens per second of bridged steps beside a model of SmolLM2-135M's shape: S=1024, L=4, B=64, T=128, bf16, one
                 crossing; random weights, which cost what trained ones do
    gpt2         the same beside the bundled dense model: S=1024, L=2, two crossings
    launches     operators of a step, from `launches.py` (counted on the CPU, on any machine)
    run          100 steps of the whole training loop beside SmolLM2's shape, to a saved and evaluated bridge
    tests        `pytest -m gpu`

--check exits 1 where a target is missed or the GPU's tests fail; without a GPU, or with --tiny, figures are of no meaning and
nothing is checked against a target.
"""

import argparse
import datetime
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
TARGETS: dict[str, tuple[str, float]] = {
    "kernel.share_of_copy": (">=", 0.5),
    "kernel.times_topk_and_scatter": (">=", 10),
    "projection.share_of_step": ("<=", 0.05),
    "projection.topk_over_projection": (">=", 1),
    "smollm2.tokens_per_second": (">=", 150_000),
    "gpt2.tokens_per_second": (">=", 400_000),
    "launches.outside": ("<=", 1500),
    "run.finite": (">=", 1),
    "tests.failed": ("<=", 0),
}


@dataclass(frozen=True)
class Sizes:
    """What is measured."""

    rows: int
    width: int
    batch: int
    length: int
    d_model: int
    dense_layers: int
    dense_width: int
    vocabulary: int
    steps: int
    run_steps: int


FULL = Sizes(65536, 2048, 64, 128, 1024, 30, 576, 49152, 30, 100)
TINY = Sizes(64, 64, 2, 16, 32, 2, 24, 128, 2, 2)


def seconds(run: Callable[[], object], repeats: int, warm_up: int = 3) -> float:
    """Median wall seconds of a call, the device's work included."""
    found = []
    for turn in range(-warm_up, repeats):
        wait()
        started = time.perf_counter()
        run()
        wait()
        if turn >= 0:
            found.append(time.perf_counter() - started)
    return statistics.median(found)


def wait() -> None:
    """Until the device has done what was queued, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def kernel(sizes: Sizes, device: str) -> dict[str, float]:
    """AbsTopK beside a copy and beside topk + scatter."""
    from sparse_model.transformer.abs_topk import abs_topk

    x = torch.randn(sizes.rows, sizes.width, device=device, dtype=torch.bfloat16)
    target, k = torch.empty_like(x), sizes.width // 4

    def straightforward() -> None:
        places = x.abs().topk(k, dim=-1, sorted=False).indices
        torch.zeros_like(x).scatter_(-1, places, x.gather(-1, places))

    copied, kept = seconds(lambda: target.copy_(x), 20), seconds(lambda: abs_topk(x, k), 20)
    return {
        "microseconds": kept * 1e6,
        "share_of_copy": copied / kept,
        "times_topk_and_scatter": seconds(straightforward, 5) / kept,
    }


def llama(sizes: Sizes) -> Any:
    """SmolLM2-135M's shape with random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    heads = 9 if sizes.dense_width % 9 == 0 else 3
    shape = {
        "hidden_size": sizes.dense_width, "intermediate_size": sizes.dense_width * 8 // 3,
        "num_hidden_layers": sizes.dense_layers,
        "num_attention_heads": heads, "num_key_value_heads": heads // 3, "tie_word_embeddings": True,
    }  # fmt: skip
    return LlamaForCausalLM(LlamaConfig(vocab_size=sizes.vocabulary, max_position_embeddings=256, **shape))


def bundled() -> Any:
    """The dense model that comes with the program."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(ROOT / "cli" / "bundled" / "dense")


class Step:
    """Bridged optimiser steps, projection included, on random tokens."""

    def __init__(self, dense: Any, sizes: Sizes, device: str, n_layer: int, crossings: int) -> None:
        from bridges.alignment import align
        from bridges.bridge import Bridge
        from bridges.bridge_config import BridgeConfig
        from bridges.objective import BridgedObjective
        from dense_adapters import DenseStack
        from sparse_model.training.optimizer import make_optimizer
        from sparse_model.training.projection import sparse_tensors
        from sparse_model.training.train_config import TrainConfig
        from sparse_model.transformer.model import SparseTransformer
        from sparse_model.transformer.shape import SparseShape

        self.model = dense.to(device).eval().requires_grad_(False)
        stack = DenseStack(self.model)
        length = min(sizes.length, getattr(dense.config, "n_positions", sizes.length))
        shape = SparseShape(
            d_model=sizes.d_model, n_layer=n_layer, n_head=max(1, sizes.d_model // 16), position="added"
        )
        sparse = SparseTransformer(shape.config(stack.vocab_size, length)).to(device)
        bridge = Bridge(align(sparse, stack, "every"), sparse.d_model, stack.d_model, 0.25).to(device)
        self.config, self.device = TrainConfig(density=0.02, gradient_rms="normalise"), device
        self.objective = BridgedObjective(sparse, stack, bridge, BridgeConfig(crossings=crossings))
        self.optimizer = make_optimizer(self.objective, self.config)
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.tensors = sparse_tensors(sparse)
        self.tokens = torch.randint(0, stack.vocab_size, (sizes.batch, length), device=device)
        self.draw = 0

    def __call__(self) -> None:
        """One step."""
        from sparse_model.training.optimizer import limit_gradient

        self.draw += 1
        with torch.autocast(self.device, torch.bfloat16):
            loss = self.objective(self.tokens, draw=self.draw)["loss"]
        loss.backward()
        limit_gradient(self.parameters, self.config)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.project()

    def project(self) -> None:
        """Keep the largest weights."""
        from sparse_model.training.projection import project

        project(self.tensors, self.config.density, self.config.floor)

    def topk(self) -> None:
        """Plain `torch.topk` over each tensor, without floors."""
        for tensor in self.tensors:
            flat = tensor.parameter.detach().flatten().abs()
            flat.topk(max(1, round(self.config.density * flat.numel())), sorted=False)

    def measure(self, steps: int) -> dict[str, float]:
        """Tokens per second and peak memory."""
        from dense_adapters.half_precision import half_matrices

        with half_matrices(self.model):
            each = seconds(self, steps)
        found = {"seconds_per_step": each, "tokens_per_second": self.tokens.numel() / each}
        if torch.cuda.is_available():
            found["peak_gigabytes"] = torch.cuda.max_memory_allocated() / 1e9
        return found


def whole_run(dense: Any, sizes: Sizes, device: str) -> dict[str, float]:
    """The training loop from start to a saved artefact."""
    import numpy as np
    from transformers import AutoTokenizer

    from bridges.bridge_config import BridgeConfig
    from bridges.training import BridgeSettings, BridgeText, train_bridge
    from dense_adapters import DenseStack
    from sparse_model.training.train_config import TrainConfig
    from sparse_model.transformer.shape import SparseShape

    stack = DenseStack(dense.to(device).eval().requires_grad_(False))
    blocks = np.random.default_rng(0).integers(0, stack.vocab_size, (4 * sizes.batch, sizes.length))
    train = TrainConfig(
        steps=sizes.run_steps, batch_size=sizes.batch, precision="bf16", density=0.02, lr=0.008, gradient_rms="normalise",
        log_to="none", evaluate_every=0, diagnose_every=0,
    )  # fmt: skip
    shape = SparseShape(d_model=sizes.d_model, n_layer=min(4, sizes.dense_layers), n_head=2, position="added")
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "cli" / "bundled" / "dense")
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        description = train_bridge(
            stack, "shape", tokenizer, BridgeText(blocks, {"random": blocks[:8]}), Path(folder) / "bridge",
            BridgeSettings(train, BridgeConfig(crossings=1), shape), device=device,
        )  # fmt: skip
    kl = description["evaluation"]["random"]["kl_dense_sparse"]["value"]
    return {"seconds": time.perf_counter() - started, "finite": float(np.isfinite(kl))}


def gpu_tests() -> dict[str, float]:
    """`pytest -m gpu` in a process of its own."""
    line = [sys.executable, "-m", "pytest", "-m", "gpu", "tests/sparse_model"]
    ran = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    return {"failed": float(ran.returncode not in (0, 5))}


def measure(sizes: Sizes, device: str, tests: bool) -> dict[str, Any]:
    """All figures; a part that breaks is reported with its error, and the others still run."""
    import launches

    smollm2: dict[str, Any] = {}

    def projection() -> dict[str, float]:
        step: Step = smollm2["step"]
        whole, part, plain = seconds(step, 5), seconds(step.project, 9), seconds(step.topk, 9)
        return {"milliseconds": part * 1e3, "share_of_step": part / whole, "topk_over_projection": plain / part}

    def beside_smollm2() -> dict[str, float]:
        smollm2["step"] = Step(llama(sizes), sizes, device, min(4, sizes.dense_layers), 1)
        return smollm2["step"].measure(sizes.steps)

    layers = 30 if sizes is FULL else sizes.dense_layers
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "kernel": lambda: kernel(sizes, device),
        "smollm2": beside_smollm2,
        "projection": projection,
        "gpt2": lambda: Step(bundled(), sizes, device, 2, 2).measure(sizes.steps),
        "launches": lambda: launches.count_step(launches.smollm2(1000, layers), 2, 32, min(4, layers)).to_json(),
        "run": lambda: whole_run(llama(sizes), sizes, device),
    }
    if tests:
        parts["tests"] = gpu_tests
    found: dict[str, Any] = {}
    for name, part in parts.items():
        print(f"{name} ...", file=sys.stderr, flush=True)
        try:
            found[name] = part()
        except Exception as error:  # the other figures are worth having
            found[name] = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"}
    return found


def missed(found: dict[str, Any]) -> list[str]:
    """Targets that a figure misses, or that have no figure."""
    wrong = []
    for name, (sense, limit) in TARGETS.items():
        part, figure = name.split(".")
        value = found.get(part, {}).get(figure)
        if value is None or (value < limit if sense == ">=" else value > limit):
            wrong.append(f"{name} is {'not measured' if value is None else f'{value:.4g}'}, wanted {sense} {limit:g}")
    return wrong


def table(found: dict[str, Any]) -> str:
    """One line per target: what was found and what is wanted."""
    lines = [
        f"{found['device']}, torch {found['torch']}, {found['day']}:",
        "",
        "| figure | found | wanted |",
        "|---|---|---|",
    ]
    for name, (sense, limit) in TARGETS.items():
        part, figure = name.split(".")
        value = found.get(part, {}).get(figure)
        shown = found.get(part, {}).get("error", "not measured") if value is None else f"{value:.4g}"
        lines.append(f"| {part}: {figure.replace('_', ' ')} | {shown} | {sense} {limit:g} |")
    return "\n".join(lines)


def main() -> None:
    """Measure and print one JSON object (or a table), and where asked check it or write it into a page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--check", action="store_true", help="exit 1 when a target is missed")
    parser.add_argument("--tiny", action="store_true", help="tiny sizes, to see that everything runs")
    parser.add_argument("--into", type=Path, help="also write the table between the `gpu` comments of this page")
    arguments = parser.parse_args()
    on_gpu = torch.cuda.is_available()
    real = on_gpu and not arguments.tiny
    found = {
        "device": torch.cuda.get_device_name() if on_gpu else "cpu, tiny sizes: no measurement",
        "torch": torch.__version__,
        "day": str(datetime.date.today()),
        **measure(FULL if real else TINY, "cuda" if on_gpu else "cpu", tests=real),
    }
    print(json.dumps(found, indent=1) if arguments.json else table(found))
    if arguments.into and real:
        from sparse_model.studies.page import write_between

        write_between(arguments.into, "gpu", table(found))
    errors = [f"{name}: {part['error']}" for name, part in found.items() if isinstance(part, dict) and "error" in part]
    wrong = missed(found) if real else errors
    if arguments.check and wrong:
        sys.exit("; ".join(wrong))


if __name__ == "__main__":
    main()

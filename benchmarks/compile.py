"""Speed and error of compiled circuits: `python benchmarks/compile.py --into docs/circuits.md`.

Masked model against program, CPU time, interleaved, medians: random sparse models at S = 512 with random circuits of
connected nodes, and circuits pruned out of the bundled model (folders given with --circuits). Prompts are those
of real tasks. `tables` is what is computed once for a set of prompts and shared by all circuits.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import torch

from cli.demo import BUNDLED
from cli.loading import load_sparse, load_tokenizer
from sparse_model import SparseConfig, SparseTransformer
from sparse_model.circuits.ablation import Ablate, final_logits
from sparse_model.circuits.circuit import Circuit, circuit_edges
from sparse_model.circuits.compile import Compiled
from sparse_model.circuits.frozen import FrozenStream
from sparse_model.circuits.prefixes import distinct_prefixes
from sparse_model.studies.page import write_between
from sparse_model.tasks import find_task
from sparse_model.tasks.token_pairs import PromptBatch, tokenise_pairs
from sparse_model.transformer.nodes import node_locations

REPEATS = 3
HEAD = (
    "| model | nodes | edges | masked, CPU ms | program, CPU ms | ratio | … compiling included | largest difference of a logit "
    "| … in double precision |"
    "\n|---|---|---|---|---|---|---|---|---|"
)


def line(found: dict[str, Any]) -> str:
    """One row of the table."""
    cells = (
        found["case"], str(found["nodes"]), str(found["edges"]), f"{found['masked_ms']:.0f}", f"{found['program_ms']:.1f}",
        f"{found['ratio']:.0f}×", f"{found['ratio_compile_and_run']:.0f}×", f"{found['largest_difference']:.0e}",
        f"{found['largest_difference_double']:.0e}",
    )  # fmt: skip
    return "| " + " | ".join(cells) + " |"


def random_model(width: int, density: float, layers: int = 2) -> SparseTransformer:
    """A model whose weight matrices keep a random share of their entries, scaled so that activations stay of order 1."""
    torch.manual_seed(0)
    config = SparseConfig(
        n_layer=layers, d_model=width, n_head=width // 16, d_head=16, d_mlp=4 * width, position="added"
    )
    model = SparseTransformer(config).eval().requires_grad_(False)
    for block in model.blocks:
        for linear in (block.attn.c_attn, block.attn.c_proj, block.mlp.c_fc, block.mlp.c_proj):
            linear.weight.normal_(std=1 / (linear.weight.shape[1] * density) ** 0.5)
            linear.weight *= torch.rand_like(linear.weight) < density
            linear.bias.normal_(std=0.1)
    model.embeddings("wte").weight.normal_()
    model.embeddings("wpe").weight.normal_(std=0.3)
    return model


def random_keep(model: SparseTransformer, nodes: int, seed: int) -> dict[str, torch.Tensor]:
    """About `nodes` random nodes, equally many per location, each location chosen among what the kept ones before it reach."""
    generator = torch.Generator().manual_seed(seed)
    each = max(1, round(nodes / len(node_locations(model.config))))
    keep: dict[str, torch.Tensor] = {}
    written = torch.zeros(model.d_model)

    def choose(reached: torch.Tensor) -> torch.Tensor:
        order = (reached + 0.5 * torch.rand(len(reached), generator=generator)).argsort(descending=True)
        return torch.zeros(len(reached), dtype=torch.bool).index_fill_(0, order[:each], True)

    for layer, block in enumerate(model.blocks):
        attention, mlp, width = f"{layer}.attn", f"{layer}.mlp", model.config.d_attn
        keep[f"{attention}.act_in"] = choose(written)
        live = (block.attn.c_attn.weight != 0).float() @ keep[f"{attention}.act_in"].float()
        keep[f"{attention}.q"] = keep[f"{attention}.k"] = choose(live[:width] + live[width : 2 * width])
        heads = keep[f"{attention}.k"].view(-1, model.config.d_head).any(1).repeat_interleave(model.config.d_head)
        keep[f"{attention}.v"] = choose(live[2 * width :] * heads)
        keep[f"{attention}.resid_delta"] = choose(
            (block.attn.c_proj.weight != 0).float() @ keep[f"{attention}.v"].float()
        )
        written += keep[f"{attention}.resid_delta"]
        keep[f"{mlp}.act_in"] = choose(written)
        keep[f"{mlp}.post_act"] = choose((block.mlp.c_fc.weight != 0).float() @ keep[f"{mlp}.act_in"].float())
        keep[f"{mlp}.resid_delta"] = choose((block.mlp.c_proj.weight != 0).float() @ keep[f"{mlp}.post_act"].float())
        written += keep[f"{mlp}.resid_delta"]
    return keep


def compare(
    model: SparseTransformer, keep: dict[str, torch.Tensor], values: dict[str, torch.Tensor], batch: PromptBatch
) -> dict[str, Any]:
    """CPU milliseconds of both, their ratio, and how far the logits are apart."""
    tap = Ablate(keep, values)
    started = time.process_time()
    frozen = FrozenStream(model, values, distinct_prefixes(batch.tokens, batch.last))
    Compiled(model, keep, values).logits(frozen)
    first = time.process_time() - started

    def masked() -> torch.Tensor:
        return final_logits(model, batch.tokens, batch.last, tap)

    def compiled() -> torch.Tensor:
        return Compiled(model, keep, values).logits(frozen)

    program = Compiled(model, keep, values)
    times: dict[str, list[float]] = {"masked": [], "program": [], "compile and run": []}
    for _ in range(REPEATS):
        for name, run in (
            ("masked", masked),
            ("program", lambda: program.logits(frozen)),
            ("compile and run", compiled),
        ):
            started = time.process_time()
            run()
            times[name].append(1e3 * (time.process_time() - started))
    median = {name: statistics.median(found) for name, found in times.items()}
    difference = (masked() - compiled()).abs().amax(1)
    nothing = {name: torch.zeros_like(mask) for name, mask in keep.items()}
    effect = (masked() - final_logits(model, batch.tokens, batch.last, Ablate(nothing, values))).abs().amax(1)
    double = {name: value.double() for name, value in values.items()}
    model = model.double()
    exact = FrozenStream(model, double, frozen.prefixes)
    in_double = Compiled(model, keep, double).logits(exact) - final_logits(
        model, batch.tokens, batch.last, Ablate(keep, double)
    )
    model.float()
    return {
        "nodes": sum(int(mask.sum()) for mask in keep.values()),
        "edges": sum(1 for _ in circuit_edges(model, keep)),
        "effect_on_logits": float(effect.median()),
        "masked_ms": median["masked"],
        "program_ms": median["program"],
        "ratio": median["masked"] / median["program"],
        "ratio_compile_and_run": median["masked"] / median["compile and run"],
        "tables_compile_and_run_ms": 1e3 * first,
        "prompts_beyond_1e-4": int((difference > 1e-4).sum()),
        "prompts": len(difference),
        "median_difference": float(difference.median()),
        "largest_difference": float(difference.max()),
        "largest_difference_double": float(in_double.abs().max()),
    }


@torch.no_grad()
def main() -> None:
    """Run all cases and print one line each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--circuits", type=Path, nargs="*", default=[], help="circuit folders of the bundled model")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--width", type=int, default=512, help="S of the random models")
    parser.add_argument("--task", default="closing_quote", help="whose prompts the random models get")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--into", type=Path, help="also write the table between the `compile` comments of this page")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    tokenizer = load_tokenizer(BUNDLED / "bridge")

    def prompts(task: str) -> PromptBatch:
        batch = tokenise_pairs(find_task(task), tokenizer, arguments.pairs, "held_out", 0).prompts()
        return batch._replace(tokens=batch.tokens[:, : int(batch.last.max()) + 1])

    found = []

    def report(case: str, result: dict[str, Any]) -> None:
        found.append({"case": case, **result})
        print(line(found[-1]), flush=True)
        if arguments.json is not None:
            arguments.json.write_text(json.dumps({"threads": arguments.threads, "cases": found}, indent=1))

    print(HEAD)
    batch = prompts(arguments.task)
    for density in (0.01, 0.02, 0.05):
        model = random_model(arguments.width, density)
        values = {name: torch.randn(width) * 0.1 for name, width in node_locations(model.config).items()}
        for nodes in (50, 100, 200):
            case = f"S = {arguments.width}, {density:.0%} nonzero"
            report(case, compare(model, random_keep(model, nodes, nodes), values, batch))
    bundled = load_sparse(BUNDLED / "bridge").requires_grad_(False)
    for folder in arguments.circuits:
        circuit = Circuit.load(folder)
        report(
            f"bundled, {circuit.task}",
            compare(bundled, dict(circuit.keep), dict(circuit.values), prompts(circuit.task)),
        )
    if arguments.into is not None:
        note = f"{2 * arguments.pairs} prompts, {arguments.threads} thread(s)."
        write_between(arguments.into, "compile", "\n".join([HEAD, *map(line, found), "", note]))


if __name__ == "__main__":
    main()

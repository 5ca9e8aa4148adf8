"""Speed of the masked engine on the bundled model: `python -m benchmarks.masked_pass --into docs/circuits.md`.

The best-attributed nodes of a task, in several numbers, run alone on its held-out prompts three ways, CPU time of one
thread, interleaved, medians: *plain*, the definition (the whole model under a tap, every token a row); *all channels*, the
pass that masks are learned with, without its backward half; *kept channels*, what runs a small circuit. The differences of
logits are compared with the definition's.
"""

import argparse
import statistics
import time
from pathlib import Path

import torch

from benchmarks.bundled_tasks import bundled, splits
from sparse_model.circuits.ablation import Ablate, final_logits
from sparse_model.circuits.attribution import attribution_scores
from sparse_model.circuits.kept_sublayers import KeptPass
from sparse_model.circuits.masked_sublayers import MaskedPass
from sparse_model.circuits.prompts import Prompts
from sparse_model.studies.page import publish
from sparse_model.tasks.loss import logit_difference

SIZES = (15, 60, 200, 1000, 4000)


def main() -> None:
    """Time every size and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="closing_quote")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--into", type=Path, help="write the table between the `engine` comments of this page")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    model, values = bundled()
    pairs = splits(arguments.task)
    scores = attribution_scores(Prompts(model, pairs.train), values)
    prompts, batch = Prompts(model, pairs.held_out), pairs.held_out.prompts()
    rows, tokens = prompts.rows(), prompts.tokens
    ranked = torch.cat(list(scores.values())).sort(descending=True).values
    lines = [
        "| nodes | plain, ms | all channels, ms | kept channels, ms | plain / kept | all / kept | largest difference |",
        "|---|---|---|---|---|---|---|",
    ]
    for size in SIZES:
        keep = {name: score >= ranked[size - 1] for name, score in scores.items()}
        masks = {name: mask[None].float() for name, mask in keep.items()}

        def plain(keep: dict[str, torch.Tensor] = keep) -> torch.Tensor:
            logits = final_logits(model, tokens, batch.last, Ablate(keep, values))
            return logit_difference(logits, batch.answer, batch.other)

        def whole(masks: dict[str, torch.Tensor] = masks) -> torch.Tensor:
            return MaskedPass(prompts, rows, masks, values, {}).run()[0]

        def kept(masks: dict[str, torch.Tensor] = masks) -> torch.Tensor:
            return KeptPass(prompts, rows, masks, values, {}).run()[0]

        times: dict[str, list[float]] = {"plain": [], "whole": [], "kept": []}
        with torch.no_grad():
            apart = float((kept() - plain()).abs().max())
            for _ in range(arguments.repeats):
                for name, run in (("plain", plain), ("whole", whole), ("kept", kept)):
                    started = time.process_time()
                    run()
                    times[name].append(1e3 * (time.process_time() - started))
        ms = {name: statistics.median(found) for name, found in times.items()}
        nodes = sum(int(mask.sum()) for mask in keep.values())
        lines.append(
            f"| {nodes} | {ms['plain']:.0f} | {ms['whole']:.0f} | {ms['kept']:.0f} | {ms['plain'] / ms['kept']:.1f}× | "
            f"{ms['whole'] / ms['kept']:.1f}× | {apart:.0e} |"
        )
    publish(
        "\n".join([*lines, "", f"`{arguments.task}`, {len(batch.last)} prompts, one thread."]),
        "engine",
        arguments.into,
    )


if __name__ == "__main__":
    main()

"""How much several mask seeds cost beside one, and one beside the plain definition of a masked step.

    python -m benchmarks.prune_seeds [--task closing_quote] [--seeds 8] [--steps 60] [--turns 3] [--into docs/circuits.md]

`plain` is the whole model under a tap, one prompt row per token, as `tests/.../test_learn.py` defines learning. All run in
turn in one process and are measured in CPU seconds, which other load changes little; printed are the medians of the
per-turn ratios, as one JSON object; --into writes them as a sentence.
Target: 8 seeds <= 3x one plain seed.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.bundled_tasks import bundled, splits
from sparse_model.circuits.ablation import Ablate, final_logits
from sparse_model.circuits.learn import learn_masks
from sparse_model.circuits.masks import NodeMasks
from sparse_model.circuits.prompts import Prompts
from sparse_model.circuits.prune_config import PruneConfig
from sparse_model.studies.page import write_between
from sparse_model.tasks.loss import binary_loss
from sparse_model.tasks.token_pairs import TokenPairs


def plain_masks(pairs: TokenPairs, config: PruneConfig) -> NodeMasks:
    """One seed, by the definition."""
    model, values = bundled()
    masks = NodeMasks(model.config, config.tied, config.init_noise, config.init_bias, (0,))
    optimizer = torch.optim.AdamW(
        masks.parameters(), lr=config.lr, betas=(0.9, config.beta2), weight_decay=config.weight_decay, fused=True
    )
    order = torch.Generator().manual_seed(0)
    warmup = max(1, round(config.warmup * config.steps))
    for step in range(config.steps):
        for group in optimizer.param_groups:
            group["lr"] = config.lr * min((step + 1) / warmup, 1 - step / config.steps)
        batch = pairs.select(torch.randperm(len(pairs), generator=order)[: config.batch_pairs]).prompts()
        width = int(batch.last.max()) + 1
        keep = masks.keep(config.temperature)
        tap = Ablate({name: mask[0] for name, mask in keep.items()}, values)
        logits = final_logits(model, batch.tokens[:, :width], batch.last, tap)
        price = config.k_coef * min(1.0, step / max(1.0, config.ramp * config.steps))
        optimizer.zero_grad()
        (binary_loss(logits, batch.answer, batch.other) + price * masks.kept(keep)[0]).backward()
        torch.nn.utils.clip_grad_norm_(masks.parameters(), config.gradient_norm)
        optimizer.step()
        masks.clamp()
    return masks


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="closing_quote")
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--into", type=Path, help="also write between the `seeds` comments of this page")
    arguments = parser.parse_args()
    config, train = PruneConfig(steps=arguments.steps), splits(arguments.task).train
    model, values = bundled()
    prompts = Prompts(model, train)
    runs: dict[str, Callable[[], NodeMasks]] = {
        "plain": lambda: plain_masks(train, config),
        "one": lambda: learn_masks(prompts, values, config, (0,)),
        "many": lambda: learn_masks(prompts, values, config, range(arguments.seeds)),
    }
    turns: list[dict[str, float]] = []
    scores = {}
    for _ in range(arguments.turns):
        seconds = {}
        for name, run in runs.items():
            started = time.process_time()
            scores[name] = run().scores(0)
            seconds[name] = time.process_time() - started
        turns.append(seconds)
    same = all(
        bool(((scores["plain"][place] > 0) == (scores[name][place] > 0)).float().mean() > 0.99)
        for name in ("one", "many")
        for place in scores["plain"]
    )

    def ratio(above: str, below: str) -> float:
        return statistics.median(turn[above] / turn[below] for turn in turns)

    found = {
        "task": arguments.task,
        "turns": arguments.turns,
        "threads": torch.get_num_threads(),
        "seeds": arguments.seeds,
        "steps": arguments.steps,
        "cpu_seconds": {name: statistics.median(turn[name] for turn in turns) for name in runs},
        "one_over_plain": ratio("one", "plain"),
        "many_over_plain": ratio("many", "plain"),
        "many_over_one": ratio("many", "one"),
        "same_masks": same,
    }
    print(json.dumps(found, indent=1))
    if arguments.into is not None:
        write_between(arguments.into, "seeds", text(found))


def text(found: dict[str, Any]) -> str:
    """The ratios in a sentence."""
    masks = "The masks are the plain ones." if found["same_masks"] else "**The masks differ from the plain ones.**"
    return (
        f"`{found['task']}`, {found['steps']} steps, CPU seconds with {found['threads']} thread(s), medians of "
        f"{found['turns']} turns: one seed costs {found['one_over_plain']:.2f} times the plain step\nit is defined by (the "
        f"whole model under a tap, one row per token), {found['seeds']} seeds {found['many_over_plain']:.2f} times; beside one "
        f"seed\nof the same fast code, {found['seeds']} cost {found['many_over_one']:.1f} times. {masks}"
    )


if __name__ == "__main__":
    main()

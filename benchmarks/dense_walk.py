"""How much a walk costs beside the model's own forward, and an edited `generate` beside a plain one.

    python benchmarks/dense_walk.py [--model PATH] [--repeats 15]

Both sides of a ratio run in turn in one process, so that a change of load hits both; printed are the medians of the
per-turn ratios, as one JSON object. Targets: walk <= 1.05, edited generate <= 1.10.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

from dense_adapters import DenseStack, load_dense

_SHAPE = {"vocab_size": 2048, "hidden_size": 256, "num_hidden_layers": 6, "num_attention_heads": 8}


def ratio(ours: Callable[[], object], own: Callable[[], object], repeats: int) -> float:
    """Median over `repeats` turns of seconds(ours) / seconds(own); who goes first alternates."""
    ours(), own()
    ratios = []
    for turn in range(repeats):
        seconds: dict[bool, float] = {}
        for mine in (True, False) if turn % 2 else (False, True):
            started = time.perf_counter()
            (ours if mine else own)()
            seconds[mine] = time.perf_counter() - started
        ratios.append(seconds[True] / seconds[False])
    return statistics.median(ratios)


@torch.no_grad()
def measure(model: Any, repeats: int, batch: int = 4, length: int = 128, new: int = 24) -> dict[str, float]:
    """The three ratios for one model: whole walk, generate with one read edited, generate with every read edited."""
    stack = DenseStack(model)
    tokens = torch.randint(3, stack.vocab_size, (batch, length), generator=torch.Generator().manual_seed(0))
    prompt, mask = tokens[:, :32], torch.ones_like(tokens[:, :32])
    direction = torch.randn(stack.d_model, generator=torch.Generator().manual_seed(1))

    def walk() -> torch.Tensor:
        steps = stack.walk(tokens)
        h = steps.embedding()
        for site in range(len(stack.sublayers)):
            h = steps.sublayer(site, h)
        return steps.unembed(h)

    def forward() -> torch.Tensor:
        return model(tokens, use_cache=False).logits

    def generate() -> torch.Tensor:
        return model.generate(
            prompt, attention_mask=mask, max_new_tokens=new, min_new_tokens=new, do_sample=False, pad_token_id=0
        )

    def edited(sites: range) -> Callable[[], torch.Tensor]:
        def run() -> torch.Tensor:
            with stack.editing(dict.fromkeys(sites, lambda h, x: x + direction)):
                return generate()

        return run

    torch.testing.assert_close(walk(), forward(), atol=1e-4, rtol=1e-4)
    middle = len(stack.sublayers) // 2
    return {
        "walk_over_forward": ratio(walk, forward, repeats),
        "generate_one_site_over_plain": ratio(edited(range(middle, middle + 1)), generate, repeats),
        "generate_every_site_over_plain": ratio(edited(range(len(stack.sublayers))), generate, repeats),
    }


def main() -> None:
    """Measure two small random models, or the one given, and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a Hugging Face id, folder, or folder with a GGUF file")
    parser.add_argument("--repeats", type=int, default=15)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    if arguments.model:
        models = {arguments.model: load_dense(arguments.model)[0]}
    else:
        quiet = {"bos_token_id": 1, "eos_token_id": 2}
        configs = (GPT2Config(**_SHAPE, **quiet), LlamaConfig(**_SHAPE, intermediate_size=704, **quiet))
        models = {type(c).__name__: AutoModelForCausalLM.from_config(c).eval().requires_grad_(False) for c in configs}
    print(json.dumps({name: measure(model, arguments.repeats) for name, model in models.items()}, indent=1))


if __name__ == "__main__":
    main()

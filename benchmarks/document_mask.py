"""What keeping documents apart costs: seconds of a forward and backward pass with the block-diagonal mask over those without.

The two models have the same weights; their steps alternate, and the figure is the median of the ratios of neighbours. The
same alternation of the model with itself says how much of it is noise. Run: python benchmarks/document_mask.py
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch

from sparse_model import SparseConfig, SparseTransformer

SHAPES = ((128, 128, 16), (256, 128, 16), (256, 256, 16), (512, 128, 8))


def make_step(config: SparseConfig, state: dict[str, torch.Tensor], tokens: torch.Tensor) -> Callable[[], None]:
    """A function that runs one forward and backward pass of a model with these weights."""
    model = SparseTransformer(config)
    model.load_state_dict(state)

    def step() -> None:
        model.zero_grad()
        model(tokens, labels=tokens).loss.backward()

    return step


def ratio(ours: Callable[[], None], theirs: Callable[[], None], repeats: int) -> float:
    """Median over repeats of the seconds of one call of `ours` over one of `theirs`."""
    found = []
    for _ in range(repeats + 1):
        times = []
        for step in (ours, theirs):
            start = time.perf_counter()
            step()
            times.append(time.perf_counter() - start)
        found.append(times[0] / times[1])
    return statistics.median(found[1:])


def main() -> None:
    """Measure every shape and print one JSON object a line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    repeats = parser.parse_args().repeats
    for width, length, batch in SHAPES:
        shape = {"d_model": width, "d_mlp": 4 * width, "n_head": width // 16, "block_size": length}
        leaking, apart = SparseConfig(**shape), SparseConfig(**shape, document_token=0)
        torch.manual_seed(0)
        state = SparseTransformer(leaking).state_dict()
        tokens = torch.randint(1, 1024, (batch, length))
        tokens[torch.rand(batch, length) < 1 / 100] = 0  # a document about every 100 tokens
        steps = [make_step(config, state, tokens) for config in (apart, leaking, leaking)]
        row = {"S": width, "T": length, "B": batch, "ratio": round(ratio(steps[0], steps[1], repeats), 3)}
        print(json.dumps({**row, "same model": round(ratio(steps[2], steps[1], repeats), 3)}), flush=True)


if __name__ == "__main__":
    main()

"""What keeping documents apart costs: seconds of a forward and backward pass with the block-diagonal mask over those without.

    python benchmarks/document_mask.py [--repeats 15]

The models have the same weights and take turns; a ratio is the median over turns. The model against a copy of itself
("leaking again") says how much of it is noise.
"""

import argparse
import json
from collections.abc import Callable

import torch
from timing import interleave, machine, ratio

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


def main() -> None:
    """Measure every shape and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=15)
    repeats = parser.parse_args().repeats
    found: dict[str, object] = {**machine()}
    for width, length, batch in SHAPES:
        shape = {"d_model": width, "d_mlp": 4 * width, "n_head": width // 16, "block_size": length}
        leaking, apart = SparseConfig(**shape), SparseConfig(**shape, document_token=0)
        torch.manual_seed(0)
        state = SparseTransformer(leaking).state_dict()
        tokens = torch.randint(1, 1024, (batch, length))
        tokens[torch.rand(batch, length) < 1 / 100] = 0  # a document about every 100 tokens
        shapes = {"apart": apart, "leaking": leaking, "leaking again": leaking}
        steps = {name: make_step(config, state, tokens) for name, config in shapes.items()}
        _, seconds = interleave(steps, repeats)  # of the processor: others' work on the machine does not enter
        ratios = {name: round(ratio(seconds, name, "leaking"), 3) for name in ("apart", "leaking again")}
        found[f"S={width}, T={length}, B={batch}"] = ratios
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()

"""Whether torch.compile pays on this machine: seconds of a compiled forward and backward pass over those of a plain one.

Run: python benchmarks/compiled_step.py (needs a C++ compiler)
"""

import argparse
import json
import time
from collections.abc import Callable

import torch
from timing import interleave, machine, ratio
from torch import Tensor

from sparse_model import SparseConfig, SparseTransformer
from sparse_model.training.objective import LanguageModelling


def main() -> None:
    """Print the ratio, and the seconds of the first call, as one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=11)
    given = parser.parse_args()
    torch.manual_seed(0)
    config = SparseConfig(d_model=given.width, d_mlp=4 * given.width, n_head=given.width // 16)
    objective = LanguageModelling(SparseTransformer(config))
    tokens = torch.randint(1024, (16, 128))
    compiled = torch.compile(objective)

    def run(module: Callable[..., dict[str, Tensor]]) -> None:
        objective.zero_grad()
        module(tokens, draw=0)["loss"].backward()

    start = time.perf_counter()
    run(compiled)
    first = time.perf_counter() - start
    wall, cpu = interleave({"compiled": lambda: run(compiled), "plain": lambda: run(objective)}, given.repeats)
    found = {
        **machine(),
        "S": given.width,
        "compiled over plain": round(ratio(wall, "compiled", "plain"), 3),
        "by processor time": round(ratio(cpu, "compiled", "plain"), 3),
        "seconds of the first call": round(first),
    }
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()

"""How much faster a sparse model's linear maps run from their nonzeros than densely, on the CPU.

    python benchmarks/sparse_execution.py [--width 2048] [--repeats 7] [--calibrate] [--check]

Every linear map of one layer and the unembedding (S=2048, V=2048), at 1 % and 2 % density, for 1 to 2048 tokens; then a
whole forward of two layers on 8 sequences of 256 tokens, with the largest difference of logits. Dense and sparse run in
turn; printed are medians of the ratio, as one JSON object. --calibrate measures instead the single matrices that the rule of
`sparse_model.execution.choose` is drawn from. Target: 10 times at S=2048, 1 %, 2048 tokens (--check exits 1 below it).
"""

import argparse
import json
import sys
from collections.abc import Callable
from unittest import mock

import torch
import torch.nn.functional as F
from timing import copy_bandwidth, interleave, machine, milliseconds, ratio
from torch import Tensor

from sparse_model import execution
from sparse_model.config import SparseConfig
from sparse_model.execution import compress, multiply
from sparse_model.model import SparseTransformer
from sparse_model.training.projection import project, sparse_tensors

TARGET = 10.0
TOKENS = (1, 32, 256, 2048)


def sparse_weight(outputs: int, inputs: int, density: float) -> Tensor:
    """Normal entries at random places."""
    return torch.randn(outputs, inputs) * (torch.rand(outputs, inputs) < density)


def compare(shapes: list[tuple[int, int]], density: float, tokens: int, repeats: int) -> dict[str, float]:
    """Both ways through matrices of the shapes (outputs, inputs), one after the other."""
    weights = [sparse_weight(*shape, density) for shape in shapes]
    copies = [compress(weight) for weight in weights]
    inputs = [torch.randn(tokens, shape[1]) for shape in shapes]
    biases = [torch.randn(shape[0]) for shape in shapes]
    runs: dict[str, Callable[[], object]] = {
        "dense": lambda: [F.linear(x, w, b) for x, w, b in zip(inputs, weights, biases, strict=True)],
        "csr": lambda: [multiply(x, w, b) for x, w, b in zip(inputs, copies, biases, strict=True)],
    }
    wall, cpu = interleave(runs, repeats)
    nonzeros = sum(int(weight.count_nonzero()) for weight in weights)
    return {
        "times_faster": round(ratio(wall, "dense", "csr"), 1),
        "by_processor_time": round(ratio(cpu, "dense", "csr"), 1),
        **{f"{name}_ms": value for name, value in milliseconds(wall).items()},
        "csr_gflop_per_second": round(2 * nonzeros * tokens / milliseconds(wall)["csr"] / 1e6, 1),
    }


@torch.no_grad()
def compare_forward(width: int, density: float, repeats: int) -> dict[str, float]:
    """A whole forward of two layers, AbsTopK, attention and norms included."""
    torch.manual_seed(0)
    config = SparseConfig(
        vocab_size=2048, block_size=256, n_layer=2, d_model=width, n_head=width // 16, d_head=16, d_mlp=4 * width
    )
    model = SparseTransformer(config).eval()
    project(sparse_tensors(model), density, 4)
    tokens = torch.randint(0, 2048, (8, 256))

    def dense() -> Tensor:
        with mock.patch.object(execution, "_compressed", return_value=None):
            return model(tokens).logits

    def sparse() -> Tensor:
        return model(tokens).logits

    difference = float((dense() - sparse()).abs().max())
    wall, cpu = interleave({"dense": dense, "csr": sparse}, repeats)
    return {
        "times_faster": round(ratio(wall, "dense", "csr"), 1),
        "by_processor_time": round(ratio(cpu, "dense", "csr"), 1),
        **{f"{name}_ms": value for name, value in milliseconds(wall).items()},
        "largest_logit_difference": difference,
    }


def calibrate(repeats: int) -> dict[str, dict[int, float]]:
    """Single matrices, by size and density, for 1, 32 and 256 tokens."""
    shapes = ((256, 256), (1024, 256), (512, 512), (2048, 512), (1024, 1024), (2048, 2048))
    return {
        f"{shape[0]}×{shape[1]} at {density:.0%}": {
            tokens: compare([shape], density, tokens, repeats)["times_faster"] for tokens in (1, 32, 256)
        }
        for shape in shapes
        for density in (0.01, 0.02, 0.05, 0.1)
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--calibrate", action="store_true", help="single matrices of many sizes and densities")
    parser.add_argument("--check", action="store_true", help="exit 1 when the target is missed")
    arguments = parser.parse_args()
    S, repeats = arguments.width, arguments.repeats
    torch.manual_seed(0)
    if arguments.calibrate:
        print(json.dumps({**machine(), "times_faster": calibrate(repeats)}, indent=1))
        return
    shapes = [(3 * S, S), (S, S), (4 * S, S), (S, 4 * S), (2048, S)]
    maps = {f"{d:.0%}": {n: compare(shapes, d, n, repeats) for n in TOKENS} for d in (0.01, 0.02)}
    forward = {f"{d:.0%}": compare_forward(S, d, repeats) for d in (0.01, 0.02)}
    result = {**machine(), "width": S, "copy_gigabytes_per_second": round(copy_bandwidth(), 1)}
    print(json.dumps({**result, "linear_maps": maps, "forward": forward, "target": TARGET}, indent=1))
    if arguments.check and maps["1%"][2048]["times_faster"] < TARGET:
        sys.exit(1)


if __name__ == "__main__":
    main()

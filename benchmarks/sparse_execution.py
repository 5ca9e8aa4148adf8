"""How much faster a sparse model's linear maps run from their nonzeros than densely, on the CPU.

    python benchmarks/sparse_execution.py [--width 2048] [--repeats 7] [--forward | --calibrate] [--check]

Every linear map of one layer and the unembedding (S=2048, V=2048), at 1 % and 2 % density, for 1 to 2048 tokens. Dense and
sparse run in turn; printed are medians of the ratio, as one JSON object. --forward measures instead a whole forward of two
layers on 8 sequences of 256 tokens and how far its logits are off, --calibrate the single matrices that the rule of
`sparse_model.transformer.execution.choose` is drawn from. Target: 10 times at S=2048, 1 %, 2048 tokens.

The maps are measured twice. In a new process that keeps the memory it frees (`KEPT`), and with the C library as it is, which
gives the memory of large results back to the system and takes it anew, page by page, for both ways of multiplying: at 2048 tokens
that takes about as long as the sparse product. --check exits 1 if the target is missed where memory is kept.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Callable
from unittest import mock

import torch
import torch.nn.functional as F
from timing import copy_bandwidth, interleave, machine, milliseconds, ratio
from torch import Tensor

from sparse_model.training.projection import project, sparse_tensors
from sparse_model.transformer import execution
from sparse_model.transformer.execution import compress, multiply
from sparse_model.transformer.model import SparseTransformer
from sparse_model.transformer.sparse_config import SparseConfig

KEPT = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": str(2**40)}
"""glibc then serves large tensors, too, from memory it has had before."""
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
        "dense": lambda: _each(F.linear, inputs, weights, biases),
        "csr": lambda: _each(multiply, inputs, copies, biases),
    }
    wall, cpu = interleave(runs, repeats)
    nonzeros = sum(int(weight.count_nonzero()) for weight in weights)
    return {
        "times_faster": round(ratio(wall, "dense", "csr"), 1),
        "by_processor_time": round(ratio(cpu, "dense", "csr"), 1),
        **{f"{name}_ms": value for name, value in milliseconds(wall).items()},
        "csr_gflop_per_second": round(2 * nonzeros * tokens / milliseconds(wall)["csr"] / 1e6, 1),
    }


def _each(function: Callable[..., Tensor], *lists: list[Tensor]) -> None:
    for arguments in zip(*lists, strict=True):
        function(*arguments)  # the result is let go, as a layer lets go of the one before


def compare_maps(width: int, repeats: int) -> dict[str, dict[int, dict[str, float]]]:
    """The linear maps of a layer and the unembedding, by density and number of tokens."""
    shapes = [(3 * width, width), (width, width), (4 * width, width), (width, 4 * width), (2048, width)]
    return {f"{d:.0%}": {n: compare(shapes, d, n, repeats) for n in TOKENS} for d in (0.01, 0.02)}


@torch.no_grad()
def compare_forward(width: int, density: float, repeats: int) -> dict[str, float]:
    """A whole forward of two layers, AbsTopK, attention and norms included, and how far its logits are off.

    Where two channels are about equal, rounding decides which one AbsTopK keeps, and logits jump. The control is
    another dense pass that only sums the inputs of every map in reverse.
    """

    def dense() -> Tensor:
        with mock.patch.object(execution, "_compressed", return_value=None):
            return model(tokens).logits

    def dense_reversed() -> Tensor:
        with mock.patch.object(execution, "multiply", _multiply_reversed):
            return model(tokens).logits

    off: dict[str, float] = {}
    for fraction in (None, 0.25):
        torch.manual_seed(0)
        config = SparseConfig(
            vocab_size=2048,
            block_size=256,
            n_layer=2,
            d_model=width,
            n_head=width // 16,
            d_head=16,
            d_mlp=4 * width,
            topk_fraction=fraction,
        )
        model = SparseTransformer(config).eval()
        project(sparse_tensors(model), density, 4)
        tokens = torch.randint(0, 2048, (8, 256))
        reference = dense()
        difference = (model(tokens).logits - reference).abs().amax(-1)
        if fraction is None:
            off["largest_logit_difference_without_abs_topk"] = float(difference.max())
        else:
            control = (dense_reversed() - reference).abs().amax(-1)
            off["share_of_tokens_off_by_more_than_1e-4"] = float((difference > 1e-4).float().mean())
            off["same_for_the_dense_control"] = float((control > 1e-4).float().mean())
            off["largest_logit_difference"] = float(difference.max())
            off["largest_of_the_dense_control"] = float(control.max())
    wall, cpu = interleave({"dense": dense, "csr": lambda: model(tokens).logits}, repeats, warm_up=1)
    return {
        "times_faster": round(ratio(wall, "dense", "csr"), 1),
        "by_processor_time": round(ratio(cpu, "dense", "csr"), 1),
        **{f"{name}_ms": value for name, value in milliseconds(wall).items()},
        **off,
    }


def _multiply_reversed(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return F.linear(x.flip(1), weight.to_dense().flip(1), bias)


def calibrate(repeats: int) -> dict[str, dict[int, float]]:
    """Single matrices, by size and density, for 1, 32 and 256 tokens."""
    shapes = ((256, 256), (512, 256), (1024, 256), (512, 512), (2048, 512), (1024, 1024), (2048, 2048))
    return {
        f"{shape[0]}×{shape[1]} at {density:.0%}": {
            tokens: compare([shape], density, tokens, repeats)["times_faster"] for tokens in (1, 32, 256)
        }
        for shape in shapes
        for density in (0.01, 0.02, 0.05, 0.1, 0.2)
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--forward", action="store_true", help="a whole forward at 1 %% instead, and its logits")
    parser.add_argument("--calibrate", action="store_true", help="single matrices of many sizes and densities")
    parser.add_argument("--maps-only", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--check", action="store_true", help="exit 1 when the target is missed")
    arguments = parser.parse_args()
    S, repeats = arguments.width, arguments.repeats
    torch.manual_seed(0)
    if arguments.calibrate:
        print(json.dumps({**machine(), "times_faster": calibrate(repeats)}, indent=1))
        return
    if arguments.forward:
        print(json.dumps({**machine(), "width": S, "1%": compare_forward(S, 0.01, repeats)}, indent=1))
        return
    if arguments.maps_only:
        print(json.dumps(compare_maps(S, repeats)))
        return
    again = [sys.executable, __file__, "--width", str(S), "--repeats", str(repeats), "--maps-only"]
    kept = subprocess.run(again, env={**os.environ, **KEPT}, stdout=subprocess.PIPE, text=True, check=True).stdout
    maps = {"memory kept": json.loads(kept), "memory taken anew": compare_maps(S, repeats)}
    result = {**machine(), "width": S, "copy_gigabytes_per_second": round(copy_bandwidth(), 1), "target": TARGET}
    print(json.dumps({**result, **maps}, indent=1))
    if arguments.check and maps["memory kept"]["1%"]["2048"]["times_faster"] < TARGET:
        sys.exit(1)


if __name__ == "__main__":
    main()

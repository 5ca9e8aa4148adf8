"""AbsTopK beside its plain definition on the CPU, and beside copying and `torch.topk` + scatter on a GPU.

    python benchmarks/abs_topk.py [--repeats 15] [--check]

CPU: 2048 rows of 2048 channels, k = 512, forward and backward, for fp32, and bf16 as autocast gives it. GPU, where there is
one: 65536 rows of 2048 in bf16, as a fraction of the bandwidth of a copy measured in the same run. What is compared
runs in turn; printed are medians, as one JSON object. Targets: CPU >= 2 times the definition in fp32; GPU >= 50 % of the
copy bandwidth and >= 10 times `torch.topk` + scatter (--check exits 1 when a target is missed).
"""

import argparse
import json
import sys
from collections.abc import Callable

import torch
from timing import copy_bandwidth, interleave, machine, milliseconds, ratio
from torch import Tensor

from sparse_model.transformer.abs_topk import abs_topk, abs_topk_reference

CPU_TARGET, BANDWIDTH_TARGET, TOPK_TARGET = 2.0, 0.5, 10.0


def topk_and_scatter(x: Tensor, k: int) -> Tensor:
    """What one would write first."""
    kept = x.abs().topk(k, dim=-1, sorted=False).indices
    return torch.zeros_like(x).scatter(-1, kept, x.gather(-1, kept))


def there_and_back(function: Callable[[Tensor, int], Tensor], x: Tensor, k: int) -> Callable[[], object]:
    """Forward and backward."""
    upstream = torch.randn_like(x)
    leaf = x.clone().requires_grad_()
    return lambda: torch.autograd.grad(function(leaf, k), leaf, upstream)


def on_cpu(dtype: torch.dtype, repeats: int) -> dict[str, object]:
    """Times of the fast path, the definition, and top-k + scatter."""
    x, k = torch.randn(2048, 2048).to(dtype), 512
    runs = {
        "abs_topk": there_and_back(abs_topk, x, k),
        "reference": there_and_back(abs_topk_reference, x, k),
        "topk_and_scatter": there_and_back(topk_and_scatter, x, k),
        "forward_only": lambda: abs_topk(x, k),
    }
    wall, cpu = interleave(runs, repeats)
    return {
        "times_faster_than_reference": round(ratio(wall, "reference", "abs_topk"), 1),
        "by_processor_time": round(ratio(cpu, "reference", "abs_topk"), 1),
        "times_faster_than_topk_and_scatter": round(ratio(wall, "topk_and_scatter", "abs_topk"), 1),
        "milliseconds": milliseconds(wall),
        "gigabytes_per_second_forward": round(2 * x.nbytes / milliseconds(wall)["forward_only"] / 1e6, 1),
    }


def on_gpu(repeats: int) -> dict[str, float]:
    """Forward only: each row read and written once."""
    x, k = torch.randn(65536, 2048, device="cuda").bfloat16(), 512
    target = torch.empty_like(x)
    runs = {
        "abs_topk": lambda: abs_topk(x, k),
        "copy": lambda: target.copy_(x),
        "topk_and_scatter": lambda: topk_and_scatter(x, k),
    }
    wall, _ = interleave(runs, repeats)
    return {
        "fraction_of_copy_bandwidth": round(ratio(wall, "copy", "abs_topk"), 3),
        "times_faster_than_topk_and_scatter": round(ratio(wall, "topk_and_scatter", "abs_topk"), 1),
        **milliseconds(wall),
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--check", action="store_true", help="exit 1 when a target is missed")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    cpu = {name: on_cpu(getattr(torch, name), arguments.repeats) for name in ("float32", "bfloat16")}
    found: dict[str, object] = {
        **machine(),
        "copy_gigabytes_per_second": round(copy_bandwidth(), 1),
        "cpu_2048x2048": cpu,
    }
    missed = float(str(cpu["float32"]["times_faster_than_reference"])) < CPU_TARGET
    if torch.cuda.is_available():
        gpu = on_gpu(arguments.repeats)
        found["gpu_65536x2048_bfloat16"] = gpu
        missed |= gpu["fraction_of_copy_bandwidth"] < BANDWIDTH_TARGET
        missed |= gpu["times_faster_than_topk_and_scatter"] < TOPK_TARGET
    print(json.dumps(found, indent=1))
    if arguments.check and missed:
        sys.exit(1)


if __name__ == "__main__":
    main()

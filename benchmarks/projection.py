"""What projection costs beside a training step, and beside the straightforward way to write it.

    python benchmarks/projection.py [--repeats 9] [--check]

Model: L=4, S=1024, V=1024, B=8, T=128, density 5 %, floor 4, on a GPU where there is one. The straightforward way
flattens each tensor and keeps `torch.topk` of it, without the floor. Printed are medians as one JSON object. Target:
projection <= 10 % of the step on a CPU, 5 % on a GPU (--check exits 1 beyond it).
"""

import statistics
from collections.abc import Callable

import torch
from timing import command, copy_bandwidth, interleave, machine, milliseconds, ratio
from train_step import DENSITY, FLOOR, Step

from sparse_model.training.projection import SparseTensor, project
from sparse_model.transformer.sparse_config import SparseConfig

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
TARGET = {"cpu": 0.10, "cuda": 0.05}[DEVICE]
CONFIG = SparseConfig(
    vocab_size=1024, block_size=128, n_layer=4, d_model=1024, n_head=64, d_head=16, d_mlp=4096, topk_fraction=0.25
)


@torch.no_grad()
def project_straightforwardly(tensors: tuple[SparseTensor, ...]) -> None:
    """Flatten, `torch.topk`, keep; no floor."""
    for tensor in tensors:
        flat = tensor.parameter.view(-1)
        kept = flat.abs().topk(max(1, round(DENSITY * flat.numel())), sorted=False).indices
        flat.copy_(torch.zeros_like(flat).scatter_(0, kept, flat[kept]))


def measure(repeats: int) -> dict[str, object]:
    """Share of the step, ratio to the straightforward way, and what memory alone would take."""
    step = Step(CONFIG, DEVICE)
    step()
    dense = [torch.randn_like(tensor.parameter) for tensor in step.tensors]

    def fill() -> None:
        with torch.no_grad():
            for tensor, values in zip(step.tensors, dense, strict=True):
                tensor.parameter.copy_(values)

    runs: dict[str, Callable[[], object]] = {
        "step": step,
        "fill": fill,
        "projection": lambda: project(step.tensors, DENSITY, FLOOR),
        "fill_again": fill,
        "straightforward": lambda: project_straightforwardly(step.tensors),
    }
    wall, cpu = interleave(runs, repeats)
    shares = [part / whole for part, whole in zip(step.inside["projection"][-repeats:], wall["step"], strict=True)]
    size = sum(values.nbytes for values in dense)
    return {
        **machine(),
        "share_of_step": round(statistics.median(shares), 4),
        "target": TARGET,
        "straightforward_over_projection": round(ratio(wall, "straightforward", "projection"), 2),
        "same_by_processor_time": round(ratio(cpu, "straightforward", "projection"), 2),
        "milliseconds": milliseconds({name: times for name, times in wall.items() if "fill" not in name}),
        "parameters": size // 4,
        "milliseconds_to_copy_the_weights": round(2 * size / copy_bandwidth() / 1e6, 2),
    }


if __name__ == "__main__":
    command(__doc__, 9, measure, "share_of_step", TARGET)

"""What a whole optimiser step costs beside the matrix products it cannot do without.

    python benchmarks/train_step.py [--repeats 15] [--check]

A step is forward, backward, AdamW and projection of an L=4, S=512, V=1024 model at B=8, T=128 with AbsTopK
everywhere. The products are the model's own: for every linear map x·W, dy·Wᵀ and xᵀ·dy, and for attention q·kᵀ and
p·v with their backward products. Both run in turn in one process; printed are medians, as one JSON object.
Target: ratio <= 1.5 (--check exits 1 beyond it).
"""

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from timing import Seconds, command, interleave, machine, milliseconds, ratio, wait_for_gpu

from sparse_model.training.projection import project, sparse_tensors
from sparse_model.transformer.abs_topk import abs_topk
from sparse_model.transformer.model import SparseTransformer
from sparse_model.transformer.sparse_config import SparseConfig

TARGET = 1.5
B, T = 8, 128
CONFIG = SparseConfig(
    vocab_size=1024, block_size=T, n_layer=4, d_model=512, n_head=32, d_head=16, d_mlp=2048, topk_fraction=0.25
)
DENSITY, FLOOR = 0.05, 4


def products(config: SparseConfig) -> list[Callable[[], object]]:
    """Every matrix product of one step, forward and backward."""
    S, A, N, V, H, K = (
        config.d_model, config.d_attn, config.d_mlp, config.vocab_size, config.n_head, config.d_head,
    )  # fmt: skip
    layer = [(S, 3 * A), (A, S), (S, N), (N, S)]
    runs: list[Callable[[], object]] = []
    for inputs, outputs in layer * config.n_layer + [(S, V)]:
        x, w, dy = torch.randn(B * T, inputs), torch.randn(outputs, inputs), torch.randn(B * T, outputs)
        runs += [lambda x=x, w=w: x @ w.T, lambda w=w, dy=dy: dy @ w, lambda x=x, dy=dy: dy.T @ x]  # type: ignore[misc]
    wide, square = torch.randn(B * H, T, K), torch.randn(B * H, T, T)
    for _ in range(config.n_layer):
        runs += [lambda: wide @ wide.mT] * 2  # q·kᵀ; dy·vᵀ
        runs += [lambda: square @ wide] * 4  # p·v; pᵀ·dy, ds·k, dsᵀ·q
    return runs


def flops(config: SparseConfig) -> float:
    """Of the products of one step; a multiply and an add count as two."""
    maps = 4 * config.d_model * config.d_attn + 2 * config.d_model * config.d_mlp
    per_token = 6 * (config.n_layer * maps + config.d_model * config.vocab_size)
    return B * T * (per_token + 12 * config.n_layer * config.d_attn * T)


class Step:
    """One optimiser step of a model on random tokens; `inside` holds the seconds of its last two parts, by turn."""

    def __init__(self, config: SparseConfig, device: str = "cpu") -> None:
        torch.manual_seed(0)
        self.model = SparseTransformer(config).to(device)
        self.tensors = sparse_tensors(self.model)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, eps=0.1, fused=True)
        self.tokens = torch.randint(0, config.vocab_size, (B, T), device=device)
        self.inside: Seconds = {"adamw": [], "projection": []}

    def __call__(self) -> None:
        """Forward, backward, AdamW, projection."""
        self.model(self.tokens, labels=self.tokens).loss.backward()
        wait_for_gpu()
        started = time.perf_counter()
        self.optimizer.step()
        self.optimizer.zero_grad()
        wait_for_gpu()
        stepped = time.perf_counter()
        project(self.tensors, DENSITY, FLOOR)
        wait_for_gpu()
        self.inside["adamw"].append(stepped - started)
        self.inside["projection"].append(time.perf_counter() - stepped)


def measure(repeats: int) -> dict[str, object]:
    """Ratio, breakdown and the rate of the products."""
    step, matrix_products = Step(CONFIG), products(CONFIG)
    wide = [torch.randn(B, T, w, requires_grad=True) for w in (CONFIG.d_model,) * 7 + (CONFIG.d_mlp,)]
    q, k, v = (torch.randn(B, CONFIG.n_head, T, CONFIG.d_head, requires_grad=True) for _ in range(3))

    def topk() -> None:
        for x in wide * CONFIG.n_layer:
            abs_topk(x, x.shape[-1] // 4).backward(x.detach())

    def attention() -> None:
        for _ in range(CONFIG.n_layer):
            F.scaled_dot_product_attention(q, k, v, is_causal=True).backward(q.detach())

    def gelu() -> None:
        for _ in range(CONFIG.n_layer):
            F.gelu(wide[-1]).backward(wide[-1].detach())

    runs: dict[str, Callable[[], object]] = {
        "step": step,
        "matrix_products": lambda: [run() for run in matrix_products],
        "abs_topk": topk,
        "attention": attention,
        "gelu": gelu,
    }
    wall, cpu = interleave(runs, repeats)
    parts = milliseconds(wall) | milliseconds(step.inside)
    return {
        **machine(),
        "ratio": round(ratio(wall, "step", "matrix_products"), 3),
        "ratio_of_processor_time": round(ratio(cpu, "step", "matrix_products"), 3),
        "target": TARGET,
        "milliseconds": parts,
        "processor_milliseconds": milliseconds(cpu),
        "gflop_per_step": round(flops(CONFIG) / 1e9, 1),
        "gflop_per_second_of_products": round(flops(CONFIG) / parts["matrix_products"] / 1e6),
        "tokens_per_second": round(B * T / parts["step"] * 1e3),
    }


if __name__ == "__main__":
    command(__doc__, 15, measure, "ratio", TARGET)

"""What a bridged step costs beside the straightforward way to write it, and beside its matrix products alone.

    python benchmarks/bridged_step.py [--repeats 7] [--shares] [--into docs/performance.md]

All crossings, exact KL, S=512, V=1024, B=8, T=128, beside GPT-2-shaped models of D=128 and as many layers. The straightforward
way trains the same models on the same loss, as public trainers do: every tail runs alone, AbsTopK is `torch.topk` and a scatter,
the norm is torch's, the KL is `kl_div` of kept log-softmaxes, gradients are scaled parameter by parameter, and the projection is
`torch.topk` of every flattened tensor, without floors. The products are those of the step itself, recorded and made again with
nothing between them: no way of writing dense fp32 products is below them.

One thread; processor seconds in turns; ratios are medians over the turns. `--shares` says instead, from a profile of one step,
which operators its time goes to.
"""

import argparse
import datetime
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.nn.functional as F
from abs_topk import topk_and_scatter
from projection import project_straightforwardly
from timing import interleave, machine, milliseconds, ratio
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import GPT2Config, GPT2LMHeadModel

import bridges.bridge
from bridges.alignment import align
from bridges.bridge import Bridge
from bridges.bridge_config import BridgeConfig
from bridges.losses import nmse
from bridges.objective import BridgedObjective
from bridges.protocol import residual_sites
from dense_adapters import DenseStack
from sparse_model import SparseConfig, SparseTransformer
from sparse_model.studies.page import write_between
from sparse_model.training.optimizer import gradient_norms, limit_gradient, make_optimizer
from sparse_model.training.projection import project, sparse_tensors
from sparse_model.training.train_config import TrainConfig
from sparse_model.transformer import layers
from sparse_model.transformer.rms_norm import RMSNorm

S, D, V, B, T = 512, 128, 1024, 8, 128
PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm")
Product = tuple[Any, tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]]


class Step:
    """One optimiser step of a bridged pair of `depth` layers."""

    def __init__(self, depth: int) -> None:
        torch.manual_seed(0)
        shape = GPT2Config(
            vocab_size=V, n_positions=T, n_embd=D, n_layer=depth, n_head=4, bos_token_id=0, eos_token_id=0
        )
        self.dense = DenseStack(GPT2LMHeadModel(shape).eval().requires_grad_(False))
        self.sparse = SparseTransformer(
            SparseConfig(vocab_size=V, block_size=T, n_layer=depth, d_model=S, n_head=S // 16, d_head=16, d_mlp=4 * S,
                         position="added", topk_fraction=0.25)
        )  # fmt: skip
        self.bridge = Bridge(align(self.sparse, self.dense), S, D, 0.25)
        self.config = TrainConfig(density=0.05, lr=1e-3, gradient_rms="normalise")
        self.objective = BridgedObjective(self.sparse, self.dense, self.bridge, BridgeConfig())
        self.optimizer = make_optimizer(self.objective, self.config)
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self.tensors = sparse_tensors(self.sparse)
        self.tokens = torch.randint(0, V, (B, T), generator=torch.Generator().manual_seed(1))

    def __call__(self) -> float:
        """The loss before the step."""
        loss = self.objective(self.tokens, draw=0)["loss"]
        loss.backward()
        limit_gradient(self.parameters, self.config, gradient_norms(self.parameters))
        self.optimizer.step()
        self.optimizer.zero_grad()
        project(self.tensors, self.config.density, self.config.floor)
        return float(loss.detach())


class StraightforwardStep(Step):
    """The same loss, written down as it is defined."""

    def __call__(self) -> float:
        """The loss before the step."""
        with (
            mock.patch.object(layers, "abs_topk", topk_and_scatter),
            mock.patch.object(bridges.bridge, "abs_topk", topk_and_scatter),
            mock.patch.object(RMSNorm, "forward", nn.RMSNorm.forward),
        ):
            loss = self.loss()
            loss.backward()
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        total = sum(float(g.square().sum()) for g in gradients)
        for g in gradients:
            g.mul_(self.config.gradient_rms_limit / (total / sum(g.numel() for g in gradients)) ** 0.5)
        self.optimizer.step()
        self.optimizer.zero_grad()
        project_straightforwardly(self.tensors)
        return float(loss.detach())

    def loss(self) -> Tensor:
        """METHOD §4, a tail at a time."""
        sparse, dense, bridge = self.sparse, self.dense, self.bridge
        walk, dense_walk = sparse.walk(self.tokens), dense.walk(self.tokens)
        with torch.no_grad():
            h_dense = residual_sites(dense, dense_walk)
            target = F.log_softmax(dense_walk.unembed(h_dense[-1]), dim=-1)

        def kl(logits: Tensor) -> Tensor:
            log_q = F.log_softmax(logits, dim=-1)
            return F.kl_div(log_q, target, reduction="none", log_target=True).sum(-1).mean()

        h_sparse = residual_sites(sparse, walk)
        logits = walk.unembed(h_sparse[-1])
        loss = kl(logits) + 0.0 * F.cross_entropy(logits[:, :-1].flatten(0, 1), self.tokens[:, 1:].flatten())
        for j, site in enumerate(bridge.alignment.sites):
            encoded, decoded = bridge.encode(j, h_dense[site.dense]), bridge.decode(j, h_sparse[site.sparse])
            loss = loss + nmse(encoded, h_sparse[site.sparse].detach()) + nmse(decoded, h_dense[site.dense])
            for i in range(site.sparse, len(sparse.sublayers)):
                encoded = walk.sublayer(i, encoded)
            for i in range(site.dense, len(dense.sublayers)):
                decoded = dense_walk.sublayer(i, decoded)
            loss = loss + kl(walk.unembed(encoded)) + kl(dense_walk.unembed(decoded))
        return loss


class Recording(TorchDispatchMode):
    """Notes every matrix product: the operator, and shape and strides of its tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.products: Counter[Product] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        """Run it, then note it."""
        if func._schema.name in PRODUCTS:
            tensors = [x for x in args if isinstance(x, Tensor)]
            self.products[func, tuple((tuple(x.shape), x.stride()) for x in tensors)] += 1
        return func(*args, **(kwargs or {}))


def replay(products: Counter[Product]) -> Callable[[], None]:
    """All of them again, on random numbers."""
    calls: list[tuple[Any, list[Tensor], int]] = []
    for (func, shapes), count in products.items():
        tensors = [torch.empty_strided(shape, stride).uniform_(-1, 1) for shape, stride in shapes]
        calls.append((func, tensors, count))

    def again() -> None:
        for func, tensors, count in calls:
            for _ in range(count):
                func(*tensors)

    return again


def measure(repeats: int, depths: tuple[int, ...] = (2, 4)) -> dict[str, Any]:
    """By depth: what the straightforward way takes over the step, the step over its products, and all three in ms."""
    found: dict[str, Any] = {}
    for depth in depths:
        step, plain, recording = Step(depth), StraightforwardStep(depth), Recording()
        with recording:
            first = step()
        again = plain()
        assert abs(first - again) < 1e-4 * abs(first), (first, again)
        runs: dict[str, Callable[[], object]] = {
            "step": step,
            "straightforward": plain,
            "products": replay(recording.products),
        }
        _, cpu = interleave(runs, repeats, warm_up=1)
        found[f"L={depth}, S={S}"] = {
            "straightforward_over_step": round(ratio(cpu, "straightforward", "step"), 2),
            "step_over_products": round(ratio(cpu, "step", "products"), 2),
            "straightforward_over_products": round(ratio(cpu, "straightforward", "products"), 2),
            **{f"{name}_ms": round(value) for name, value in milliseconds(cpu).items()},
        }
    return found


KINDS = {
    "products": ("mm", "addmm", "bmm"),
    "abs_topk": ("AbsTopK",),
    "attention": ("scaled_dot_product",),
    "gelu_and_tanh": ("gelu", "tanh"),
    "softmax_and_exp": ("softmax", "exp"),
    "norms": ("RmsNorm", "native_layer_norm"),
    "sums_and_products_of_entries": ("add", "mul", "sub", "div", "pow", "sum", "mean", "rsqrt", "addcmul", "mv"),
    "copies": ("copy", "cat", "fill", "zero", "clone", "index", "scatter", "gather"),
}
"""Parts of operators' names, the first that fits."""


def shares(depth: int) -> dict[str, float]:
    """The share of one step's time by kind of operator; what fits no kind, or is spent between them, is `other`."""
    step = Step(depth)
    step()
    with profile(activities=[ProfilerActivity.CPU]) as found:
        step()
    times: Counter[str] = Counter()
    for event in found.key_averages():
        name = event.key.removeprefix("aten::")
        exact = next((kind for kind, names in KINDS.items() if name.strip("_") in names), None)
        within = next(
            (kind for kind, names in KINDS.items() if any(part in name for part in names if len(part) > 3)), None
        )
        times[exact or within or "other"] += int(event.self_cpu_time_total)
    return {kind: round(times[kind] / times.total(), 3) for kind in (*KINDS, "other")}


def main() -> None:
    """Measure, print one JSON object, and write the table where asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--shares", action="store_true", help="where the time of a step goes, instead")
    parser.add_argument("--into", type=Path, help="also write between the `bridged_step` comments of this page")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.shares:
        name, line = "bridged_step_shares", "bridged_step.py --shares"
        found = {**machine(), **{f"L={depth}, S={S}": shares(depth) for depth in (2, 4)}}
    else:
        name, line = "bridged_step", f"bridged_step.py --repeats {arguments.repeats}"
        found = {**machine(), "repeats": arguments.repeats, **measure(arguments.repeats)}
    print(json.dumps(found, indent=1))
    if arguments.into:
        from performance import table

        write_between(arguments.into, name, table(line, datetime.date.today().isoformat(), found))


if __name__ == "__main__":
    main()

"""How many operators a bridged training step has a GPU launch, counted where there is none.

    python benchmarks/launches.py [--check] [--into docs/performance.md]

A step (forward, backward, gradient norms, AdamW, projection) of a sparse model beside a dense one of SmolLM2's depth and
grouped queries (30 layers, narrow: width changes no count), and of GPT-2's shape, runs on the CPU under a dispatch
mode. Counted are operators that compute or move values, views and empty tensors left out; an operator over a list of tensors
counts once per launch that CUDA needs for it (by torch's limits on tensors and blocks of one launch). AbsTopK is one operator
forward and one back, as its GPU kernel is, and the projection is the one that GPUs take. Apart from the rest are operators within
the frozen model's modules, which a compiled region or a CUDA graph can take whole; launched one by one, they add to the rest.
Also counted: bytes of frozen weights cast to another type, and operators that wait for the device.

--check exits 1 if more than 1,500 operators stand outside of captured regions, if the count grows with batch or vocabulary,
if a frozen weight is cast, or if anything waits.
"""

import argparse
import json
import math
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

LIMIT = 1500
WAITS = ("_local_scalar_dense", "nonzero", "masked_select", "unique", "equal", "is_nonzero")
"""Operators whose result has a size or a value that the host needs."""
FREE = (
    "empty",
    "detach",
    "alias",
    "lift",
    "_unsafe_view",
    "_reshape_alias",
    "resize_",
    "is_same_size",
    "record_stream",
)
"""Operators that launch nothing, beside views."""
TENSORS_PER_LAUNCH = {1: 110, 2: 64, 3: 48, 4: 36, 5: 30}
"""By how many lists of tensors an operator takes (ATen/native/cuda/MultiTensorApply.cuh)."""
CHUNK, BLOCKS = 65536, 320


@dataclass
class Counts:
    """Of one step."""

    outside: Counter[str] = field(default_factory=Counter)
    """operators that launch, by the part of the step"""
    captured: int = 0
    """operators within the frozen model's modules"""
    frozen_bytes_cast: int = 0
    waits: Counter[str] = field(default_factory=Counter)

    def to_json(self) -> dict[str, Any]:
        """`outside` (sum), `by_part`, `captured`, `frozen_bytes_cast`, `waits`."""
        return {
            "outside": self.outside.total(),
            "by_part": dict(self.outside),
            "captured": self.captured,
            "frozen_bytes_cast": self.frozen_bytes_cast,
            "waits": dict(self.waits),
        }


class Counting(TorchDispatchMode):
    """Counts what is dispatched while it is active; `part` names the part of the step."""

    def __init__(self, frozen: nn.Module | None) -> None:
        super().__init__()
        self.counts, self.part, self.inside = Counts(), "forward", 0
        self.frozen = {p.untyped_storage().data_ptr() for p in frozen.parameters()} if frozen is not None else set()

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        """Run the operator, then count it."""
        result = func(*args, **(kwargs or {}))
        name = func._schema.name.partition("::")[2]
        if name in WAITS:
            self.counts.waits[name] += 1
        if name in ("_to_copy", "to") and args[0].untyped_storage().data_ptr() in self.frozen:
            self.counts.frozen_bytes_cast += args[0].nbytes
        number = 0 if _is_free(func, name) else launches(args)
        if self.inside:
            self.counts.captured += number
        else:
            self.counts.outside[self.part] += number
        return result


def _is_free(func: Any, name: str) -> bool:
    returned = func._schema.returns
    views = bool(returned) and all(r.alias_info is not None and not r.alias_info.is_write for r in returned)
    return views or name.startswith(FREE)


def launches(args: tuple[Any, ...]) -> int:
    """Of an operator with these arguments: 1, or for lists of tensors as many as CUDA's limits ask for."""
    lists = [value for value in args if isinstance(value, list | tuple) and value and isinstance(value[0], Tensor)]
    if not lists:
        return 1
    first = lists[0]
    blocks = sum(math.ceil(max(tensor.numel(), 1) / CHUNK) for tensor in first)
    return max(math.ceil(len(first) / TENSORS_PER_LAUNCH[min(len(lists), 5)]), math.ceil(blocks / BLOCKS))


class _OneOperator(torch.autograd.Function):
    """AbsTopK as its GPU kernel is seen from outside: one operator forward, one back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, k: int) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient.clone(), None


class _Enter(torch.autograd.Function):
    """Marks the border of a captured region, forward and back."""

    @staticmethod
    def forward(ctx: Any, counting: Counting, by: int, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.counting, ctx.by = counting, by
        counting.inside += by
        return tuple(tensor.view_as(tensor) for tensor in tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        ctx.counting.inside -= ctx.by
        return None, None, *gradients


@contextmanager
def captured(counting: Counting, modules: list[nn.Module]) -> Iterator[None]:
    """Count what these modules do, forward and back, as captured."""

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], Any]:
        place = "hidden_states" if not args else 0
        h = kwargs["hidden_states"] if not args else args[0]
        (h,) = _Enter.apply(counting, 1, h)
        return (args, {**kwargs, place: h}) if not args else ((h, *args[1:]), kwargs)

    def after(module: nn.Module, args: Any, output: Any) -> Any:
        first = output[0] if isinstance(output, tuple) else output
        (first,) = _Enter.apply(counting, -1, first)
        return (first, *output[1:]) if isinstance(output, tuple) else first

    handles = [module.register_forward_pre_hook(before, with_kwargs=True) for module in modules]
    handles += [module.register_forward_hook(after) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def own(part: Any) -> list[nn.Module]:
    """The modules of one contribution to a dense stream."""
    norms = (part.read_norm, part.contribution_norm, part.stream_norm)
    return [*part.modules, *(norm for norm in norms if norm is not None)]


def smollm2(V: int, n_layer: int = 30) -> Any:
    """SmolLM2-135M's depth, grouped queries and tied head, narrow."""
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": n_layer}
    heads = {"num_attention_heads": 6, "num_key_value_heads": 2, "tie_word_embeddings": True}
    return LlamaForCausalLM(LlamaConfig(vocab_size=V, max_position_embeddings=256, **shape, **heads))


def gpt2(V: int) -> Any:
    """GPT-2 small's depth, narrow."""
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(vocab_size=V, n_positions=256, n_embd=24, n_layer=12, n_head=2))


def count_step(dense: Any, B: int, T: int, n_layer: int = 4, precision: str = "bf16", halve: bool = True) -> Counts:
    """The counts of one step with one crossing, after one to warm up.

    Args:
        dense: a causal language model.
        halve: whether the frozen matrices are kept in the precision of the products, as `bridge train` does.
    """
    from bridges.alignment import align
    from bridges.bridge import Bridge
    from bridges.bridge_config import BridgeConfig
    from bridges.objective import BridgedObjective
    from dense_adapters import DenseStack
    from dense_adapters.half_precision import half_matrices
    from sparse_model import SparseConfig, SparseTransformer
    from sparse_model.training import projection
    from sparse_model.training.optimizer import gradient_norms, limit_gradient, make_optimizer
    from sparse_model.training.train_config import TrainConfig
    from sparse_model.transformer import abs_topk

    torch.manual_seed(0)
    stack = DenseStack(dense.eval().requires_grad_(False))
    V = stack.vocab_size
    sparse = SparseTransformer(
        SparseConfig(vocab_size=V, block_size=256, n_layer=n_layer, d_model=32, n_head=2, d_head=8, d_mlp=64,
                     position="added", topk_fraction=0.25)
    )  # fmt: skip
    bridge = Bridge(align(sparse, stack, "every"), sparse.d_model, stack.d_model, 0.25)
    config = TrainConfig(density=0.1, gradient_rms="normalise")
    objective = BridgedObjective(sparse, stack, bridge, BridgeConfig(crossings=1))
    optimizer = make_optimizer(objective, config)
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    tensors = projection.sparse_tensors(sparse)
    tokens = torch.randint(0, V, (B, T))
    counting = Counting(dense)
    modules = [module for parts in stack.contributions for part in parts for module in own(part)]

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            counting.part = "forward"
            loss = objective(tokens, draw=0)["loss"]
        counting.part = "backward"
        loss.backward()
        counting.part = "gradient"
        limit_gradient(parameters, config, gradient_norms(parameters))
        counting.part = "adamw"
        optimizer.step()
        optimizer.zero_grad()
        counting.part = "projection"
        projection.project_on_device(tensors, config.density, config.floor)

    with (
        half_matrices(dense) if halve and precision == "bf16" else nullcontext(),
        mock.patch.object(abs_topk, "_keep", _OneOperator.apply),
    ):
        step()
        counting.counts, counting.frozen = Counts(), Counting(dense).frozen
        with captured(counting, modules), counting:
            step()
    assert counting.inside == 0, "a region was left open"
    return counting.counts


def table(found: dict[str, dict[str, dict[str, Any]]]) -> str:
    """One line per dense model and size."""
    lines = [
        "| dense model | outside of captured modules | within them | bytes of frozen weights cast | waits for the device |"
    ]
    lines.append("|---" * 5 + "|")
    for name, by_size in found.items():
        for size, counts in by_size.items():
            figures = (
                counts["outside"],
                counts["captured"],
                counts["frozen_bytes_cast"],
                sum(counts["waits"].values()),
            )
            lines.append(f"| {name}, {size} | " + " | ".join(f"{figure:,}" for figure in figures) + " |")
    return "\n".join(lines)


def main() -> None:
    """Count at several sizes and print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="exit 1 when a limit is passed")
    parser.add_argument("--into", type=Path, help="also write a table between the `launches` comments of this page")
    arguments = parser.parse_args()
    sizes = {"B=2 T=32 V=1000": (2, 32, 1000), "B=8 T=32 V=1000": (8, 32, 1000), "B=2 T=32 V=49152": (2, 32, 49152)}
    found = {
        name: {size: count_step(make(V), B, T).to_json() for size, (B, T, V) in sizes.items()}
        for name, make in {"smollm2": smollm2, "gpt2": gpt2}.items()
    }
    print(json.dumps({"torch": torch.__version__, "limit": LIMIT, **found}, indent=1))
    if arguments.into:
        from sparse_model.studies.page import write_between

        write_between(arguments.into, "launches", table(found))
    wrong = [
        name
        for name, by_size in found.items()
        if len({counts["outside"] for counts in by_size.values()}) > 1
        or any(c["outside"] > LIMIT or c["frozen_bytes_cast"] or c["waits"] for c in by_size.values())
    ]
    if arguments.check and wrong:
        sys.exit(f"limits passed: {', '.join(wrong)}")


if __name__ == "__main__":
    main()

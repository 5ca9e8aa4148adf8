"""The plan of a run with bridges against torch's own counts."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from transformers import LlamaConfig, LlamaForCausalLM

from bridges.alignment import align
from bridges.bridge import Bridge
from bridges.bridge_config import BridgeConfig
from bridges.objective import BridgedObjective, choose_crossings
from bridges.workload import bridged_workload, dense_shape
from dense_adapters import DenseStack
from foundation.errors import UserError
from sparse_model import SparseTransformer
from sparse_model.training.speed import count_flops
from sparse_model.training.train_config import TrainConfig


def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=40, hidden_size=32, intermediate_size=80, num_hidden_layers=4, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=64, bos_token_id=0, eos_token_id=0,
        )
    ).eval()  # fmt: skip


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("crossings", [0, 1])
def test_work_and_memory_of_a_bridged_step(
    family: str, crossings: int, tiny_gpt2: Callable, tiny_sparse: Callable, tmp_path: Path
) -> None:
    network = tiny_gpt2(n_embd=32, n_positions=64) if family == "gpt2" else llama()
    network.save_pretrained(tmp_path)
    stack = DenseStack(network.requires_grad_(False))
    sparse: SparseTransformer = tiny_sparse(d_model=48, d_mlp=192, block_size=64)
    settings = BridgeConfig(crossings=crossings)
    bridge = Bridge(align(sparse, stack, settings.align), 48, 32, 0.25)
    objective = BridgedObjective(sparse, stack, bridge, settings)
    found = bridged_workload(
        sparse.config, dense_shape(str(tmp_path), 64), settings, TrainConfig(batch_size=2, density=0.1)
    )
    assert found.extra_parameters == sum(p.numel() for p in bridge.parameters())
    assert found.frozen_parameters == sum(p.numel() for p in network.parameters())
    assert found.size.parameters == sum(p.numel() for p in sparse.parameters())
    tokens = torch.randint(0, 40, (2, 64))
    flops, peaks = {}, {}
    for draw in range(40):  # every choice of crossings once, so that the mean is the expectation
        chosen = tuple(choose_crossings(len(bridge.alignment.sites), crossings, draw))
        if chosen in flops:
            continue
        with count_flops() as counter:
            objective(tokens, draw=draw)["loss"].backward()
        flops[chosen] = counter.get_total_flops() / tokens.numel()
        peaks[chosen] = _peak(lambda d=draw: objective(tokens, draw=d)["loss"].backward()) / tokens.numel()
    assert len(flops) == (1 if crossings == 0 else len(bridge.alignment.sites))
    assert found.step_flops == pytest.approx(sum(flops.values()) / len(flops), rel=0.06)
    assert found.bytes_per_token == pytest.approx(max(peaks.values()), rel=0.2)


def test_a_dense_model_that_cannot_be_planned_for_is_refused_by_name(tmp_path: Path, tiny_gpt2: Callable) -> None:
    with pytest.raises(UserError, match="holds no config of a causal language model"):
        dense_shape(str(tmp_path), 16)
    tiny_gpt2(n_layer=1).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="2 layers, the dense one 1"):
        bridged_workload(
            SparseTransformer.config_class(n_layer=2), dense_shape(str(tmp_path), 16), BridgeConfig(), TrainConfig()
        )


def _peak(step: Callable[[], object]) -> int:
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as found:
        step()
    events = found.profiler.kineto_results.events()
    now = peak = 0
    for _, change in sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]"):
        now += change
        peak = max(peak, now)
    return peak

"""The work and memory of a run with bridges, per token, term by term as `bridges.objective` computes them.

The dense model is built from its config without storage: its matrices are counted, and one pass without values says what
autograd would keep. A layer of the dense model counts as two sublayers of equal cost.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from bridges.bridge_config import BridgeConfig
from bridges.distillation import logits_at_once, logits_that_fit
from dense_adapters.loading import require_known
from dense_adapters.source import Source, find_source
from foundation.errors import UserError
from sparse_model.plan.estimate import Workload
from sparse_model.plan.flops import Work, attention_work, mlp_work, model_work, unembedding_work
from sparse_model.plan.memory import BITS_PER_BYTE, FULL, attention_bytes, mlp_bytes, trunk_bytes, widest_bytes
from sparse_model.plan.size import model_size
from sparse_model.training.train_config import TrainConfig
from sparse_model.transformer.sparse_config import SparseConfig

AT_WORK = 5
"""Values per logit while a loss is made: two of the target, three of the stream."""


@dataclass(frozen=True)
class DenseShape:
    """What planning needs of a dense model; work and bytes are per token."""

    d_model: int
    n_layer: int
    vocab_size: int
    parameters: int
    layer: Work
    layer_bytes: int
    """kept by autograd where only the inputs need gradients"""


def dense_shape(name: str, length: int, trust_remote_code: bool = False) -> DenseShape:
    """Read a Hugging Face config (folder, id or GGUF file) and build the model without values.

    Raises:
        UserError: there is no config, or no causal language model is made from it.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    if not Path(name).exists():
        require_known(name)
    try:
        source = find_source(name) if Path(name).exists() else Source(name)
        config = AutoConfig.from_pretrained(source.name, trust_remote_code=trust_remote_code, **source.options)
        with FakeTensorMode():
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
            model.requires_grad_(False)
            kept = _kept(model, config.get_text_config().hidden_size, length)
    except Exception as error:  # configurations and their code come from anywhere and raise every kind
        reason = " ".join(str(error).split())[:160]
        raise UserError(
            f"{name}: holds no config of a causal language model ({reason}); pass its folder or id"
        ) from None
    text: Any = config.get_text_config()
    head = model.get_output_embeddings().weight
    tables = {m.weight for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    matrices = sum(p.numel() for p in model.parameters() if p.dim() == 2 and p is not head and p not in tables)
    heads = text.num_attention_heads
    width = heads * (getattr(text, "head_dim", None) or text.hidden_size // heads)
    L = text.num_hidden_layers
    return DenseShape(
        text.hidden_size,
        L,
        text.vocab_size,
        sum(p.numel() for p in model.parameters()),
        Work(2 * matrices / L, 4 * length * width),
        kept // L,
    )


def bridged_workload(
    config: SparseConfig, dense: DenseShape, bridge: BridgeConfig, train: TrainConfig, free: int | None = None
) -> Workload:
    """A sparse model with bridges to `dense`, on sequences of `config.block_size` tokens.

    FLOPs are the mean over the random choice of crossings, bytes its worst case.

    Args:
        free: bytes of a GPU, by which it is decided how many logits are made at once; None for a CPU.

    Raises:
        UserError: the sparse model has more layers than the dense one.
    """
    if config.n_layer > dense.n_layer:
        raise UserError(
            f"the sparse model has {config.n_layer} layers, the dense one {dense.n_layer}; lower --sparse-n-layer"
        )
    S, D, V, T = config.d_model, dense.d_model, dense.vocab_size, config.block_size
    every = config.n_layer == dense.n_layer or bridge.align == "every"
    pieces = 2 * config.n_layer if every else config.n_layer
    sites = pieces + 1
    chosen = sites if bridge.crossings in (0, *range(sites, bridge.crossings + 1)) else bridge.crossings
    to_sparse, to_dense = bool(bridge.dense_to_sparse), bool(bridge.sparse_to_dense)
    layer = attention_work(config, T) + mlp_work(config)
    sparse_head, dense_head = unembedding_work(config), Work(2 * D * V)
    mean_tail = chosen * (sites - 1) / 2 / pieces  # in whole models, over all chosen sites
    rows = train.batch_size // train.accumulate * T
    at_once = logits_at_once(torch.device("cpu"), V) if free is None else logits_that_fit(free)

    step = model_work(config, T).step
    step += (dense.layer * dense.n_layer + dense_head).forward  # target
    step += sites * 2 * D * S * (2 + 3)  # encoders need no gradient of their input, decoders do
    if to_sparse:
        step += mean_tail * (layer * config.n_layer).step + chosen * sparse_head.step
    if to_dense:
        step += mean_tail * (dense.layer * dense.n_layer).step_frozen + chosen * dense_head.step_frozen

    longest = sum(sorted(range(sites), reverse=True)[:chosen]) / pieces
    kept = trunk_bytes(config, T, False) + FULL * 2 * S
    kept += sites * (FULL * (2 * S + 3 * D) + S // BITS_PER_BYTE)
    if to_sparse:
        kept += int(longest * config.n_layer * (attention_bytes(config, T, False) + mlp_bytes(config, False)))
        kept += chosen * 2 * FULL * S  # final streams and their gradients
    if to_dense:
        kept += int(longest * dense.n_layer * dense.layer_bytes) + chosen * 2 * FULL * D
    at_work = AT_WORK * FULL * V * min(1.0, at_once / (rows * V))
    kept += int(max(widest_bytes(config), at_work))
    parameters = sites * (2 * D * S + S + D)
    size = model_size(config, train.final_densities(), train.floor)
    return Workload(size, parameters, dense.parameters, model_work(config, T).forward, step, kept)


def _kept(model: Any, d_model: int, length: int) -> int:
    """Bytes per token that a forward pass keeps for gradients of the inputs, unembedding left out."""
    stream = torch.empty(1, length, d_model, requires_grad=True)
    own = {p.untyped_storage()._cdata for p in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in own:
            kept[storage._cdata] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        body: torch.nn.Module = model.base_model
        body(inputs_embeds=stream, use_cache=False)
    return sum(storage.nbytes() for storage in kept.values()) // length

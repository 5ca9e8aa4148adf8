"""Memory of one training process, in bytes, from what the optimiser holds and what autograd keeps for the backward pass.

Kept per token (R read channels, A = H·K; 4 bytes each, 2 where autocast makes them bfloat16, a bit for AbsTopK's masks):

    attention   norm S, masked input R, queries, keys, values and output 4·A, softmax H   masks R + 3·A + S
    MLP         norm S, masked input R, before and after the nonlinearity 2·N             masks R + N + S
    head        norm S, its output S, log-probabilities V

The peak is either where the backward pass starts (all of that, and two more rows of the widest tensor) or where it ends
(all gradients). `bf16` adds the cached copies of the weights.

Where parameters are split over processes, each holds its share of weights, gradients and moments. Beside them are whole:
what is in no sublayer, its gradient and a copy of that on its way to the others; or weights, gradients and copies on their
way of the sublayer at work and of the one fetched ahead.
"""

from dataclasses import dataclass
from typing import Any

from sparse_model.transformer.sparse_config import SparseConfig

FULL, HALF = 4, 2
BITS_PER_BYTE = 8
AT_WORK = 5
"""Sublayers' worth of whole weights, gradients and copies on their way that were seen at once in a split run."""


@dataclass(frozen=True)
class Memory:
    """Bytes per device."""

    weights: int
    gradients: int
    moments: int
    activations: int
    """kept by autograd and the widest temporaries beside them, where the backward pass starts"""
    casts: int = 0
    """bfloat16 copies of the weights"""
    buckets: int = 0
    """gradients once more, as several processes exchange them"""
    gathered: int = 0
    """whole weights and gradients of the parts at work, where each process holds a share of all"""

    @property
    def peak(self) -> int:
        """Gradients grow while activations shrink, so the larger of the two counts."""
        resting = self.weights + self.moments + self.casts + self.buckets + self.gathered
        return resting + max(self.activations, self.gradients)

    def to_json(self) -> dict[str, Any]:
        """Fields and `peak`."""
        return {**self.__dict__, "peak": self.peak}


def attention_bytes(config: SparseConfig, length: int, half: bool) -> int:
    """Kept per token by one attention sublayer."""
    element = HALF if half else FULL
    kept = FULL * config.d_model + element * (config.d_read + 4 * config.d_attn) + FULL * (config.n_head + 1)
    if config.attention_sink:
        kept += element * config.n_head * (length + 1)  # the sinks differ by head, and with them the additive mask
    elif config.document_token is not None:
        kept += element * length  # the additive mask
    masks = _masks(config, attn_in=config.d_read, attn_out=config.d_model)
    return kept + masks + _masks(config, **dict.fromkeys(("attn_q", "attn_k", "attn_v"), config.d_attn))


def mlp_bytes(config: SparseConfig, half: bool) -> int:
    """Kept per token by one MLP sublayer."""
    element = HALF if half else FULL
    kept = FULL * config.d_model + element * (config.d_read + 2 * config.d_mlp) + FULL
    return kept + _masks(config, mlp_in=config.d_read, mlp_neuron=config.d_mlp, mlp_out=config.d_model)


def head_bytes(config: SparseConfig) -> int:
    """Kept per token by the final norm, the unembedding and the cross-entropy."""
    return FULL * (2 * config.d_model + 1 + config.vocab_size)


def trunk_bytes(config: SparseConfig, length: int, half: bool) -> int:
    """Kept per token by all sublayers."""
    return config.n_layer * (attention_bytes(config, length, half) + mlp_bytes(config, half))


def widest_bytes(config: SparseConfig) -> int:
    """Temporaries per token at the start of the backward pass."""
    return 2 * FULL * max(config.vocab_size, config.d_mlp)


def training_memory(
    parameters: int,
    per_token: int,
    micro_batch_tokens: int,
    half: bool,
    devices: int,
    frozen: int = 0,
    parts: tuple[int, int] | None = None,
) -> Memory:
    """What one device holds.

    Args:
        parameters: entries that train (weights, gradients and both moments, in fp32).
        per_token: bytes of activations per token of a micro-batch.
        frozen: entries that are only looked at; they are whole on every device, with `half` in half precision.
        parts: entries of the largest sublayer and of what is in none, where parameters are split over the devices.
    """
    share, gathered = parameters, 0
    if parts is not None:
        largest, outside = parts
        share, gathered = -(-parameters // devices), outside + max(2 * outside, AT_WORK * largest)
    return Memory(
        weights=FULL * share + (HALF if half else FULL) * frozen,
        gradients=FULL * share,
        moments=2 * FULL * share,
        activations=per_token * micro_batch_tokens,
        casts=HALF * parameters if half else 0,
        buckets=FULL * parameters if devices > 1 and parts is None else 0,
        gathered=FULL * gathered,
    )


def _masks(config: SparseConfig, **widths: int) -> int:
    return sum(
        -(-width // BITS_PER_BYTE) for location, width in widths.items() if config.topk(location, width) is not None
    )

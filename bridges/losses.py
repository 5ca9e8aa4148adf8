"""Pure loss functions of bridge training (M2 and the KL of M3, M4)."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CHUNK_ELEMENTS = 2**24
"""Logits made at once, per stream: 64 MiB in fp32."""


def nmse(prediction: Float[Tensor, "B T W"], target: Float[Tensor, "B T W"]) -> Float[Tensor, ""]:
    """Normalised mean squared error E‖p − t‖² / E‖t − mean t‖² (1 = predicting the mean).

    The denominator is detached; detach the target yourself where it must not learn.
    """
    error = (prediction - target).square().sum(-1).mean()
    spread = (target - target.mean((0, 1))).square().sum(-1).mean()
    return error / spread.detach().clamp(min=1e-12)


def kl_per_token(target: Float[Tensor, "*B V"], logits: Float[Tensor, "*B V"]) -> Float[Tensor, "*B"]:
    """Exact KL(target ‖ softmax logits) in nats, per token, in fp32.

    Args:
        target: log-probabilities.
    """
    target, predicted = target.float(), F.log_softmax(logits.float(), dim=-1)
    return (target.exp() * (target - predicted)).sum(-1)


def kl_of_streams(
    target: Callable[[slice], Float[Tensor, "B t V"]],
    unembed: Callable[[Float[Tensor, "B t D"], slice], Float[Tensor, "B t V"]],
    streams: Float[Tensor, "kB T D"],
    batch: int,
    vocab_size: int,
) -> Float[Tensor, " k"]:
    """Mean KL(target ‖ unembed(stream)) in nats per token for each of k stacked streams, in bounded memory.

    Logits are made for a span of positions of one stream at a time; where that takes several pieces they are made
    again in the backward pass instead of being kept.

    Args:
        target: span of positions → dense log-probabilities.
        unembed: (stream at those positions, span) → logits.
    """
    k, T = len(streams) // batch, streams.shape[1]
    width = max(1, min(T, CHUNK_ELEMENTS // (batch * vocab_size)))
    spans = [slice(start, min(start + width, T)) for start in range(0, T, width)]

    def piece(h: Tensor, span: slice) -> Tensor:
        return kl_per_token(target(span), unembed(h, span)).sum()

    totals = []
    for stream in streams.view(k, batch, T, -1):
        parts = [
            piece(stream, spans[0])
            if len(spans) == 1
            else checkpoint(piece, stream[:, span], span, use_reentrant=False)
            for span in spans
        ]
        totals.append(torch.stack(parts).sum() / (batch * T))
    return torch.stack(totals)

"""Pure loss functions of bridge training (M2 and the KL of M3, M4)."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor
from torch.utils.checkpoint import checkpoint

CHUNK_ELEMENTS = 2**24
"""Logits made at once on a CPU, per stream: 64 MiB in fp32, about what its caches and the C library take well."""
BYTES_PER_LOGIT, SHARE_OF_FREE = 16, 0.25
"""On a GPU: what a logit takes while its KL is made, and the share of free memory that all streams of one call may take."""


def nmse(prediction: Float[Tensor, "B T W"], target: Float[Tensor, "B T W"]) -> Float[Tensor, ""]:
    """Normalised mean squared error E‖p − t‖² / E‖t − mean t‖² (1 = predicting the mean).

    The denominator is detached; detach the target yourself where it must not learn.
    """
    spread = target.detach().var((0, 1), correction=0).mean()
    return F.mse_loss(prediction, target) / spread.clamp(min=1e-12 / target.shape[-1])


def kl_per_token(target: Float[Tensor, "*B V"], logits: Float[Tensor, "*B V"]) -> Float[Tensor, "*B"]:
    """Exact KL(target ‖ softmax logits) in nats, per token, in fp32 or better.

    Args:
        target: log-probabilities; they get no gradient.
    """
    per_token: Tensor = _Kl.apply(target.detach(), logits)
    return per_token


class _Kl(torch.autograd.Function):
    """Keeps the logits alone, and makes their softmax again in the backward pass: ∂KL/∂logits = softmax − target."""

    @staticmethod
    def forward(ctx: Any, target: Tensor, logits: Tensor) -> Tensor:
        ctx.save_for_backward(target, logits)
        target = _precise(target)
        difference = F.log_softmax(_precise(logits), dim=-1).neg_().add_(target)
        return difference.mul_(target.exp()).sum(-1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor]:
        target, logits = ctx.saved_tensors
        difference = F.softmax(_precise(logits), dim=-1).sub_(_precise(target).exp())
        return None, difference.mul_(gradient[..., None]).to(logits.dtype)


def _precise(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))


def logits_at_once(device: torch.device, streams: int) -> int:
    """Logits of one stream that may be made and kept whole where `streams` of them are."""
    return CHUNK_ELEMENTS if device.type == "cpu" else logits_that_fit(_free_bytes(device), streams)


def logits_that_fit(free: float, streams: int) -> int:
    """The same from the bytes that are free on a GPU; never less than on a CPU."""
    return max(CHUNK_ELEMENTS, int(SHARE_OF_FREE * free / (BYTES_PER_LOGIT * streams)))


@cache
def _free_bytes(device: torch.device) -> int:
    """What is free on a GPU when first asked for, in the middle of a run's first step."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


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
    width = max(1, min(T, logits_at_once(streams.device, k) // (batch * vocab_size)))
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

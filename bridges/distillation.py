"""The KL from the dense model's distribution to those of many streams, without keeping any logits.

For a span of positions the dense log-probabilities are made once; then one stream after the other is unembedded, and its KL and
the gradient of that with respect to the stream and to what the unembedding learns are made on the spot:

    ∂KL(p ‖ q)/∂logits = q − p,  and of the next-token cross-entropy  ∂CE/∂logits = q − onehot(next token)

The backward pass only scales these gradients. Logits live while their span is at work, so that beyond one span memory grows with
neither vocabulary, sequence nor streams, and no product is made twice.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

CHUNK_ELEMENTS = 2**24
"""Logits of a stream made at once on a CPU, at most: 64 MiB in fp32."""
CACHED_ELEMENTS, FEWEST_ROWS = 2**21, 256
"""Fewer are faster on a CPU, as they stay in its caches; but the fewer rows, the more often the head's gradient is summed."""
BYTES_PER_LOGIT, SHARE_OF_FREE = 24, 0.25
"""On a GPU: what a logit takes while its loss is made (two copies of the target, four of the stream), and the share of free
memory for it."""


@dataclass(frozen=True)
class Readout:
    """Streams that one unembedding turns into logits, and what their losses weigh."""

    streams: Float[Tensor, "kB T W"]
    unembed: Callable[[Float[Tensor, "B t W"], slice], Float[Tensor, "B t V"]]
    """(one stream at a span of positions, span) → logits"""
    learned: tuple[Tensor, ...] = ()
    """all that `unembed` uses beside the stream and that needs a gradient"""
    kl: float = 1.0
    """weight of the KLs"""
    cross_entropy: float | None = None
    """weight of the next-token cross-entropies; None where they are not asked for"""


@dataclass(frozen=True)
class Distilled:
    """Losses in nats per token, each summed over the streams of a readout; only `total` has a gradient."""

    total: Float[Tensor, ""]
    """weighted, of all readouts"""
    kl: tuple[Float[Tensor, ""], ...]
    cross_entropy: tuple[Float[Tensor, ""], ...]
    """0 where not asked for"""


def distil(
    target: Callable[[slice], Float[Tensor, "B t V"]],
    readouts: Sequence[Readout],
    tokens: Int[Tensor, "B T"],
    vocab_size: int,
) -> Distilled:
    """KL(target ‖ stream), exact and in fp32 or better, of every stream, and next-token cross-entropies where asked for.

    Args:
        target: span of positions → dense log-probabilities; they get no gradient.
        tokens: position t is to predict token t + 1.
    """
    inputs = list({id(x): x for r in readouts for x in (r.streams, *r.learned) if x.requires_grad}.values())
    wanted = inputs if torch.is_grad_enabled() else []
    total, kl, cross_entropy, gradients = _losses(target, readouts, tokens, vocab_size, wanted)
    if wanted:
        total = _Total.apply(total, gradients, 1 / tokens.numel(), *wanted)
    return Distilled(total, kl, cross_entropy)


class _Total(torch.autograd.Function):
    """A value whose gradients with respect to its inputs are known, but for a factor."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: list[Tensor], factor: float, *inputs: Tensor) -> Tensor:
        ctx.save_for_backward(*gradients)
        ctx.factor = factor
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, None, *torch._foreach_mul(ctx.saved_tensors, gradient * ctx.factor)


@torch.compiler.disable  # gradients taken within a forward pass are nothing to trace
@torch.no_grad()
def _losses(
    target: Callable[[slice], Tensor],
    readouts: Sequence[Readout],
    tokens: Tensor,
    vocab_size: int,
    wanted: Sequence[Tensor],
) -> tuple[Tensor, tuple[Tensor, ...], tuple[Tensor, ...], list[Tensor]]:
    """Total, KLs, cross-entropies, and the total's gradients of what is `wanted`, too large by the number of tokens."""
    B, T = tokens.shape
    width = max(1, min(T, logits_at_once(tokens.device, vocab_size) // (B * vocab_size)))
    gradients = {id(x): torch.zeros_like(x) for x in wanted}
    sums: list[list[_Piece]] = [[] for _ in readouts]
    for start in range(0, T, width):
        span = slice(start, min(start + width, T))
        log_p = target(span)
        p, following = log_p.exp(), tokens[:, start + 1 : span.stop + 1].long()
        for pieces, readout in zip(sums, readouts, strict=True):
            shape = (-1, B, T, readout.streams.shape[-1])
            of_streams = gradients.get(id(readout.streams))
            learned = [x for x in readout.learned if id(x) in gradients]
            for j, stream in enumerate(readout.streams.detach().view(shape)):
                h = stream[:, span]
                piece = _one_piece(readout, h, of_streams is not None, learned, span, (log_p, p), following, T)
                pieces.append(piece)
                if piece.of_stream is not None and of_streams is not None:
                    of_streams.view(shape)[j, :, span] = piece.of_stream
                for x, gradient in zip(learned, piece.of_learned, strict=False):
                    gradients[id(x)] += gradient
    kl = tuple(torch.stack([piece.kl for piece in pieces]).sum() / (B * T) for pieces in sums)
    entropy = tuple(
        torch.stack([piece.cross_entropy for piece in pieces]).sum() / (B * max(1, T - 1)) for pieces in sums
    )
    weighted = [r.kl * x + (r.cross_entropy or 0.0) * y for r, x, y in zip(readouts, kl, entropy, strict=True)]
    return torch.stack(weighted).sum(), kl, entropy, [gradients[id(x)] for x in wanted]


@dataclass(frozen=True)
class _Piece:
    """One stream at one span: sums over its tokens, and gradients of the weighted sum; none where nothing is asked for."""

    kl: Tensor
    cross_entropy: Tensor
    of_stream: Tensor | None = None
    of_learned: tuple[Tensor, ...] = ()


def _one_piece(
    readout: Readout,
    h: Tensor,
    stream_learns: bool,
    learned: list[Tensor],
    span: slice,
    target: tuple[Tensor, Tensor],
    following: Tensor,
    T: int,
) -> _Piece:
    log_p, p = target
    learns = bool(readout.kl or readout.cross_entropy) and (stream_learns or bool(learned))
    h.requires_grad_(learns and stream_learns)
    with torch.set_grad_enabled(learns):
        logits = readout.unembed(h.view_as(h), span)  # hooks on a module's input (FLOP counters) refuse a leaf
    log_q = F.log_softmax(logits.detach().to(torch.promote_types(logits.dtype, torch.float32)), dim=-1)
    entropy = log_q.new_zeros(())
    if readout.cross_entropy is not None:
        entropy = -log_q[:, : following.shape[1]].gather(-1, following[..., None]).sum()
    towards = _towards(log_q, p, following, readout, T) if learns else None
    kl = torch.sub(log_p, log_q, out=log_q).mul_(p).sum()
    if towards is None:
        return _Piece(kl, entropy)
    with torch.autocast(h.device.type, enabled=False):
        inputs = [h] * stream_learns + learned
        found = torch.autograd.grad(logits, inputs, towards.to(logits.dtype))
    return _Piece(kl, entropy, found[0] if stream_learns else None, found[stream_learns:])


def _towards(log_q: Tensor, p: Tensor, following: Tensor, readout: Readout, T: int) -> Tensor:
    """The gradient of a piece's weighted sum with respect to its logits."""
    q = log_q.exp()
    text = (readout.cross_entropy or 0.0) * T / max(1, T - 1)  # its mean is over one position less
    if not text:
        q.sub_(p)
        return q if readout.kl == 1 else q.mul_(readout.kl)
    predicted = q[:, : following.shape[1]] * text
    predicted.scatter_add_(-1, following[..., None], predicted.new_full((*following.shape, 1), -text))
    q.sub_(p).mul_(readout.kl)
    q[:, : following.shape[1]] += predicted
    return q


def logits_at_once(device: torch.device, vocab_size: int) -> int:
    """Logits of one stream that may be made at once."""
    if device.type != "cpu":
        return logits_that_fit(_free_bytes(device))
    return min(CHUNK_ELEMENTS, max(CACHED_ELEMENTS, FEWEST_ROWS * vocab_size))


def logits_that_fit(free: float) -> int:
    """The same from the bytes that are free on a GPU; never less than on a CPU."""
    return max(CHUNK_ELEMENTS, int(SHARE_OF_FREE * free / BYTES_PER_LOGIT))


@cache
def _free_bytes(device: torch.device) -> int:
    """What is free on a GPU when first asked for, in the middle of a run's first step."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)

"""Heads of which a mask keeps no key and no value: what attention does there is known without attending.

Without a kept key all scores of a query are equal, so it attends evenly to the tokens it may see; and the even mean of a
value that is frozen is that value. Only the values' masks have a gradient there, through the even mean. While masks are
learned most heads are soon of this kind.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def busy_heads(
    keys: Float[Tensor, "k d_attn"], values: Float[Tensor, "k d_attn"], n_head: int
) -> Int[Tensor, " heads"]:
    """The heads of which some mask keeps a key or a value."""
    kept = (keys.detach() + values.detach()).sum(0)
    return kept.view(n_head, -1).any(1).nonzero().flatten()


def channels_of(heads: Int[Tensor, " heads"], d_head: int) -> Int[Tensor, " channels"]:
    """Their channels of d_attn."""
    return (heads[:, None] * d_head + torch.arange(d_head, device=heads.device)).flatten()


class EvenMean(torch.autograd.Function):
    """Outputs [k, rows, C] of heads that attend evenly, where v [k, R, C] is the same at all tokens.

    Args of `apply`:
        at: row of every token among all k·R [k, M, T].
        sample: token of every row that goes on, among all k·M·T [k, rows]; None: one row a prompt, its last token's.
        allowed: what each query may attend to [k·M, 1, queries, T].
    """

    @staticmethod
    def forward(
        ctx: Any,
        v: Float[Tensor, "k R C"],
        at: Int[Tensor, "k M T"],
        sample: Int[Tensor, "k rows"] | None,
        allowed: Bool[Tensor, "kM 1 queries T"],
    ) -> Tensor:
        ctx.at, ctx.sample, ctx.allowed, ctx.shape = at, sample, allowed, v.shape
        rows = at.shape[1] if sample is None else sample.shape[1]
        return v[:, :1].expand(-1, rows, -1).contiguous()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None]:
        even = ctx.allowed[:, 0].to(gradient)
        even /= even.sum(-1, keepdim=True)
        width = gradient.shape[-1]
        if ctx.sample is None:
            queries = gradient.flatten(0, 1)
        else:
            queries = gradient.new_zeros(ctx.at.numel(), width)
            queries.index_add_(0, ctx.sample.flatten(), gradient.flatten(0, 1))
        tokens = even.transpose(1, 2) @ queries.view(*even.shape[:2], width)
        found = gradient.new_zeros(ctx.shape)
        found.view(-1, width).index_add_(0, ctx.at.flatten(), tokens.flatten(0, 1))
        return found, None, None, None

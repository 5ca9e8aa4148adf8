"""The masked model's sublayers on a task's prompts, for several masks at once, with gradients towards every mask.

The stream h is held at the prefix rows, or at the last tokens after the last attention. A linear map reads kept channels
alone, removed ones are a constant; backward it starts from kept channels alone, since nothing depends on what a frozen
one would have been. AbsTopK still sees every channel: which of them survive depends on removed ones too.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from sparse_model.circuits.idle_heads import EvenMean, busy_heads, channels_of
from sparse_model.circuits.prompts import PromptRows, Prompts
from sparse_model.transformer.execution import multiply
from sparse_model.transformer.layers import ACTIVATIONS, Attention, keep_topk
from sparse_model.transformer.model import SparseTransformer

Masks = Mapping[str, Float[Tensor, "k W"]]
CSR_PAYS_ABOVE = 0.2
"""Share of a map's inputs kept from which its nonzero weights alone are multiplied, without gradients."""


class EdgeMask(NamedTuple):
    """One mask of the edges between a circuit's nodes at a target location and its source."""

    to: Int[Tensor, " to"]
    """channels of the target"""
    read: Int[Tensor, " read"]
    """channels of the source"""
    mask: Float[Tensor, "to read"]
    """0 where removed, else 1"""


EdgeMasks = Mapping[str, Sequence[EdgeMask]]


class MaskedPass:
    """One masked pass; arguments as of `masked_pass.answer_differences`."""

    def __init__(
        self,
        prompts: Prompts,
        rows: PromptRows,
        keep: Masks,
        values: Mapping[str, Tensor],
        edges: EdgeMasks,
    ) -> None:
        self.prompts, self.rows, self.keep, self.values, self.edges = prompts, rows, keep, values, edges
        self.model: SparseTransformer = prompts.model
        self.kept = {name: [mask.nonzero().flatten() for mask in masks.detach()] for name, masks in keep.items()}

    def run(self) -> Tensor:
        config, rows, stems = self.model.config, self.rows, self.rows.prefix_stems
        h = self.prompts.embedding[stems]
        for layer in range(config.n_layer):
            final = layer == config.n_layer - 1
            delta = self.attention(layer, h, stems, final)
            if final:
                h, stems = pick(h, rows.leaf), stems.flatten()[rows.leaf]
            h = self.settle("resid_post_attn", h + delta)
            h = self.settle("resid_post_mlp", h + self.mlp(layer, h, stems))
        return (self.normed(2 * config.n_layer, h, self.tokens(True, final=True)) * rows.direction).sum(
            -1
        ) + rows.offset

    def normed(self, site: int, h: Tensor, tokens: Tensor) -> Tensor:
        """h after the norm of a residual site; `tokens` says which tokens of all M·T the rows are."""
        return self.model.norm(site)(h)

    def tokens(self, attended: bool, final: bool) -> Tensor:
        """One token of all M·T per row of the stream before or after the first attention, or after the last."""
        if final:
            return self.rows.sample.flatten()[self.rows.leaf]
        return self.rows.sample if attended else self.rows.stem_sample

    def attention(self, layer: int, h: Tensor, stems: Tensor, final: bool) -> Tensor:
        """What attention adds, at every prefix row or, where it is the last one, at each prompt's last token."""
        config, name = self.model.config, f"{layer}.attn"
        attn = self.model.blocks[layer].attn
        read, at, leaf = self.attention_read(layer, h, stems)
        x = self.gate(f"{name}.act_in", read)
        width, biases = config.d_attn, attn.c_attn.bias
        parts: dict[str, Tensor] = {}
        for number, part in enumerate("qkv"):
            piece = slice(number * width, (number + 1) * width)
            source = pick(x, leaf) if part == "q" and final else x
            bias = None if biases is None else biases[piece]
            z = self.linear(f"{name}.act_in", f"{name}.{part}", source, attn.c_attn.weight[piece], bias)
            parts[part] = self.freeze(f"{name}.{part}", keep_topk(config, f"attn_{part}", z))
        y = self.heads(attn, name, parts, at, final)
        z = self.linear(f"{name}.v", f"{name}.resid_delta", y, attn.c_proj.weight, attn.c_proj.bias)
        return self.freeze(f"{name}.resid_delta", keep_topk(config, "attn_out", z))

    def attention_read(self, layer: int, h: Tensor, stems: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """act_in before any mask, and where in it each token and each prompt's last token is."""
        if layer == 0:
            return self.prompts.first_read[self.rows.stems], self.rows.at_stem, self.rows.leaf_stem
        normed = self.with_position(layer, "ln_p1", self.normed(2 * layer, h, self.tokens(True, final=False)), stems)
        return keep_topk(self.model.config, "attn_in", normed), self.rows.at, self.rows.leaf

    def heads(self, attn: Attention, name: str, parts: Mapping[str, Tensor], at: Tensor, final: bool) -> Tensor:
        """Outputs of all heads at the rows that go on; those of which nothing is kept are not computed."""
        config, rows = self.model.config, self.rows
        busy = busy_heads(self.keep[f"{name}.k"], self.keep[f"{name}.v"], config.n_head)
        if attn.sink_logit is not None or 2 * len(busy) > config.n_head:
            return self.mix(attn, parts, at, final, config.n_head)
        sample, allowed = (None, rows.allowed_last) if final else (rows.sample, rows.allowed)
        y: Tensor = EvenMean.apply(parts["v"], at, sample, allowed)
        if not len(busy):
            return y
        channels = channels_of(busy, config.d_head)
        chosen = {part: x.index_select(2, channels) for part, x in parts.items()}
        return y.index_copy(2, channels, self.mix(attn, chosen, at, final, len(busy)))

    def mix(self, attn: Attention, parts: Mapping[str, Tensor], at: Tensor, final: bool, heads: int) -> Tensor:
        """Outputs of the heads whose channels `parts` hold, at the rows that go on."""
        config, rows, (k, M, _) = self.model.config, self.rows, at.shape
        shape = (k * M, -1, heads, config.d_head)
        q = parts["q"] if final else pick(parts["q"], at)
        q, keys, v = (x.reshape(shape).transpose(1, 2) for x in (q, pick(parts["k"], at), pick(parts["v"], at)))
        allowed = rows.allowed_last if final else rows.allowed
        if attn.sink_logit is not None:
            bias = torch.zeros_like(allowed, dtype=q.dtype).masked_fill(~allowed, float("-inf"))
            sink = attn.sink_logit.to(q.dtype).view(1, -1, 1, 1).expand(k * M, -1, bias.shape[2], 1)
            allowed = torch.cat([sink, bias.expand(-1, heads, -1, -1)], dim=-1)
            keys, v = F.pad(keys, (0, 0, 1, 0)), F.pad(v, (0, 0, 1, 0))
        y = F.scaled_dot_product_attention(q, keys, v, attn_mask=allowed, scale=1 / math.sqrt(config.d_head))
        y = y.transpose(1, 2).reshape(k, -1, heads * config.d_head)
        return y if final else pick(y, rows.sample)

    def mlp(self, layer: int, h: Tensor, stems: Tensor) -> Tensor:
        """What the MLP adds at the rows of h."""
        config, name, mlp = self.model.config, f"{layer}.mlp", self.model.blocks[layer].mlp
        x = self.gate(f"{name}.act_in", self.mlp_read(layer, h, stems))
        z = self.linear(f"{name}.act_in", f"{name}.post_act", x, mlp.c_fc.weight, mlp.c_fc.bias)
        z = ACTIVATIONS[config.activation](z)
        hidden = self.gate(f"{name}.post_act", keep_topk(config, "mlp_neuron", z))
        out = self.linear(f"{name}.post_act", f"{name}.resid_delta", hidden, mlp.c_proj.weight, mlp.c_proj.bias)
        return self.freeze(f"{name}.resid_delta", keep_topk(config, "mlp_out", out))

    def mlp_read(self, layer: int, h: Tensor, stems: Tensor) -> Tensor:
        """act_in before any mask."""
        tokens = self.tokens(True, final=layer == self.model.config.n_layer - 1)
        normed = self.normed(2 * layer + 1, h, tokens)
        return keep_topk(self.model.config, "mlp_in", self.with_position(layer, "ln_p2", normed, stems))

    def with_position(self, layer: int, norm: str, x: Tensor, stems: Tensor) -> Tensor:
        if self.prompts.position is None:
            return x
        block = self.model.blocks[layer]
        position = (block.ln_p1 if norm == "ln_p1" else block.ln_p2)(self.prompts.position)
        return torch.cat([x, position[stems]], dim=-1)

    def settle(self, location: str, h: Tensor) -> Tensor:
        if self.model.config.residual_activation == "relu":
            h = F.relu(h)
        return keep_topk(self.model.config, location, h)

    def gate(self, name: str, x: Tensor) -> Tensor:
        """x itself, for a linear map that reads kept channels alone; backward as `freeze`."""
        found: Tensor = _Freeze.apply(x, self.keep[name], self.values[name], True)
        return found

    def freeze(self, name: str, x: Tensor) -> Tensor:
        """x where kept, its ablation value where not."""
        found: Tensor = _Freeze.apply(x, self.keep[name], self.values[name], False)
        return found

    def linear(self, source: str, target: str, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """Channels at `target` from kept channels at `source`; removed channels and edges carry their values."""
        value, reads = self.values[source], self.kept[source]
        if source.endswith(".v") and self.prompts.model.blocks[int(source.split(".")[0])].attn.sink_logit is not None:
            # the sink takes a share of every value, so a head's output is no constant where its value is frozen
            every = torch.arange(len(value), device=x.device)
            constant, reads = torch.zeros(len(x), len(weight), device=x.device, dtype=x.dtype), [every] * len(x)
        else:
            constant = F.linear(value * (1 - self.keep[source].detach()), weight.detach())
        if bias is not None:
            constant = constant + bias.detach()
        z = self.multiplied(target, x, weight.detach(), constant, reads)
        if target not in self.edges:
            return z
        corrected = []
        for s, (to, read, mask) in enumerate(self.edges[target]):
            lost = weight.detach()[to][:, read] * (mask - 1)
            corrected.append(z[s].index_add(1, to, F.linear(x[s][:, read] - value[read], lost)))
        return torch.stack(corrected)

    def multiplied(self, target: str, x: Tensor, weight: Tensor, constant: Tensor, reads: Sequence[Tensor]) -> Tensor:
        """constant + x[read] · weight[:, read]ᵀ per mask; without gradients from nonzero weights alone, where that pays."""
        many = sum(map(len, reads)) > CSR_PAYS_ABOVE * x.shape[-1] * len(reads)
        sparse = self.prompts.compressed(target, weight) if many and not torch.is_grad_enabled() else None
        if sparse is None:
            z: Tensor = _KeptLinear.apply(x, weight, constant, reads, self.kept[target])
            return z
        products = []
        for s, read in enumerate(reads):
            products.append(multiply(x[s] * _marked(read, x), sparse, constant[s]))
        return torch.stack(products)


class _Freeze(torch.autograd.Function):
    """value + (x − value) · mask; with `lazily` the forward pass leaves x to a reader that skips what is removed."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, mask: Tensor, value: Tensor, lazily: bool) -> Tensor:
        ctx.save_for_backward(x, mask, value)
        return x.view_as(x) if lazily else torch.where(mask[:, None] > 0, x, value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None, None]:
        x, mask, value = ctx.saved_tensors
        to_mask = None
        if ctx.needs_input_grad[1]:
            to_mask = torch.linalg.vecdot(gradient, x, dim=1) - value * gradient.sum(1)
        return (gradient * mask[:, None] if ctx.needs_input_grad[0] else None), to_mask, None, None


class _KeptLinear(torch.autograd.Function):
    """constant + x[read] · weight[:, read]ᵀ per mask; backward from the rows `to` alone, towards every channel of x."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, constant: Tensor, reads: Sequence[Tensor], to: Sequence[Tensor]
    ) -> Tensor:
        ctx.weight, ctx.to = weight, to
        z = x.new_empty(*x.shape[:2], len(weight))
        for s, read in enumerate(reads):
            if 4 * len(read) > 3 * x.shape[-1]:
                torch.addmm(constant[s], x[s] * _marked(read, x), weight.T, out=z[s])
            else:  # columns are gathered row by row of the weight, as they lie in memory
                torch.addmm(constant[s], x[s].index_select(1, read), weight.index_select(1, read).T, out=z[s])
        return z

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None, None, None]:
        found = gradient.new_empty(*gradient.shape[:2], ctx.weight.shape[1])
        for s, to in enumerate(ctx.to):
            torch.mm(gradient[s].index_select(1, to), ctx.weight.index_select(0, to), out=found[s])
        return found, None, None, None, None


def _marked(read: Tensor, x: Tensor) -> Tensor:
    """1 at the channels of x to be read, 0 at the others."""
    return x.new_zeros(x.shape[-1]).index_fill_(0, read, 1.0)


def pick(x: Tensor, rows: Tensor) -> Tensor:
    """Rows of all k·R, in the shape of their numbers."""
    return x.flatten(0, 1).index_select(0, rows.flatten()).view(len(rows), -1, x.shape[-1])

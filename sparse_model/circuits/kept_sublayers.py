"""The masked model's sublayers for one mask of few nodes, without gradients: maps that compute kept channels alone.

`masked_sublayers` in every other respect. A map's frozen inputs are a constant (`folded`), AbsTopK compares what varies
with constants sorted once (`selection`), and attention runs in heads with a kept value. Norms and what sublayers read
are computed whole, so that nothing a switch of the model changes has to be done twice.
"""

from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from sparse_model.circuits.folded_linear import FoldedLinear
from sparse_model.circuits.masked_sublayers import EdgeMasks, MaskedPass, Masks
from sparse_model.circuits.prompts import PromptRows, Prompts
from sparse_model.transformer.layers import ACTIVATIONS, keep_topk


@runtime_checkable
class NodeTap(Protocol):
    """Called with the kept channels of a location; `rows` says which of all M·T tokens each row is."""

    def __call__(
        self, location: str, channels: Int[Tensor, " C"], rows: Int[Tensor, " R"], x: Float[Tensor, "R C"], /
    ) -> Float[Tensor, "R C"]: ...


class KeptPass(MaskedPass):
    """One pass of one mask; arguments as of `masked_pass.answer_differences`."""

    def __init__(
        self,
        prompts: Prompts,
        rows: PromptRows,
        keep: Masks,
        values: Mapping[str, Tensor],
        edges: EdgeMasks,
        tap: NodeTap | None = None,
        scales: Tensor | None = None,
    ) -> None:
        super().__init__(prompts, rows, keep, values, edges)
        self.tap, self.scales = tap, scales

    def normed(self, site: int, h: Tensor, tokens: Tensor) -> Tensor:
        """With the given scales, where there are any."""
        if self.scales is None:
            return super().normed(site, h, tokens)
        return h * self.scales[site][tokens][..., None] * self.model.norm_gain(site)

    def attention_read(self, layer: int, h: Tensor, stems: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As `MaskedPass.attention_read`; what prompts hold of the first one has the model's own scales."""
        if layer > 0 or self.scales is None:
            return super().attention_read(layer, h, stems)
        stems = self.rows.stems
        normed = self.normed(0, self.prompts.embedding[stems], self.tokens(False, final=False))
        read = keep_topk(self.model.config, "attn_in", self.with_position(0, "ln_p1", normed, stems))
        return read, self.rows.at_stem, self.rows.leaf_stem

    def attention(self, layer: int, h: Tensor, stems: Tensor, final: bool) -> Tensor:
        """As `MaskedPass.attention`."""
        config, name, attn = self.model.config, f"{layer}.attn", self.model.blocks[layer].attn
        read, at, leaf = self.attention_read(layer, h, stems)
        tokens, after = self.tokens(layer > 0, final=False)[0], self.tokens(True, final)[0]
        x = self.seen(f"{name}.act_in", tokens, read[0][:, self.kept[f"{name}.act_in"][0]])
        v = self.kept[f"{name}.v"][0]
        if attn.sink_logit is not None:  # it takes a share of frozen values too
            v = torch.arange(config.d_attn, device=v.device)
        heads = (v // config.d_head).unique()
        channels = (heads[:, None] * config.d_head + torch.arange(config.d_head, device=v.device)).flatten()
        parts: dict[str, Tensor] = {}
        for number, part in enumerate("qkv"):
            piece = slice(number * config.d_attn, (number + 1) * config.d_attn)
            at_leaf = part == "q" and final
            bias = None if attn.c_attn.bias is None else attn.c_attn.bias[piece]
            z = self.made(
                f"{name}.act_in", f"{name}.{part}", x[leaf[0]] if at_leaf else x, attn.c_attn.weight[piece], bias,
                config.topk(f"attn_{part}", config.d_attn),
            )  # fmt: skip
            z = self.seen(f"{name}.{part}", tokens[leaf[0]] if at_leaf else tokens, z)
            parts[part] = self.whole(f"{name}.{part}", z)[:, :, channels]
        if len(heads):
            y = self.mix(attn, parts, at, final, len(heads))[0][:, torch.searchsorted(channels, v)]
        else:
            y = x.new_zeros(len(after), 0)
        written = self.made(
            f"{name}.v", f"{name}.resid_delta", y, attn.c_proj.weight, attn.c_proj.bias,
            config.topk("attn_out", config.d_model), reads=v,
        )  # fmt: skip
        return self.whole(f"{name}.resid_delta", self.seen(f"{name}.resid_delta", after, written))

    def mlp(self, layer: int, h: Tensor, stems: Tensor) -> Tensor:
        """As `MaskedPass.mlp`."""
        config, name, mlp = self.model.config, f"{layer}.mlp", self.model.blocks[layer].mlp
        tokens, reads = self.tokens(True, layer == config.n_layer - 1)[0], self.kept[f"{name}.act_in"][0]
        x = self.mlp_read(layer, h, stems)[0][:, reads] if len(reads) else h.new_zeros(h.shape[1], 0)
        hidden = self.made(
            f"{name}.act_in", f"{name}.post_act", self.seen(f"{name}.act_in", tokens, x), mlp.c_fc.weight, mlp.c_fc.bias,
            config.topk("mlp_neuron", config.d_mlp), ACTIVATIONS[config.activation],
        )  # fmt: skip
        written = self.made(
            f"{name}.post_act", f"{name}.resid_delta", self.seen(f"{name}.post_act", tokens, hidden), mlp.c_proj.weight,
            mlp.c_proj.bias, config.topk("mlp_out", config.d_model),
        )  # fmt: skip
        return self.whole(f"{name}.resid_delta", self.seen(f"{name}.resid_delta", tokens, written))

    def made(
        self,
        source: str,
        target: str,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        k: int | None,
        activation: Callable[[Tensor], Tensor] | None = None,
        reads: Tensor | None = None,
    ) -> Tensor:
        """Kept channels at `target` [R, C] from the channels x at `source`, the kept ones or `reads`."""
        kept_in = self.keep[source][0] > 0
        if reads is not None:
            kept_in = torch.zeros_like(kept_in).index_fill_(0, reads, True)
        edge = self.edges[target][0] if target in self.edges else None
        needed = self.keep[target][0] > 0
        frozen = self.prompts.frozen(target, weight, self.values[source])
        return FoldedLinear(weight, bias, frozen, kept_in, self.values[source], needed, k, activation, edge)(x)

    def seen(self, location: str, tokens: Tensor, x: Tensor) -> Tensor:
        """x [R, C], after the tap."""
        channels = self.kept[location][0]
        return x if self.tap is None or not len(channels) else self.tap(location, channels, tokens, x)

    def whole(self, location: str, x: Tensor) -> Tensor:
        """All channels [1, R, W]: kept ones x, the others at their values."""
        full = self.values[location].to(x).repeat(len(x), 1)
        full[:, self.kept[location][0]] = x
        return full[None]

"""The two sublayers of the weight-sparse transformer (METHOD §1): attention and MLP, with AbsTopK and taps.

Each computes what it adds to the residual stream from the normed input it reads; parameter names follow the
published checkpoints, so that import and export are a renaming of one tensor.
"""

import math
from collections.abc import Callable, Mapping
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from sparse_model.transformer.abs_topk import abs_topk
from sparse_model.transformer.execution import SparseLinear
from sparse_model.transformer.rms_norm import RMSNorm
from sparse_model.transformer.sparse_config import SparseConfig
from sparse_model.transformer.taps import Tap

ACTIVATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "relu": F.relu,
}
"""The nonlinearities of `SparseConfig.activation`."""


def make_norm(config: SparseConfig, width: int) -> nn.RMSNorm | nn.LayerNorm:
    """RMSNorm with gain, or LayerNorm, of `width` channels."""
    if config.norm == "rms":
        return RMSNorm(width, eps=config.norm_eps)
    return nn.LayerNorm(width, eps=1e-5 if config.norm_eps is None else config.norm_eps, bias=config.ln_bias)


def keep_topk(config: SparseConfig, location: str, x: Float[Tensor, "*B W"]) -> Float[Tensor, "*B W"]:
    """AbsTopK at `location` where the config has it, else x itself."""
    k = config.topk(location, x.shape[-1])
    return x if k is None else abs_topk(x, k)


class WriteLinear(SparseLinear):
    """A linear map that writes to the residual stream (initialised smaller, by √(2L))."""


class Attention(nn.Module):
    """Causal multi-head attention; q, k, v and the output each pass through AbsTopK."""

    def __init__(self, config: SparseConfig) -> None:
        super().__init__()
        self.config = config
        self.c_attn = SparseLinear(config.d_read, 3 * config.d_attn, bias=config.bias)
        self.c_proj = WriteLinear(config.d_attn, config.d_model, bias=config.bias)
        self.sink_logit = nn.Parameter(torch.zeros(config.n_head)) if config.attention_sink else None

    def forward(
        self, x: Float[Tensor, "B T R"], tap: Tap, prefix: str, allowed: Bool[Tensor, "B 1 T T"] | None = None
    ) -> Float[Tensor, "B T S"]:
        """What attention adds to the stream.

        Args:
            x: normed input, R = S plus any concatenated position channels.
            tap: called at `{prefix}.act_in`, `.q`, `.k`, `.v`, `.y`, `.resid_delta`.
            allowed: which earlier token (last axis) each token may attend to; None for all.
        """
        config = self.config
        x = tap(f"{prefix}.act_in", keep_topk(config, "attn_in", x))
        q, k, v = self.c_attn(x).split(config.d_attn, dim=-1)
        q = tap(f"{prefix}.q", keep_topk(config, "attn_q", q))
        k = tap(f"{prefix}.k", keep_topk(config, "attn_k", k))
        v = tap(f"{prefix}.v", keep_topk(config, "attn_v", v))
        y = tap(f"{prefix}.y", self._mix(q, k, v, allowed))
        return tap(f"{prefix}.resid_delta", keep_topk(config, "attn_out", self.c_proj(y)))

    def _mix(self, q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None) -> Tensor:
        B, T, _ = q.shape
        heads = (B, T, self.config.n_head, self.config.d_head)
        q, k, v = (part.reshape(heads).transpose(1, 2) for part in (q, k, v))
        scale = 1 / math.sqrt(self.config.d_head)
        if self.sink_logit is None:
            y = F.scaled_dot_product_attention(q, k, v, allowed, is_causal=allowed is None, scale=scale)
        else:
            if allowed is None:
                allowed = torch.ones(T, T, dtype=torch.bool, device=q.device).tril()[None, None]
            bias = torch.zeros_like(allowed, dtype=q.dtype).masked_fill(~allowed, float("-inf"))
            k, v = F.pad(k, (0, 0, 1, 0)), F.pad(v, (0, 0, 1, 0))
            sink = self.sink_logit.to(q.dtype).view(1, -1, 1, 1).expand(bias.shape[0], -1, T, 1)
            bias = torch.cat([sink, bias.expand(-1, self.config.n_head, -1, -1)], dim=-1)
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=bias, scale=scale)
        return y.transpose(1, 2).reshape(B, T, -1)


class Mlp(nn.Module):
    """One hidden layer; the input, the neurons and the output each pass through AbsTopK."""

    def __init__(self, config: SparseConfig) -> None:
        super().__init__()
        self.config = config
        self.c_fc = SparseLinear(config.d_read, config.d_mlp, bias=config.bias)
        self.c_proj = WriteLinear(config.d_mlp, config.d_model, bias=config.bias)

    def forward(self, x: Float[Tensor, "B T R"], tap: Tap, prefix: str) -> Float[Tensor, "B T S"]:
        """What the MLP adds to the stream; `tap` is called at `{prefix}.act_in`, `.post_act`, `.resid_delta`."""
        config = self.config
        x = tap(f"{prefix}.act_in", keep_topk(config, "mlp_in", x))
        hidden = ACTIVATIONS[config.activation](self.c_fc(x))
        hidden = tap(f"{prefix}.post_act", keep_topk(config, "mlp_neuron", hidden))
        return tap(f"{prefix}.resid_delta", keep_topk(config, "mlp_out", self.c_proj(hidden)))


class Block(nn.Module):
    """One layer: an attention and an MLP sublayer with the norms in front of them."""

    def __init__(self, config: SparseConfig) -> None:
        super().__init__()
        self.ln_1 = make_norm(config, config.d_model)
        self.attn = Attention(config)
        self.ln_2 = make_norm(config, config.d_model)
        self.mlp = Mlp(config)
        if config.d_position is not None:
            self.ln_p1 = make_norm(config, config.d_position)
            self.ln_p2 = make_norm(config, config.d_position)

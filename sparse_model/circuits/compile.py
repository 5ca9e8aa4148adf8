"""Compile: a circuit as a small program over its kept nodes, equal to the masked model.

1. fold        constants of frozen nodes go into biases; only channels a kept node reaches are computed (`folded`)
2. look up     a residual channel no kept node writes is an entry of the frozen stream's table (`frozen`)
3. select      AbsTopK still counts all channels: constants sorted once, varying ones compared (`selection`)
4. skip        distinct prefixes once each; after the last keys and values only the prompts' ends (`prefixes`)

What the program does not cover (LayerNorm, attention sinks, concatenated positions, an activation or AbsTopK on the
residual stream) is refused by name; `circuits.alone` then runs the masked model instead and says why.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from foundation.errors import UserError
from sparse_model.circuits.frozen import FrozenStream
from sparse_model.circuits.steps import Attention, Mlp, NodeTap, Run, Stream
from sparse_model.transformer.config import RESIDUAL_TOPK_LOCATIONS, SparseConfig
from sparse_model.transformer.model import SparseTransformer


class Compiled:
    """The program of one circuit; `logits` runs it.

    Args:
        model: the sparse model (with the circuit's removed edges cut, see `Circuit.within`).
        keep, values: as of a `Circuit`.

    Raises:
        UserError: the model has a switch that the program does not cover.
    """

    @torch.no_grad()
    def __init__(self, model: SparseTransformer, keep: Mapping[str, Tensor], values: Mapping[str, Tensor]) -> None:
        reason = not_covered(model.config)
        if reason is not None:
            raise UserError(f"this model cannot be compiled: {reason}; evaluate the masked model instead")
        self.model = model
        deltas = [f"{layer}.{block}.resid_delta" for layer in range(model.config.n_layer) for block in ("attn", "mlp")]
        writes = torch.stack([keep[name] for name in deltas])
        self.written = writes.any(0).nonzero().flatten()
        # places among the written channels that the sublayers before each site have written
        changed = [writes[:i, self.written].any(0).nonzero().flatten() for i in range(len(deltas))]
        self.layers = [
            (
                Attention(model, layer, keep, values, self.written, changed[2 * layer]),
                Mlp(model, layer, keep, values, self.written, changed[2 * layer + 1]),
            )
            for layer in range(model.config.n_layer)
        ]
        gain = model.norm_gain(len(deltas))[self.written]
        self.read_out = (model.lm_head.weight[:, self.written] * gain).T.contiguous()

    @torch.no_grad()
    def logits(
        self, frozen: FrozenStream, tap: NodeTap | None = None, scales: Float[Tensor, "sites P"] | None = None
    ) -> Float[Tensor, "M V"]:
        """Logits after each prompt.

        Args:
            frozen: tables of the same model and ablation values for the prompts.
            tap: called at every location with kept nodes.
            scales: 1/RMS before each sublayer and the final norm, per prefix, to use instead of the circuit's own.
        """
        prefixes = frozen.prefixes
        run = Run(frozen, self.written, tap, scales)
        stream = Stream(prefixes.cell_row, frozen.embedding[:, self.written], prefixes.cell)
        every = torch.arange(len(prefixes), device=prefixes.end.device)
        for number, (attention, mlp) in enumerate(self.layers):
            queries = prefixes.end if number == len(self.layers) - 1 else every
            stream = mlp(run, attention(run, stream, queries))
        i = len(self.model.sublayers)
        correction = (stream.written - run.frozen_written(i, stream.rows)) @ self.read_out
        logits = (frozen.unembedded() + correction) * run.scale(i, stream)[:, None] + self.model.final_logits_bias
        if self.model.bigram_table is not None:
            logits = logits + self.model.bigram_table[prefixes.token[stream.rows]]
        return logits


def not_covered(config: SparseConfig) -> str | None:
    """The first switch of a model that the program does not cover, or None."""
    if config.norm != "rms":
        return "norm = 'layer' (ranks under AbsTopK depend on a mean and a bias that are not tabulated)"
    if config.attention_sink:
        return "attention_sink (frozen values do not add a constant)"
    if config.position == "concatenated":
        return "position = 'concatenated'"
    if config.residual_activation != "identity":
        return f"residual_activation = '{config.residual_activation}'"
    for location in RESIDUAL_TOPK_LOCATIONS:
        if config.topk(location, config.d_model) is not None:
            return f"AbsTopK at {location}"
    return None

"""A circuit working alone on a set of prompts: by its compiled program where that pays, else by the masked model."""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from sparse_model.circuits.ablation import Ablate
from sparse_model.circuits.compile import Compiled, NodeTap, not_covered
from sparse_model.circuits.frozen import FrozenStream
from sparse_model.circuits.prefixes import Prefixes, begins_anew, distinct_prefixes
from sparse_model.tasks.token_pairs import TokenPairs
from sparse_model.transformer.model import SparseTransformer

PAYS_BELOW = 0.1
"""Share of all nodes kept up to which a program is used; beyond it the masked model is as fast."""


class Alone:
    """Logits of circuits of one model, all else frozen at `values`, after both prompts of every pair.

    What does not depend on the circuit (distinct prefixes, the frozen stream's tables) is computed once.

    Args:
        compiled: False to always run the masked model.
    """

    def __init__(
        self, model: SparseTransformer, pairs: TokenPairs, values: Mapping[str, Tensor], compiled: bool = True
    ) -> None:
        self.model, self.values, self.templates = model, values, pairs.template
        whole = pairs.prompts()
        width = int(whole.last.max()) + 1  # the rest is padding for all of them
        self.batch = whole._replace(tokens=whole.tokens[:, :width], mask=whole.mask[:, :width])
        self.prefixes: Prefixes = distinct_prefixes(self.batch.tokens, self.batch.last)
        self.not_compiled = not_covered(model.config) if compiled else "the masked model was asked for"
        """why no program is used, or None"""
        if self.not_compiled is None and begins_anew(self.prefixes, model.config.document_token):
            self.not_compiled = "a prompt holds a document_token inside"
        self._frozen: FrozenStream | None = None

    def pays(self, keep: Mapping[str, Tensor]) -> bool:
        """Whether a circuit runs as a program."""
        kept = sum(int(mask.sum()) for mask in keep.values())
        return self.not_compiled is None and kept <= PAYS_BELOW * sum(mask.numel() for mask in keep.values())

    @torch.no_grad()
    def logits(
        self, keep: Mapping[str, Tensor], tap: NodeTap | None = None, scales: Float[Tensor, "sites P"] | None = None
    ) -> Float[Tensor, "M V"]:
        """Logits after each prompt; arguments as of `Compiled.logits`."""
        if self.pays(keep):
            return Compiled(self.model, keep, self.values).logits(self.frozen, tap, scales)
        return masked_logits(self, keep, tap, scales)

    @property
    def frozen(self) -> FrozenStream:
        """The frozen stream's tables for the prompts."""
        if self._frozen is None:
            self._frozen = FrozenStream(self.model, self.values, self.prefixes)
        return self._frozen


@torch.no_grad()
def masked_logits(
    alone: Alone, keep: Mapping[str, Tensor], tap: NodeTap | None = None, scales: Tensor | None = None
) -> Float[Tensor, "M V"]:
    """The same as a program by the definition: the whole model under a tap that freezes what is not kept."""
    model, batch, prefixes = alone.model, alone.batch, alone.prefixes
    ablate, every = Ablate(keep, alone.values), torch.arange(len(prefixes), device=batch.tokens.device)

    def both(name: str, tensor: Tensor, /) -> Tensor:
        tensor = ablate(name, tensor)
        if tap is None or name not in keep or not bool(keep[name].any()):
            return tensor
        channels = keep[name].nonzero().flatten()
        changed = tap(name, channels, every, tensor[..., channels].flatten(0, 1)[prefixes.first])
        return tensor.index_copy(-1, channels, changed[prefixes.rows])

    def read(i: int, h: Tensor) -> Tensor | None:
        return None if scales is None else h * scales[i][prefixes.rows][..., None] * model.norm_gain(i)

    walk = model.walk(batch.tokens)
    h = walk.embedding()
    for i in range(len(model.sublayers)):
        h = walk.sublayer(i, h, read(i, h), both)
    each = torch.arange(len(batch.tokens), device=h.device)
    final = read(len(model.sublayers), h)
    if final is None:
        return walk.unembed(h)[each, batch.last]
    logits = model.lm_head(final[each, batch.last]) + model.final_logits_bias
    return logits if model.bigram_table is None else logits + model.bigram_table[batch.tokens[each, batch.last]]

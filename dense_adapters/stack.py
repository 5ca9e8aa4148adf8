"""A causal language model as a residual stack: resolved, probed, and ready to be walked, recorded and edited.

`DenseStack(model)` traces one small forward, resolves a `BlockSpec` per layer, describes every norm, and runs the
probe. Sublayers, sites and walks speak one indexing: site i is the residual stream just before sublayer i, the last
site is before the final norm.
"""

import time
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager

from torch import Tensor
from transformers import PreTrainedModel

from dense_adapters.editing import EditFn, Where, editing
from dense_adapters.left_out import LeftOut
from dense_adapters.probe import run_probe
from dense_adapters.recording import Recording, recording
from dense_adapters.resolved import ResolvedStack, SiteKind
from dense_adapters.walk import Walk


class DenseStack(ResolvedStack):
    """Any decoder-only Hugging Face causal language model as a residual stack of frozen sublayers.

    The model is shared, never modified. Attributes: `model`, `d_model`, `vocab_size`, `n_layers`, `sublayers`, `blocks`
    (a BlockSpec per layer), `report`.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        """Resolve and probe `model`, which must be in evaluation mode.

        Raises:
            AttachError: the model is no decoder-only transformer, or a layer's roles cannot be told. Sites whose
                numbers do not check out are refused one by one and listed in `report.refused`.
        """
        started = time.perf_counter()
        super().__init__(model)
        self.report = run_probe(self)
        self._refused_steps = {(refusal.site, refusal.step) for refusal in self.report.refused}
        self.report.seconds = time.perf_counter() - started

    def walk(self, tokens: Tensor, attention_mask: Tensor | None = None) -> Walk:
        """A walk for tokens [B,T]. attention_mask [B,T] is 0 at (left) padding; None is no padding."""
        return Walk(self, tokens, attention_mask)

    def editing(
        self,
        edits: Mapping[int, EditFn],
        kind: SiteKind = "read",
        where: Where = "both",
        prompt_length: int | None = None,
        left_out: LeftOut = LeftOut(),
    ) -> AbstractContextManager[None]:
        """Edit the live model while the context is open; see `dense_adapters.editing`."""
        return editing(self, edits, kind, where, prompt_length, left_out)

    def recording(self, sites: Iterable[int], kind: SiteKind = "residual") -> AbstractContextManager[Recording]:
        """Record reads or residuals of the live model while the context is open; see `dense_adapters.recording`."""
        return recording(self, sites, kind)

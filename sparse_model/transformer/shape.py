"""Shape of a sparse model to train: the settings a person chooses, from which the full config follows.

The config is a class of Hugging Face's, loaded when one is made: reading the settings needs no torch.
"""

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from foundation.settings import Settings

if TYPE_CHECKING:
    from sparse_model.transformer.sparse_config import SparseConfig


class SparseShape(Settings):
    """Sizes and switches; everything else is `SparseConfig`'s default."""

    n_layer: int = Field(2, ge=1, description="layers L")
    d_model: int = Field(256, ge=1, description="residual width S, in channels")
    n_head: int = Field(16, ge=1, description="attention heads H")
    d_head: int = Field(16, ge=1, description="channels per head K")
    d_mlp: int | None = Field(None, ge=1, description="MLP neurons N; unset for 4·d_model")
    topk_fraction: float | None = Field(
        0.25, gt=0, le=1, description="fraction of channels AbsTopK keeps; unset switches it off"
    )
    residual_topk: bool = Field(
        False, description="AbsTopK on the residual stream too, after every sublayer, at the same fraction"
    )
    position: Literal["none", "added"] = Field(
        "none", description="learned absolute positions added to the stream, or none"
    )
    attention_sink: bool = Field(False, description="a learnable logit per head with zero value in the softmax")
    bigram_table: bool = Field(False, description="dense V×V table added to the logits; only sensible for small V")

    leak: bool | None = Field(
        None,
        description="let attention cross the documents of a block and positions run on; unset: no for a model by itself, "
        "yes for one bridged to a dense model, whose attention does",
    )

    def document_token(self, start: int, bridged: bool) -> int | None:
        """The token that keeps documents apart: `start` if they are to be, None if attention crosses them (see `leak`)."""
        leak = bridged if self.leak is None else self.leak
        return None if leak else start

    def config(self, vocab_size: int, block_size: int, document_token: int | None = None) -> "SparseConfig":
        """The model config for a vocabulary (tokens) and a longest sequence (tokens).

        Args:
            document_token: the token that begins a document, where documents are to be kept apart.
        """
        from sparse_model.transformer.sparse_config import BLOCK_TOPK_LOCATIONS, RESIDUAL_TOPK_LOCATIONS, SparseConfig

        return SparseConfig(
            vocab_size=vocab_size,
            block_size=block_size,
            n_layer=self.n_layer,
            d_model=self.d_model,
            n_head=self.n_head,
            d_head=self.d_head,
            d_mlp=self.d_mlp or 4 * self.d_model,
            topk_fraction=self.topk_fraction,
            topk_locations=BLOCK_TOPK_LOCATIONS + (RESIDUAL_TOPK_LOCATIONS if self.residual_topk else ()),
            position=self.position,
            attention_sink=self.attention_sink,
            document_token=document_token,
            bigram_table="learned" if self.bigram_table else "none",
        )

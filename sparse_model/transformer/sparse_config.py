"""Configuration of the weight-sparse transformer, every published switch included (METHOD §1)."""

from typing import Any, Literal

from transformers import PreTrainedConfig

from foundation.errors import UserError

BLOCK_TOPK_LOCATIONS = ("attn_in", "attn_q", "attn_k", "attn_v", "attn_out", "mlp_in", "mlp_neuron", "mlp_out")
RESIDUAL_TOPK_LOCATIONS = ("resid_post_attn", "resid_post_mlp")
TOPK_LOCATIONS = BLOCK_TOPK_LOCATIONS + RESIDUAL_TOPK_LOCATIONS
CHOICES = {
    "norm": ("rms", "layer"),
    "activation": ("gelu", "gelu_tanh", "relu"),
    "residual_activation": ("identity", "relu"),
    "position": ("none", "added", "concatenated"),
    "bigram_table": ("none", "learned", "fixed"),
}


class SparseConfig(PreTrainedConfig):
    """Shape and switches of a `SparseTransformer`.

    Widths are in channels, `block_size` in tokens, fractions in (0, 1].
    """

    model_type = "sparsebridge"
    attribute_map = {  # noqa: RUF012 (the base class declares it as a plain attribute)
        "hidden_size": "d_model",
        "num_hidden_layers": "n_layer",
        "num_attention_heads": "n_head",
        "max_position_embeddings": "block_size",
    }

    vocab_size: int = 1024
    """Number of tokens V."""
    block_size: int = 128
    """Longest sequence T, in tokens."""
    n_layer: int = 2
    """Number of layers L (each one attention and one MLP sublayer)."""
    d_model: int = 256
    """Residual width S."""
    n_head: int = 16
    """Attention heads H."""
    d_head: int = 16
    """Channels per head K."""
    d_mlp: int = 1024
    """MLP neurons N."""
    norm: Literal["rms", "layer"] = "rms"
    """RMSNorm keeps the meaning of zero; LayerNorm is the published alternative."""
    norm_eps: float | None = None
    """Added to the mean square; None means the machine epsilon of the working precision (published RMSNorm)."""
    ln_bias: bool = True
    """Whether LayerNorm has a bias (ignored for RMSNorm, which has none)."""
    bias: bool = True
    """Whether the linear maps have biases."""
    activation: Literal["gelu", "gelu_tanh", "relu"] = "gelu"
    """MLP nonlinearity: exact GELU, its approximation by tanh (GPT-2's own), or ReLU."""
    topk_fraction: float | None = 0.25
    """Fraction of channels AbsTopK keeps; None switches it off everywhere."""
    topk_locations: tuple[str, ...] | list[str] = BLOCK_TOPK_LOCATIONS
    """Where AbsTopK is applied."""
    residual_activation: Literal["identity", "relu"] = "identity"
    """Applied to the residual stream after every sublayer."""
    position: Literal["none", "added", "concatenated"] = "none"
    """Learned absolute positions: none, added to the stream, or read-only channels beside each block's input."""
    d_position: int | None = None
    """Width of concatenated positions; None unless `position` is 'concatenated'."""
    position_trainable: bool = True
    """False for fixed sinusoids."""
    attention_sink: bool = False
    """A learnable logit per head with zero value in the softmax denominator."""
    bigram_table: Literal["none", "learned", "fixed"] = "none"
    """Dense V×V table added to the logits; only sensible for small V."""
    document_token: int | None = None
    """Token that begins a document: attention stays within documents and positions restart; None lets both run on."""
    tie_word_embeddings: bool = False
    """Whether the unembedding shares the embedding's weights."""

    def __post_init__(self, **kwargs: Any) -> None:
        self.topk_locations = tuple(self.topk_locations)
        super().__post_init__(**kwargs)
        self.architectures: list[str] = self.architectures or ["SparseTransformer"]
        self.check()

    def check(self) -> None:
        """Refuse contradictory switches.

        Raises:
            UserError: what contradicts what, and the remedy.
        """
        for name in ("vocab_size", "block_size", "n_layer", "d_model", "n_head", "d_head", "d_mlp"):
            if getattr(self, name) < 1:
                raise UserError(f"{name} = {getattr(self, name)}: must be at least 1")
        for name, valid in CHOICES.items():
            if getattr(self, name) not in valid:
                raise UserError(f"{name} = {getattr(self, name)!r}: choose one of {', '.join(valid)}")
        unknown = sorted(set(self.topk_locations) - set(TOPK_LOCATIONS))
        if unknown:
            raise UserError(f"topk_locations: unknown '{unknown[0]}'; valid: {', '.join(TOPK_LOCATIONS)}")
        if self.topk_fraction is not None and not 0 < self.topk_fraction <= 1:
            raise UserError(f"topk_fraction = {self.topk_fraction}: must be in (0, 1], or None to switch AbsTopK off")
        for location, width in self._topk_widths().items():
            if self.topk(location, width) == 0:
                raise UserError(
                    f"topk_fraction = {self.topk_fraction}: keeps no channel of {location} ({width} wide); "
                    "raise it or widen the model"
                )
        if self.document_token is not None and not 0 <= self.document_token < self.vocab_size:
            raise UserError(f"document_token = {self.document_token}: is no token of {self.vocab_size}")
        if (self.position == "concatenated") != (self.d_position is not None):
            raise UserError(
                "d_position is the width of concatenated positions: set it exactly when position='concatenated'"
            )

    @property
    def d_attn(self) -> int:
        """Channels of all heads together, H·K."""
        return self.n_head * self.d_head

    @property
    def d_read(self) -> int:
        """Channels a sublayer reads: S, plus the concatenated position channels."""
        return self.d_model + (self.d_position or 0)

    def _topk_widths(self) -> dict[str, int]:
        widths = dict.fromkeys(TOPK_LOCATIONS, self.d_model)
        widths |= dict.fromkeys(("attn_q", "attn_k", "attn_v"), self.d_attn)
        return widths | {"attn_in": self.d_read, "mlp_in": self.d_read, "mlp_neuron": self.d_mlp}

    def topk(self, location: str, width: int) -> int | None:
        """How many of `width` channels AbsTopK keeps at `location`; None where it is off."""
        if self.topk_fraction is None or location not in self.topk_locations:
            return None
        return int(self.topk_fraction * width)

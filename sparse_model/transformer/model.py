"""The weight-sparse transformer (METHOD §1) as a Hugging Face model and as a residual stack.

`forward` is one walk: embed, let every sublayer add to the residual stream, unembed. `SparseWalk` owns what one
batch needs (positions, padding, the tokens for the bigram table) and offers the same steps one at a time.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

from foundation.artefacts import save_tensors
from foundation.errors import UserError
from sparse_model.transformer.execution import SparseLinear
from sparse_model.transformer.layers import Attention, Block, WriteLinear, keep_topk, make_norm
from sparse_model.transformer.model_file import check_numbers, read_config, read_weights
from sparse_model.transformer.packed import pack
from sparse_model.transformer.reach import Reach
from sparse_model.transformer.sparse_config import SparseConfig
from sparse_model.transformer.taps import At, Chain, Tap, no_tap

WEIGHTS_NAME = "model.safetensors"


@dataclass(frozen=True)
class Sublayer:
    """Description of one sublayer of the stack."""

    kind: Literal["attention", "mlp"]
    layer: int


class SparseTransformer(PreTrainedModel, GenerationMixin):
    """GPT-2-shaped decoder with AbsTopK activations, made to have most weights zero.

    As a residual stack it has `d_model`, `sublayers` and `walk`; as a Hugging Face model it loads with
    `from_pretrained` and generates (without a key–value cache).
    """

    config_class = SparseConfig
    base_model_prefix = ""
    _tied_weights_keys = {"lm_head.weight": "transformer.wte.weight"}  # noqa: RUF012 (as the base class reads it)
    _no_split_modules = ["Attention", "Mlp"]  # noqa: RUF012 (a list on the class, as the base class reads it: kept whole where parameters are split)

    def __init__(self, config: SparseConfig) -> None:
        super().__init__(config)
        self.transformer = nn.ModuleDict(
            {
                "wte": nn.Embedding(config.vocab_size, config.d_model),
                "h": nn.ModuleList(Block(config) for _ in range(config.n_layer)),
                "ln_f": make_norm(config, config.d_model),
            }
        )
        if config.position != "none":
            self.transformer["wpe"] = nn.Embedding(config.block_size, config.d_position or config.d_model)
            self.transformer["wpe"].weight.requires_grad_(config.position_trainable)
        self.lm_head = SparseLinear(config.d_model, config.vocab_size, bias=False)
        self.register_buffer("final_logits_bias", torch.zeros(config.vocab_size))
        self.bigram_table: Tensor | None = None
        if config.bigram_table == "learned":
            self.bigram_table = nn.Parameter(torch.zeros(config.vocab_size, config.vocab_size))
        elif config.bigram_table == "fixed":
            del self.bigram_table
            self.register_buffer("bigram_table", torch.zeros(config.vocab_size, config.vocab_size))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """GPT-2's initialisation: N(0, 0.02), the maps that write to the stream smaller by √(2L)."""
        if isinstance(module, nn.Linear | nn.Embedding):
            shrink = math.sqrt(2 * self.config.n_layer) if isinstance(module, WriteLinear) else 1.0
            nn.init.normal_(module.weight, std=0.02 / shrink)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.RMSNorm | nn.LayerNorm):
            nn.init.ones_(module.weight)
            if isinstance(module, nn.LayerNorm) and module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, Attention) and module.sink_logit is not None:
            nn.init.zeros_(module.sink_logit)
        elif module is self:
            nn.init.zeros_(self.final_logits_bias)
            if self.bigram_table is not None:
                nn.init.zeros_(self.bigram_table)
            if self.config.position != "none" and not self.config.position_trainable:
                position = self.embeddings("wpe").weight
                with torch.no_grad():
                    position.copy_(_sinusoids(*position.shape).to(position))

    @property
    def d_model(self) -> int:
        """Width S of the residual stream."""
        return self.config.d_model

    @property
    def sublayers(self) -> tuple[Sublayer, ...]:
        """Attention and MLP of each layer, in order."""
        kinds: tuple[Literal["attention", "mlp"], ...] = ("attention", "mlp")
        return tuple(Sublayer(kind, layer) for layer in range(self.config.n_layer) for kind in kinds)

    @property
    def blocks(self) -> tuple[Block, ...]:
        """The layers, in order."""
        return cast("tuple[Block, ...]", tuple(cast(nn.ModuleList, self.transformer["h"])))

    def embeddings(self, name: Literal["wte", "wpe"]) -> nn.Embedding:
        """The table of token embeddings (`wte`) or positions (`wpe`, where there are any)."""
        return cast(nn.Embedding, self.transformer[name])

    def norm(self, i: int) -> nn.RMSNorm | nn.LayerNorm:
        """The norm in front of sublayer i (the final norm for i = 2L)."""
        if i == len(self.sublayers):
            return cast(nn.RMSNorm, self.transformer["ln_f"])
        block = self.blocks[i // 2]
        return block.ln_2 if i % 2 else block.ln_1

    def walk(self, tokens: Int[Tensor, "B T"], attention_mask: Tensor | None = None) -> "SparseWalk":
        """A walk over one batch.

        Raises:
            UserError: more tokens than `block_size` where positions are learned.
        """
        return SparseWalk(self, tokens, attention_mask)

    def norm_gain(self, i: int) -> Float[Tensor, " S"]:
        """Gain g of the norm in front of sublayer i (the final norm for i = 2L)."""
        return self.norm(i).weight

    def unembedding_parameters(self) -> tuple[Tensor, ...]:
        """What `SparseWalk.unembed` uses beside the stream and that trains."""
        table = () if self.bigram_table is None else (self.bigram_table,)
        used = (*self.norm(len(self.sublayers)).parameters(), self.lm_head.weight, *table)
        return tuple(tensor for tensor in used if tensor.requires_grad)

    def forward(
        self,
        input_ids: Int[Tensor, "B T"],
        attention_mask: Tensor | None = None,
        labels: Int[Tensor, "B T"] | None = None,
        tap: Tap | None = None,
        **_: Any,
    ) -> CausalLMOutput:
        """Logits [B, T, V]; with `labels` (as in Hugging Face: shifted inside, -100 ignored) the loss in nats/token.

        Args:
            tap: called at every location of `sparse_model.transformer.nodes.locations`.
        """
        checked = tap if isinstance(tap, At | Chain) else None
        if checked is not None:
            checked.begin(self.config)
        active = tap or no_tap
        walk = self.walk(input_ids, attention_mask)
        h = walk.embedding()
        for i in range(len(self.sublayers)):
            h = walk.sublayer(i, h, tap=active)
        logits = walk.unembed(active("final_resid", h))
        if checked is not None:
            checked.finish()
        loss = None
        if labels is not None:
            loss = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=-100)
        return CausalLMOutput(loss=loss, logits=logits)

    def save_pretrained(self, save_directory: str | Path, **_: Any) -> None:
        """Write `config.json` and `model.safetensors` (nonzeros only, see `sparse_model.transformer.packed`)."""
        folder = Path(save_directory)
        folder.mkdir(parents=True, exist_ok=True)
        self.config.save_pretrained(folder)
        state = self.state_dict()
        if self.config.tie_word_embeddings:
            del state["lm_head.weight"]
        save_tensors(folder / WEIGHTS_NAME, pack(state))

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path | None, *args: Any, **options: Any) -> Self:
        """Load a folder written by `save_pretrained`; other sources (hub ids, state dicts) as the base class does.

        Raises:
            UserError: the weights are truncated, damaged or do not fit the config.
        """
        folder = Path(pretrained_model_name_or_path or "")
        if options.get("state_dict") is None and folder.is_dir() and not any(folder.glob("*.safetensors")):
            raise UserError(
                f"{folder}: holds no {WEIGHTS_NAME}, so the sparse model is incomplete; copy or make it again"
            )
        if options.get("state_dict") is not None or not (folder / WEIGHTS_NAME).is_file():
            return super().from_pretrained(pretrained_model_name_or_path, *args, **options)
        config = options.get("config") or read_config(folder)
        state = read_weights(folder, config)
        model = cls(config)
        check_numbers(state, model.state_dict(), folder)
        if config.tie_word_embeddings:
            state["lm_head.weight"] = state["transformer.wte.weight"]
        try:
            model.load_state_dict(state)
        except RuntimeError as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{folder}: weights do not fit config.json ({reason}); the model is damaged") from None
        dtype = options.get("dtype")
        if dtype not in (None, "auto"):
            model = model.to(getattr(torch, dtype) if isinstance(dtype, str) else dtype)
        model.config._name_or_path = str(folder)
        model.eval()
        return model

    def prepare_inputs_for_generation(self, input_ids: Tensor, **options: Any) -> dict[str, Any]:
        """The whole sequence every step: the model keeps no cache."""
        return {"input_ids": input_ids, "attention_mask": options.get("attention_mask")}


class SparseWalk:
    """The steps of one batch through a `SparseTransformer`.

    Streams may be stacked along the batch: h of shape [k·B, T, S] holds k streams over the same tokens.
    """

    def __init__(self, model: SparseTransformer, tokens: Tensor, attention_mask: Tensor | None) -> None:
        config = model.config
        T = tokens.shape[1]
        if config.position != "none" and config.block_size < T:
            raise UserError(f"{T} tokens are longer than the model's block_size {config.block_size}; shorten the input")
        self.model, self.tokens = model, tokens
        reach = Reach(tokens, attention_mask, config.document_token)
        self.allowed = reach.allowed
        self.position: Tensor | None = None
        if config.position != "none":
            table = model.embeddings("wpe").weight
            self.position = table[:T][None] if reach.place is None else table[reach.place]

    def embedding(self) -> Float[Tensor, "B T S"]:
        """The stream before the first sublayer."""
        h = self.model.transformer["wte"](self.tokens)
        if self.position is not None and self.model.config.position == "added":
            h = h + self.position
        return h

    def read(self, i: int, h: Float[Tensor, "kB T S"]) -> Float[Tensor, "kB T S"]:
        """Normed input of sublayer i, before AbsTopK and without concatenated positions; 2L is the final norm."""
        return self.model.norm(i)(h)

    def sublayer(
        self, i: int, h: Float[Tensor, "kB T S"], read: Tensor | None = None, tap: Tap = no_tap
    ) -> Float[Tensor, "kB T S"]:
        """The stream after sublayer i.

        Args:
            read: replaces the normed input, as an edit of what the sublayer reads.
            tap: called at the sublayer's locations, with its `resid_in` or `resid_mid`.
        """
        config, layer = self.model.config, i // 2
        block = self.model.blocks[layer]
        is_mlp = bool(i % 2)
        h = tap(f"{layer}.resid_mid" if is_mlp else f"{layer}.resid_in", h)
        x = self.read(i, h) if read is None else read
        if config.position == "concatenated":
            position = (block.ln_p2 if is_mlp else block.ln_p1)(self.position)
            x = torch.cat([x, self._stacked(position, x).expand(len(x), -1, -1)], dim=-1)
        if is_mlp:
            h = h + block.mlp(x, tap, f"{layer}.mlp")
        else:
            allowed = None if self.allowed is None else self._stacked(self.allowed, x)
            h = h + block.attn(x, tap, f"{layer}.attn", allowed)
        if config.residual_activation == "relu":
            h = F.relu(h)
        return keep_topk(config, "resid_post_mlp" if is_mlp else "resid_post_attn", h)

    def unembed(self, h: Float[Tensor, "kB t S"], span: slice = slice(None)) -> Float[Tensor, "kB t V"]:
        """Logits from the final stream.

        Args:
            span: which token positions `h` covers (all by default), so that long outputs can be made in pieces.
        """
        logits = self.model.lm_head(self.model.transformer["ln_f"](h)) + self.model.final_logits_bias
        if self.model.bigram_table is not None:
            logits = logits + self._stacked(F.embedding(self.tokens[:, span], self.model.bigram_table), h)
        return logits

    def _stacked(self, value: Tensor, like: Tensor) -> Tensor:
        """Repeat a per-batch tensor for stacked streams; a batch of one broadcasts by itself."""
        return (
            value if len(value) in (1, len(like)) else value.repeat(len(like) // len(value), *[1] * (value.dim() - 1))
        )


def _sinusoids(length: int, width: int) -> Float[Tensor, "length width"]:
    """Sines then cosines at periods from 4 to `length` tokens, log-spaced."""
    half = max(1, width // 2)
    periods = torch.logspace(math.log10(4.0), math.log10(max(4.0, length)), half)
    angles = torch.arange(length)[:, None] * (2 * math.pi / periods)
    return F.pad(torch.cat([angles.sin(), angles.cos()], dim=1), (0, max(0, width - 2 * half)))[:, :width]


AutoConfig.register(SparseConfig.model_type, SparseConfig, exist_ok=True)
AutoModelForCausalLM.register(SparseConfig, SparseTransformer, exist_ok=True)

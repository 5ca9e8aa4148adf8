"""Import and export of the published checkpoint layout: `beeg_config.json` and `final_model.pt`.

Every switch of the published config is mapped to ours or refused by name; the state dict is read with
`weights_only`, so nothing in it can run.
"""

import io
import json
import pickle
from pathlib import Path
from typing import Any

import torch

from foundation.artefacts import atomic_folder
from foundation.errors import UserError
from sparse_model.transformer.model import SparseTransformer
from sparse_model.transformer.sparse_config import SparseConfig

CONFIG_NAME, WEIGHTS_NAME = "beeg_config.json", "final_model.pt"
SINK_PUBLISHED, SINK = "attn.attn_imp.sink_logit", "attn.sink_logit"
WRAPPERS = ("_orig_mod.", "module.")
POSITIONS = "transformer.wpe.weight"
PUBLISHED_ACTIVATIONS = ("gelu", "relu")

DEFAULTS: dict[str, Any] = {
    "block_size": 1024, "vocab_size": 50304, "n_layer": 12, "n_head": 12, "d_head": None, "d_model": 768,
    "d_mlp": None, "bias": True, "ln_bias": True, "rms_norm": False, "residual_activation_type": "identity",
    "activation_type": "gelu", "afrac": None, "afrac_loctypes": "attn_in,attn_out,mlp_in,mlp_out",
    "tied_unembed": True, "enable_bigram_table": False, "learnable_bigram_table": False, "d_pos_emb": None,
    "sinusoidal_cat_pos_emb": False, "sink": False,
}  # fmt: skip
INFERENCE_NEUTRAL = {
    "dropout", "debug_nans", "tokenizer_name", "grad_checkpointing", "dropout_cat_pos_emb", "enable_sparse_kernels",
    "flash",
}  # fmt: skip


def convert_config(published: dict[str, Any]) -> SparseConfig:
    """Our config for a published one.

    Raises:
        UserError: a switch is unknown, or has a value that changes the computation in a way we do not know.
    """
    values = dict(published)
    if values.get("bigram_table_rank", 0) is None:  # carried by some configs; null is a table of full rank
        del values["bigram_table_rank"]
    if "n_mlp" in values:
        old = values.pop("n_mlp")
        if values.setdefault("d_mlp", old) != old:
            raise UserError(f"published config has n_mlp={old} and d_mlp={values['d_mlp']}; they are the same switch")
    unknown = sorted(set(values) - set(DEFAULTS) - INFERENCE_NEUTRAL)
    if unknown:
        raise UserError(
            f"published config has the unknown switch '{unknown[0]}'; this layout is newer than the importer"
        )
    given = {**DEFAULTS, **values}
    for name in ("block_size", "vocab_size", "n_layer", "n_head", "d_model"):
        if type(given[name]) is not int or given[name] < 1:
            raise UserError(f"published config has {name}={given[name]!r}, not a positive whole number; correct it")
    if given["activation_type"] not in PUBLISHED_ACTIVATIONS:
        raise UserError(f"activation_type '{given['activation_type']}' is not supported; gelu and relu are")
    if given["residual_activation_type"] not in ("identity", "relu"):
        raise UserError(
            f"residual_activation_type '{given['residual_activation_type']}' is not supported; identity and relu are"
        )
    table = "none"
    if given["enable_bigram_table"]:
        table = "learned" if given["learnable_bigram_table"] else "fixed"
    concatenated = given["d_pos_emb"] is not None
    return SparseConfig(
        vocab_size=given["vocab_size"],
        block_size=given["block_size"],
        n_layer=given["n_layer"],
        d_model=given["d_model"],
        n_head=given["n_head"],
        d_head=given["d_head"] or given["d_model"] // given["n_head"],
        d_mlp=given["d_mlp"] or 4 * given["d_model"],
        norm="rms" if given["rms_norm"] else "layer",
        ln_bias=given["ln_bias"],
        bias=given["bias"],
        activation=given["activation_type"],
        topk_fraction=given["afrac"],
        topk_locations=tuple(given["afrac_loctypes"].split(",")),
        residual_activation=given["residual_activation_type"],
        position="concatenated" if concatenated else "added",
        d_position=given["d_pos_emb"],
        position_trainable=not (concatenated and given["sinusoidal_cat_pos_emb"]),
        attention_sink=given["sink"],
        bigram_table=table,
        tie_word_embeddings=given["tied_unembed"],
    )


def publish_config(config: SparseConfig, leak: bool = False) -> dict[str, Any]:
    """The published config for ours; no positions are written as positions that are added and all zero.

    Args:
        leak: let attention cross documents where the model keeps them apart.

    Raises:
        UserError: the model has an activation or a norm epsilon of its own, or keeps documents apart and `leak` is False.
    """
    if config.document_token is not None and not leak:
        raise UserError(
            "the published layout lets attention cross documents, which this model keeps apart; pass --leak to export it "
            "for text of one document at a time, or train with --sparse-leak"
        )
    if config.activation not in PUBLISHED_ACTIVATIONS:
        raise UserError(f"the published layout has no activation '{config.activation}', only gelu and relu")
    if config.norm_eps is not None:
        raise UserError("the published layout has no norm epsilon; train with norm_eps unset to export")
    return {
        "block_size": config.block_size, "vocab_size": config.vocab_size, "n_layer": config.n_layer,
        "n_head": config.n_head, "d_head": config.d_head, "d_model": config.d_model, "dropout": 0.0,
        "bias": config.bias, "ln_bias": config.ln_bias, "rms_norm": config.norm == "rms",
        "residual_activation_type": config.residual_activation, "activation_type": config.activation,
        "afrac": config.topk_fraction, "afrac_loctypes": ",".join(config.topk_locations),
        "tied_unembed": config.tie_word_embeddings, "grad_checkpointing": False, "d_mlp": config.d_mlp,
        "enable_bigram_table": config.bigram_table != "none",
        "learnable_bigram_table": config.bigram_table == "learned", "d_pos_emb": config.d_position,
        "sinusoidal_cat_pos_emb": not config.position_trainable, "flash": True, "sink": config.attention_sink,
    }  # fmt: skip


def import_published(folder: Path) -> SparseTransformer:
    """Read a published checkpoint folder.

    Raises:
        UserError: a file is missing or damaged, or the weights do not fit the config.
    """
    folder = Path(folder)
    for name in (CONFIG_NAME, WEIGHTS_NAME):
        if not (folder / name).is_file():
            raise UserError(f"{folder}: holds no {name}; a published checkpoint has {CONFIG_NAME} and {WEIGHTS_NAME}")
    try:
        published = json.loads((folder / CONFIG_NAME).read_text("utf-8"))
    except json.JSONDecodeError as error:
        raise UserError(f"{folder / CONFIG_NAME}: does not parse ({error}); download it again") from None
    try:
        state = torch.load(folder / WEIGHTS_NAME, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = " ".join(str(error).split())[:120] or "the file is empty or ends early"
        raise UserError(f"{folder / WEIGHTS_NAME}: cannot be read ({reason}); download it again") from None
    if not isinstance(state, dict):
        raise UserError(f"{folder / WEIGHTS_NAME}: holds a {type(state).__name__}, not a state dict; download it again")
    model = SparseTransformer(convert_config(published))
    try:
        model.load_state_dict({_own_name(name): value for name, value in state.items()})
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{folder}: weights do not fit {CONFIG_NAME} ({reason})") from None
    return model.eval()


def _own_name(name: str) -> str:
    """Our name of a published tensor, without what compiling or spreading the model put in front of it."""
    while name.startswith(WRAPPERS):
        name = name.partition(".")[2]
    return name.replace(SINK_PUBLISHED, SINK)


def export_published(model: SparseTransformer, folder: Path, overwrite: bool = False, leak: bool = False) -> None:
    """Write the published layout; `import_published` gives back the same model, bit for bit.

    A model without positions gets a table of zeros, and so a longest sequence. With `leak`, one that keeps documents apart
    comes back as one whose attention crosses them: the same on text of one document.
    """
    published = publish_config(model.config, leak)
    state = {name.replace(SINK, SINK_PUBLISHED): value.contiguous() for name, value in model.state_dict().items()}
    if model.config.position == "none":
        state[POSITIONS] = model.embeddings("wte").weight.new_zeros(model.config.block_size, model.config.d_model)
    with atomic_folder(folder, overwrite) as temporary:
        (temporary / CONFIG_NAME).write_text(json.dumps(published, indent=1) + "\n", encoding="utf-8")
        packed = io.BytesIO()  # written by torch itself, a full disk ends in an error that does not say so
        torch.save(state, packed)
        (temporary / WEIGHTS_NAME).write_bytes(packed.getbuffer())

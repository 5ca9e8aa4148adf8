"""Refuse a configuration whose sizes no model has, before anything of that size is built.

A layer count of 10^9 is a typing error or a damaged file; building such a model takes all memory or for ever.
"""

from typing import Any

from dense_adapters.errors import AttachError

_LARGEST: dict[str, int] = {
    "layers": 2_000,
    "heads": 16_384,
    "experts": 65_536,
    "width": 1 << 20,
    "tokens": 1 << 24,
    "positions": 1 << 27,
}
"""Far beyond any published model, and small enough to be built as a description without values."""

_MEANS: dict[str, str] = {
    **dict.fromkeys(("n_layer", "n_layers", "num_layers", "num_hidden_layers"), "layers"),
    **dict.fromkeys(("n_head", "n_heads", "num_attention_heads", "num_key_value_heads"), "heads"),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts"), "experts"),
    **dict.fromkeys(
        ("n_embd", "hidden_size", "d_model", "n_inner", "intermediate_size", "ffn_dim", "head_dim", "rotary_dim"),
        "width",
    ),
    "vocab_size": "tokens",
    **dict.fromkeys(("n_positions", "n_ctx", "max_position_embeddings", "max_seq_len"), "positions"),
}


def refuse_implausible(config: Any, name: str) -> None:
    """Refuse a configuration with sizes that no model has.

    Raises:
        AttachError: a size in a configuration, as read from JSON, is no number that a model can have.
    """
    if not isinstance(config, dict):
        raise AttachError(f"{name}: config.json is no table of keys; copy it again")
    for key, value in config.items():
        if isinstance(value, dict):
            refuse_implausible(value, name)
        meaning = _MEANS.get(key)
        if meaning is None or value is None or isinstance(value, list):
            continue
        if not isinstance(value, int) or isinstance(value, bool):
            raise AttachError(f"{name}: {key} is {value!r}, not a whole number; correct config.json")
        if not 0 <= value <= _LARGEST[meaning]:
            raise AttachError(
                f"{name}: {key} is {value}, beyond what any model has ({meaning}: 0 to {_LARGEST[meaning]}); "
                "correct config.json"
            )

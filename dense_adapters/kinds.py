"""Which kinds of model are no decoder-only transformers, told from the configuration alone."""

from typing import Any

from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from dense_adapters.errors import AttachError

_RECURRENT = {"rwkv", "xlstm", "mamba", "mamba2", "falcon_mamba"}


def refuse_other_kinds(config: Any) -> None:
    """Refuse configurations of what is no decoder-only transformer.

    Raises:
        AttachError: it is of an encoder–decoder or a state-space (recurrent) model.
    """
    if config.is_encoder_decoder:
        raise AttachError(
            f"{config.model_type!r} is an encoder–decoder; attach a decoder-only causal language model instead"
        )
    if config.model_type in _RECURRENT:
        raise AttachError(
            f"{config.model_type!r} is a state-space model without attention; attach a decoder-only transformer instead"
        )


def refuse_encoders(config: Any) -> None:
    """Refuse stored configurations that were made for anything but next-token prediction.

    Configurations that bring their own code are left to the probe.

    Raises:
        AttachError: a stored configuration was made for anything but next-token prediction.
    """
    refuse_other_kinds(config)
    made_for = config.architectures or []
    masked = any(name.endswith("ForMaskedLM") for name in made_for) and not getattr(config, "is_decoder", False)
    own_code = bool(getattr(config, "auto_map", None))
    if masked:
        raise AttachError(
            f"{config.model_type!r} is no causal language model but an encoder (made for {made_for[0]}); attach a decoder-only "
            "one instead"
        )
    if config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or own_code:
        return
    causal = [name for name in made_for if name.endswith("ForCausalLM")]
    if causal:
        raise AttachError(
            f"{config.model_type!r} is the text part of a larger model ({causal[0]}), which transformers loads by that class "
            f"alone and not from a folder's configuration; in Python, give DenseStack the model that {causal[0]}"
            ".from_pretrained loads, or attach another"
        )
    named = f"it was made for {made_for[0]}" if made_for else "it names no class (an encoder?)"
    raise AttachError(f"{config.model_type!r} is no causal language model ({named}); attach a decoder-only one instead")

"""Load a causal language model and its tokenizer from a Hugging Face id, a folder, or a GGUF file."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from dense_adapters.errors import AttachError

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
_ALSO_ENCODERS = "ForMaskedLM"


def load_dense(
    id_or_path: str | Path,
    gguf_file: str | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    device_map: str | dict[str, Any] | None = None,
) -> tuple[PreTrainedModel, Any]:
    """The model, frozen and in evaluation mode, and its tokenizer.

    id_or_path: hub id or folder. gguf_file: name of the GGUF file inside it; a folder with exactly one needs no name.
    dtype: float32 (in which the probe proves most), bfloat16 or float16. device_map: passed to accelerate, instead of
    device.
    Raises AttachError, in one line, where the model is no causal language model or where it or its tokenizer do not
    load.
    """
    name = str(id_or_path)
    if dtype not in _DTYPES:
        raise AttachError(f"dtype {dtype!r} is unknown; choose one of {', '.join(_DTYPES)}")
    if gguf_file is None and Path(name).is_dir():
        found = sorted(path.name for path in Path(name).glob("*.gguf"))
        gguf_file = found[0] if len(found) == 1 else None
    options: dict[str, Any] = {} if gguf_file is None else {"gguf_file": gguf_file}
    config = _reading("configuration", name, AutoConfig.from_pretrained, options)
    refuse_other_kinds(config)
    if device_map is not None:
        placed: dict[str, Any] = {**options, "device_map": device_map}
    else:
        placed = options
    model = _reading("model", name, AutoModelForCausalLM.from_pretrained, {**placed, "dtype": _DTYPES[dtype]})
    tokenizer = _reading("tokenizer", name, AutoTokenizer.from_pretrained, options)
    if device_map is None:
        model = model.to(device)
    return model.eval().requires_grad_(False), tokenizer


def refuse_other_kinds(config: Any) -> None:
    """Raise AttachError for encoder–decoder, encoder-only and state-space configurations."""
    kind = config.model_type
    if config.is_encoder_decoder:
        raise AttachError(f"{kind!r} is an encoder–decoder; attach a decoder-only causal language model instead")
    made_for = config.architectures or []
    masked = any(a.endswith(_ALSO_ENCODERS) for a in made_for) and not getattr(config, "is_decoder", False)
    if masked or kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise AttachError(f"{kind!r} is no causal language model (an encoder?); attach a decoder-only one instead")
    if hasattr(config, "state_size") or hasattr(config, "ssm_cfg"):
        raise AttachError(f"{kind!r} is a state-space model without attention; attach a transformer instead")


def _reading(what: str, name: str, load: Any, options: dict[str, Any]) -> Any:
    try:
        return load(name, **options)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, TypeError) as failure:
        reason = next((line.strip() for line in str(failure).splitlines() if line.strip()), type(failure).__name__)
        raise AttachError(
            f"the {what} of {name!r} does not load: {reason}; "
            "give a Hugging Face id, or a folder with configuration, weights and tokenizer"
        ) from failure

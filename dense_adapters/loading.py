"""Load a causal language model and its tokenizer from a Hugging Face id, a folder, or a GGUF file."""

import logging
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from dense_adapters.errors import AttachError
from dense_adapters.kinds import refuse_encoders
from dense_adapters.stack import DenseStack

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


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
    logging.getLogger("transformers.modeling_utils").addFilter(_is_no_padding_advice)
    name = str(id_or_path)
    if dtype not in _DTYPES:
        raise AttachError(f"dtype {dtype!r} is unknown; choose one of {', '.join(_DTYPES)}")
    if gguf_file is None and Path(name).is_dir():
        found = sorted(path.name for path in Path(name).glob("*.gguf"))
        gguf_file = found[0] if len(found) == 1 else None
    options: dict[str, Any] = {} if gguf_file is None else {"gguf_file": gguf_file}
    config = _reading("configuration", name, AutoConfig.from_pretrained, options)
    refuse_encoders(config)
    if device_map is not None:
        placed: dict[str, Any] = {**options, "device_map": device_map}
    else:
        placed = options
    model = _reading("model", name, AutoModelForCausalLM.from_pretrained, {**placed, "dtype": _DTYPES[dtype]})
    tokenizer = _reading("tokenizer", name, AutoTokenizer.from_pretrained, options)
    _refuse_empty(tokenizer, name)
    if device_map is None:
        model = model.to(device)
    return model.eval().requires_grad_(False), tokenizer


def _is_no_padding_advice(record: logging.LogRecord) -> bool:
    """False for the advice to pass an attention mask, given wherever a text starts with a token that also pads.

    Here nothing but a mask makes a token padding, so the advice is wrong every time it is given.
    """
    return "strongly recommend passing in an `attention_mask`" not in record.getMessage()


def _refuse_empty(tokenizer: Any, name: str) -> None:
    """Some tokenizer classes load from a folder without tokenizer files, with no vocabulary at all."""
    if not set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens):
        raise AttachError(f"the tokenizer of {name!r} has an empty vocabulary; save the tokenizer beside the weights")


def _reading(what: str, name: str, load: Any, options: dict[str, Any]) -> Any:
    try:
        return load(name, **options)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, TypeError) as failure:
        reason = next((line.strip() for line in str(failure).splitlines() if line.strip()), type(failure).__name__)
        raise AttachError(
            f"the {what} of {name!r} does not load: {reason}; "
            "give a Hugging Face id, or a folder with configuration, weights and tokenizer"
        ) from failure


def load_stack(model: str, device: str = "cpu") -> tuple[DenseStack, Any]:
    """A dense model as a residual stack, proven at every site, and its tokenizer.

    Raises:
        AttachError: it does not load, is not a decoder-only language model, or the numeric probe refused some of its sites.
    """
    network, tokenizer = load_dense(model, device=device)
    stack = DenseStack(network)
    if stack.report.refused:
        raise AttachError(
            f"{model}: {len(stack.report.refused)} sites fail the adapter's probe ({stack.report.refused[0]}); "
            f"see sparsebridge dense check {model}"
        )
    return stack, tokenizer

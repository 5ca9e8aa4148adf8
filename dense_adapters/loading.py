"""Load a causal language model and its tokenizer from a Hugging Face id, a folder, or a GGUF file.

1. Tell what the name stands for (source.py).
2. Read the configuration and refuse other kinds of model and sizes no model has (kinds.py, plausible.py).
3. Load the weights, from a GGUF file by way of a cache (gguf_cache.py), and refuse a checkpoint that is not the whole
   model (complete.py); merge an adapter (adapter.py).
4. Load the tokenizer as its file says (foundation.tokenizers), and refuse one that does not fit the embedding.

Code that a model brings along runs only where `trust_remote_code` is given; nobody is asked.
"""

import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

from dense_adapters.adapter import base_of, merged, named_base
from dense_adapters.complete import require_complete
from dense_adapters.errors import AttachError
from dense_adapters.gguf_cache import cached_conversion
from dense_adapters.gguf_file import fault_of
from dense_adapters.kinds import refuse_encoders
from dense_adapters.plausible import refuse_implausible
from dense_adapters.source import Source, find_adapter, find_source
from dense_adapters.stack import DenseStack
from dense_adapters.tying import note_untied_head
from foundation.tokenizers import load_faithful_tokenizer

READ_STEPS = ("read", "read edit")
"""Steps of a site that bridges and edits of the stream do without; see `probe_report`."""
_log = logging.getLogger("sparsebridge.dense")
_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
OFFLINE = "connect to 'https://huggingface.co'"
"""In what transformers says where neither the hub nor its cache answers."""
_DAMAGED = {
    "SafetensorError": "its weights are truncated or damaged; copy them again",
    "UnpicklingError": "its .bin file holds more than tensors, or is damaged; convert it to safetensors where it is trusted",
    "EOFError": "a file ends early; copy it again",
}


def load_dense(
    id_or_path: str | Path,
    gguf_file: str | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    device_map: str | dict[str, Any] | None = None,
    trust_remote_code: bool = False,
) -> tuple[PreTrainedModel, Any]:
    """The model, frozen and in evaluation mode, and its tokenizer.

    id_or_path: hub id, folder, or `.gguf` file. gguf_file: name of the GGUF file inside the folder; a folder with
    exactly one needs no name. dtype: float32 (in which the probe proves most), bfloat16 or float16. device_map: passed
    to accelerate, instead of device. trust_remote_code: run Python code that the model brings along.

    Raises:
        AttachError: the model is no causal language model, its weights are not all there, or it or its tokenizer do not
            load; in one line.
    """
    logging.getLogger("transformers.modeling_utils").addFilter(_is_no_padding_advice)
    if dtype not in _DTYPES:
        raise AttachError(f"dtype {dtype!r} is unknown; choose one of {', '.join(_DTYPES)}")
    source = find_source(id_or_path, gguf_file)
    with base_of(source) as base:
        _read_config(base, trust_remote_code)
        options: dict[str, Any] = {"dtype": _DTYPES[dtype], "trust_remote_code": trust_remote_code}
        if device_map is not None:
            options["device_map"] = device_map
        model = cached_conversion(base, dtype, lambda place: _read_model(place, options))
        if source.adapter is not None:
            model = merged(model, source.adapter)
        tokenizer = _read_tokenizer(source, base, trust_remote_code)
    note_untied_head(model)
    _refuse_unfitting(tokenizer, model, source.shown)
    if device_map is None:
        model = model.to(device)
    return model.eval().requires_grad_(False), tokenizer


def _read_config(source: Source, trust_remote_code: bool) -> None:
    """Refuse what the configuration alone rules out."""
    if not Path(source.name).is_dir():
        require_known(source.name)
    if source.gguf_file is None:
        raw, _ = reading("configuration", source.shown, lambda: PreTrainedConfig.get_config_dict(source.name))
        refuse_implausible(raw, source.shown)
    config = reading(
        "configuration",
        source.shown,
        lambda: AutoConfig.from_pretrained(source.name, trust_remote_code=trust_remote_code, **source.options),
    )
    refuse_encoders(config)


def require_known(name: str) -> None:
    """Refuse a name that is no folder here and no model that Hugging Face, or its cache, gives.

    Raises:
        AttachError: the message says whether it was asked, or there is no network.
    """
    try:
        PreTrainedConfig.get_config_dict(name)
    except Exception as failure:  # of the network, the hub, the cache, the file
        if OFFLINE in str(failure):
            raise AttachError(
                f"{name}: there is no such folder, and the cache of Hugging Face does not hold a model of that name, while there "
                f"is no network; check the name, or download it where there is network (hf download {name})"
            ) from failure
        reason = next((line.strip() for line in str(failure).splitlines() if line.strip()), type(failure).__name__)
        raise AttachError(
            f"{name}: there is no such folder, and Hugging Face gives no model of that name ({reason[:160]}); "
            "check the name"
        ) from failure


def _read_model(source: Source, options: dict[str, Any]) -> PreTrainedModel:
    """The model with all of its weights."""
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Detected pickle protocol")  # the refusal, if any, says it all
            model, info = AutoModelForCausalLM.from_pretrained(
                source.name, output_loading_info=True, ignore_mismatched_sizes=True, **source.options, **options
            )
    except Exception as failure:
        raise _refusal("model", source.shown, failure) from failure
    require_complete(model, info, source.shown)
    return model


def _read_tokenizer(source: Source, base: Source, trust_remote_code: bool) -> Any:
    """The tokenizer beside an adapter, where there is one; else the model's."""
    own = source.adapter is not None and (source.adapter / "tokenizer_config.json").is_file()
    place = str(source.adapter) if own else base.name
    gguf_file = None if own else base.gguf_file
    return reading("tokenizer", source.shown, lambda: load_faithful_tokenizer(place, gguf_file, trust_remote_code))


def _is_no_padding_advice(record: logging.LogRecord) -> bool:
    """False for the advice to pass an attention mask, given wherever a text starts with a token that also pads.

    Here nothing but a mask makes a token padding, so the advice is wrong every time it is given.
    """
    return "strongly recommend passing in an `attention_mask`" not in record.getMessage()


def _refuse_unfitting(tokenizer: Any, model: PreTrainedModel, name: str) -> None:
    """Refuse a tokenizer without a vocabulary, and one whose ordinary tokens the embedding has no rows for.

    Some tokenizer classes load from a folder without tokenizer files, with no vocabulary at all. Added tokens may lie
    beyond the embedding: those of a model with images do so in its text-only form, where no text contains them.
    """
    vocabulary = tokenizer.get_vocab()
    ordinary = set(vocabulary) - set(tokenizer.get_added_vocab()) - set(tokenizer.all_special_tokens)
    if not ordinary:
        raise AttachError(f"the tokenizer of {name!r} has an empty vocabulary; save the tokenizer beside the weights")
    rows = model.get_input_embeddings().weight.shape[0]
    beyond = [token for token in ordinary if vocabulary[token] >= rows]
    if beyond:
        raise AttachError(
            f"{name}: the tokenizer has {len(beyond)} tokens beyond the {rows} rows of the embedding (first "
            f"{min(beyond, key=vocabulary.__getitem__)!r}); give the tokenizer the model was trained with"
        )


def reading(what: str, name: str, load: Callable[[], Any]) -> Any:
    """What `load` returns; whatever it raises becomes one line.

    Loaders run code of five libraries over files from anywhere, which raise every kind of error, so every kind is
    caught, and its reason kept.
    """
    try:
        return load()
    except AttachError:
        raise
    except Exception as failure:
        raise _refusal(what, name, failure) from failure


def _refusal(what: str, name: str, failure: Exception) -> AttachError:
    kind = type(failure).__name__
    reason = next((line.strip() for line in str(failure).splitlines() if line.strip()), kind)[:300]
    if name.endswith(".gguf"):
        wrong = fault_of(Path(name))
        if wrong is not None:
            return AttachError(f"{name}: {wrong}")
    if "custom code" in reason or "trust_remote_code" in str(failure):
        return AttachError(
            f"the {what} of {name!r} brings Python code of its own, which is not run; read that code, then pass "
            "--trust-remote-code"
        )
    advice = _DAMAGED.get(kind)
    if advice is not None:
        return AttachError(f"the {what} of {name!r} does not load: {advice} ({reason[:120]})")
    return AttachError(
        f"the {what} of {name!r} does not load: {reason}; "
        "give a Hugging Face id, or a folder with configuration, weights and tokenizer"
    )


def load_stack(
    model: str, device: str = "cpu", trust_remote_code: bool = False, adapter: Path | None = None
) -> tuple[DenseStack, Any]:
    """A dense model as a residual stack, proven at every site, and its tokenizer.

    Args:
        adapter: folder of an adapter (LoRA and its kind) to merge into the model.

    Raises:
        AttachError: it does not load, is not a decoder-only language model, or the probe refused the stream at some of its sites.
            Layers of which the reads alone are refused, since they hold no attention, are named in a warning.
    """
    found = None if adapter is None else find_adapter(adapter)
    network, tokenizer = load_dense(model, device=device, trust_remote_code=trust_remote_code)
    if found is not None:
        network = merged(network, found).eval().requires_grad_(False)
        name = named_base(found)
        if name is not None and Path(name).name.lower() != Path(model).name.lower():
            _log.warning(
                "%s: the adapter was made for %s; its shapes fit %s, into which it is merged", found, name, model
            )
    stack = DenseStack(network)
    refused = [one for one in stack.report.refused if one.step not in READ_STEPS]
    if refused:
        raise AttachError(
            f"{model}: {len(refused)} sites fail the adapter's probe ({refused[0]}); see sparsebridge dense check {model}"
        )
    if stack.report.refused:
        layers = sorted(
            {stack.sublayers[one.site].layer for one in stack.report.refused if one.site < stack.n_sites - 1}
        )
        _log.warning(
            "%s: layers %s are run whole: their streams can be changed, what they read cannot",
            model,
            ", ".join(map(str, layers)),
        )
    return stack, tokenizer

"""Adapters (LoRA and its kind) as `peft` saves them: loaded on their base model and merged into its weights.

An adapter that lies beside its base would be ignored by a loader without `peft`, and only hooked in by one with it.
Here it is merged, so that the model has plain weights to walk, edit, bake and fingerprint.
"""

import json
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers import PreTrainedModel

from dense_adapters.errors import AttachError
from dense_adapters.source import ADAPTER_FILE, Source, find_source


@contextmanager
def base_of(source: Source) -> Iterator[Source]:
    """The base model of `source`: itself, or what its adapter was made for.

    A base beside its adapter is shown as a folder of links without the adapter, so that no loader hooks it in.
    """
    if source.adapter is None:
        yield source
        return
    if not (source.adapter / "config.json").is_file():
        yield _named_base(source.adapter)
        return
    with tempfile.TemporaryDirectory(prefix="base.") as place:
        for path in source.adapter.iterdir():
            if not path.name.startswith("adapter_"):
                os.symlink(path.resolve(), Path(place) / path.name)
        yield Source(place)


def _named_base(adapter: Path) -> Source:
    """The base model that an adapter names; a relative path counts from here or from beside the adapter."""
    try:
        name = json.loads((adapter / ADAPTER_FILE).read_text("utf-8"))["base_model_name_or_path"]
    except (ValueError, KeyError, TypeError, RecursionError) as failure:
        raise AttachError(
            f"{adapter}: {ADAPTER_FILE} names no base model ({failure}); copy the adapter again"
        ) from None
    if not isinstance(name, str) or not name:
        raise AttachError(f"{adapter}: {ADAPTER_FILE} names no base model; put the adapter's files beside their base")
    beside = adapter.parent / name
    base = find_source(beside if not Path(name).exists() and beside.is_dir() else name)
    if base.adapter is not None:
        raise AttachError(f"{adapter}: its base {name} is an adapter itself; merge that one first")
    return base


def merged(model: PreTrainedModel, adapter: Path) -> PreTrainedModel:
    """`model` with the adapter added to its weights.

    Raises:
        AttachError: the adapter does not fit the model or leaves some of its weights at their initial values.
    """
    from peft import PeftModel

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what the libraries say to each other
            warnings.filterwarnings("error", message=".*missing adapter keys.*")
            both = PeftModel.from_pretrained(model, str(adapter))
            whole = both.merge_and_unload(safe_merge=True)
    except Exception as failure:  # peft raises every kind for files from anywhere
        reason = " ".join(str(failure).split())[:200] or type(failure).__name__
        raise AttachError(f"{adapter}: the adapter does not load on its base model: {reason}; copy it again") from None
    if hasattr(whole, "peft_config"):
        del whole.peft_config
    return whole

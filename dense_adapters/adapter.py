"""Adapters (LoRA and its kind) as `peft` saves them: loaded on their base model and merged into its weights.

An adapter that lies beside its base would be ignored by a loader without `peft`, and only hooked in by one with it.
Here it is merged, so that the model has plain weights to walk, edit, bake and fingerprint.
"""

import json
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import PreTrainedModel

from dense_adapters.errors import AttachError
from dense_adapters.source import ADAPTER_FILE, Source, find_source
from foundation.text import one_line

WEIGHTS_FILE = "adapter_model.safetensors"


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
        name = _description(adapter)["base_model_name_or_path"]
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
        AttachError: the adapter was made for another model, does not load, or leaves some of its weights at their initial
            values.
    """
    from peft import PeftModel

    changed = _changed_matrices(adapter / WEIGHTS_FILE)
    _require_fitting(model, changed, adapter)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what the libraries say to each other
            warnings.filterwarnings("error", message=".*missing adapter keys.*")
            both = PeftModel.from_pretrained(model, str(adapter))
            _require_used(changed, both, adapter)
            whole = both.merge_and_unload(safe_merge=True)
    except AttachError:
        raise
    except Exception as failure:  # peft raises every kind for files from anywhere
        reason = " ".join(str(failure).split())[:200] or type(failure).__name__
        raise AttachError(f"{adapter}: the adapter does not load on its base model: {reason}; copy it again") from None
    if hasattr(whole, "peft_config"):
        del whole.peft_config
    return whole


def named_base(adapter: Path) -> str | None:
    """The name of the model an adapter was made for, as its description has it; None where it has none."""
    try:
        name = _description(adapter).get("base_model_name_or_path")
    except (OSError, ValueError, AttributeError, RecursionError):
        return None
    return name if isinstance(name, str) and name else None


def _require_fitting(model: PreTrainedModel, changed: Mapping[str, tuple[int, int]], adapter: Path) -> None:
    """Refuse low-rank changes of matrices that the model does not have, some of which peft would silently leave out.

    Raises:
        AttachError: which of them, and which base the adapter names.
    """
    modules = dict(model.named_modules())
    for place, (inputs, outputs) in changed.items():
        found = getattr(modules.get(place), "weight", None)
        if found is None:
            wrong = f"it changes {place}, which this model does not have"
        elif sorted(found.shape) != sorted((inputs, outputs)):
            wrong = f"its {place} is {outputs} by {inputs}, this model's {' by '.join(map(str, found.shape))}"
        else:
            continue
        name = named_base(adapter)
        base = f"{ADAPTER_FILE} names {one_line(name)}" if name else f"{ADAPTER_FILE} does not name it"
        raise AttachError(
            f"{adapter}: the adapter was made for another model than this {type(model).__name__}: {one_line(wrong)}; give the "
            f"base it was made for ({base})"
        )


def _require_used(changed: Mapping[str, tuple[int, int]], both: nn.Module, adapter: Path) -> None:
    """Refuse an adapter some of whose changes its own description leaves out, as peft does without a word."""
    used = both.state_dict()
    left = [place for place in changed if f"base_model.model.{place}.lora_A.default.weight" not in used]
    if left:
        raise AttachError(
            f"{adapter}: {len(left)} of {len(changed)} changed matrices (first {one_line(left[0])}) are left out by its "
            f"{ADAPTER_FILE}; its files belong to two adapters, copy it again"
        )


def _changed_matrices(weights: Path) -> dict[str, tuple[int, int]]:
    """Inputs and outputs of every matrix that a file of low-rank factors changes, by the name of its module."""
    try:
        with safe_open(weights, framework="pt") as file:
            names = file.keys()
            shapes = {name: file.get_slice(name).get_shape() for name in names}
    except (OSError, SafetensorError):
        return {}  # another format, or damage, which peft names
    found = {}
    for name, shape in shapes.items():
        place, factor, _ = name.removeprefix("base_model.model.").partition(".lora_A.weight")
        other = shapes.get(name.replace(".lora_A.", ".lora_B."))
        if factor and other is not None and len(shape) == len(other) == 2:
            found[place] = (shape[1], other[0])
    return found


def _description(adapter: Path) -> Any:
    return json.loads((adapter / ADAPTER_FILE).read_text("utf-8"))

"""Whether a model's head is its embedding: by what is in memory, not by what the configuration says.

A checkpoint may hold a head of its own under `tie_word_embeddings: true`. The loader keeps such a head, and whoever
builds the model again from its configuration loses it.
"""

from typing import Any

from torch import Tensor
from transformers import PreTrainedModel

_SWITCH = "tie_word_embeddings"


def head_is_its_own(model: PreTrainedModel) -> bool:
    """Whether the configuration says that head and embedding are one tensor, and they are two."""
    if not any(getattr(part, _SWITCH, False) for part in _parts(model.config)):
        return False
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    if embedding is None or head is None:
        return False
    a, b = getattr(embedding, "weight", None), getattr(head, "weight", None)
    if not isinstance(a, Tensor) or not isinstance(b, Tensor):
        return False
    offloaded = "meta" in (a.device.type, b.device.type)  # then nothing contradicts the configuration
    return not offloaded and not same_memory(a, b)


def note_untied_head(model: PreTrainedModel) -> None:
    """Set the configuration's switch to what is in memory, so that a copy built from it keeps the head."""
    if head_is_its_own(model):
        untie(model.config)


def untie(config: Any) -> None:
    """Set the switch off in a configuration and in its part for text."""
    for part in _parts(config):
        setattr(part, _SWITCH, False)


def same_memory(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors are one, or views of one storage; offloaded ones have no storage to compare."""
    return a is b or (a.device.type != "meta" and a.untyped_storage().data_ptr() == b.untyped_storage().data_ptr())


def untied(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration as a table with the switch off, in itself and in the parts of it."""
    return {
        key: False if key == _SWITCH else untied(value) if isinstance(value, dict) else value
        for key, value in config.items()
    }


def _parts(config: Any) -> list[Any]:
    text = config.get_text_config()
    return [config] if text is config else [config, text]

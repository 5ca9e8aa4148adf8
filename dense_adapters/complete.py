"""Whether a checkpoint is the whole model and nothing else: every weight there, of the right shape, and none besides.

A weight that is missing is filled with random numbers by the loader, with a line in the log. Here it is refused. Tied
weights are not missing: the loader takes them from their partner. Tables that older versions stored and newer ones
compute (rotary frequencies, causal masks) may be left over.
"""

import re
from collections.abc import Iterable
from typing import Any

from torch import nn

from dense_adapters.errors import AttachError

_COMPUTED = re.compile(
    r"(^|\.)(rotary_emb\.(inv_freq|cos_cached|sin_cached)|inv_freq|masked_bias|(attn|attention|self_attention)\.bias"
    r"|position_ids|alibi)$"
)
"""Tables that a model computes for itself and older checkpoints carry. `attention.bias` is GPT-2's causal mask; a real
bias of an attention ends in the name of its projection."""


def require_complete(model: nn.Module, info: dict[str, Any], name: str) -> None:
    """Refuse a model whose weights are not all there.

    info: what `from_pretrained(output_loading_info=True)` says; mis-shaped entries are (name, in the file, in the
    model).

    Raises:
        AttachError: the checkpoint at `name` does not fit `model`; the message names the tensors.
    """
    shapes = [f"{key} {tuple(found)} instead of {tuple(wanted)}" for key, found, wanted in info["mismatched_keys"]]
    if shapes:
        raise AttachError(
            f"{name}: weights have other shapes than config.json says ({_few(shapes)}); give configuration and weights "
            "of one model"
        )
    buffers = {key for key, _ in model.named_buffers()}
    missing = sorted(set(info["missing_keys"]) - buffers)
    if missing:
        raise AttachError(
            f"{name}: the checkpoint lacks {_few(missing)}, which would be random numbers; copy the weights again, or "
            "save the whole model (AutoModelForCausalLM) with its head"
        )
    left = sorted(key for key in info["unexpected_keys"] if key not in buffers and not _COMPUTED.search(key))
    if left:
        raise AttachError(
            f"{name}: the checkpoint holds {_few(left)}, which {type(model).__name__} has no place for and would "
            "ignore; give configuration and weights of one model"
        )
    if info.get("error_msgs"):
        raise AttachError(f"{name}: weights do not load ({' '.join(str(info['error_msgs'][0]).split())[:160]})")


def _few(names: Iterable[str]) -> str:
    every = list(names)
    return ", ".join(every[:3]) + (f" and {len(every) - 3} more" if len(every) > 3 else "")

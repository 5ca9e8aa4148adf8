"""One string that changes when a model's computation changes: sha256 over class, configuration and parameters."""

import hashlib
import json
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from dense_adapters.tying import head_is_its_own, untied
from foundation.fingerprints import hash_tensor

_NOT_THE_COMPUTATION = {
    "_name_or_path",
    "transformers_version",
    "architectures",
    "dtype",
    "torch_dtype",
    "use_cache",
    "quantization_config",  # what it did is in the parameters' dtypes and bytes
}


def fingerprint(model: PreTrainedModel) -> str:
    """sha256 (hex) over the class name, the configuration and every stored tensor's name, dtype, shape and bytes.

    Stored are parameters and those buffers that a checkpoint holds (routing corrections, for instance). Where the model
    was loaded from, the library version and the caching default do not count, so a model and its saved-and-reloaded
    copy agree; a head of its own counts as such whatever the configuration says. Offloaded weights are read from where
    they are kept.
    """
    digest = hashlib.sha256()
    config = _computation(model.config.to_dict())
    if head_is_its_own(model):
        config = untied(config)
    digest.update(f"{type(model).__name__}\n{json.dumps(config, sort_keys=True, default=str)}\n".encode())
    for name, tensor in sorted([*model.named_parameters(), *stored_buffers(model)]):
        hash_tensor(digest, name, stored_tensor(model, name, tensor))
    return digest.hexdigest()


def _computation(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration without what does not change the computation, in its parts as well."""
    return {
        key: _computation(value) if isinstance(value, dict) else value
        for key, value in config.items()
        if key not in _NOT_THE_COMPUTATION
    }


def stored_buffers(model: nn.Module) -> list[tuple[str, Tensor]]:
    """The buffers that a checkpoint holds, by name."""
    stored = model.state_dict(keep_vars=True)
    return [(name, value) for name, value in model.named_buffers() if name in stored]


def stored_tensor(model: PreTrainedModel, name: str, tensor: Tensor) -> Tensor:
    """The values of a parameter: itself, or what the offload hook keeps where the parameter is an empty meta tensor."""
    if tensor.device.type != "meta":
        return tensor
    owner, _, attribute = name.rpartition(".")
    return offloaded(model.get_submodule(owner), attribute)


def offloaded(module: nn.Module, attribute: str) -> Tensor:
    """A parameter that accelerate keeps outside the module, from the module's own hook."""
    hook: Any = module._hf_hook
    return hook.weights_map[attribute]

"""One string that changes when a model's computation changes: sha256 over class, configuration and parameters."""

import hashlib
import json
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

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
    """sha256 (hex) over the class name, the configuration and every parameter's name, dtype, shape and bytes.

    Where the model was loaded from, the library version and the caching default do not count, so a model and its
    saved-and-reloaded copy agree. Offloaded weights are read from where they are kept.
    """
    digest = hashlib.sha256()
    config = {k: v for k, v in model.config.to_dict().items() if k not in _NOT_THE_COMPUTATION}
    digest.update(f"{type(model).__name__}\n{json.dumps(config, sort_keys=True, default=str)}\n".encode())
    for name, tensor in sorted(model.named_parameters()):
        hash_tensor(digest, name, stored_tensor(model, name, tensor))
    return digest.hexdigest()


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

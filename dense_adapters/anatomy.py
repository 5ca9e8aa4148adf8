"""Find the parts of a causal language model that every adapter needs, by structure rather than by family name.

The *trunk* is the module that embeds tokens and loops over a `ModuleList` of layers; the *head* is everything the
causal language model does after the trunk. Only where these parts are is decided here; what they compute is proved by
the probe.
"""

import inspect
from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel

from dense_adapters.errors import AttachError
from dense_adapters.kinds import refuse_other_kinds


@dataclass(frozen=True)
class Anatomy:
    """The parts of one model.

    trunk_path: dotted path of the trunk inside the model. layers_name: attribute of the trunk that holds the layers.
    """

    model: PreTrainedModel
    trunk: nn.Module
    trunk_path: str
    layers_name: str

    @property
    def layers(self) -> list[nn.Module]:
        """The layers in the order in which the trunk runs them."""
        return list(self.trunk.get_submodule(self.layers_name).children())


def find_anatomy(model: PreTrainedModel) -> Anatomy:
    """Locate trunk and layers: the longest `ModuleList` as long as the configuration's layer count.

    Raises:
        AttachError: the model is an encoder–decoder, or no such list, or more than one, exists.
    """
    name = type(model).__name__
    refuse_other_kinds(model.config)
    expected = model.config.get_text_config().num_hidden_layers
    found = [
        (path.rpartition(".")[0], path.rpartition(".")[2])
        for path, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == expected and _outermost(path, model)
    ]
    if len(found) != 1:
        places = ", ".join(".".join(place) for place in found) or "none"
        raise AttachError(
            f"{name} should hold one list of {expected} layers but has {places}; "
            "attach a decoder-only causal language model"
        )
    trunk_path, layers_name = found[0]
    trunk = model.get_submodule(trunk_path)
    if "input_ids" not in inspect.signature(type(trunk).forward).parameters:
        raise AttachError(
            f"{name} runs its layers in {type(trunk).__name__}, which takes no input_ids, as encoders do; "
            "attach a decoder-only causal language model"
        )
    return Anatomy(model, trunk, trunk_path, layers_name)


def _outermost(path: str, model: nn.Module) -> bool:
    """Lists inside another list (experts, for instance) are parts of a layer, not the layers."""
    parts = path.split(".")
    return not any(isinstance(model.get_submodule(".".join(parts[:n])), nn.ModuleList) for n in range(1, len(parts)))

"""Run a model's own code around its layers, and nothing of the layers themselves.

How tokens become embeddings, positions, attention masks, rotary tables and ALiBi biases differs in every family, and is
already written once: in the trunk's own `forward`. A *skeleton* is a shallow copy of the trunk object that shares every
weight but in whose module table the layers are stubs that note what they were called with. Running it costs an
embedding look-up and the mask, and gives each layer's exact arguments. The same trick with the trunk stubbed runs the
head alone. The model itself is not touched: only the copies' own module tables differ.
"""

import copy
import inspect
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor, nn
from transformers import masking_utils

from dense_adapters.anatomy import Anatomy

LayerCall = tuple[tuple[Any, ...], dict[str, Any]]

_HOOK_TABLES = (
    "_forward_hooks",
    "_forward_pre_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_pre_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_backward_hooks",
    "_backward_pre_hooks",
)
_WRAPPED_BY_ACCELERATE = ("forward", "_old_forward", "_hf_hook")


def shallow_clone(module: nn.Module, replaced: Mapping[str, nn.Module]) -> nn.Module:
    """A second object with the same class, weights and settings, other children under the given names, and no hooks."""
    clone = copy.copy(module)
    own = clone.__dict__
    own["_modules"] = {**module._modules, **replaced}
    for table in _HOOK_TABLES:
        own[table] = OrderedDict()
    for name in _WRAPPED_BY_ACCELERATE:
        own.pop(name, None)
    return clone


@contextmanager
def one_sequence_a_row() -> Iterator[None]:
    """Spares transformers the question whether positions start anew within a row, whose answer it reads off the device.

    A walk gives no positions of packed sequences, so the answer is no.
    """
    with ExitStack() as stack:
        if hasattr(masking_utils, "find_packed_sequence_indices"):  # not a public name
            stack.enter_context(patch.object(masking_utils, "find_packed_sequence_indices", lambda *_, **__: None))
        yield


class Stub(nn.Module):
    """Stands where a module stands: has its attributes, and none of its parameters."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.__dict__["_stands_for"] = module

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["_stands_for"], name)


class LayerStub(Stub):
    """A layer's: notes its arguments, returns its input in the shape of the layer's own answer."""

    def __init__(self, layer: nn.Module, answer_length: int, calls: list[LayerCall]) -> None:
        """answer_length: 0 where the layer returns a bare tensor, else the length of the tuple it returns."""
        super().__init__(layer)
        self.answer_length = answer_length
        self.__dict__["_calls"] = calls

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self.__dict__["_calls"].append((args, kwargs))
        hidden = args[0] if args else kwargs["hidden_states"]
        return (hidden, *([None] * (self.answer_length - 1))) if self.answer_length else hidden


class TrunkAnswer(tuple):
    """What a stubbed trunk returns: item 0 and `last_hidden_state` are the hidden states, every other field is None."""

    def __new__(cls, hidden: Tensor) -> "TrunkAnswer":
        return super().__new__(cls, (hidden,))

    @property
    def last_hidden_state(self) -> Tensor:
        return self[0]

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)
        return


class TrunkStub(Stub):
    """The trunk's: answers with given hidden states."""

    def __init__(self, trunk: nn.Module) -> None:
        super().__init__(trunk)
        self.__dict__["hidden"] = None

    def forward(self, *args: Any, **kwargs: Any) -> TrunkAnswer:
        return TrunkAnswer(self.__dict__["hidden"])


@dataclass(frozen=True)
class Skeleton:
    """The trunk with stubs for layers, and the head with a stub for the trunk."""

    prelude: nn.Module
    calls: list[LayerCall]
    head: nn.Module
    trunk_stub: TrunkStub

    @torch.no_grad()
    def layer_calls(self, inputs: dict[str, Any]) -> list[LayerCall]:
        """Each layer's arguments for these model inputs. The first layer's hidden states are the embedding."""
        self.calls.clear()
        with one_sequence_a_row():
            self.prelude(**inputs)
        calls = list(self.calls)
        self.calls.clear()
        return calls

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [B,T,V] from what the trunk returns [B,T,D]: head, logit scale and soft cap, by the model's own
        code.
        """
        self.trunk_stub.__dict__["hidden"] = hidden
        try:
            answer = self.head(inputs_embeds=hidden)
        finally:
            self.trunk_stub.__dict__["hidden"] = None
        return answer.logits


def build_skeleton(anatomy: Anatomy, answer_lengths: list[int]) -> Skeleton:
    """Build both copies. answer_lengths: per layer, as for LayerStub."""
    calls: list[LayerCall] = []
    stubs = [LayerStub(layer, length, calls) for layer, length in zip(anatomy.layers, answer_lengths, strict=True)]
    prelude = shallow_clone(anatomy.trunk, {anatomy.layers_name: nn.ModuleList(stubs)})
    trunk_stub = TrunkStub(anatomy.trunk)
    parts = anatomy.trunk_path.split(".")
    child: nn.Module = trunk_stub
    for depth in range(len(parts) - 1, -1, -1):
        parent = anatomy.model.get_submodule(".".join(parts[:depth]))
        child = shallow_clone(parent, {parts[depth]: child})
    return Skeleton(prelude, calls, child, trunk_stub)


def model_inputs(model: nn.Module, tokens: Tensor, attention_mask: Tensor | None) -> dict[str, Any]:
    """The keyword arguments for one cache-free forward of tokens [B,T], with the positions `generate` would use.

    attention_mask [B,T] is 1 at tokens and 0 at padding; None is no padding. Positions count tokens, so a left-padded
    row starts at 0 at its first token.
    """
    inputs: dict[str, Any] = {"input_ids": tokens, "use_cache": False}
    if attention_mask is not None:
        inputs["attention_mask"] = attention_mask
        if "position_ids" in inspect.signature(type(model).forward).parameters:
            positions = attention_mask.long().cumsum(-1) - 1
            inputs["position_ids"] = positions.masked_fill(attention_mask == 0, 0)
    return inputs

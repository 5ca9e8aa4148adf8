"""Watch one forward pass and note who called what with which tensors; the resolver reads the roles from these notes.

Hooks live only while `trace_forward` runs. Inputs and outputs are kept twice: as the objects themselves (so that "the
same tensor" can be told by identity) and as copies (because some families change a tensor in place after the module
returned it).
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from dense_adapters.anatomy import Anatomy


@dataclass
class Call:
    """One call of a module: its arguments as given, and copies of the hidden states that went in and came out."""

    name: str
    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any = None
    hidden_in: Tensor | None = None
    hidden_out: Tensor | None = None
    children: list["Call"] = field(default_factory=list)

    @property
    def given(self) -> Tensor:
        """The very tensor that was passed as hidden states."""
        return hidden_argument(self.args, self.kwargs)

    @property
    def returned(self) -> Tensor:
        """The very tensor that was returned as hidden states."""
        return first_tensor(self.output)


@dataclass
class Trace:
    """One forward: the call of every layer with the calls of its children, the trunk's calls after them, the logits."""

    layers: list[Call]
    tail: list[Call]
    logits: Tensor


def hidden_argument(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The hidden states among a module's arguments: the first positional one, else the first floating keyword
    tensor.
    """
    if args:
        return args[0]
    if "hidden_states" in kwargs:
        return kwargs["hidden_states"]
    return next(v for v in kwargs.values() if isinstance(v, Tensor) and v.is_floating_point())


def first_tensor(output: Any) -> Tensor:
    """The hidden states in a module's answer: the tensor itself or the first item of a tuple."""
    return output if isinstance(output, Tensor) else output[0]


def _copy(value: Any) -> Tensor | None:
    """A copy of a floating tensor; None for anything else."""
    return value.detach().clone() if isinstance(value, Tensor) and value.is_floating_point() else None


@contextmanager
def _noting(module: nn.Module, name: str, sink: list[Call], stack: list[Call]) -> Iterator[None]:
    """Append a Call to the innermost running call's children, or to `sink` where none is running."""

    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        call = Call(name, module, args, kwargs)
        given = args[0] if args else kwargs.get("hidden_states")
        call.hidden_in = _copy(given)
        (stack[-1].children if stack else sink).append(call)
        stack.append(call)

    def after(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        call = stack.pop()
        call.output = output
        returned = output if isinstance(output, Tensor) else (output[0] if isinstance(output, tuple | list) else None)
        call.hidden_out = _copy(returned)

    handles: list[RemovableHandle] = [
        module.register_forward_pre_hook(before, with_kwargs=True),
        module.register_forward_hook(after, with_kwargs=True),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def trace_forward(anatomy: Anatomy, inputs: dict[str, Any]) -> Trace:
    """Run the model once on `inputs` and return what its layers, their children and the trunk's other children did."""
    calls: list[Call] = []
    running: list[Call] = []
    layers = anatomy.layers
    ids = {id(layer) for layer in layers}
    with ExitStack() as hooks:
        for name, module in anatomy.trunk.named_children():
            if name != anatomy.layers_name:
                hooks.enter_context(_noting(module, name, calls, running))
        for index, layer in enumerate(layers):
            hooks.enter_context(_noting(layer, str(index), calls, running))
            for name, child in layer.named_children():
                hooks.enter_context(_noting(child, name, calls, running))
        logits = anatomy.model(**inputs).logits
    layer_calls = [call for call in calls if id(call.module) in ids]
    last = max(index for index, call in enumerate(calls) if id(call.module) in ids)
    return Trace(layer_calls, calls[last + 1 :], logits)

"""A frozen model's matrices kept in the precision that autocast multiplies in, for as long as a training run lasts.

Autocast casts the weights of a linear map at every call, and keeps the copy only of weights that need a gradient. Held in
bfloat16 they are cast once; what the map computes under autocast is the same, bit for bit. Only such maps change: norms
and embeddings stay as they are, and a head tied to the embedding gets a matrix of its own. Afterwards every parameter is the
tensor that it was.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import Conv1D


@contextmanager
def half_matrices(
    model: nn.Module, dtype: torch.dtype = torch.bfloat16, store: str = "cpu"
) -> Iterator[Callable[[], None]]:
    """Hold weights and biases of every linear map in `dtype` inside; run what is inside under autocast to it.

    What it yields puts the originals back early, for an evaluation without autocast.

    Args:
        store: where the originals wait meanwhile; their own device's memory is free for the run.
    """
    originals: list[tuple[nn.Module, str, nn.Parameter, torch.device]] = []
    moved: set[int] = set()
    shared = {id(p) for m in model.modules() if not _is_map(m) for p in m.parameters(recurse=False)}
    for module in model.modules():
        if not _is_map(module):
            continue
        for name, parameter in list(module.named_parameters(recurse=False)):
            if parameter.dtype != torch.float32 or parameter.requires_grad:
                continue
            originals.append((module, name, parameter, parameter.device))
            half = nn.Parameter(parameter.detach().to(dtype), requires_grad=False)
            _put(module, name, half)
            if id(parameter) not in shared and id(parameter) not in moved:
                moved.add(id(parameter))
                parameter.data = parameter.data.to(store)

    def restore() -> None:
        for module, name, parameter, device in originals:
            parameter.data = parameter.data.to(device)
            _put(module, name, parameter)
        originals.clear()

    try:
        yield restore
    finally:
        restore()


def _is_map(module: nn.Module) -> bool:
    """Whether autocast runs the module's product in its own precision."""
    return isinstance(module, nn.Linear | Conv1D)


def _put(module: Any, name: str, parameter: nn.Parameter) -> None:
    module._parameters[name] = parameter

"""A device that is not there: tensors that say they are on it, live on the CPU, and refuse to meet CPU tensors.

Code that forgets to move a tensor fails here as it would on a GPU, without one. Inside `simulated()` anything asked for on
`DEVICE` becomes such a tensor; numbers are those of the CPU.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

DEVICE = torch.device("cuda:0")
_ALLOWED = ("index", "_to_copy", "copy_", "_index_put_impl_", "index_put", "index_put_")  # a GPU takes CPU indices too


class OnDevice(torch.Tensor):
    """A tensor on the simulated device."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> "OnDevice":
        made: OnDevice = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
            device=inner.device, requires_grad=inner.requires_grad,
        )  # fmt: skip
        made.inner = inner.detach()
        return made

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        """Where the tensor says it is."""
        return DEVICE

    def __repr__(self) -> str:
        return f"OnDevice({self.inner!r})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        found: list[torch.Tensor] = []
        tree_map(lambda x: found.append(x) if isinstance(x, torch.Tensor) else None, (args, kwargs))
        # torch makes tensors of one number by itself, on what it takes for the device
        strays = [x for x in found if not isinstance(x, OnDevice) and x.numel() > 1]
        if strays and name not in _ALLOWED:
            raise RuntimeError(
                f"{name}: expected all tensors on {DEVICE}, one of shape {tuple(strays[0].shape)} is on the CPU"
            )
        to = kwargs.get("device")
        if to is not None:
            kwargs = {**kwargs, "device": torch.device("cpu")}
        out = func(*tree_map(_bare, args), **tree_map(_bare, kwargs))
        if name.endswith("_") and name != "_" and args and isinstance(args[0], OnDevice):
            return args[0]
        if to is not None and torch.device(to).type == "cpu":
            return out
        return tree_map(lambda x: OnDevice(x) if isinstance(x, torch.Tensor) else x, out)


def _bare(x: Any) -> Any:
    return x.inner if isinstance(x, OnDevice) else x


def _is_there(device: Any) -> bool:
    return device is not None and torch.device(device).type == DEVICE.type


class _Requests(TorchFunctionMode):
    """What is asked for on the device is made on the CPU and wrapped."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func is torch.Tensor.to:
            wanted = kwargs.get("device", args[1] if len(args) > 1 else None)
            if isinstance(wanted, OnDevice):
                args, wanted = (args[0], wanted.dtype, *args[2:]), DEVICE
                if not isinstance(args[0], OnDevice):
                    return OnDevice(func(*args, **kwargs))
            elif isinstance(wanted, str | torch.device) and _is_there(wanted):
                return args[0] if isinstance(args[0], OnDevice) else OnDevice(args[0].detach().clone())
        if func is torch.Tensor.cpu and isinstance(args[0], OnDevice):
            return args[0].inner.clone()
        if func is torch.Tensor.tolist and isinstance(args[0], OnDevice):
            return args[0].inner.tolist()
        if _is_there(kwargs.get("device")) and not any(isinstance(x, OnDevice) for x in args):
            kwargs["device"] = torch.device("cpu")
            return OnDevice(func(*args, **kwargs))
        return func(*args, **kwargs)


@contextmanager
def simulated() -> Iterator[torch.device]:
    """Within, the device is there."""
    with torch.no_grad(), _Requests():
        yield DEVICE


def moved(module: torch.nn.Module) -> torch.nn.Module:
    """A module with its parameters and buffers on the device."""
    for part in module.modules():
        for name, parameter in list(part._parameters.items()):
            if parameter is not None:
                part._parameters[name] = torch.nn.Parameter(OnDevice(parameter.detach()), requires_grad=False)
        for name, buffer in list(part._buffers.items()):
            if buffer is not None:
                part._buffers[name] = OnDevice(buffer.detach())
    return module

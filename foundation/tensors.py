"""Tensors of artefacts: safetensors files, written whole and read with checks of names, types, shapes and ranges."""

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from foundation.errors import UserError
from foundation.text import one_line
from foundation.writing import check_space

if TYPE_CHECKING:
    import torch

Numbers = Literal["float", "int", "mask"]


@dataclass(frozen=True)
class Expected:
    """What a tensor must be.

    Attributes:
        shape: its sizes; None where a size is free.
        numbers: "float" (finite, of any precision; read as float32), "int", or "mask" (0 and 1, read as booleans).
        low, high: least and largest value; None where there is no bound.
    """

    shape: tuple[int | None, ...]
    numbers: Numbers = "float"
    low: float | None = None
    high: float | None = None


def regular_file(path: Path) -> bool:
    """Whether there is a file that can be read to its end (no pipe, device or folder)."""
    try:
        return stat.S_ISREG(os.stat(path).st_mode)
    except (OSError, ValueError):
        return False


def save_tensors(path: Path, tensors: "Mapping[str, torch.Tensor]") -> None:
    """Write tensors to a safetensors file, contiguous and on the CPU.

    Raises:
        OSError: the disk is full, or the file cannot be written.
        UnwrittenError: there is less space than they need; nothing was written.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    check_space(Path(path).parent, sum(value.numel() * value.element_size() for value in tensors.values()))
    try:
        save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, str(path))
    except SafetensorError as error:
        raise OSError(f"{path}: {error}") from None


def read_tensors(path: Path, kind: str) -> "dict[str, torch.Tensor]":
    """Read a safetensors file; every number in it is finite.

    Raises:
        UserError: the file is missing or truncated, or holds NaN or infinity.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not regular_file(path):
        raise UserError(f"{path}: missing, so the {kind} is incomplete; copy or make it again")
    try:
        tensors = load_file(str(path))
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        # beside its own error the library lets through those of types and shapes that torch does not have
        raise UserError(
            f"{path}: cannot be read ({one_line(str(error))}); the {kind} is truncated or damaged, copy it again"
        ) from None
    for name, value in tensors.items():
        if value.is_floating_point() and value.numel() and not bool(value.isfinite().all()):
            raise UserError(
                f"{path}: {one_line(name)} holds NaN or infinity; the {kind} is damaged, copy or make it again"
            )
    return tensors


def check_tensors(
    tensors: "Mapping[str, torch.Tensor]", expected: Mapping[str, Expected], place: Path | str, kind: str
) -> "dict[str, torch.Tensor]":
    """The tensors as the program computes with them: exactly those expected, of their shapes and within their ranges.

    Raises:
        UserError: one is missing, unexpected, or not as expected.
    """
    for name in sorted({*tensors} ^ {*expected}):
        what = "has no" if name in expected else "holds an unexpected"
        raise UserError(f"{place}: {what} tensor '{one_line(name)}'; the {kind} is damaged, copy or make it again")
    return {name: check_tensor(tensors[name], wanted, name, place, kind) for name, wanted in expected.items()}


def check_tensor(tensor: "torch.Tensor", wanted: Expected, name: str, place: Path | str, kind: str) -> "torch.Tensor":
    """One tensor of `check_tensors`.

    Raises:
        UserError: its type, shape or range is another.
    """
    wrong = _fault(tensor, wanted)
    if wrong is not None:
        raise UserError(f"{place}: tensor '{one_line(name)}' {wrong}; the {kind} is damaged, copy or make it again")
    return {"float": tensor.float, "int": tensor.long, "mask": tensor.bool}[wanted.numbers]()


def check_fingerprint(tensors: "Mapping[str, torch.Tensor]", written: Any, place: Path | str, kind: str) -> None:
    """Compare tensors, as they are in their file, with the fingerprint in the description; None: made without one.

    Raises:
        UserError: they are others.
    """
    from foundation.fingerprints import tensors_fingerprint

    if written is None:
        return
    found = tensors_fingerprint(tensors)
    if found != written:
        raise UserError(
            f"{place}: holds other numbers than those described (fingerprint {one_line(str(written))[:12]}, not "
            f"{found[:12]}); the {kind} is damaged or mixed from two, copy or make it again"
        )


def _fault(tensor: "torch.Tensor", wanted: Expected) -> str | None:
    """What is wrong, in words; None where nothing is."""
    import torch

    shape = tuple(tensor.shape)
    fits = len(shape) == len(wanted.shape) and all(b in (None, a) for a, b in zip(shape, wanted.shape, strict=True))
    if not fits:
        return f"is of shape {list(shape)}, not {[size if size is not None else 'any' for size in wanted.shape]}"
    floats = tensor.is_floating_point()
    if wanted.numbers == "float" and not floats:
        return f"holds {_type(tensor)}, not floating-point numbers"
    if wanted.numbers != "float" and (
        floats or tensor.is_complex() or (wanted.numbers, tensor.dtype) == ("int", torch.bool)
    ):
        return f"holds {_type(tensor)}, not whole numbers"
    if not tensor.numel():
        return None
    if floats and not bool(tensor.isfinite().all()):
        return "holds NaN or infinity"
    low, high = (0, 1) if wanted.numbers == "mask" else (wanted.low, wanted.high)
    if tensor.dtype == torch.bool:
        return None
    least, largest = (float(value) for value in tensor.aminmax())
    if low is not None and least < low:
        return f"holds {least:g}, less than {low:g}"
    if high is not None and largest > high:
        return f"holds {largest:g}, more than {high:g}"
    return None


def _type(tensor: "torch.Tensor") -> str:
    return str(tensor.dtype).removeprefix("torch.")

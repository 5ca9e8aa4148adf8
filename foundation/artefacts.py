"""Artefact folders: JSON for description, safetensors for numbers, never seen half written.

A folder is written to a temporary sibling and renamed into place, so a reader sees the old one, the new
one, or none.
"""

import contextlib
import json
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from foundation.errors import UserError

SCHEMA_VERSION = 1


@contextlib.contextmanager
def atomic_folder(path: Path, overwrite: bool = False) -> Iterator[Path]:
    """Yield a temporary sibling of `path`; rename it to `path` on success, remove it on failure.

    Raises:
        UserError: `path` exists and `overwrite` is false, or its parent cannot be written.
    """
    path = Path(path)
    if path.exists() and not overwrite:
        raise UserError(f"{path}: already exists; choose another --out or pass --overwrite")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.partial"
        temporary.mkdir()
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); choose another --out") from None
    try:
        yield temporary
        if path.exists():
            retired = path.parent / f".{path.name}.{uuid.uuid4().hex[:8]}.old"
            os.replace(path, retired)
            os.replace(temporary, path)
            shutil.rmtree(retired) if retired.is_dir() else retired.unlink()
        else:
            os.replace(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a description, adding the schema version; NaN and infinity are refused (they are not JSON)."""
    text = json.dumps({"schema_version": SCHEMA_VERSION, **values}, indent=1, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def read_json(folder: Path, name: str, kind: str, needs: Iterable[str] = ()) -> dict[str, Any]:
    """Read the description `name` of the artefact in `folder`.

    Args:
        needs: keys without which it is damaged.

    Raises:
        UserError: the folder or the description is missing, broken or of a newer schema, or a key is missing.
    """
    path = Path(folder) / name
    if not Path(folder).is_dir():
        raise UserError(f"{folder}: no such folder; pass a folder holding {name} (made by the {kind} command)")
    if not path.is_file():
        raise UserError(f"{folder}: holds no {name}, so it is not a {kind} artefact; pass the folder of a {kind}")
    try:
        values = json.loads(path.read_text("utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: does not parse ({error}); the {kind} is damaged, make it again") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: is no table of keys; the {kind} is damaged, make it again")
    if values.get("schema_version", 0) > SCHEMA_VERSION:
        raise UserError(
            f"{path}: schema {values['schema_version']} is newer than this version knows; update sparsebridge"
        )
    missing = [key for key in needs if key not in values]
    if missing:
        raise UserError(f"{path}: has no '{missing[0]}'; the {kind} is damaged, copy or make it again")
    return values


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors to a safetensors file, contiguous and on the CPU.

    Raises:
        OSError: the disk is full, or the file cannot be written.
    """
    try:
        save_file({name: value.detach().cpu().contiguous() for name, value in tensors.items()}, str(path))
    except SafetensorError as error:
        raise OSError(f"{path}: {error}") from None


def read_tensors(path: Path, kind: str) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        UserError: the file is missing or truncated.
    """
    if not Path(path).is_file():
        raise UserError(f"{path}: missing, so the {kind} is incomplete; copy or make it again")
    try:
        return load_file(str(path))
    except SafetensorError as error:
        raise UserError(
            f"{path}: cannot be read ({error}); the {kind} is truncated or damaged, copy it again"
        ) from None

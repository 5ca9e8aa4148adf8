"""Artefact folders: JSON for description, safetensors for numbers. All of them are read, and checked, here.

A description is JSON of limited size and depth, without numbers that are none, and of a known schema; `read_description`
holds it against a record of its keys. Tensors are of known names, types and shapes and finite (`foundation.tensors`), and
those that `tensors_fingerprint` in the description names; artefacts older than that key load without it.

How they are written, whole or not at all: `foundation.writing`.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Mapping
from glob import escape as glob_escape
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from foundation.errors import UserError
from foundation.exchange import recover
from foundation.locks import LockedError, owned
from foundation.tensors import check_fingerprint, read_tensors, regular_file, save_tensors
from foundation.text import one_line
from foundation.versions import version_of
from foundation.writing import UnwrittenError, atomic_folder, replace_text, write_file

__all__ = [
    "SCHEMA_VERSION",
    "Description",
    "UnwrittenError",
    "atomic_folder",
    "check_fingerprint",
    "file_fingerprint",
    "parse_json",
    "read_description",
    "read_json",
    "read_tensors",
    "regular_file",
    "replace_text",
    "save_tensors",
    "write_file",
    "write_json",
]  # fmt: skip
SCHEMA_VERSION = 1
LARGEST_JSON = 64 << 20
"""Bytes of a description."""
DEEPEST_JSON = 64
"""Levels of tables and lists within each other."""
LARGEST_NUMBER = 2**64
"""Whole numbers stay below it; seeds are the largest there are."""
SHOWN = 80
"""Characters of a foreign value in a message."""
_AT_ONCE = 1 << 20


class Description(BaseModel):
    """Base of the record of a description's keys: of exact types, finite; keys it does not name are let through."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True, allow_inf_nan=False)

    @classmethod
    def check(cls, values: Mapping[str, Any], place: str, kind: str) -> Self:
        """Hold a table against the record.

        Raises:
            UserError: a key is missing or its value is of another type or out of range; `place` and `kind` are named.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            key = ".".join(str(part) for part in first["loc"]) or "the table"
            if first["type"] == "missing":
                raise UserError(f"{place}: has no '{key}'; the {kind} is damaged, copy or make it again") from None
            raise UserError(
                f"{place}: {key} = {_brief(first['input'])}: {first['msg']}; the {kind} is damaged, copy or make it again"
            ) from None


_Record = TypeVar("_Record", bound=Description)


def read_description(record: type[_Record], folder: Path, name: str, kind: str) -> _Record:
    """Read the description `name` of the artefact in `folder` and hold it against a record.

    Raises:
        UserError: as for `read_json` and `Description.check`.
    """
    return record.check(read_json(folder, name, kind), str(Path(folder) / name), kind)


def write_json(path: Path, values: Mapping[str, Any]) -> None:
    """Write a description, adding schema and program version; NaN and infinity are refused (they are not JSON).

    Raises:
        ValueError: a number is not finite.
        OSError: it cannot be written; what was there is untouched.
    """
    head = {"schema_version": SCHEMA_VERSION, "made_by": f"sparsebridge {version_of('sparsebridge')}"}
    replace_text(path, json.dumps({**head, **values}, indent=1, allow_nan=False) + "\n")


def read_json(folder: Path, name: str, kind: str, needs: Iterable[str] = ()) -> dict[str, Any]:
    """Read the description `name` of the artefact in `folder`; `made_by` is left out, as nothing depends on it.

    Args:
        needs: keys without which it is damaged.

    Raises:
        UserError: the folder or the description is missing, broken, too large or of a newer schema, or a key is missing.
    """
    folder = Path(folder)
    path = folder / name
    if not folder.is_dir():
        _recover(folder)
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; pass a folder holding {name} (made by the {kind} command)")
    if not path.is_file():
        raise UserError(f"{folder}: holds no {name}, so it is not a {kind} artefact; pass the folder of a {kind}")
    if path.stat().st_size > LARGEST_JSON:
        raise UserError(
            f"{path}: is larger than {LARGEST_JSON >> 20} MB, which no description is; the {kind} is damaged, make it again"
        )
    try:
        values = parse_json(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path}: does not parse ({error}); the {kind} is damaged, make it again") from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: is no table of keys; the {kind} is damaged, make it again")
    maker = values.pop("made_by", None)
    schema = values.get("schema_version", 0)
    if type(schema) is not int or schema < 0:
        raise UserError(
            f"{path}: schema_version = {_brief(schema)} is no version; the {kind} is damaged, make it again"
        )
    if schema > SCHEMA_VERSION:
        raise UserError(_newer(path, kind, schema, maker))
    missing = [key for key in needs if key not in values]
    if missing:
        raise UserError(f"{path}: has no '{missing[0]}'; the {kind} is damaged, copy or make it again")
    return values


def parse_json(text: str | bytes) -> Any:
    """Parse JSON as it is defined: finite numbers, of a size that fits, and not deeper than `DEEPEST_JSON`.

    Raises:
        ValueError: it is not that; the message fits in a line.
    """
    try:
        values = json.loads(text, parse_int=_integer, parse_float=_number, parse_constant=_number)
    except RecursionError:
        raise ValueError(f"nested deeper than {DEEPEST_JSON} levels") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"no UTF-8 text at byte {error.start}") from None
    except ValueError as error:
        raise ValueError(one_line(str(error))) from None
    level = [values]
    for _ in range(DEEPEST_JSON + 1):
        level = [inner for value in level for inner in _within(value)]
        if not level:
            return values
    raise ValueError(f"nested deeper than {DEEPEST_JSON} levels")


def file_fingerprint(path: Path) -> str:
    """SHA-256 (hex) of a file's bytes."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while piece := file.read(_AT_ONCE):
            digest.update(piece)
    return digest.hexdigest()


def _within(value: Any) -> Iterable[Any]:
    if isinstance(value, dict):
        return value.values()
    return value if isinstance(value, list) else ()


def _integer(text: str) -> int:
    if len(text) > len(str(LARGEST_NUMBER)) + 1 or abs(int(text)) >= LARGEST_NUMBER:
        raise ValueError(f"the number {_brief(text)} is beyond all that is stored here")
    return int(text)


def _number(text: str) -> float:
    found = float(text)
    if not math.isfinite(found):
        raise ValueError(f"the number {_brief(text)} is not finite")
    return found


def _newer(path: Path, kind: str, schema: int, maker: Any) -> str:
    named = re.fullmatch(r"sparsebridge (\d[\w.+-]{0,40})", maker) if isinstance(maker, str) else None
    by = f", written by sparsebridge {named[1]}," if named else ""
    how = f"install sparsebridge {named[1]} or later" if named else "update sparsebridge"
    return (
        f"{path}: schema {schema}{by} is newer than this version ({version_of('sparsebridge')}) knows; {how}, or make "
        f"the {kind} again with this one"
    )


def _brief(value: Any) -> str:
    found = one_line(repr(value))
    return found if len(found) <= SHOWN else found[: SHOWN - 1] + "…"


def _recover(folder: Path) -> None:
    """Put back what a writer that was killed between two renames had moved aside."""
    if any(folder.parent.glob(f".{glob_escape(folder.name)}.*.old")):
        try:
            with owned(folder) as was_free:
                if was_free:
                    recover(folder)
        except (LockedError, OSError):
            return

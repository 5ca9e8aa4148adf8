"""Frozen configs that refuse what they do not know.

A config is read from TOML or JSON, overridden by options, and saved, resolved, beside what it made.
"""

import difflib
import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from foundation.errors import UserError


class Settings(BaseModel):
    """Base of every config: frozen, unknown keys refused with the nearest valid name."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def from_mapping(
        cls, values: Mapping[str, Any], origin: str = "config", called: Mapping[str, str] | None = None
    ) -> Self:
        """Build from a mapping.

        Args:
            origin: where the values come from, for errors.
            called: fields that the person knows by another name, such as that of an option.

        Raises:
            UserError: a key is unknown (the nearest valid one is named) or values are out of range (all are named).
        """
        cls._refuse_unknown(values, origin)
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            found = dict.fromkeys(_complaint(one, cls.__name__, origin, called or {}) for one in error.errors())
            raise UserError("; ".join(found)) from None

    @classmethod
    def _refuse_unknown(cls, values: Mapping[str, Any], origin: str) -> None:
        """Name the first key that is not a field, also within tables that are settings themselves."""
        for key, value in values.items():
            if key not in cls.model_fields:
                near = difflib.get_close_matches(key, cls.model_fields, n=1, cutoff=0.5)
                hint = f"did you mean '{near[0]}'?" if near else f"valid keys: {', '.join(cls.model_fields)}"
                raise UserError(f"{origin}: unknown key '{key}'; {hint}")
            section = cls.model_fields[key].annotation
            if isinstance(section, type) and issubclass(section, Settings) and isinstance(value, Mapping):
                section._refuse_unknown(value, f"{origin} [{key}]")

    @classmethod
    def from_file(cls, path: Path, overrides: Mapping[str, Any] | None = None) -> Self:
        """Read a `.toml` or `.json` file, then apply `overrides` on top."""
        return cls.from_mapping({**read_mapping(path), **(overrides or {})}, origin=str(path))

    def to_json(self) -> dict[str, Any]:
        """The resolved values as plain JSON types."""
        return self.model_dump(mode="json")


def _complaint(error: ErrorDetails, kind: str, origin: str, called: Mapping[str, str]) -> str:
    """One line about one value: which, under the name it was given by, and what is wrong with it."""
    given = str(error["loc"][0]) if error["loc"] else ""
    message = error["msg"][:1].lower() + error["msg"][1:]
    if given in called:
        return f"{called[given]} {error['input']}: {message}"
    place = ".".join(str(part) for part in error["loc"]) or kind
    return f"{origin}: {place} = {error['input']!r}: {message}"


def read_mapping(path: Path) -> dict[str, Any]:
    """The top-level table of a TOML or JSON file.

    Raises:
        UserError: the file is missing, of another type, or does not parse to a table.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such config file; pass the path of a .toml or .json file")
    try:
        if path.suffix == ".toml":
            return tomllib.loads(path.read_text("utf-8"))
        if path.suffix == ".json":
            values = json.loads(path.read_text("utf-8"))
            if isinstance(values, dict):
                return values
            raise UserError(f'{path}: holds a {type(values).__name__}, not a table of settings; write {{"key": value}}')
    except UserError:
        raise
    except (ValueError, RecursionError) as error:  # of both parsers, and numbers of thousands of digits
        raise UserError(f"{path}: does not parse ({error}); mend the file") from None
    raise UserError(f"{path}: a config ends in .toml or .json; rename or convert it")

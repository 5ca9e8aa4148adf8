"""What a folder or file is, by its contents, and whether it may be replaced.

`--overwrite` replaces an artefact by one of the same kind, and nothing else: not a folder of artefacts, not the working
directory, not a file somebody wrote.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path

from foundation.errors import UserError

PAGE, PICTURE = "page", "picture"
PAGE_MARK = '<meta name="generator" content="sparsebridge">'
"""Stands in the head of every page this program writes."""
PICTURE_MARK = "<svg"
MOST_HEAD = 4096
"""Bytes of a page within which its mark stands."""

DESCRIPTIONS = {
    "bridge.json": "bridge",
    "circuit.json": "circuit",
    "edit.json": "edit",
    "corpus.json": "corpus",
    "report.json": "report",
    "state.json": "checkpoint",
    "beeg_config.json": "published model",
}
"""A file of the folder → what the folder is, in the order they are looked for."""
LARGEST_CONFIG = 16 << 20
"""Bytes of a model's `config.json`."""


def kind_of(path: Path) -> str | None:
    """`bridge`, `circuit`, …, `page` or `picture`; None for anything else.

    A folder whose description is there but damaged is still of its kind.
    """
    if path.is_dir():
        for name, kind in DESCRIPTIONS.items():
            if (path / name).is_file():
                return kind
        return _model_kind(path / "config.json")
    if path.is_file():
        with path.open("rb") as file:
            head = file.read(MOST_HEAD).decode("utf-8", "replace")
        if PAGE_MARK in head:
            return PAGE
        if head.lstrip().startswith(PICTURE_MARK) and path.suffix == ".svg":
            return PICTURE
    return None


def check_replaceable(path: Path, kind: str | None = None, inputs: Iterable[Path] = ()) -> None:
    """Refuse to replace what is no artefact (of `kind`, where given), or is needed.

    Args:
        inputs: what the new artefact is made from.

    Raises:
        UserError: which of these rules `path` breaks.
    """
    if not os.path.lexists(path):
        return
    place = path.resolve()
    here = Path.cwd().resolve()
    if place == here or place in here.parents:
        raise UserError(f"{path}: is the working directory or holds it, so it is not replaced; choose another --out")
    for given in inputs:
        source = given.resolve()
        if place == source or place in source.parents:
            raise UserError(
                f"{path}: {'is' if place == source else 'holds'} the input {given}, so it is not replaced; choose another "
                "--out"
            )
    if path.is_symlink():
        raise UserError(f"{path}: is a symbolic link, so it is not replaced; pass what it points to, or another --out")
    found = kind_of(path)
    if found is None:
        if path.is_dir() and not any(path.iterdir()):
            return
        raise UserError(
            f"{path}: is no artefact of this program, so --overwrite does not replace it; choose another --out, or remove "
            "it yourself"
        )
    if kind is not None and found != kind:
        raise UserError(
            f"{path}: is a {found}, and --overwrite replaces it by a {found} only, not by a {kind}; choose another --out"
        )


def _model_kind(config: Path) -> str | None:
    if not config.is_file() or config.stat().st_size > LARGEST_CONFIG:
        return None
    try:
        found = json.loads(config.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or "model_type" not in found:
        return None
    return "sparse model" if found["model_type"] == "sparsebridge" else "dense model"

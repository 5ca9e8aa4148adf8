"""The folder of an edit of either form: `edit.json` says which, `edit.safetensors` holds the numbers."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from foundation.artefacts import atomic_folder, read_json, read_tensors, save_tensors, write_json
from foundation.errors import UserError

DESCRIPTION, TENSORS = "edit.json", "edit.safetensors"
FORMS = ("standing", "paired")


def save_edit(
    folder: Path, form: str, description: Mapping[str, Any], tensors: Mapping[str, Tensor], overwrite: bool
) -> None:
    """Write the artefact; nothing is left behind on failure."""
    with atomic_folder(Path(folder), overwrite) as temporary:
        save_tensors(temporary / TENSORS, tensors)
        write_json(temporary / DESCRIPTION, {"form": form, **description})


def edit_form(folder: Path) -> str:
    """`standing` or `paired`.

    Raises:
        UserError: the folder holds no edit, or one of a form this version does not know.
    """
    form = read_json(Path(folder), DESCRIPTION, "edit").get("form")
    if form not in FORMS:
        raise UserError(f"{folder}: edits of form '{form}' are unknown to this version; update sparsebridge")
    return str(form)


@contextmanager
def opened_edit(folder: Path, form: str, keys: Sequence[str]) -> Iterator[tuple[dict[str, Any], dict[str, Tensor]]]:
    """Description and tensors of an edit of the given form; within, a missing key means that the edit is damaged.

    Raises:
        UserError: the edit is missing, damaged or of another form.
    """
    description = read_json(Path(folder), DESCRIPTION, "edit")
    if description.get("form") != form:
        raise UserError(f"{folder}: is a {description.get('form')} edit, not a {form} one")
    description = read_json(Path(folder), DESCRIPTION, "edit", keys)
    tensors = read_tensors(Path(folder) / TENSORS, "edit")
    try:
        yield description, tensors
    except KeyError as error:
        raise UserError(f"{folder}: has no {error}; the edit is damaged, copy or map it again") from None

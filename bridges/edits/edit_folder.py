"""The folder of an edit of either form: `edit.json` says which, `edit.safetensors` holds the numbers.

Per site, numbered from 0, tensors `N/encoder` [n, D], `N/bias` [n] and `N/decoder` [n, D], and what the form adds.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field
from torch import Tensor

from foundation.artefacts import (
    Description,
    atomic_folder,
    check_fingerprint,
    read_json,
    read_tensors,
    save_tensors,
    write_json,
)
from foundation.errors import UserError
from foundation.fingerprints import tensors_fingerprint, values_fingerprint
from foundation.tensors import Expected, check_tensors
from foundation.text import one_line

DESCRIPTION, TENSORS = "edit.json", "edit.safetensors"
FORMS = ("standing", "paired")
PARTS = ("encoder", "bias", "decoder")
MOST_SITES = 1 << 16
"""No model has more; a site beyond is damage."""


class SiteRecord(Description):
    """What both forms say of a site."""

    dense_site: int = Field(ge=0, le=MOST_SITES)
    nodes: list[str] = Field(min_length=1)


class EditRecord(Description):
    """What both forms say in `edit.json`; keys with a default came later."""

    form: str
    task: str
    claim: str
    model_fingerprint: str
    strength: float
    tensors_fingerprint: str | None = None
    values_fingerprint: str | None = None


Record = TypeVar("Record", bound=EditRecord)


def save_edit(
    folder: Path, form: str, description: Mapping[str, Any], tensors: Mapping[str, Tensor], overwrite: bool
) -> None:
    """Write the artefact; nothing is left behind on failure."""
    with atomic_folder(Path(folder), overwrite, "edit") as temporary:
        save_tensors(temporary / TENSORS, tensors)
        values = {"form": form, **description, "tensors_fingerprint": tensors_fingerprint(tensors)}
        write_json(temporary / DESCRIPTION, {**values, "values_fingerprint": values_fingerprint(values)})


def edit_form(folder: Path) -> str:
    """`standing` or `paired`.

    Raises:
        UserError: the folder holds no edit, or one of a form this version does not know.
    """
    form = read_json(Path(folder), DESCRIPTION, "edit").get("form")
    if form not in FORMS:
        shown = one_line(str(form))
        raise UserError(f"{folder}: edits of form '{shown[:40]}' are unknown to this version; update sparsebridge")
    return str(form)


def read_edit(folder: Path, form: str, record: type[Record]) -> tuple[Record, dict[str, Tensor]]:
    """Description and tensors of an edit of the given form, the tensors as they are in the file.

    Raises:
        UserError: the edit is missing, damaged or of another form.
    """
    folder = Path(folder)
    description = read_json(folder, DESCRIPTION, "edit")
    if description.get("form") != form:
        raise UserError(f"{folder}: is a {one_line(str(description.get('form')))[:40]} edit, not a {form} one")
    found = record.check(description, str(folder / DESCRIPTION), "edit")
    _check_values(folder / DESCRIPTION, description, found.values_fingerprint)
    tensors = read_tensors(folder / TENSORS, "edit")
    check_fingerprint(tensors, found.tensors_fingerprint, folder / TENSORS, "edit")
    return found, tensors


def _check_values(place: Path, description: Mapping[str, Any], expected: str | None) -> None:
    """Refuse a description whose values are not those it was written with; edits made before 0.1.0 say nothing of them.

    Raises:
        UserError: strength, rule, sites or anything else was changed since.
    """
    apart = ("values_fingerprint", "schema_version", "made_by")
    values = {key: value for key, value in description.items() if key not in apart}
    if expected is not None and values_fingerprint(values) != expected:
        raise UserError(
            f"{place}: its values are not those it was written with; copy the edit again, and choose a strength with --strength"
        )


def checked_parts(
    folder: Path, sites: Sequence[SiteRecord], tensors: Mapping[str, Tensor], more: Mapping[str, Expected]
) -> dict[str, Tensor]:
    """The tensors of an edit, held against the sites of its description.

    Args:
        more: what the form adds to the parts of every site.

    Raises:
        UserError: one is missing, unexpected or of another shape, or two sites are of different widths.
    """
    _, width = site_shape(0, tensors)
    expected: dict[str, Expected] = dict(more)
    for number, _ in enumerate(sites):
        n, _ = site_shape(number, tensors)
        expected |= {f"{number}/{part}": Expected((n, width)) for part in ("encoder", "decoder")}
        expected[f"{number}/bias"] = Expected((n,))
    return check_tensors(tensors, expected, Path(folder) / TENSORS, "edit")


def site_shape(number: int, tensors: Mapping[str, Tensor], name: str = "encoder") -> tuple[int | None, int | None]:
    """Rows and columns of a site's encoder, or another matrix of it; None where it is missing or none."""
    found = tensors.get(f"{number}/{name}")
    return (found.shape[0], found.shape[1]) if found is not None and found.dim() == 2 else (None, None)
